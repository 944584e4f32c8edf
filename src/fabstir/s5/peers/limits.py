"""What a peer may cost this node, and for how long it is avoided."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLimits:
    """Bounds of one peer, of all together, and of one question. Durations in seconds."""

    frames_per_second: float = 1000.0
    """A peer that sends more is read more slowly: its own TCP connection fills up."""
    bytes_per_second: float = 4 * 2**20
    new_keys_per_second: float = 4.0
    """Registry entries of keys that this node has not heard of, and did not ask for, of one remote
    address: they take room on its disk. Above that its peers are read more slowly; none is
    dropped."""
    burst_seconds: float = 2.0
    """How much of each rate may come at once, after a pause."""
    burst_new_keys: int = 16_384
    """A directory tree of so many folders that is written at once; 4 MiB of disk."""

    max_inbound: int = 128
    max_inbound_per_address: int = 32
    """Below a door's limit for all connections of an address: its downloads need some too."""
    idle_seconds: float = 60.0
    """A peer that was of use gives way to another one after so long."""
    max_discovered: int = 8
    """Peers of peers that are dialled too; each is forgotten after three failures."""
    outbox_frames: int = 256
    """Frames that wait for a slow peer; what comes on top is not sent to it."""
    max_owed_entries: int = 16_384
    """Registry entries that wait for a slow peer besides, the newest of each key: 4 MiB."""
    max_answers_at_once: int = 64
    """Of one peer: questions that are passed on, entries whose blobs are looked for. Further ones
    are not read before one of these is done."""
    max_searches: int = 1024
    """Blobs and keys that are searched at the same time; further ones wait."""
    max_relayed: int = 256
    """Of these, those that other peers ask for."""
    max_seen_questions: int = 65_536
    """Ids of questions that are remembered so that none goes round: 100 bytes each."""
    max_cached_blobs: int = 16_384
    """Blobs whose locations are remembered until they expire: some 16 MiB."""
    max_locations: int = 16
    """Of one blob."""

    handshake_timeout: float = 10.0
    send_timeout: float = 10.0
    query_deadline: float = 2.0
    """How long peers have to answer. This project's nodes say at once what they do not have."""
    relay_known: float = 0.5
    """How long peers have to name a newer entry than this node's before a peer gets this node's."""
    fresh: float = 2.0
    """How long an entry that peers were asked for is passed on without asking again."""
    announce_again: float = 5.0
    """How often it is looked whether the blobs of entries that are held back can be had."""
    max_recent: int = 1024
    """Entries that were told to peers and are told to those that connect later: 250 KiB."""
    max_unsettled: int = 16_384
    """Entries of others whose blobs nobody was found to have: they are not passed on."""
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
