"""Timeouts and bounds of the libp2p side. Seconds where nothing else is said."""

from __future__ import annotations

from typing import Final

DIAL_TIMEOUT: Final = 10.0
"""One dial, all addresses of the peer together: TCP, noise and yamux take four round trips."""

STREAM_TIMEOUT: Final = 5.0
"""Opening one stream on a connection; over its stream limit py-libp2p hangs instead of failing."""

CLOSE_TIMEOUT: Final = 5.0
"""Closing all connections politely; then they are cut."""

QUERY_TIMEOUT: Final = 5.0
"""One DHT question to one peer, dialling included. A dead peer costs a lookup this much at most,
because others are asked meanwhile."""

SILENCE_TIMEOUT: Final = 2.0
"""Silence after which a provider record counts as taken: only some implementations echo it."""

FIND_TIMEOUT: Final = 15.0
"""A whole lookup. Measured with 200 nodes on one core: median 3.8 s, 95th percentile 9.7 s."""

HOST_HEAD_START: Final = 1.0
"""How long a host is asked for its own record before the DHT is asked too: several round trips
around the world. It has the newest record, and twenty other peers are left in peace."""

PUBLISH_TIMEOUT: Final = 20.0
"""A lookup, then storing at the nearest peers."""

PING_TIMEOUT: Final = DIAL_TIMEOUT + STREAM_TIMEOUT
"""Dial if need be, open a stream, one round trip."""

REPLICATION: Final = 20
"""Peers nearest to a key that keep its records: Kademlia's k, as everywhere in libp2p."""

PARALLEL_QUERIES: Final = 10
"""Kademlia's alpha, as in py-libp2p and go-libp2p."""

MAX_QUERIES: Final = 60
"""Peers asked in one lookup: three times k ends a walk that lying peers would prolong."""

MAX_PROVIDERS: Final = 100
"""Providers of one model that a lookup returns: more than a renter compares."""

MAX_PROVIDER_ADDRESSES: Final = 8
"""Addresses kept per provider: each one costs a dial to try."""

MAX_MESSAGE_BYTES: Final = 1024 * 1024
"""Longest DHT answer that is read: 20 records of 8 KiB with 60 peers' addresses fit."""

MAX_STORED_RECORDS: Final = 4096
"""Host records kept for others: 36 MB. Each is kept by twenty nodes, so a network of any size at
least as large as that of its hosts fits."""

MAX_ENVELOPE_BYTES: Final = 512
"""What the libp2p envelope may add to a host record: key, signature and type are about 130."""

ADDRESS_TTL: Final = 3600
"""How long a peer's addresses from the DHT are believed, in whole seconds."""

BOOTSTRAP_FIRST_RETRY: Final = 0.5
"""Wait before the second dial of a bootstrap peer; doubles up to BOOTSTRAP_MAX_RETRY."""

BOOTSTRAP_MAX_RETRY: Final = 60.0
"""Longest wait between dials of an absent bootstrap peer."""

BOOTSTRAP_CHECK: Final = 15.0
"""How often it is looked whether a bootstrap peer is still connected."""

RECORD_LIFETIME: Final = 600
"""Whole seconds until a host record expires; it is renewed at half of that. A host that is gone
misleads renters this long at most."""

PROVIDE_BURST: Final = 8
"""Provider records published at once: py-libp2p's server refuses an eleventh from one peer..."""

PROVIDE_WINDOW: Final = 10.0
"""... within this many seconds."""

ADVERTISE_FIRST_RETRY: Final = 1.0
"""Wait after a failed publication; doubles up to ADVERTISE_MAX_RETRY."""

ADVERTISE_MAX_RETRY: Final = 60.0
"""Longest wait between failed publications."""
