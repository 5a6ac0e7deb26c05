"""A router of which A and B are members; B last reported writes that are not in S3."""

from __future__ import annotations

import pytest

from tests.router.ring.running_membership import WRITES, A, B, Router


@pytest.fixture
def router() -> Router:
    made = Router()
    made.join(A)
    made.join(B, WRITES)
    return made
