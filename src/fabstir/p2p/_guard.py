"""Dials only where strangers may send this program.

The library dials every address that any peer names, and its own gate knows no names and would keep
out inbound peers too. So each dial is checked here, and a name's checked address is dialled.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from libp2p.abc import INetConn
from libp2p.host.basic_host import BasicHost
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from fabstir.p2p._addresses import checked_address
from fabstir.p2p._workarounds import swarm_of
from fabstir.primitives.errors import AddressRefused
from fabstir.web.reach import Reach

_logger = logging.getLogger(__name__)


def guard_dials(host: BasicHost, reach: Reach, named: Collection[Multiaddr]) -> None:
    """Check every dial of the host from now on.

    Args:
        named: addresses that the user named, without /p2p: they may be anywhere. May grow.
    """
    swarm = swarm_of(host)
    assert hasattr(swarm, "_dial_addr_single_attempt"), "libp2p renamed its dial"
    dial = swarm._dial_addr_single_attempt  # pyright: ignore[reportPrivateUsage] - no public hook

    async def dial_checked(
        addr: Multiaddr, peer_id: ID, source: tuple[str, int] | None = None
    ) -> INetConn:
        if addr not in named:
            try:
                addr = await checked_address(addr, reach)
            except (AddressRefused, OSError) as exc:
                # The library keeps the reason to itself.
                _logger.info("an address is not dialled", extra={"reason": str(exc)})
                raise SwarmException(f"not dialled: {exc}") from exc
        return await dial(addr, peer_id, source)

    swarm._dial_addr_single_attempt = dial_checked  # pyright: ignore[reportPrivateUsage] - the same
