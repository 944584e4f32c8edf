"""The HAMT of a directory: found, listed, changed; the same bytes whatever its history."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.s5_trees import Blobs, drive, listed, lookup
from tests.strategies_s5 import dirs, files, hamt_configs, tree_entries

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import LocalProtocolError, RemoteProtocolError
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.cbor import decode_cbor, encode_canonical
from fabstir.s5.formats.directory import (
    Cbor,
    DirectoryDialect,
    DirectoryEntry,
    DirRef,
    FileRef,
    LinkKind,
)
from fabstir.s5.formats.hamt import Updated, build, hash_key, update
from fabstir.s5.formats.hamt_nodes import HamtConfig, read_entry, read_root
from fabstir.s5.formats.limits import MAX_HAMT_DEPTH, MAX_HAMT_NODE_BYTES

GOLDEN = Path(__file__).resolve().parents[5] / "shared" / "data" / "s5-golden.json"

SMALL = HamtConfig(max_leaf_entries=2)


def content(number: int) -> bytes:
    return NATIVE.blake3(f"c{number}".encode())


def some(count: int, name: str = "file{}.bin") -> dict[str, DirectoryEntry]:
    return {f"f:{name.format(n)}": FileRef(hash=content(n), size=n) for n in range(count)}


def built(
    entries: Mapping[str, DirectoryEntry],
    blobs: Blobs,
    config: HamtConfig = SMALL,
    dialect: DirectoryDialect = DirectoryDialect.CANONICAL,
) -> Updated:
    return drive(build(entries, blobs.store, NATIVE, config=config, dialect=dialect))


def changed(
    root: bytes,
    changes: Mapping[str, DirectoryEntry | None],
    blobs: Blobs,
    dialect: DirectoryDialect,
) -> Updated:
    return drive(update(root, changes, blobs.load, blobs.store, NATIVE, dialect=dialect))


def found(root: bytes, key: str, blobs: Blobs) -> DirectoryEntry | None:
    return drive(lookup(root, key, blobs.load, NATIVE))


@pytest.mark.skipif(not GOLDEN.exists(), reason="shared/data/s5-golden.json is not here")
@pytest.mark.parametrize("count", [1, 1001, 5000])
def test_golden_trees(count: int) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))["hamt"][f"hf0_{count}"]
    blobs = Blobs()

    tree = built(some(count), blobs, HamtConfig(max_leaf_entries=1000), DirectoryDialect.S5JS)

    assert len(blobs[tree.root]) == golden["len"]
    assert NATIVE.blake3(blobs[tree.root]).hex() == golden["b3"]
    assert (tree.num_entries, tree.depth, tree.new) == (count, 0, (tree.root,))


@pytest.mark.parametrize("dialect", DirectoryDialect)
@settings(max_examples=20)
@given(entries=tree_entries, config=hamt_configs)
def test_everything_is_found_and_listed(
    dialect: DirectoryDialect, entries: dict[str, DirectoryEntry], config: HamtConfig
) -> None:
    blobs = Blobs()

    tree = built(entries, blobs, config, dialect)

    assert tree.num_entries == len(entries)
    assert tree.new[-1] == tree.root
    assert set(tree.new) == set(blobs)
    assert dict(drive(listed(tree.root, blobs.load))) == entries
    assert all(found(tree.root, key, blobs) == entry for key, entry in entries.items())
    assert found(tree.root, "f:nothing of this name", blobs) is None
    assert tree.sharding().max_leaf_entries == config.max_leaf_entries


@settings(max_examples=20)
@given(entries=tree_entries, data=st.data())
def test_the_bytes_do_not_depend_on_the_history(
    entries: dict[str, DirectoryEntry], data: st.DataObject
) -> None:
    """A node that a deletion left over would be found here, as would one that was not split."""
    blobs = Blobs()
    changes: dict[str, DirectoryEntry | None] = {
        **dict.fromkeys(data.draw(st.lists(st.sampled_from([*entries, "f:none"]))), None),
        **data.draw(st.dictionaries(st.sampled_from([*some(20)]), files)),
    }
    expected = {k: v for k, v in {**entries, **changes}.items() if v is not None}
    before = built(entries, blobs)

    after = changed(before.root, changes, blobs, DirectoryDialect.CANONICAL)

    assert after.root == built(expected, Blobs()).root
    assert after.num_entries == len(expected)
    assert dict(drive(listed(after.root, blobs.load))) == expected


@settings(max_examples=10)
@given(
    st.lists(st.dictionaries(st.sampled_from([*some(30)]), st.none() | files), max_size=6),
    st.sampled_from(DirectoryDialect),
)
def test_new_and_dropped_nodes_are_the_difference_of_two_trees(
    steps: list[dict[str, DirectoryEntry | None]], dialect: DirectoryDialect
) -> None:
    blobs = Blobs()
    tree = built({}, blobs, SMALL, dialect)
    alive = reachable(tree.root, blobs)
    for changes in steps:
        tree = changed(tree.root, changes, blobs, dialect)
        after = reachable(tree.root, blobs)
        assert set(tree.new) >= after - alive
        assert set(tree.dropped) == alive - after
        alive = after


def reachable(root: bytes, blobs: Blobs) -> set[bytes]:
    blobs.loaded.clear()
    drive(listed(root, blobs.load))
    return set(blobs.loaded)


@settings(max_examples=10)
@given(tree_entries, st.sampled_from((1, 3, 16)))
def test_listing_goes_on_behind_any_key(entries: dict[str, DirectoryEntry], limit: int) -> None:
    blobs = Blobs()
    tree = built(entries, blobs, HamtConfig(max_leaf_entries=limit))
    everything = drive(listed(tree.root, blobs.load))

    for index, (key, _) in enumerate(everything):
        assert drive(listed(tree.root, blobs.load, key)) == everything[index + 1 :]


def test_a_cursor_survives_its_entry_and_every_split() -> None:
    entries = some(50)
    wide, narrow = Blobs(), Blobs()
    order = drive(listed(built(entries, wide, HamtConfig(max_leaf_entries=1000)).root, wide.load))
    key = order[20][0]

    tree = changed(built(entries, narrow).root, {key: None}, narrow, DirectoryDialect.CANONICAL)

    assert drive(listed(tree.root, narrow.load, key)) == order[21:]


def test_a_page_loads_only_what_it_shows() -> None:
    blobs = Blobs()
    tree = built(some(500), blobs)
    last = drive(listed(tree.root, blobs.load))[-2][0]
    blobs.loaded.clear()

    assert len(drive(listed(tree.root, blobs.load, last))) == 1
    assert len(blobs.loaded) <= 4


def test_an_insert_writes_one_path() -> None:
    blobs = Blobs()
    tree = built(some(3000), blobs)
    blobs.loaded.clear()

    after = changed(
        tree.root, {"f:new": FileRef(hash=content(1), size=1)}, blobs, DirectoryDialect.CANONICAL
    )

    assert len(after.new) == len(after.dropped) == len(blobs.loaded) <= 4
    assert after.num_entries == 3001
    assert after.sharding(tree.sharding()).depth == max(after.depth, tree.depth)


@pytest.mark.parametrize("changes", [{}, {"f:none": None}, some(1)])
def test_a_change_of_nothing_writes_nothing(changes: dict[str, DirectoryEntry | None]) -> None:
    blobs = Blobs()
    tree = built(some(100), blobs)
    num_blobs = len(blobs)

    after = changed(tree.root, changes, blobs, DirectoryDialect.CANONICAL)

    assert (after.root, after.new, after.dropped) == (tree.root, (), ())
    assert (len(blobs), after.num_entries) == (num_blobs, 100)


def test_a_tree_can_be_emptied_and_filled_again() -> None:
    blobs = Blobs()
    full = built(some(100), blobs)

    empty = changed(full.root, dict.fromkeys(some(100)), blobs, DirectoryDialect.CANONICAL)
    again = changed(empty.root, some(100), blobs, DirectoryDialect.CANONICAL)

    assert (empty.num_entries, set(empty.dropped)) == (0, set(full.new))
    assert drive(listed(empty.root, blobs.load)) == []
    assert found(empty.root, "f:file1.bin", blobs) is None
    assert again.root == full.root


def test_new_entries_of_s5js_come_last_in_their_leaf() -> None:
    blobs = Blobs()
    config = HamtConfig(max_leaf_entries=1000)
    tree = built({}, blobs, config, DirectoryDialect.S5JS)

    for key, entry in some(20).items():
        tree = changed(tree.root, {key: entry}, blobs, DirectoryDialect.S5JS)

    assert tree.root == built(some(20), blobs, config, DirectoryDialect.S5JS).root


@settings(max_examples=30)
@given(files | dirs, st.sampled_from(DirectoryDialect))
def test_leaves_keep_whole_references(entry: DirectoryEntry, dialect: DirectoryDialect) -> None:
    """S5.js keeps hash and size alone, and loses the key of an encrypted file."""
    blobs = Blobs()
    key = "f:a" if isinstance(entry, FileRef) else "d:a"

    assert found(built({key: entry}, blobs, SMALL, dialect).root, key, blobs) == entry


def test_leaves_of_s5js_are_read() -> None:
    lost: Cbor = {"link": {"type": "mutable_registry_ed25519", "hash": None}}
    fixed: Cbor = {"link": {"type": "fixed_hash_blake3", "hash": content(1)}}

    assert read_entry("f:a", {"hash": content(1), "size": 5.0}) == FileRef(hash=content(1), size=5)
    assert read_entry("d:a", fixed) == DirRef(kind=LinkKind.FIXED, link=content(1))
    assert read_entry("d:a", lost) == DirRef(kind=LinkKind.MUTABLE, link=b"")
    blobs = Blobs()
    entry = DirRef(kind=LinkKind.MUTABLE, link=b"")
    assert found(built({"d:a": entry}, blobs).root, "d:a", blobs) == entry


def test_keys_of_one_hash_share_a_leaf_at_the_lowest_level() -> None:
    """A real collision of xxHash64 takes 2^32 tries, so the hash is made to have few bits."""
    crypto = hashing(lambda data: len(data) % 3 << 62)
    blobs = Blobs()
    entries = {
        f"f:{'x' * n}{m}": FileRef(hash=content(n), size=m) for n in range(9) for m in range(9)
    }

    tree = drive(build(entries, blobs.store, crypto, config=SMALL))
    after = drive(update(tree.root, {"f:x1": None}, blobs.load, blobs.store, crypto))

    assert tree.depth == MAX_HAMT_DEPTH
    assert all(drive(lookup(tree.root, k, blobs.load, crypto)) == e for k, e in entries.items())
    assert drive(lookup(after.root, "f:x1", blobs.load, crypto)) is None
    assert after.num_entries == len(entries) - 1


def hashing(xxh64: Callable[[bytes], int]) -> Crypto:
    return replace(NATIVE, xxh64=xxh64)


def test_a_node_of_s5js_is_never_longer_than_a_reader_takes() -> None:
    """Names of 1 KiB: 4.7 MiB in one node, if leaves were not split."""
    name = "f:" + "{:04}" + "x" * 1000
    entries: dict[str, DirectoryEntry] = {
        name.format(n): FileRef(hash=content(0), size=n) for n in range(4500)
    }
    blobs = Blobs()

    tree = built(entries, blobs, HamtConfig(max_leaf_entries=1000), DirectoryDialect.S5JS)

    assert max(map(len, blobs.values())) <= MAX_HAMT_NODE_BYTES
    assert len(blobs) == 33
    assert all(found(tree.root, key, blobs) for key in list(entries)[::499])


def test_too_many_names_of_one_hash() -> None:
    crypto = hashing(lambda _: 0)
    name = "f:" + "{:06}" + "x" * 1000
    entries: dict[str, DirectoryEntry] = {
        name.format(n): FileRef(hash=content(0), size=n) for n in range(4000)
    }

    with pytest.raises(LocalProtocolError, match="BLAKE3"):
        drive(build(entries, Blobs().store, crypto, config=SMALL))


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        ("a", FileRef(hash=content(1), size=1)),
        ("d:a", FileRef(hash=content(1), size=1)),
        ("f:a", DirRef(kind=LinkKind.FIXED, link=content(1))),
    ],
)
def test_other_keys_are_not_written(key: str, entry: DirectoryEntry) -> None:
    with pytest.raises(LocalProtocolError):
        built({key: entry}, Blobs())


def test_blake3_is_read_big_endian() -> None:
    assert hash_key("f:a", 1, NATIVE) == int.from_bytes(NATIVE.blake3(b"f:a")[:8], "big")
    assert hash_key("f:a", 0, NATIVE) == NATIVE.xxh64(b"f:a")


# -- hostile trees --------------------------------------------------------------------------------

VALUE: dict[Cbor, Cbor] = {"hash": content(1), "size": 1}
KEYS = [f"f:{n}" for n in range(1000)]
IN_SLOT_3 = [key for key in KEYS if NATIVE.xxh64(key.encode()) & 31 == 3]
LEAF: dict[Cbor, Cbor] = {"type": "leaf", "entries": [[IN_SLOT_3[0], VALUE]]}
CONFIG: dict[Cbor, Cbor] = {"bitsPerLevel": 5, "hashFunction": 0, "maxInlineEntries": 2}
NODE: dict[Cbor, Cbor] = {"bitmap": 8, "children": [LEAF], "count": 1, "depth": 0}


def root(node: Cbor = NODE, **fields: Cbor) -> bytes:
    return encode_canonical({"version": 1, "config": CONFIG, "root": node, **fields})


def leaf(*entries: Cbor) -> Cbor:
    return {"type": "leaf", "entries": list(entries)}


HOSTILE_ROOTS: list[tuple[bytes, str]] = [
    (b"", "cut off"),
    (b"\xa0", "version"),
    (root(version=2), "version"),
    (root(config=1), "config"),
    (root(config={**CONFIG, "bitsPerLevel": 4}), "bits a level"),
    (root(config={**CONFIG, "hashFunction": 2}), "hashFunction"),
    (root(config={**CONFIG, "maxInlineEntries": 1001}), "maxInlineEntries"),
    (root(config={**CONFIG, "maxInlineEntries": 0}), "leaves"),
    (root(1), "node"),
    (root({**NODE, "depth": 1}), "depth"),
    (root({**NODE, "bitmap": 1 << 32}), "bitmap"),
    (root({**NODE, "bitmap": -(1 << 31) - 1}), "bitmap"),
    (root({**NODE, "bitmap": "x"}), "bitmap"),
    (root({**NODE, "bitmap": 24}), "children"),
    (root({**NODE, "bitmap": 0}), "children"),
    (root({**NODE, "children": {}}), "children"),
    (root({**NODE, "count": 2}), "counts"),
    (root({**NODE, "count": 0}), "counts"),
    (root({**NODE, "count": -1}), "count"),
    (root({**NODE, "children": [1]}), "child"),
    (root({**NODE, "children": [{"type": "x"}]}), "neither"),
    (root({**NODE, "children": [{"type": "node", "cid": b""}]}), "link"),
    (root({**NODE, "children": [leaf()]}), "neither"),
    (root({**NODE, "children": [leaf([1, VALUE])]}), "key and a value"),
    (root({**NODE, "children": [leaf([IN_SLOT_3[0]])]}), "key and a value"),
    (
        root(
            {**NODE, "children": [leaf([IN_SLOT_3[0], VALUE], [IN_SLOT_3[0], VALUE])], "count": 2}
        ),
        "twice",
    ),
    (root({**NODE, "bitmap": 16}), "elsewhere"),
    (root({**NODE, "children": [leaf(["x:a", VALUE])]}), "begins with"),
    (root({**NODE, "children": [leaf([IN_SLOT_3[0], {}])]}), "hash"),
    (root({**NODE, "children": [leaf([IN_SLOT_3[0], {**VALUE, "enc": 1}])]}), "encryption"),
    (root({**NODE, "children": [leaf([IN_SLOT_3[0], {**VALUE, "enc": [1, 2, 3]}])]}), "key of"),
    (root({**NODE, "children": [leaf(["d:a", {}])]}), "link"),
    (root({**NODE, "children": [leaf(["d:a", {"link": {"type": "x"}}])]}), "unknown type"),
    (root({**NODE, "children": [leaf(["d:a", {"link": {"type": []}}])]}), "unknown type"),
    (b"\x5a" + MAX_HAMT_NODE_BYTES.to_bytes(4, "big") + bytes(MAX_HAMT_NODE_BYTES), "at most"),
]


@pytest.mark.parametrize(("data", "reason"), HOSTILE_ROOTS)
def test_hostile_roots(data: bytes, reason: str) -> None:
    async def load(link: bytes) -> bytes:
        return data

    with pytest.raises(RemoteProtocolError, match=reason):
        drive(listed(bytes(32), load))


def below(count: int = 2, depth: int = 1, slot: int = 0, **fields: Cbor) -> bytes:
    """A node that belongs into slot 3 of a root, and has two entries."""
    pairs: list[Cbor] = [[key, VALUE] for key in IN_SLOT_3[:2]]
    bits = {NATIVE.xxh64(key.encode()) >> 5 & 31 for key in IN_SLOT_3[:2]}
    assert len(bits) == 2
    slots = sorted(bits)
    order = sorted(IN_SLOT_3[:2], key=lambda key: NATIVE.xxh64(key.encode()) >> 5 & 31)
    pairs = [leaf([key, VALUE]) for key in order]
    bitmap = sum(1 << s for s in slots)
    return encode_canonical(
        {"bitmap": bitmap, "children": pairs, "count": count, "depth": depth, **fields}
    )


ONE_NODE: dict[Cbor, Cbor] = {
    "bitmap": 8,
    "children": [{"type": "node", "cid": bytes(33)}],
    "count": 2,
    "depth": 0,
}


@pytest.mark.parametrize(
    ("node", "child", "reason"),
    [
        (ONE_NODE, below(depth=0), "depth"),
        (ONE_NODE, below(depth=2), "depth"),
        (ONE_NODE, root(ONE_NODE), "depth"),
        ({**ONE_NODE, "count": 1}, below(), "claims"),
        (ONE_NODE, below(count=3), "counts"),
        (ONE_NODE, below(count=0, bitmap=0, children=[]), "claims"),
        ({**ONE_NODE, "bitmap": 16}, below(), "elsewhere"),
    ],
)
def test_hostile_nodes(node: Cbor, child: bytes, reason: str) -> None:
    async def load(link: bytes) -> bytes:
        return child if link == bytes(32) else root(node)

    with pytest.raises(RemoteProtocolError, match=reason):
        drive(listed(b"\1" * 32, load))


def test_the_node_that_the_hostile_ones_are_made_of_is_good() -> None:
    async def load(link: bytes) -> bytes:
        return below() if link == bytes(32) else root(ONE_NODE)

    assert len(drive(listed(b"\1" * 32, load))) == 2


def test_a_node_that_holds_itself_ends() -> None:
    """Its depth would have to grow on every round."""
    num_loads = 0

    async def load(link: bytes) -> bytes:
        nonlocal num_loads
        num_loads += 1
        node = {**ONE_NODE, "count": 1 << 40, "depth": num_loads - 1}
        return root(node) if num_loads == 1 else encode_canonical(node)

    with pytest.raises(RemoteProtocolError, match="levels"):
        drive(listed(bytes(32), load))
    assert num_loads == MAX_HAMT_DEPTH + 2


def test_a_bomb_of_shared_nodes_bursts_at_a_leaf() -> None:
    """Every node is the same 32 times, so 13 small blobs would list 32^13 entries."""
    num_loads = 0

    async def load(link: bytes) -> bytes:
        nonlocal num_loads
        num_loads += 1
        depth = int.from_bytes(link, "big")
        child: Cbor = {"type": "node", "cid": (depth + 1).to_bytes(32, "big")}
        key = "f:bomb"
        is_last = depth == MAX_HAMT_DEPTH
        children: list[Cbor] = [leaf([key, VALUE])] * 8 if is_last else [child] * 32
        bitmap = (1 << 8) - 1 if is_last else -1
        count = 8 * 32 ** (MAX_HAMT_DEPTH - depth)
        node: Cbor = {"bitmap": bitmap, "children": children, "count": count, "depth": depth}
        return root(node) if depth == 0 else encode_canonical(node)

    with pytest.raises(RemoteProtocolError, match="elsewhere"):
        drive(listed(bytes(32), load))
    assert num_loads == MAX_HAMT_DEPTH + 1


def test_the_broken_trees_of_s5js_are_read_as_far_as_they_go_and_mended() -> None:
    """It throws new children away and counts their entries: count 5, two of them there."""
    blobs = Blobs()
    child = drive(blobs.store(below()))
    broken: Cbor = {**ONE_NODE, "count": 5, "children": [{"type": "node", "cid": child}]}
    tree = drive(blobs.store(root(broken)))

    assert len(drive(listed(tree, blobs.load))) == 2
    mended = changed(tree, dict.fromkeys(IN_SLOT_3[:1]), blobs, DirectoryDialect.CANONICAL)
    assert mended.num_entries == 1
    assert len(drive(listed(mended.root, blobs.load))) == 1


def test_a_split_leaf_of_s5js_that_began_in_slot_0_is_read_and_mended() -> None:
    """S5.js takes a node of one leaf in slot 0 for unsplit, and puts every later key there."""
    blobs = Blobs()
    pairs: list[Cbor] = [[key, VALUE] for key in IN_SLOT_3[:2]]
    unsplit = encode_canonical({"bitmap": 1, "children": [leaf(*pairs)], "count": 2, "depth": 1})
    child = drive(blobs.store(unsplit))
    node: Cbor = {**ONE_NODE, "children": [{"type": "node", "cid": child}]}
    tree = drive(blobs.store(root(node)))

    assert all(found(tree, key, blobs) for key in IN_SLOT_3[:2])
    added: dict[str, DirectoryEntry] = {
        key: FileRef(hash=content(1), size=1) for key in IN_SLOT_3[2:9]
    }
    mended = changed(tree, added, blobs, DirectoryDialect.CANONICAL)
    expected = {key: FileRef(hash=content(1), size=1) for key in IN_SLOT_3[:9]}
    assert mended.root == built(expected, Blobs()).root


def test_the_layout_of_a_node() -> None:
    blobs = Blobs()
    tree = built({"f:a": FileRef(hash=content(1), size=1)}, blobs)

    assert decode_cbor(blobs[tree.root], max_bytes=1000) == {
        "version": 1,
        "config": {"bitsPerLevel": 5, "hashFunction": 0, "maxInlineEntries": 2},
        "root": {
            "bitmap": 1,
            "children": [{"type": "leaf", "entries": [["f:a", VALUE]]}],
            "count": 1,
            "depth": 0,
        },
    }


FOREIGN = [
    root({**NODE, "more": 1}),
    root({**NODE, 7: b""}),
    root(config={**CONFIG, "more": 1}),
    root({**NODE, "children": [{**LEAF, "more": 1}]}),
]


@pytest.mark.parametrize("data", FOREIGN)
def test_fields_that_no_node_has_are_refused(data: bytes) -> None:
    """A node is held in memory and decoded as a whole: it has no room for anything else."""
    with pytest.raises(RemoteProtocolError, match="no writer of S5 knows"):
        read_root(data)


def test_a_leaf_that_no_writer_would_leave_unsplit_is_refused() -> None:
    entries: list[Cbor] = [[f"f:{n}", VALUE] for n in range(1001)]
    many = leaf(*entries)

    with pytest.raises(RemoteProtocolError, match="more than 1000 entries"):
        read_root(root({**NODE, "children": [many], "count": 1001}))
