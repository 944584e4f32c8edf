"""How many files this process may have open, and how many of them strangers may take.

Every connection is a descriptor, and so is everything that must never fail: the engine's pipes and
requests, the chain's RPC, the journals, the stores, the control socket. So the doors get shares,
which they never exceed, and the rest is nobody's but ours.
"""

from __future__ import annotations

import resource
from typing import Final

from fabstir.config.sections import HostSettings, S5Settings
from fabstir.primitives.errors import ConfigError
from fabstir.web.inbound.connections import DoorLimits, parse_proxies

MAX_DESCRIPTORS: Final = 65_536
"""What the soft limit is raised to where the hard one allows it: more than all shares need."""

API_SHARE: Final = 3 / 8
S5_SHARE: Final = 1 / 8
"""Of the limit, to the doors. libp2p has its own bounds, within a quarter; a quarter is left."""

API_CONNECTIONS: Final = 1024
S5_CONNECTIONS: Final = 512
"""Where there are descriptors enough: a connection costs memory too, some 100 KiB while it is
busy."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit to the hard one; returns what this process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def host_limits(settings: HostSettings) -> DoorLimits:
    """What strangers may have of a host's door.

    Raises:
        ConfigError: more connections than can be without endangering what must never fail.
    """
    return DoorLimits(
        max_connections=_connections(
            "host.max_connections", settings.max_connections, API_SHARE, API_CONNECTIONS
        ),
        max_per_address=settings.max_connections_per_address,
        trusted_proxies=parse_proxies(settings.trusted_proxies),
    )


def s5_limits(settings: S5Settings) -> DoorLimits:
    """What strangers may have of the S5 node's door.

    Raises:
        ConfigError: as `host_limits`.
    """
    return DoorLimits(
        max_connections=_connections(
            "s5.max_connections", settings.max_connections, S5_SHARE, S5_CONNECTIONS
        ),
        max_per_address=settings.max_connections_per_address,
        trusted_proxies=parse_proxies(settings.trusted_proxies),
    )


def _connections(setting: str, configured: int | None, share: float, default: int) -> int:
    limit = raise_descriptor_limit()
    most = max(1, int(limit * share))
    if configured is None:
        return min(default, most)
    if configured > most:
        needed = int(configured / share) + 1
        raise ConfigError(
            f"{setting} is {configured}, but this process may have {limit} files open, of which "
            f"{most} may be such connections: lower it, or raise the limit to {needed} (ulimit -n, "
            "or LimitNOFILE of its service)"
        )
    return configured
