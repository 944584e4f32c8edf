"""Many keys of one HAMT at once are what each alone is."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.s5_trees import Blobs, drive, lookup
from tests.strategies_s5 import hamt_configs, tree_entries

from fabstir.crypto import NATIVE
from fabstir.s5.formats.directory import DirectoryEntry, FileRef
from fabstir.s5.formats.hamt import build, lookup_many
from fabstir.s5.formats.hamt_nodes import HamtConfig


@settings(max_examples=15)
@given(tree_entries, hamt_configs, st.lists(st.text(max_size=3), max_size=5))
def test_each_key_is_found_as_alone(
    entries: dict[str, DirectoryEntry], config: HamtConfig, others: list[str]
) -> None:
    blobs = Blobs()
    tree = drive(build(entries, blobs.store, NATIVE, config=config))
    keys = [*entries, *(f"f:{name}" for name in others), "d:never"]

    found = drive(lookup_many(tree.root, keys, blobs.load, NATIVE))

    assert found == entries
    for key in keys:
        assert drive(lookup(tree.root, key, blobs.load, NATIVE)) == found.get(key)


def test_a_node_is_loaded_once() -> None:
    blobs = Blobs()
    entry = FileRef(hash=bytes(32), size=1)
    tree = drive(build({f"f:{n}": entry for n in range(2000)}, blobs.store, NATIVE))

    found = drive(lookup_many(tree.root, [f"f:{n}" for n in range(2000)], blobs.load, NATIVE))

    assert len(found) == 2000
    assert len(blobs.loaded) == len(set(blobs.loaded)) == len(blobs)
