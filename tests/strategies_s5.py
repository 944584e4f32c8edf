"""Hypothesis strategies of S5's data: any CBOR, references, directories, trees."""

from __future__ import annotations

from typing import cast

from hypothesis import strategies as st
from tests.strategies import byte_strings, texts, uint64s

from fabstir.s5.formats.directory import (
    Cbor,
    Directory,
    DirRef,
    FileEncryption,
    FileRef,
    LinkKind,
    Sharding,
)
from fabstir.s5.formats.hamt_nodes import HamtConfig

cbor_keys = texts(8) | st.integers(-(1 << 64), (1 << 64) - 1) | st.binary(max_size=8)
cbor_values = cast(
    "st.SearchStrategy[Cbor]",
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(1 << 64), (1 << 64) - 1)
        | st.floats(allow_nan=False)
        | texts(12)
        | st.binary(max_size=12),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(cbor_keys, inner, max_size=4),
        max_leaves=6,
    ),
)
"""What CBOR of S5 can hold, NaN aside, which is not equal to itself."""

names = texts(24)
hashes = byte_strings(32)
times = st.none() | st.integers(0, (1 << 53) - 1)
extras: st.SearchStrategy[dict[Cbor, Cbor]] = st.dictionaries(
    texts(8).filter(lambda name: name != "encryption") | st.integers(24, 60),
    cbor_values,
    max_size=2,
)
encryptions = st.builds(
    FileEncryption,
    key=byte_strings(32),
    plaintext_hash=st.none() | hashes,
    padding=st.integers(0, 1 << 18),
)
locations = st.lists(
    st.tuples(st.integers(0, 255), texts(12) | st.binary(max_size=12)), max_size=2
).map(tuple)


def _files(prev: st.SearchStrategy[FileRef | None]) -> st.SearchStrategy[FileRef]:
    return st.builds(
        FileRef,
        hash=hashes,
        size=uint64s,
        media_type=st.none() | texts(12),
        timestamp=times,
        timestamp_nanos=times,
        locations=locations,
        encryption=st.none() | encryptions,
        extra=extras,
        prev=prev,
    )


files = _files(st.none() | _files(st.none()))
dirs = st.builds(
    DirRef,
    kind=st.sampled_from(LinkKind),
    link=hashes,
    encryption_key=st.none() | byte_strings(32),
    timestamp=times,
    timestamp_nanos=times,
    extra=extras,
)
shardings = st.builds(
    Sharding,
    bits_per_level=st.just(5),
    max_leaf_entries=st.integers(1, 1000),
    hash_function=st.sampled_from((0, 1)),
    root=hashes,
    num_entries=st.integers(0, (1 << 53) - 1),
    depth=st.integers(0, 12),
)
headers: st.SearchStrategy[dict[Cbor, Cbor]] = st.dictionaries(
    texts(8).filter(lambda name: name != "sharding") | st.integers(6, 60), cbor_values, max_size=2
)
directories = st.builds(
    Directory,
    files=st.dictionaries(names, files, max_size=4),
    dirs=st.dictionaries(names, dirs, max_size=3),
    sharding=st.none() | shardings,
    header=headers,
)

tree_entries = st.dictionaries(
    names.map(lambda name: f"f:{name}"), files, max_size=40
) | st.dictionaries(names.map(lambda name: f"d:{name}"), dirs, max_size=20)
"""What one tree holds: keys with their entries."""

hamt_configs = st.builds(
    HamtConfig,
    max_leaf_entries=st.sampled_from((1, 2, 3, 16, 1000)),
    hash_function=st.sampled_from((0, 1)),
)
