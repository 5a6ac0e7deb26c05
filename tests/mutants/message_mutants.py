"""Pure. Faults of publish/subscribe between routers and nodes: messages that come twice, or too early, or not."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Bug, Change

_CHANNELS: Final = "milena_common/pubsub/channels.py"
_FEEDS: Final = "milena_router/redis/feeds.py"
_CONNECTION: Final = "milena_router/redis/connection.py"
_AT_NODES: Final = "tests/cache/servers/resp/commands/connection/test_publishing.py"
_AT_ROUTERS: Final = "tests/router/redis/test_publishing.py"

MESSAGE_BUGS: tuple[Bug, ...] = (
    Bug(
        "a router gets a message from every node",
        (Change(_CHANNELS, "or (is_relay and relayed)", ""),),
        (_AT_NODES,),
    ),
    Bug(
        "a subscription is confirmed before the nodes have it",
        (Change(_FEEDS, "            await self._confirm(names)\n", ""),),
        (_AT_ROUTERS,),
    ),
    Bug(
        "names without subscribers stay subscribed at the nodes",
        (Change(_FEEDS, "not self.channels.listeners(kind, name)", "False"),),
        (_AT_ROUTERS,),
    ),
    Bug(
        "a subscriber of a router may leave any number of bytes unread",
        (Change(_CONNECTION, "if self.unsent > MAX_REPLY_BYTES:", "if False:"),),
        (_AT_ROUTERS,),
    ),
    Bug(
        "a message is published before the writes before it",
        (Change(_CONNECTION, 'local.behind_writes and self._ordering.has("modify")', "False"),),
        (_AT_ROUTERS,),
    ),
    Bug(
        "what is sent behind SUBSCRIBE does not wait for it",
        (
            Change(
                "milena_router/redis/publishing.py",
                "        session.executing = True\n        return _sub",
                "        return _sub",
            ),
        ),
        (_AT_ROUTERS,),
    ),
)
