"""The fault proxy against a server that shows what reached it, and against clients of S3 in front of moto."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import obstore
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from obstore.store import S3Store

from tests.support.s3 import faults
from tests.support.s3.fault_proxy import FaultProxy
from tests.support.s3.faults import Delay, Hang, LoseRequest, LoseResponse, TruncatedBody
from tests.support.s3.moto_server import AWS_VARIABLES, REGION, MotoServer, s3_client

KEYS = ["/lead", "trail/", "a//b", "50%", "a b+c", "ключ", "🦊/🌊", "a%2Fb", "q?x=1&y#z", "~'()*!"]


class Mirror(BaseHTTPRequestHandler):
    """Replies with the request line and, for requests with one, the body that it got."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        reply = self.requestline.encode("latin-1") + b"\n" + body
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.send_header("ETag", '"123"')
        self.end_headers()
        self.wfile.write(reply)

    do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def mirror() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(mirror: str) -> Iterator[FaultProxy]:
    with FaultProxy(mirror) as proxy:
        yield proxy


def test_a_response_can_have_another_time(proxy: FaultProxy) -> None:
    proxy.inject(faults.ShiftDate(-3600), key="k")
    connection = http.client.HTTPConnection(proxy.endpoint_url.removeprefix("http://"))
    connection.request("GET", "/b/k")
    reply = connection.getresponse()
    date = parsedate_to_datetime(reply.getheader("Date") or "").timestamp()
    assert (reply.status, reply.read()) == (200, b"GET /b/k HTTP/1.1\n")
    assert time.time() - 3610 < date < time.time() - 3590
    connection.close()


def test_etags_are_reversed(proxy: FaultProxy) -> None:
    proxy.inject(faults.OtherETags())
    connection = http.client.HTTPConnection(proxy.endpoint_url.removeprefix("http://"))
    connection.request("GET", "/b/k")
    reply = connection.getresponse()
    assert (reply.status, reply.getheader("ETag")) == (200, '"321"')
    connection.close()


def exchange(proxy: FaultProxy, raw: bytes) -> bytes:
    """Send bytes on a connection, say no more, and return all that comes back."""
    with socket.create_connection(
        ("127.0.0.1", int(proxy.endpoint_url.rpartition(":")[2])), timeout=5
    ) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read()


def connect(proxy: FaultProxy) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(proxy.endpoint_url.removeprefix("http://"), timeout=5)


