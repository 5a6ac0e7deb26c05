"""Pure. Deliberate faults of identities, permissions and TLS."""

from __future__ import annotations

from tests.mutants.mutant import Bug, Change

ACCESS = "tests/common/access/test_access.py"

ACCESS_BUGS: tuple[Bug, ...] = (
    Bug(
        "any client names the user of its call",
        (
            Change(
                "milena_common/access/access.py",
                '        if not principal.is_cluster:\n            self.log.add("command"',
                '        if not principal.authenticated:\n            self.log.add("command"',
            ),
        ),
        (f"{ACCESS}::test_only_the_cluster_makes_requests_for_a_user",),
    ),
    Bug(
        "a forwarded call has the permissions of the cluster",
        (
            Change(
                "milena_common/access/access.py",
                '        return self._of(user, "router")\n',
                "        return principal\n",
            ),
        ),
        (f"{ACCESS}::test_only_the_cluster_makes_requests_for_a_user",),
    ),
    Bug(
        "the router's own calls are those of a user",
        (
            Change(
                "milena_router/forwarding/node_connection.py",
                '    return END_USER.get() if method in OF_USERS else ""\n',
                "    return END_USER.get()\n",
            ),
        ),
        ("tests/router/forwarding/test_node_connection.py::test_calls_over_grpc_do_so_too",),
    ),
    Bug(
        "bytes of a user with a certificate are charged to no user",
        (
            Change(
                "milena_common/rpc/calls.py",
                "        return Allowed(principal.guard, filtered)\n",
                "        return Allowed(self._principal.guard, filtered)\n",
            ),
        ),
        (
            "tests/common/rpc/test_server_access.py::"
            "test_bytes_of_a_user_with_a_certificate_count_where_the_default_user_needs_no_login",
        ),
    ),
    Bug(
        "open connections of a removed authority stay",
        (
            Change(
                "milena_common/tls/certificates.py",
                "        return chain.authority in self._contexts.authorities and self._wall()",
                "        return self._wall()",
            ),
        ),
        ("tests/common/tls/test_chain.py",),
    ),
    Bug(
        "every certificate of the authority may join",
        (
            Change(
                "milena_common/tls/variables.py",
                '    if tls.mode == "on" and required and not named:\n',
                '    if tls.mode == "on" and not required and not named:\n',
            ),
        ),
        ("tests/common/tls/test_variables.py",),
    ),
    Bug(
        "connections keep certificates that were replaced",
        (
            Change(
                "milena_common/resp/link.py",
                "        if self._security.client_context() is not self._context:\n",
                "        if self._context is None:\n",
            ),
        ),
        ("tests/common/resp/test_link.py::test_a_connection_is_replaced_with_its_certificates_and_no_call_fails",),
    ),
    Bug(
        "handshakes begin all at once",
        (
            Change(
                "milena_common/network/spare_listener.py",
                "        if self._queued:\n            self._loop.call_soon(self._begin_next)\n",
                "        while self._queued:\n            self._queued.popleft().set_result(None)\n",
            ),
        ),
        (
            "tests/common/network/test_encrypted.py::"
            "test_clients_that_connect_at_once_begin_one_after_another_and_all_get_in",
        ),
    ),
)
