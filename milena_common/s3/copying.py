"""Coordination. CopyObject through an S3 endpoint: its request, its conditions and its reply."""

from __future__ import annotations

from typing import Final

from milena_common.api.methods import GET, PUT
from milena_common.limits.byte_budget import ByteBudget
from milena_common.s3.callers import Caller, Callers
from milena_common.s3.multipart import check_source
from milena_common.s3.object_copies import Copy, ObjectCopies
from milena_common.s3.objects import Found, Objects
from milena_common.s3.replies import Reply, xml_reply
from milena_common.s3.wire.conditions import write_condition
from milena_common.s3.wire.errors import S3Error
from milena_common.s3.wire.kept_properties import durability_of, properties_of
from milena_common.s3.wire.request import Operation, S3Request, copy_source
from milena_common.s3.wire.xml_output import copied_document

_DIRECTIVE: Final = "x-amz-metadata-directive"
_TAGS: Final = "x-amz-tagging-directive"


class Copies:
    """The copies of one endpoint. `timeout`, `write_timeout`: seconds for reads and for writes."""

    def __init__(
        self,
        objects: Objects,
        callers: Callers,
        budget: ByteBudget,
        timeout: float,
        write_timeout: float,
        max_value_bytes: int,
    ) -> None:
        self._objects = objects
        self._callers = callers
        self._timeout = timeout
        self._write_timeout = write_timeout
        self._copies = ObjectCopies(objects, budget, max_value_bytes)

    async def copy(self, request: S3Request, operation: Operation, caller: Caller) -> Reply:
        """Copy an object, with its properties or, by the directive REPLACE, with those of the request."""
        target, source = (operation.bucket, operation.key), copy_source(request)
        self._callers.authorize(caller, PUT.name, *target)
        self._callers.authorize(caller, GET.name, *source)
        if not self._objects.serves(source[0]):
            raise S3Error("NoSuchBucket", "The specified bucket does not exist")
        directive = request.header(_DIRECTIVE) or "COPY"
        if directive not in ("COPY", "REPLACE"):
            raise S3Error("InvalidArgument", "Unknown metadata directive.")
        if directive == "COPY" and source == target:
            raise S3Error(
                "InvalidRequest",
                "This copy request is illegal because it is trying to copy an object to itself without changing "
                "the object's metadata, storage class, website redirect location or encryption attributes.",
            )
        own = {name: text for name, text in request.headers.items() if (name, text) != (_TAGS, "COPY")}
        replaced = properties_of(own)

        def check(found: Found) -> None:
            check_source(request, found.etag, found.properties.last_modified)

        written = await self._copies.make(
            Copy(
                source,
                target,
                check,
                None if directive == "COPY" else replaced,
                durability_of(request.headers),
                *write_condition(request.headers),
                lambda: self._timeout,
                lambda: self._write_timeout,
                lambda size: self._callers.count_bytes(caller, 2 * size),
            )
        )
        if written is None:
            raise S3Error("NoSuchKey", "The specified key does not exist.")
        content = copied_document("CopyObjectResult", written.etag, request.arrived_at)
        return xml_reply(content, (("x-milena-durability", written.durability), ("x-milena-node", written.node)))