@pytest.mark.parametrize("target", ["/b/a//b", "/b/a%2Fb", "/b/%2flower", "/b/?list-type=2&prefix=a%2Fb+c", "/b/."])
def test_targets_pass_byte_for_byte(proxy: FaultProxy, target: str) -> None:
    reply = exchange(proxy, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert f"GET {target} HTTP/1.1\n".encode() in reply


def test_a_connection_carries_many_requests(proxy: FaultProxy) -> None:
    replies = exchange(proxy, b"".join(b"GET /b/%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(5)))
    assert [b"GET /b/%d HTTP/1.1\n" % n in replies for n in range(5)] == [True] * 5
    assert [r.key for r in proxy.requests("GET")] == ["0", "1", "2", "3", "4"]


def test_chunks_pass_as_they_are(proxy: FaultProxy) -> None:
    chunks = b"3;chunk-signature=ab\r\nabc\r\n0\r\nx-amz-checksum-crc32: AAAAAA==\r\n\r\n"
    exchange(proxy, b"PUT /b/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert [r.body for r in proxy.requests("PUT", "k")] == [chunks]


def test_the_response_to_expect_continue_comes_before_the_body(proxy: FaultProxy) -> None:
    address = ("127.0.0.1", int(proxy.endpoint_url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"ab")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_rule_applies_to_what_it_names_and_so_often(proxy: FaultProxy) -> None:
    rule = proxy.inject(faults.SLOW_DOWN, method="GET", key="a", times=2)
    connection = connect(proxy)
    statuses = []
    for path in ("/b/a", "/b/other", "/b/a", "/b/a"):
        connection.request("GET", path)
        reply = connection.getresponse()
        reply.read()
        statuses.append(reply.status)
    connection.close()
    assert statuses == [503, 200, 503, 200]
    assert (rule.applied, proxy.count("GET", "a"), proxy.count("GET"), proxy.count("PUT")) == (2, 3, 4, 0)
    assert [r.status for r in proxy.requests(key="a")] == [503, 503, 200]


def test_a_rule_with_a_chance_repeats_itself_for_the_same_seed(mirror: str) -> None:
    def statuses() -> list[int | None]:
        with FaultProxy(mirror, seed=7) as proxy:
            proxy.inject(faults.INTERNAL_ERROR, probability=0.5)
            exchange(proxy, b"GET /b/k HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
            return [r.status for r in proxy.requests()]

    first = statuses()
    assert first == statuses()
    assert {200, 500} == set(first)


def test_a_truncated_body_is_shorter_than_promised(proxy: FaultProxy) -> None:
    proxy.inject(TruncatedBody(after=3), times=1)
    connection = connect(proxy)
    connection.request("GET", "/b/k")
    with pytest.raises(http.client.IncompleteRead) as caught:
        connection.getresponse().read()
    assert caught.value.partial == b"GET"
    connection.close()


def test_a_delay_goes_on_to_the_next_rule(proxy: FaultProxy) -> None:
    proxy.inject(Delay(0.05))
    proxy.inject(faults.ACCESS_DENIED)
    started = time.monotonic()
    assert b" 403 Forbidden" in exchange(proxy, b"GET /b/k HTTP/1.1\r\nHost: x\r\n\r\n")
    assert time.monotonic() - started >= 0.05


def test_what_hangs_ends_when_the_client_gives_up(proxy: FaultProxy) -> None:
    proxy.inject(Hang())
    connection = connect(proxy)
    connection.request("GET", "/b/k")
    proxy.wait_for(1, "GET", "k")
    assert connection.sock is not None
    connection.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()
    assert [r.status for r in proxy.requests()] == [None]


def test_a_stopped_listener_ends_connections_and_comes_back_on_the_same_port(proxy: FaultProxy) -> None:
    connection = connect(proxy)
    connection.request("GET", "/b/k")
    connection.getresponse().read()
    for _ in range(3):
        with proxy.refusing(), pytest.raises(ConnectionRefusedError):
            connect(proxy).connect()
    assert connection.sock is not None
    assert connection.sock.recv(1) == b""
    connection.close()
    assert b" 200 OK" in exchange(proxy, b"GET /b/k HTTP/1.1\r\nHost: x\r\n\r\n")


def test_waiting_for_requests_that_do_not_come_ends(proxy: FaultProxy) -> None:
    with pytest.raises(TimeoutError, match="0 of 1 requests GET 'k'"):
        proxy.wait_for(1, "GET", "k", timeout=0.01)


# ---- with clients of S3


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    with MotoServer(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def s3_proxy(moto: MotoServer) -> Iterator[FaultProxy]:
    with FaultProxy(moto.endpoint_url) as proxy:
        yield proxy


def obstore_client(proxy: FaultProxy, bucket: str) -> S3Store:
    return S3Store(
        bucket,
        endpoint=proxy.endpoint_url,
        region=REGION,
        access_key_id=AWS_VARIABLES["AWS_ACCESS_KEY_ID"],
        secret_access_key=AWS_VARIABLES["AWS_SECRET_ACCESS_KEY"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": "5s"},
        retry_config={"max_retries": 0},
    )


@pytest.mark.parametrize("key", KEYS)
def test_boto3_reads_what_it_wrote_whatever_the_key(moto: MotoServer, s3_proxy: FaultProxy, key: str) -> None:
    client, bucket = s3_client(s3_proxy.endpoint_url), moto.new_bucket()
    client.put_object(Bucket=bucket, Key=key, Body=b"value")
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"value"
    assert [o.get("Key") for o in client.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    assert s3_proxy.count("PUT", key) == s3_proxy.count("GET", key) == 1


def test_obstore_reads_writes_and_deletes(moto: MotoServer, s3_proxy: FaultProxy) -> None:
    store = obstore_client(s3_proxy, moto.new_bucket())
    obstore.put(store, "a/b", b"value" * 100_000)
    assert bytes(obstore.get(store, "a/b").bytes()) == b"value" * 100_000
    obstore.delete(store, "a/b")
    with pytest.raises(FileNotFoundError):
        obstore.get(store, "a/b")


@pytest.mark.parametrize(
    "fault",
    [
        faults.INTERNAL_ERROR,
        faults.SLOW_DOWN,
        faults.CONDITIONAL_CONFLICT,
        faults.OPERATION_ABORTED,
        faults.PRECONDITION_FAILED,
        faults.NO_SUCH_KEY,
        faults.NOT_IMPLEMENTED,
        faults.ACCESS_DENIED,
        faults.NO_SUCH_BUCKET,
    ],
    ids=lambda fault: fault.code,
)
def test_boto3_understands_the_errors(moto: MotoServer, s3_proxy: FaultProxy, fault: faults.Reply) -> None:
    client, bucket = s3_client(s3_proxy.endpoint_url), moto.new_bucket()
    s3_proxy.inject(fault, times=1)
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket=bucket, Key="k", Body=b"v")
    assert caught.value.response["Error"]["Code"] == fault.code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == fault.status
    client.put_object(Bucket=bucket, Key="k", Body=b"v")


def test_a_lost_response_is_of_a_request_that_took_effect(moto: MotoServer, s3_proxy: FaultProxy) -> None:
    bucket = moto.new_bucket()
    store = obstore_client(s3_proxy, bucket)
    rule = s3_proxy.inject(LoseResponse(), method="PUT", times=1)
    with pytest.raises(obstore.exceptions.GenericError):
        obstore.put(store, "k", b"value", use_multipart=False)
    assert rule.applied == 1
    assert moto.client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"value"


def test_a_lost_request_never_takes_effect(moto: MotoServer, s3_proxy: FaultProxy) -> None:
    bucket = moto.new_bucket()
    store = obstore_client(s3_proxy, bucket)
    s3_proxy.inject(LoseRequest(), method="PUT", times=1)
    with pytest.raises(obstore.exceptions.GenericError):
        obstore.put(store, "k", b"value" * 100_000, use_multipart=False)
    assert "Contents" not in moto.client.list_objects_v2(Bucket=bucket)
    assert s3_proxy.count("PUT", "k") == 1


def test_conditional_puts_with_bodies_meet_conflicts_and_get_through(
    moto: MotoServer, s3_proxy: FaultProxy
) -> None:
    store, value = obstore_client(s3_proxy, moto.new_bucket()), b"value" * 100_000
    s3_proxy.inject(faults.CONDITIONAL_CONFLICT, method="PUT", times=1)
    with pytest.raises(obstore.exceptions.BaseError, match="409"):
        obstore.put(store, "k", value, mode="create")
    etag = obstore.put(store, "k", value, mode="create")["e_tag"]
    obstore.put(store, "k", value + b".", mode={"e_tag": etag})
    assert [r.status for r in s3_proxy.requests("PUT", "k")] == [409, 200, 200]
    assert [r.fields.get("if-match") for r in s3_proxy.requests("PUT")] == [None, None, etag]


def test_refused_connections_are_what_clients_see(moto: MotoServer, s3_proxy: FaultProxy) -> None:
    client, bucket = s3_client(s3_proxy.endpoint_url), moto.new_bucket()
    s3_proxy.reject()
    with pytest.raises(EndpointConnectionError):
        client.head_bucket(Bucket=bucket)
    s3_proxy.heal()
    client.head_bucket(Bucket=bucket)
