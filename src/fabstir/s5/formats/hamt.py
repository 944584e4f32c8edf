"""The HAMT of a large directory: look up, change, list and build, over nodes that are blobs.

Five bits of a key's hash a level, the low ones first. A node exists where more entries than a leaf
may have share its path, so that the tree's shape depends on its entries alone and not on their
history. Nothing here does I/O: nodes come from an awaitable `load(hash)`, which checks that the
bytes have that hash, and go to an awaitable `store(bytes)`, which says under which hash they are
kept; in between the caller may encrypt.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from fabstir.primitives.errors import LocalProtocolError, RemoteProtocolError
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.directory import DirectoryDialect, DirectoryEntry, Sharding
from fabstir.s5.formats.hamt_nodes import (
    NUM_SLOTS,
    DecodedNode,
    HamtConfig,
    Leaf,
    Node,
    RawLeaf,
    read_entry,
    read_node,
    read_root,
    write_node,
    write_root,
)
from fabstir.s5.formats.limits import (
    HAMT_BITS_PER_LEVEL,
    HAMT_LEAF_ENTRIES,
    MAX_HAMT_DEPTH,
    MAX_HAMT_NODE_BYTES,
)

Load = Callable[[bytes], Awaitable[bytes | DecodedNode]]
"""The 32-byte hash of a node's blob to the node, verified and in clear: its bytes, or what
`decode_node` made of them."""

Store = Callable[[bytes], Awaitable[bytes]]
"""A node's bytes to the 32-byte hash under which the caller keeps them, encrypted or not."""

Item = tuple[int, str, DirectoryEntry]
"""The hash of a key, the key, its entry."""

_Children = dict[int, "list[Item] | bytes"]
_MASK: Final = NUM_SLOTS - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated:
    """A tree after a change.

    Attributes:
        root: hash of the root's blob.
        num_entries: files and directories in it.
        depth: of the deepest node that was written; the tree may have deeper ones.
        new: hashes that `store` gave, children before their parents, the root last.
        dropped: hashes of the nodes that this tree no longer has.
    """

    root: bytes
    num_entries: int
    depth: int
    config: HamtConfig
    new: tuple[bytes, ...] = ()
    dropped: tuple[bytes, ...] = ()

    def sharding(self, before: Sharding | None = None) -> Sharding:
        """What the directory's header says of it; `before`: what it said until now."""
        return Sharding(
            bits_per_level=HAMT_BITS_PER_LEVEL,
            max_leaf_entries=self.config.max_leaf_entries,
            hash_function=self.config.hash_function,
            root=self.root,
            num_entries=self.num_entries,
            depth=max(self.depth, before.depth if before else 0),
        )


def hash_key(key: str, hash_function: int, crypto: Crypto) -> int:
    """The 64 bits that lead to a key. Raises UnicodeEncodeError: a lone surrogate."""
    raw = key.encode()
    if hash_function == 0:
        return crypto.xxh64(raw)
    return int.from_bytes(crypto.blake3(raw)[:8], "big")


async def lookup_many(
    root: bytes, keys: Iterable[str], load: Load, crypto: Crypto
) -> dict[str, DirectoryEntry]:
    """The entries of some keys ("f:NAME" or "d:NAME"); a key without one is left out.

    Every node is loaded and read once for all of them: at most MAX_HAMT_DEPTH + 1 for one key.

    Raises:
        RemoteProtocolError: a node on the way, or an entry, is not what S5 writes.
    """
    config, node = read_root(await load(root))
    wanted = [(hash_key(key, config.hash_function, crypto), key) for key in keys]
    found: dict[str, DirectoryEntry] = {}
    await _find(node, wanted, load, found)
    return found


async def _find(
    node: Node, wanted: Sequence[tuple[int, str]], load: Load, found: dict[str, DirectoryEntry]
) -> None:
    by_child: dict[int, list[tuple[int, str]]] = {}
    for path, key in wanted:
        slot = 0 if node.unsplit is not None else _slot(path, node.depth)
        by_child.setdefault(slot, []).append((path, key))
    for slot, inside in by_child.items():
        child = node.children.get(slot, ())
        if isinstance(child, bytes):
            await _find(await _load_child(child, node, load), inside, load, found)
            continue
        leaf = dict(child)
        found.update((key, read_entry(key, leaf[key])) for _, key in inside if key in leaf)


def _slot(path: int, depth: int) -> int:
    return path >> (HAMT_BITS_PER_LEVEL * depth) & _MASK


async def _load_child(link: bytes, parent: Node, load: Load) -> Node:
    num_others = sum(1 if isinstance(c, bytes) else len(c) for c in parent.children.values()) - 1
    return read_node(await load(link), depth=parent.depth + 1, max_count=parent.count - num_others)


