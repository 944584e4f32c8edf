"""What a peer may cost this node, and for how long it is avoided."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLimits:
    """Bounds of one peer, of all together, and of one question. Durations in seconds."""

    frames_per_second: float = 1000.0
    """A peer that sends more is read more slowly: its own TCP connection fills up."""
    bytes_per_second: float = 4 * 2**20
    new_keys_per_second: float = 1.0
    """Registry entries of keys that this node has not heard of, and did not ask for: they take
    room on its disk."""
    burst_seconds: float = 2.0
    """How much of each rate may come at once, after a pause."""
    burst_new_keys: int = 256

    max_inbound: int = 64
    max_discovered: int = 8
    """Peers of peers that are dialled too; each is forgotten after three failures."""
    outbox_frames: int = 256
    """Frames that wait for a slow peer; what comes on top is not sent to it."""
    max_searches: int = 1024
    """Blobs and keys that are searched at the same time; further ones wait."""
    max_cached_blobs: int = 16_384
    """Blobs whose locations are remembered until they expire: some 16 MiB."""
    max_locations: int = 16
    """Of one blob."""

    handshake_timeout: float = 10.0
    send_timeout: float = 10.0
    query_deadline: float = 2.0
    """How long peers have to answer. This project's nodes say at once what they do not have."""
    settle: float = 0.2
    """How long further answers are waited for after the first one; what Dart nodes wait."""
    http_timeout: float = 5.0
    """For connecting to a location, and for each part of its answer."""
    offer_lifetime: int = 3600
    """How long this node's own locations are valid."""
    max_lifetime: int = 7 * 86_400
    """The longest that a location of others is remembered, whatever it says."""
    clock_tolerance: int = 60
    """Peers whose clocks differ by this much are believed."""
    avoid: float = 600.0
    """How long a liar is avoided at first; twice as long each further time, up to a day."""
    reconnect: float = 1.0
    """The first pause before a peer is dialled again; twice as long each time."""
    max_reconnect: float = 300.0
