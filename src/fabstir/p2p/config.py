"""Settings of the libp2p node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fabstir.web.reach import STRANGERS, Reach


@dataclass(frozen=True, slots=True, kw_only=True)
class P2PConfig:
    """The settings of section [p2p].

    Attributes:
        identity_path: file of the libp2p private key, created with mode 0600 on first use.
        listen_host: IPv4 or IPv6 address to listen on; "0.0.0.0" for all interfaces.
        tcp_port: 0 takes any free port, as a renter does.
        ws_port: WebSocket port for browsers; None for no WebSocket.
        bootstrap: multiaddrs that end in /p2p/<peer id>. Without any, the node is its own network.
        announce: multiaddrs to advertise before the ones listened on, for a node behind a router.
        reach: where addresses that other peers name may be; those of `bootstrap` may be anywhere.
        dht_mode: "server" keeps records for others; "client" only asks.
    """

    identity_path: Path
    listen_host: str = "127.0.0.1"
    tcp_port: int = 9000
    ws_port: int | None = None
    bootstrap: tuple[str, ...] = ()
    announce: tuple[str, ...] = ()
    reach: Reach = STRANGERS
    dht_mode: Literal["server", "client"] = "server"