# -- listing --------------------------------------------------------------------------------------


async def entries(
    root: bytes, load: Load, crypto: Crypto, *, after: str | None = None
) -> AsyncGenerator[tuple[str, DirectoryEntry]]:
    """All entries in the order of their keys' hashes, which no change of the tree alters.

    Args:
        after: begin behind this key, whether it is (still) there or not.

    Raises:
        RemoteProtocolError: a node is not what S5 writes, or holds a key that does not belong
            there. Every entry that came before it was good.
    """
    config, node = read_root(await load(root))
    bound = None if after is None else (hash_key(after, config.hash_function, crypto), after)
    walk = _Walk(load=load, crypto=crypto, hash_function=config.hash_function)
    async for leaf in walk.leaves(node, 0, bound):
        for _, key, entry in leaf:
            yield key, entry


@cache
def _reversed_digits() -> list[int]:
    """15 bits to the same three digits of 5 bits in reverse order."""
    return [(n & 31) << 10 | (n >> 5 & 31) << 5 | n >> 10 for n in range(1 << 15)]


def _rank(path: int) -> int:
    """A hash with its digits in the order of the levels, so that numbers compare as paths do."""
    digits = _reversed_digits()
    rank = 0
    for shift in (0, 15, 30, 45):
        rank = rank << 15 | digits[path >> shift & 0x7FFF]
    return rank << HAMT_BITS_PER_LEVEL | path >> 60


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    load: Load
    crypto: Crypto
    hash_function: int

    async def leaves(
        self, node: Node, prefix: int, bound: tuple[int, str] | None
    ) -> AsyncGenerator[list[Item]]:
        """The leaves below a node that is reached by the low bits `prefix`."""
        if node.unsplit is not None:
            yield self._leaf(node.unsplit, prefix, node.depth, bound)
            return
        first = 0 if bound is None else _slot(bound[0], node.depth)
        room = node.count - sum(len(c) for c in node.children.values() if not isinstance(c, bytes))
        for slot in sorted(node.children):
            if slot < first:
                continue
            child = node.children[slot]
            path = prefix | slot << (HAMT_BITS_PER_LEVEL * node.depth)
            inner = bound if slot == first else None
            if isinstance(child, bytes):
                below = read_node(await self.load(child), depth=node.depth + 1, max_count=room)
                room -= below.count
                async for leaf in self.leaves(below, path, inner):
                    yield leaf
            else:
                yield self._leaf(child, path, node.depth + 1, inner)

    def _leaf(
        self, leaf: RawLeaf, prefix: int, depth: int, bound: tuple[int, str] | None
    ) -> list[Item]:
        items = read_items(leaf, prefix, depth, self.hash_function, self.crypto)
        items.sort(key=lambda item: (_rank(item[0]), item[1]))
        if bound is None:
            return items
        start = (_rank(bound[0]), bound[1])
        return [item for item in items if (_rank(item[0]), item[1]) > start]


def read_items(
    leaf: RawLeaf, prefix: int, depth: int, hash_function: int, crypto: Crypto
) -> list[Item]:
    """The entries of a leaf.

    Args:
        prefix, depth: the low bits, 5 times `depth` of them, that its keys' hashes must have.

    Raises:
        RemoteProtocolError: a key that belongs elsewhere, which no lookup would find, or an entry
            that is not what S5 writes.
    """
    mask = (1 << HAMT_BITS_PER_LEVEL * depth) - 1
    items: list[Item] = []
    for key, value in leaf:
        entry = read_entry(key, value)
        path = hash_key(key, hash_function, crypto)
        if path & mask != prefix:
            raise RemoteProtocolError("a HAMT leaf with a key whose hash leads elsewhere")
        items.append((path, key, entry))
    return items


# -- changing -------------------------------------------------------------------------------------


async def build(
    items: Mapping[str, DirectoryEntry] | Iterable[tuple[str, DirectoryEntry]],
    store: Store,
    crypto: Crypto,
    *,
    config: HamtConfig | None = None,
    dialect: DirectoryDialect = DirectoryDialect.CANONICAL,
) -> Updated:
    """A new tree. Of a key that comes twice the last entry counts.

    Raises:
        LocalProtocolError: a key or an entry that S5 cannot write.
    """
    config = config or HamtConfig()
    latest = dict(items)
    hashed = [(hash_key(k, config.hash_function, crypto), k, e) for k, e in latest.items()]
    writer = _Writer(config=config, store=store, dialect=dialect)
    return await writer.finish(await writer.children(hashed, 0), len(hashed))


