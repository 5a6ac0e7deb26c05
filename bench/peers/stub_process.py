"""Shell. The S3 stub as a child process.

It has its own process so that its work is not measured with that of the program under test.
"""

from __future__ import annotations

import http.client
import json
from pathlib import Path

from tests.support.processes import Process

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0  # on a machine that is busy; a second otherwise


class StubProcess(Process):
    """A running stub at `endpoint_url`; with `synthetic`, every key exists with that many bytes.

    Of values above `keep` bytes it keeps only the ETag. With `md5_etags` its ETags are S3's, see `Objects`.
    """

    def __init__(
        self,
        directory: Path,
        synthetic: int | None = None,
        keep: int | None = None,
        *,
        md5_etags: bool = False,
    ) -> None:
        arguments = ["-m", "bench.peers.s3_stub"]
        if synthetic is not None:
            arguments += ["--synthetic", str(synthetic)]
        if keep is not None:
            arguments += ["--keep", str(keep)]
        if md5_etags:
            arguments.append("--md5-etags")
        super().__init__("s3_stub", arguments, {"PYTHONPATH": str(ROOT)}, directory)
        try:
            self.endpoint_url = self.wait_for_log("http://", START_SECONDS)
        except BaseException:
            self.close()
            raise

    def _request(self, method: str, target: str) -> bytes:
        connection = http.client.HTTPConnection(self.endpoint_url.removeprefix("http://"), timeout=5)
        try:
            connection.request(method, target)
            return connection.getresponse().read()
        finally:
            connection.close()

    def requests(self) -> dict[str, int]:
        """Return the requests since the start, by method; an unused method is missing."""
        counts: dict[str, int] = json.loads(self._request("GET", "/_stub/stats"))
        return counts

    def sent_bytes(self) -> int:
        """Return the bytes of the bodies of responses since the start."""
        return int(self._request("GET", "/_stub/sent"))

    def set_latency(self, seconds: float) -> None:
        self._request("POST", f"/_stub/latency?ms={seconds * 1000:g}")

    def set_rate(self, megabytes: float) -> None:
        """Send at most so many megabytes (10**6 bytes) a second over each connection; 0: any number."""
        self._request("POST", f"/_stub/rate?mb_s={megabytes:g}")
