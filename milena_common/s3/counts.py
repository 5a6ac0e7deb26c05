"""Pure. Counts of an S3 endpoint, for its process's metrics."""

from __future__ import annotations

from typing import Final

# Those that are listed before their first request.
_USUAL: Final = ("GetObject", "HeadObject", "PutObject", "DeleteObject", "ListObjectsV2", "UploadPart")


class EndpointCounts:
    """The counts.

    requests: by S3's name of the operation; "other" for what is none that is served
    replies: by HTTP status
    connections: that are open
    streamed: parts of uploads that are being passed on to S3
    """

    def __init__(self) -> None:
        self.requests: dict[str, int] = dict.fromkeys((*_USUAL, "other"), 0)
        self.replies: dict[int, int] = {200: 0, 404: 0}
        self.connections = 0
        self.streamed = 0

    def request(self, operation: str) -> None:
        self.requests[operation] = self.requests.get(operation, 0) + 1

    def reply(self, status: int) -> None:
        self.replies[status] = self.replies.get(status, 0) + 1