async def update(
    root: bytes,
    changes: Mapping[str, DirectoryEntry | None],
    load: Load,
    store: Store,
    crypto: Crypto,
    *,
    dialect: DirectoryDialect = DirectoryDialect.CANONICAL,
) -> Updated:
    """Put and delete entries; only the nodes on the changed keys' paths are written anew.

    Args:
        changes: the new entry of a key; None deletes it, also if it is not there.

    Returns:
        The same root, and nothing new, if the changes change nothing.

    Raises:
        RemoteProtocolError: a node that was read is not what S5 writes.
        LocalProtocolError: a key or an entry that S5 cannot write.
    """
    config, node = read_root(await load(root))
    hashed = [(hash_key(k, config.hash_function, crypto), k, e) for k, e in changes.items()]
    writer = _Writer(config=config, store=store, dialect=dialect)
    editor = _Editor(load=load, crypto=crypto, writer=writer)
    after = await editor.apply(node, hashed, 0)
    if after is None:
        return Updated(root=root, num_entries=node.count, depth=0, config=config)
    editor.dropped.append(root)
    if after.count <= config.max_leaf_entries and after.has_only_leaves:
        after.children = _one_leaf(after.children)
    updated = await writer.finish(after.children, after.count)
    kept = set(updated.new)
    dropped = tuple(link for link in editor.dropped if link not in kept)
    return Updated(
        root=updated.root,
        num_entries=updated.num_entries,
        depth=updated.depth,
        config=config,
        new=updated.new,
        dropped=dropped,
    )


def _one_leaf(children: _Children) -> _Children:
    """Children that are leaves, as the one leaf of an unsplit root."""
    items = [item for slot in sorted(children) for item in _leaf_of(children[slot])]
    return {0: items} if items else {}


def _leaf_of(child: list[Item] | bytes) -> list[Item]:
    assert not isinstance(child, bytes)
    return child


@dataclass(slots=True)
class _Edited:
    """A node after the changes, not yet written."""

    children: _Children
    count: int
    has_only_leaves: bool


def _edited(children: _Children, count: int) -> _Edited:
    leaves = [child for child in children.values() if not isinstance(child, bytes)]
    if len(leaves) < len(children):
        return _Edited(children, count, has_only_leaves=False)
    # S5.js loses nodes and goes on counting their entries: here it is known how many there are.
    return _Edited(children, sum(map(len, leaves)), has_only_leaves=True)


@dataclass(slots=True, kw_only=True)
class _Writer:
    """Writes nodes, children first."""

    config: HamtConfig
    store: Store
    dialect: DirectoryDialect
    new: list[bytes] = field(default_factory=list[bytes])
    depth: int = 0

    async def children(self, items: Sequence[Item], depth: int) -> _Children:
        """The children of a node of `depth` with these items, what is below them written."""
        if depth == 0 and len(items) <= self.config.max_leaf_entries:
            return {0: list(items)} if items else {}
        buckets: list[list[Item]] = [[] for _ in range(NUM_SLOTS)]
        shift = HAMT_BITS_PER_LEVEL * depth
        for item in items:
            buckets[item[0] >> shift & _MASK].append(item)
        return {
            slot: await self.child(bucket, depth + 1)
            for slot, bucket in enumerate(buckets)
            if bucket
        }

    async def child(self, items: list[Item], depth: int) -> list[Item] | bytes:
        """A leaf, or a node of `depth` if they are too many for one."""
        if len(items) <= self.config.max_leaf_entries or depth > MAX_HAMT_DEPTH:
            return items
        return await self.node(await self.children(items, depth), len(items), depth)

    async def node(self, children: _Children, count: int, depth: int) -> bytes:
        """Write a node below the root."""
        data = write_node(self._leaves(children), count, depth, self.dialect)
        if len(data) > MAX_HAMT_NODE_BYTES:
            children = await self._split(children, depth)
            data = write_node(self._leaves(children), count, depth, self.dialect)
        return await self._store(data, depth)

    async def finish(self, children: _Children, count: int) -> Updated:
        """Write the root."""
        data = write_root(self.config, self._leaves(children), count, self.dialect)
        if len(data) > MAX_HAMT_NODE_BYTES:
            children = await self._split(children, 0)
            data = write_root(self.config, self._leaves(children), count, self.dialect)
        root = await self._store(data, 0)
        return Updated(
            root=root, num_entries=count, depth=self.depth, config=self.config, new=tuple(self.new)
        )

    async def _split(self, children: _Children, depth: int) -> _Children:
        """Leaves as nodes, although they have few entries: 32 leaves of 1,000 encrypted files are
        longer than a reader takes."""
        return {
            slot: child
            if isinstance(child, bytes)
            or len(child) <= HAMT_LEAF_ENTRIES
            or depth >= MAX_HAMT_DEPTH
            else await self.node(await self.children(child, depth + 1), len(child), depth + 1)
            for slot, child in children.items()
        }

    async def _store(self, data: bytes, depth: int) -> bytes:
        if len(data) > MAX_HAMT_NODE_BYTES:
            raise LocalProtocolError(
                "too many names of one hash for a directory: build it with BLAKE3"
            )
        link = await self.store(data)
        self.new.append(link)
        self.depth = max(self.depth, depth)
        return link

    def _leaves(self, children: _Children) -> dict[int, Leaf | bytes]:
        """Leaves as they are written: in S5.js as entries came, else by key."""
        leaves: dict[int, Leaf | bytes] = {}
        for slot, child in children.items():
            if isinstance(child, bytes):
                leaves[slot] = child
                continue
            leaf = [(key, entry) for _, key, entry in child]
            if self.dialect is DirectoryDialect.CANONICAL:
                leaf.sort(key=_key_of)
            leaves[slot] = leaf
        return leaves


