"""Pure. Converts obstore's errors to OriginFailure.

obstore reports the cause only in its error's text: a summary, which ends with the body of S3's response, then a
dump of the error, each field on a line. The exception classes do not suffice: 409 and 412 are one
(AlreadyExistsError) for a create-only put, 404 and 412 are one (PreconditionError) for a put with If-Match, and
every 404 is FileNotFoundError, even a load balancer's. So status and code are parsed from the text, and
`milena_cache.origin.s3.responses` interprets them.
"""

from __future__ import annotations

import re

from milena_cache.objects.object_store import Absent, Fault, OriginFailure, Ref
from milena_cache.origin.s3.responses import NO_DOCUMENT, ErrorDocument, error_document, meaning, out_of_files

# obstore follows redirects, and has no setting to disable that. Without a configured proxy this one is set, with
# S3's host excluded, so that only a redirect to another host is sent to it, and nothing listens there.
UNUSED_PROXY = "http://127.0.0.1:9"

_DUMP = "\n\nDebug source:\n"
_RESPONSE = re.compile(
    r"Error performing [A-Z]+ \S+ in \S+ - "
    r"Server returned (?:non-2xx status code: (\d{3})[^:]*|error response): ?(.*)",
    re.S,
)
_KIND = re.compile(r"^ +kind: (\w+)", re.M)
# EMFILE and ENFILE, from opening a connection or resolving a name.
_NO_FILES = re.compile(r"^ +code: (?:23|24),$", re.M)
# A 3xx without a Location, S3's response for a bucket in another region; one with a Location that obstore does not
# follow any further; and one to another host, for which it tries `UNUSED_PROXY`.
_REDIRECT = re.compile(
    rf"^ +inner: BareRedirect,$|^ +kind: Redirect,$|^ +{re.escape(UNUSED_PROXY.removeprefix('http://'))},$", re.M
)
_UNREADABLE = re.compile(
    r"^    source: (?:Invalid(?:Metadata|CacheControl|Content\w+) \{|Header \{\n +source: MissingContentLength,"
    r"|NotPartial,|NoContentRange,|ParseContentRange \{|UnexpectedRange \{)$",
    re.M,
)
# A 2xx response that is not S3's.
_NOT_S3S = re.compile(r"^    source: Metadata \{\n +source: MissingEtag,$", re.M)


def unreadable(error: Exception) -> bool:
    """True if there was a response that obstore cannot parse, or does not expose.

    Its headers have text beyond ASCII or no Content-Length, it is not the part of the object that was requested, or
    it is a redirect without a target or to another host, whose code and region obstore does not report. S3 has not
    done a request that it redirects.
    """
    dump = str(error).partition(_DUMP)[2]
    return _UNREADABLE.search(dump) is not None or _REDIRECT.search(dump) is not None


def judge(
    operation: str, ref: Ref, error: Exception, *, conditional: bool = False, ranged: bool = False
) -> OriginFailure | Absent:
    """Return the meaning of `error`, raised by obstore for a request about `ref`.

    `conditional`, `ranged`: the request carried a condition, a range.
    """
    summary, _, dump = str(error).partition(_DUMP)
    # The key may be any text, so it must not be parsed as a part of the message.
    summary = summary.replace(f"location {ref.key} ", "", 1).replace(f"for path {ref.key}:", "", 1)
    responded = _RESPONSE.search(summary)
    if responded:
        document = error_document(responded[2])
        # Without a status: a 200 with an error document.
        status = int(responded[1] or 200)
        return _from_response(operation, ref, status, document, conditional, ranged)
    if _NOT_S3S.search(dump):
        text = summary.partition(": ")[2][:200]
        return OriginFailure(Fault.UNEXPECTED, operation, ref, "a response that is not S3's", "200", text)
    if _NO_FILES.search(dump):
        return out_of_files(operation, ref)
    kinds = _KIND.findall(dump)
    if "Connect" in kinds:
        return OriginFailure(Fault.CONNECT, operation, ref, "cannot connect", "connect")
    if "Timeout" in kinds:
        return OriginFailure(Fault.TIMEOUT, operation, ref, "no response in time", "timeout")
    return OriginFailure(Fault.INCOMPLETE, operation, ref, "connection lost", "incomplete")


def is_local(error: Exception) -> bool:
    """True if `error` is not from a response of S3: obstore had no credentials to send."""
    summary = str(error).partition(_DUMP)[0]
    return _RESPONSE.search(summary) is None


def _from_response(
    operation: str, ref: Ref, status: int, document: ErrorDocument, conditional: bool, ranged: bool
) -> OriginFailure | Absent:
    said = meaning(operation, status, document.code, conditional=conditional, ranged=ranged)
    if isinstance(said, Absent):
        return said
    code = document.code or f"HTTP {status}"
    text = document.message if document is not NO_DOCUMENT else ""
    return OriginFailure(said, operation, ref, code, str(status), text, document.region)
