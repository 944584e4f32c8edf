"""The rail itself: what serving and the node see of era-C sessions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import anyio

from fabstir.db.host_sessions import SessionRow
from fabstir.primitives.ids import ModelId
from fabstir.protocol.exchange.handshake import Greeting
from fabstir.rails.rail import Closing, Funding
from fabstir.rails.session_job.admission import JobAdmission
from fabstir.rails.session_job.checkpoints import Checkpoints
from fabstir.rails.session_job.settler import Settler


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionJobRail:
    """Sessions of JobMarketplace. See `rails.rail.Rail`.

    Attributes:
        checkpoints: what was published with claims.
    """

    admission: JobAdmission
    settler: Settler
    checkpoints: Checkpoints
    background: Mapping[str, Callable[[], Awaitable[None]]] = field(
        default_factory=dict[str, Callable[[], Awaitable[None]]]
    )

    async def admit(self, greeting: Greeting, *, accept: Callable[[ModelId], object]) -> Funding:
        return await self.admission.admit(greeting, accept)

    def allowance(self, row: SessionRow) -> int:
        return self.settler.max_unproven(row)

    def agreed(self, row: SessionRow, unproven: int) -> None:
        self.settler.agreed(row, unproven)

    async def close(self, row: SessionRow) -> Closing:
        return await self.settler.close(row)

    async def drain(self, patience: float) -> None:
        with anyio.move_on_after(patience):
            await self.settler.prove_all()
        with anyio.move_on_after(patience):
            await self.settler.settle_closing()