def _key_of(pair: tuple[str, DirectoryEntry]) -> str:
    return pair[0]


_Change = tuple[int, str, "DirectoryEntry | None"]


@dataclass(slots=True, kw_only=True)
class _Editor:
    load: Load
    crypto: Crypto
    writer: _Writer
    dropped: list[bytes] = field(default_factory=list[bytes])

    async def apply(self, node: Node, changes: list[_Change], prefix: int) -> _Edited | None:
        """A node after the changes, its changed descendants written; None: nothing changed."""
        if node.unsplit is not None or not node.children:
            return await self._apply_unsplit(node, changes, prefix)
        children = self._decoded(node, prefix)
        by_slot: dict[int, list[_Change]] = {}
        for change in changes:
            by_slot.setdefault(_slot(change[0], node.depth), []).append(change)
        count, is_changed = node.count, False
        for slot, inside in by_slot.items():
            before = children.get(slot)
            if isinstance(before, bytes):
                path = prefix | slot << (HAMT_BITS_PER_LEVEL * node.depth)
                child = await _load_child(before, node, self.load)
                after, growth = await self._below(before, child, inside, path)
            else:
                after, growth = await self._in_leaf(before or [], inside, node.depth + 1)
            if after is None:
                continue
            is_changed = True
            count += growth
            if after:
                children[slot] = after
            else:
                del children[slot]
        return _edited(children, count) if is_changed else None

    def _decoded(self, node: Node, prefix: int) -> _Children:
        function = self.writer.config.hash_function
        children: _Children = {}
        for slot, child in node.children.items():
            path = prefix | slot << (HAMT_BITS_PER_LEVEL * node.depth)
            children[slot] = (
                child
                if isinstance(child, bytes)
                else read_items(child, path, node.depth + 1, function, self.crypto)
            )
        return children

    async def _apply_unsplit(
        self, node: Node, changes: list[_Change], prefix: int
    ) -> _Edited | None:
        function = self.writer.config.hash_function
        leaf = read_items(node.unsplit or (), prefix, node.depth, function, self.crypto)
        items = _changed(leaf, changes)
        if items is None:
            return None
        return _edited(await self.writer.children(items, node.depth), len(items))

    async def _in_leaf(
        self, leaf: list[Item], changes: list[_Change], depth: int
    ) -> tuple[list[Item] | bytes | None, int]:
        """What becomes of a leaf, and by how much it grows; None: it stays."""
        items = _changed(leaf, changes)
        if items is None:
            return None, 0
        return await self.writer.child(items, depth), len(items) - len(leaf)

    async def _below(
        self, link: bytes, node: Node, changes: list[_Change], prefix: int
    ) -> tuple[list[Item] | bytes | None, int]:
        """What becomes of a child node, and by how much it grows; None: it stays."""
        after = await self.apply(node, changes, prefix)
        if after is None:
            return None, 0
        self.dropped.append(link)
        growth = after.count - node.count
        if after.has_only_leaves and after.count <= self.writer.config.max_leaf_entries:
            return _one_leaf(after.children).get(0, []), growth
        return await self.writer.node(after.children, after.count, node.depth), growth


def _changed(leaf: list[Item], changes: list[_Change]) -> list[Item] | None:
    """A leaf after the changes, new entries last; None: the same as before."""
    after = {key: (path, key, entry) for path, key, entry in leaf}
    for path, key, entry in changes:
        if entry is None:
            after.pop(key, None)
        else:
            after[key] = (path, key, entry)
    items = list(after.values())
    return None if items == leaf else items
