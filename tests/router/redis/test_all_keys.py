"""Commands on all keys through the router: a node carries them out, and the user gets what it may see."""

from __future__ import annotations

from milena_common.access.acl_file import parse_users
from tests.router.redis.test_connection import running_port

USERS = b"""
user app on >x ~app/* +@all
user admin on >x ~* +@all
"""


async def test_a_user_gets_the_keys_that_it_may_see() -> None:
    async with running_port() as port:
        port.router.redis.permissions.access.replace_users(parse_users(USERS, "photos"))
        said = {
            b"KEYS": b"*2\r\n$5\r\napp/1\r\n$7\r\nother/1\r\n",
            b"SCAN": b"*2\r\n$1\r\n7\r\n*2\r\n$7\r\nother/1\r\n$5\r\napp/1\r\n",
            b"RANDOMKEY": b"$7\r\nother/1\r\n",
            b"DBSIZE": b":2\r\n",
        }
        port.node.says = lambda argv: said[argv[1]] if argv[0] == b"MILENA.ALL" else None
        expected = {
            b"app": [b"*1\r\n$5\r\napp/1\r\n", b"*2\r\n$1\r\n7\r\n*1\r\n$5\r\napp/1\r\n", b"$-1\r\n", b":2\r\n"],
            b"admin": list(said.values()),
        }
        for name, replies in expected.items():
            client = await port.connect()
            client.send(b"AUTH %b x" % name, b"KEYS *", b"SCAN 0 MATCH *", b"RANDOMKEY", b"DBSIZE")
            assert (await client.replies(5))[1:] == replies
        assert port.node.received[1] == [b"MILENA.ALL", b"SCAN", b"0", b"MATCH", b"*"]
