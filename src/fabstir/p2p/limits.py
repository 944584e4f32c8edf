"""Timeouts and bounds of the libp2p side. Seconds where nothing else is said."""

from __future__ import annotations

from typing import Final

DIAL_TIMEOUT: Final = 10.0
"""One dial, all addresses of the peer together: TCP, noise and yamux take four round trips."""

STREAM_TIMEOUT: Final = 5.0
"""Opening one stream on a connection; over its stream limit py-libp2p hangs instead of failing."""

CLOSE_TIMEOUT: Final = 5.0
"""Closing all connections politely; then they are cut."""

HANDSHAKE_TIMEOUT: Final = 8.0
"""A stranger's whole handshake (WebSocket, noise, yamux): seven round trips at most, so enough for
the far side of the world over a bad line. js-libp2p allows 10, go-libp2p 15."""

SEND_TIMEOUT: Final = 10.0
"""One write to a peer, of at most 64 KiB beyond what the kernel takes; then it is cut."""

PEER_SILENCE: Final = 90.0
"""Silence after which a peer counts as gone: yamux pings every 30 s, and it missed three."""

ACCEPT_PAUSE: Final = 0.1
"""Pause after accept() failed, because the process has no descriptor left for instance."""

LISTEN_BACKLOG: Final = 128
"""Connections that the kernel holds until they are accepted."""

MAX_INBOUND: Final = 128
"""Inbound connections, idle ones included. Measured: a node with 29 takes 1.8 MB, so these 8."""

MAX_INBOUND_PER_ADDRESS: Final = 48
"""Of those, from one IPv4 address or IPv6 /64: an office, or a machine with many nodes."""

MAX_PENDING: Final = 48
"""Inbound connections in their handshake, which takes a living peer well below a second."""

MAX_PENDING_PER_ADDRESS: Final = 16
"""Of those, from one IPv4 address or IPv6 /64."""

MAX_PER_PEER: Final = 2
"""Inbound connections of one peer; go and js keep one, two when both sides dial at once."""

MAX_OUTBOUND: Final = 64
"""Connections that this node dialled. Lookups leave 29 open in a network of 200."""

CONNECTION_SHARE: Final = 4
"""libp2p takes one of this many descriptors of the process at most: HTTP, the engine, the chain and
the database need the others."""

MAX_STREAMS: Final = 64
"""Streams on one connection, of both sides; py-libp2p's own client opens at most 256."""

MAX_UNREAD_BYTES: Final = 1024 * 1024
"""What one connection's streams may hold unread: four full windows of 256 KiB."""

MAX_WEBSOCKET_MESSAGE: Final = 256 * 1024
"""Longest WebSocket message; libp2p sends one noise message of 64 KiB in each."""

HALF_CLOSED_TIMEOUT: Final = 60.0
"""How long a stream that only we have closed is remembered."""

DHT_STREAM_TIMEOUT: Final = 60.0
"""Life of one DHT stream that a peer opened; go-libp2p keeps them for its next question and opens
a new one when it is gone."""

ROUTING_PATIENCE: Final = 0.5
"""How long an asker waits for its own place in our routing table before it gets its answer: enough
to identify it, too little for an old peer of its bucket to hold it up."""

MAX_REQUEST_BYTES: Final = 64 * 1024
"""Longest DHT request that is read: a host record, or 20 providers."""

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

MAX_ANSWER_PROVIDERS: Final = 64
"""Of those, named by one peer: what one of our nodes keeps of a key."""

MAX_PROVIDER_ADDRESSES: Final = 8
"""Addresses kept per provider: each one costs a dial to try."""

MAX_PARSED_ADDRESSES: Final = 32
"""Addresses that are parsed of those that a peer's answer gives for another: parsing one takes
about 50 microseconds, and an answer has room for 100,000."""

MAX_MESSAGE_BYTES: Final = 1024 * 1024
"""Longest DHT answer that is read: 20 records of 8 KiB with 60 peers' addresses fit."""

MAX_STORED_RECORDS: Final = 4096
"""Host records kept for others: 36 MB. Each is kept by twenty nodes, so a network of any size at
least as large as that of its hosts fits."""

MAX_KNOWN_PEERS: Final = 1024
"""Peers remembered with their addresses and protocols: several times those of a routing table and
all connections; at most 16 MB."""

MAX_PEER_ADDRESSES: Final = 16
"""Addresses remembered of one peer, which may tell a thousand."""

MAX_PEER_PROTOCOLS: Final = 64
"""Protocols remembered of one peer; kubo has about 30."""

MAX_STORED_PROVIDERS: Final = 64
"""Providers kept of one key. An answer with all of them has about 20 KiB."""

MAX_PROVIDED_KEYS: Final = 4096
"""Keys of which providers are kept: two a model."""

PROVIDER_FRESHNESS: Final = 3600.0
"""A provider that did not renew its record for this long makes room first: hosts renew theirs
every five minutes."""

MAX_ENVELOPE_BYTES: Final = 512
"""What the libp2p envelope may add to a host record: key, signature and type are about 130."""

ADDRESS_TTL: Final = 3600
"""How long a peer's addresses from the DHT are believed, in whole seconds."""

SELF_CHECK_INTERVAL: Final = 30.0
"""How often the node dials its own listeners. One check costs about 20 ms of a core."""

SELF_CHECK_RETRY: Final = 5.0
"""How soon it looks again when nobody got in."""

SELF_CHECK_TIMEOUT: Final = 10.0
"""One check of one listener, on a machine that is busy with inference."""

BOOTSTRAP_FIRST_RETRY: Final = 0.5
"""Wait before the second dial of a bootstrap peer; doubles up to BOOTSTRAP_MAX_RETRY."""

BOOTSTRAP_MAX_RETRY: Final = 60.0
"""Longest wait between dials of an absent bootstrap peer."""

BOOTSTRAP_CHECK: Final = 15.0
"""How often it is looked whether a bootstrap peer is still connected."""

RECORD_LIFETIME: Final = 600
"""Whole seconds until a host record expires; it is renewed at half of that. A host that is gone
misleads renters this long at most."""

PROVIDE_BURST: Final = 4
"""Models published at once, with two provider records each: py-libp2p's server refuses an eleventh
record from one peer..."""

PROVIDE_WINDOW: Final = 10.0
"""... within this many seconds."""

ADVERTISE_FIRST_RETRY: Final = 1.0
"""Wait after a failed publication; doubles up to ADVERTISE_MAX_RETRY."""

ADVERTISE_MAX_RETRY: Final = 60.0
"""Longest wait between failed publications."""
