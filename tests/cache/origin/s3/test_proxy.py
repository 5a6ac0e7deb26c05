"""The proxy on the way to S3 from a file: read again, wrong ones change nothing, and its password is in no text."""

from __future__ import annotations

from pathlib import Path

import pytest

from milena_cache.origin.s3.proxy import FILE_SECONDS, Proxy
from milena_cache.origin.s3.settings import S3Settings
from milena_common.api.errors import ConfigError
from tests.support.fake_clock import FakeClock

SECRET = "a-secret-that-is-long"


def settings(file: Path) -> S3Settings:
    return S3Settings("us-east-1", "", 1, 1, proxy_file=str(file), proxy_variable="HTTPS_PROXY_FILE")


async def test_a_file_is_read_again_and_a_wrong_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, clock = tmp_path / "proxy", FakeClock()
    file.write_text(f" u:{SECRET}@one:3128\n")
    proxy = Proxy(settings(file), clock.now)
    assert proxy.url() == f"http://u:{SECRET}@one:3128"
    file.write_text(f"http://u:other{SECRET}@two:3128")
    assert proxy.url().endswith("@one:3128"), "not before its time"
    await clock.advance(FILE_SECONDS)
    assert proxy.url() == f"http://u:other{SECRET}@two:3128"
    for wrong in ("", f"socks5://u:{SECRET}@p:1", f"http://u:{SECRET}@ p:1"):
        file.write_text(wrong)
        await clock.advance(FILE_SECONDS)
        assert proxy.url().endswith("@two:3128")
    file.unlink()
    await clock.advance(FILE_SECONDS)
    assert proxy.url().endswith("@two:3128")
    assert len(caplog.records) == 2, "once for each reason"
    text = f"cannot connect to u:{SECRET}@one:3128 and http://u:other{SECRET}@two:3128"
    assert SECRET not in proxy.redact(text)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("content", [None, "", f"socks5://u:{SECRET}@p:1"])
def test_a_file_that_cannot_be_used_is_named_at_the_start(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "proxy"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=r"^HTTPS_PROXY_FILE: ") as raised:
        Proxy(settings(file))
    assert SECRET not in str(raised.value)


def test_a_proxy_of_the_environment_stays() -> None:
    proxy = Proxy(S3Settings("us-east-1", "", 1, 1, proxy_url=f"http://u:{SECRET}@p:1"))
    assert proxy.url() == f"http://u:{SECRET}@p:1"
    assert proxy.redact(f"at u:{SECRET}@p:1") == "at ***@p:1"
