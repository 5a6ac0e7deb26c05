"""Coordination. Abandons moves that are stuck, so that they do not hold up the next ones.

The destination may have taken slots over without the router's knowledge. So it is called first: it promises to
take none of the slots that it does not have, and replies which it has. Those it keeps, and the router follows; the
others stay with their owner, since the same epoch, as if no move had been planned: no other node can have served
them. Without a reply nothing is abandoned: a destination that is lost loses its moves by that, and one that lives
replies later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from milena_common.api.errors import MilenaError
from milena_common.api.methods import ABANDON_MOVES
from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.cluster.slot_runs import Run, without
from milena_common.runtime.clock import Clock
from milena_router.ring.fast_death import Call
from milena_router.ring.leases import Leases
from milena_router.ring.stuck_moves import StuckMove

log = logging.getLogger(__name__)

REPLY_SECONDS = 1.0


class AbandonedMoves:
    """`call` returns the response of the node at an address."""

    def __init__(self, leases: Leases, call: Call, clock: Clock) -> None:
        self._leases = leases
        self._call = call
        self._clock = clock

    async def run(self) -> None:
        """Look for stuck moves until cancelled."""
        while True:
            await self._clock.sleep(self._leases.membership.lease_seconds / 3)
            await self.abandon_stuck()

    async def abandon_stuck(self) -> None:
        """Abandon the moves that are stuck now."""
        stuck = self._leases.membership.stuck_moves(self._clock.now())
        await asyncio.gather(*map(self._abandon, stuck))

    async def _abandon(self, move: StuckMove) -> None:
        request = cache_pb.AbandonMovesRequest(
            epoch=move.epoch,
            first=[run.first for run in move.slots],
            last=[run.last for run in move.slots],
        )
        try:
            response = await self._call(
                move.destination, ABANDON_MOVES.name, request.SerializeToString(), REPLY_SECONDS
            )
            taken = cache_pb.AbandonMovesResponse.FromString(response).taken
            await self._leases.request_abandon(move, tuple(_without(move.slots, taken)))
        except MilenaError as error:  # also of what the ring is kept in: it is tried again
            log.warning(
                "the move of slots from %s to %s makes no progress, and cannot be abandoned yet: %s",
                move.owner,
                move.destination,
                error,
            )


def _without(slots: Iterable[Run], taken: Iterable[int]) -> list[Run]:
    return without(slots, [(slot, slot) for slot in sorted(taken)])
