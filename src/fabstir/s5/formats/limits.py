"""The limits of S5's formats. docs/s5-formats.md has the same table; a test compares them."""

from __future__ import annotations

from typing import Final

MAX_REGISTRY_DATA_BYTES: Final = 64
"""Longest data of a registry entry: what nodes accept; the documents say 48."""

MAX_REVISION: Final = (1 << 48) - 1
"""Largest revision that is written: JavaScript nodes cut off the rest."""

MAX_MUTABLE_BYTES: Final = 1 << 20
"""Longest blob that is decoded in memory: a directory or a node of a HAMT, encrypted or not. A
flat directory of 1,000 entries has some 200 KiB, a HAMT leaf of S5.js at a million entries is
longer, and read with MAX_HAMT_NODE_BYTES."""

MAX_HAMT_NODE_BYTES: Final = 4 << 20
"""Longest node of a HAMT that is read. Measured at a million entries with names of 14 bytes and
leaves of 1,000 entries: 2.6 MiB in clear, 3.8 MiB with the keys of encrypted files; with leaves of
16 entries 12 KiB."""

MAX_PATH_BYTES: Final = 4096
"""Longest path, in bytes of UTF-8: PATH_MAX of Linux."""

MAX_NAME_BYTES: Final = 1024
"""Longest name of one entry, in bytes of UTF-8."""

MAX_PATH_DEPTH: Final = 64
"""Most segments of a path, so that a directory that contains itself ends."""

MAX_CBOR_DEPTH: Final = 32
"""Deepest nesting that is decoded: a file reference with one predecessor has six levels, and one
with eight in a HAMT's leaf has seventeen."""

MAX_WIRE_BYTES: Final = 1 << 20
"""Longest frame of the P2P WebSocket."""

MAX_WIRE_PARTS: Final = 16
"""Most parts of one storage location, and URIs of one node."""

MAX_URI_BYTES: Final = 2048
"""Longest URI of a storage location or of a node, in bytes of UTF-8: what browsers take."""

MAX_CHALLENGE_BYTES: Final = 256
"""Longest challenge of a handshake: S5.js sends 64 bytes, Dart nodes 32. It is signed back."""

MAX_NETWORK_BYTES: Final = 64
"""Longest name of a network in a handshake."""

MAX_QUERY_TYPES: Final = 16
"""Most location types of one hash query; four are defined."""

MAX_ANNOUNCED_PEERS: Final = 256
"""Most peers of one announcement."""

MAX_STREAM_DATA_BYTES: Final = 1_000_000
"""Longest payload of a stream message: what Dart nodes take."""

CHUNK_BYTES: Final = 256 * 1024
"""Plaintext of one chunk of an encrypted blob, and of one group of a verified stream."""

HAMT_BITS_PER_LEVEL: Final = 5
HAMT_SWITCH_ENTRIES: Final = 1000
"""A directory with this many files and directories is written as a HAMT, as S5.js does."""

HAMT_LEAF_ENTRIES: Final = 16
"""Most entries of a leaf that we write: measured 8.5 KiB rewritten per insert at a million entries,
against 2,264 KiB with the 1,000 of S5.js, which compatibility mode writes."""

MAX_HAMT_LEAF_ENTRIES: Final = 1000
MAX_HAMT_DEPTH: Final = 12
"""Levels that a 64-bit hash has at 5 bits each; what still collides stays in one leaf."""
