"""A JavaScript engine on our bytes: cborg, from npm, writes our canonical CBOR as we do."""

import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.s5_trees import Blobs, drive
from tests.strategies_s5 import cbor_values, directories, hamt_configs, tree_entries
from tests.unit.s5.formats.test_known_answers import BLOCKS

from fabstir.crypto import NATIVE
from fabstir.s5.formats.cbor import encode_canonical
from fabstir.s5.formats.collation import locale_key
from fabstir.s5.formats.dialects import MAGIC, encode_directory
from fabstir.s5.formats.directory import Cbor, Directory, DirectoryDialect, DirectoryEntry
from fabstir.s5.formats.hamt import build
from fabstir.s5.formats.hamt_nodes import HamtConfig

pytestmark = pytest.mark.integration

HERE = Path(__file__).parent
ROOT = HERE.parents[3]
BATCH = 30
"""Values of one run of Node, which takes a tenth of a second to start."""

once = settings(
    max_examples=2,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def ask_node(script: str, values: list[str]) -> list[str]:
    path = f"{os.environ['PATH']}{os.pathsep}{ROOT / '.venv' / 'bin'}"
    node = shutil.which("node", path=path)
    assert node, "Node.js is not on PATH: `make setup` installs it"
    done = subprocess.run(
        [node, str(HERE / script)],
        input=json.dumps(values),
        capture_output=True,
        check=True,
        encoding="utf-8",
        timeout=60,
    )
    return cast("list[str]", json.loads(done.stdout))


def assert_written_the_same(documents: list[bytes]) -> None:
    written = [document.hex() for document in documents]

    assert ask_node("recode.mjs", written) == written


def test_documented_vectors() -> None:
    """Every canonical one of docs/s5-formats.md."""
    documents = [
        bytes.fromhex("".join(part for part, _ in block["bytes"]))
        for block in BLOCKS
        if block["in"].get("dialect") == "CANONICAL"
    ]

    assert len(documents) >= 5
    assert_written_the_same([document.removeprefix(MAGIC) for document in documents])


@once
@given(st.lists(cbor_values, min_size=BATCH, max_size=BATCH))
def test_any_value(values: list[Cbor]) -> None:
    assert_written_the_same([encode_canonical(value) for value in values])


@once
@given(st.lists(directories, min_size=10, max_size=10))
def test_directories(values: list[Directory]) -> None:
    assert_written_the_same(
        [
            encode_directory(value, DirectoryDialect.CANONICAL).removeprefix(MAGIC)
            for value in values
        ]
    )


@once
@given(st.lists(st.tuples(tree_entries, hamt_configs), min_size=5, max_size=5))
def test_trees(trees: list[tuple[dict[str, DirectoryEntry], HamtConfig]]) -> None:
    blobs = Blobs()
    for entries, config in trees:
        drive(build(entries, blobs.store, NATIVE, config=config))

    assert_written_the_same(list(blobs.values()))


def test_names_are_sorted_as_localecompare_does() -> None:
    letters = [chr(code) for code in range(0x20, 0x7F)] + list("áàâäãåçéèêëíìîïñóòôöõúùûüýÿżźž")
    choose = random.Random(1)
    names = ["".join(choose.choices(letters, k=choose.randint(1, 8))) for _ in range(2000)]

    assert ask_node("sort.mjs", names) == sorted(names, key=locale_key)
