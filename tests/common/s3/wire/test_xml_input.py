"""The XML of requests, as clients send it; nothing in it is expanded, and it has bounds."""

from __future__ import annotations

import pytest

from milena_common.s3.wire.errors import S3Error
from milena_common.s3.wire.xml_input import MAX_BYTES, Delete, parse_delete

NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


@pytest.mark.parametrize("head", ["", '<?xml version="1.0" encoding="UTF-8"?>\n'])
@pytest.mark.parametrize("namespace", ["", NAMESPACE])
def test_a_delete_as_clients_send_it(head: str, namespace: str) -> None:
    body = (
        f"{head}<Delete{namespace}>\n <Quiet>true</Quiet>\n <Object><Key>a&amp;b ä</Key></Object>"
        "<Object><ETag>&quot;x&quot;</ETag><Key>c</Key></Object></Delete>"
    )
    assert parse_delete(body.encode()) == ([Delete("a&b ä", ""), Delete("c", '"x"')], True)


ENTITY = '<!DOCTYPE Delete [<!ENTITY e "x">]><Delete><Object><Key>&e;</Key></Object></Delete>'


@pytest.mark.parametrize(
    "body",
    [
        "",
        "junk",
        "<Other/>",
        "<Delete/>",
        "<Delete><Object><Key>a</Key>",
        ENTITY,
        "<Delete>" + "<Object><Key>a</Key></Object>" * 1001 + "</Delete>",
        "<Delete>" + "<a>" * 9 + "</a>" * 9 + "</Delete>",
        "<Delete><Object><Key>a</Key><VersionId>1</VersionId></Object></Delete>",
    ],
)
def test_another_document_is_rejected(body: str) -> None:
    with pytest.raises(S3Error) as error:
        parse_delete(body.encode())
    assert error.value.code == "MalformedXML"


def test_a_document_over_the_bound_is_rejected() -> None:
    with pytest.raises(S3Error) as error:
        parse_delete(b" " * (MAX_BYTES + 1))
    assert error.value.code == "MaxMessageLengthExceeded"
