"""Phrase, keys, registry entry and encryption are what Enhanced S5.js wrote, byte for byte."""

import json
from pathlib import Path
from typing import Any

import pytest

from fabstir.crypto import NATIVE
from fabstir.s5.formats.derivation import Identity, Purpose, derive_int, derive_str
from fabstir.s5.formats.encryption import open_chunk, open_mutable, seal_chunk, seal_mutable
from fabstir.s5.formats.multikey import encode_multikey
from fabstir.s5.formats.registry import SignedEntry, read_blob_pointer, sign_entry
from fabstir.s5.formats.seed_phrase import decode_s5_phrase, encode_s5_phrase

DATA = Path(__file__).resolve().parents[5] / "shared" / "data"
KEY = b"\x08" * 32

pytestmark = pytest.mark.skipif(
    not (DATA / "s5-golden.json").exists(), reason="../shared/data/s5-golden.json is not there"
)


@pytest.fixture(scope="module")
def golden() -> Any:
    return json.loads((DATA / "s5-golden.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def words() -> list[str]:
    return (DATA / "s5-words.txt").read_text("ascii").split()


def test_phrase(golden: Any, words: list[str]) -> None:
    entropy = bytes.fromhex(golden["entropy"])

    assert decode_s5_phrase(golden["phrase"], words, NATIVE) == entropy
    assert encode_s5_phrase(entropy, words, NATIVE) == golden["phrase"]


@pytest.mark.parametrize("purpose", Purpose)
def test_seeds_and_public_keys(golden: Any, purpose: Purpose) -> None:
    seed = Identity(bytes.fromhex(golden["entropy"]), NATIVE).seed(purpose)

    assert seed.hex() == golden["seeds"][str(int(purpose))]
    public_key = NATIVE.ed25519_public_key(seed)
    assert encode_multikey(public_key).hex() == golden["pubkeys"][str(int(purpose))]


def test_every_seed_has_a_purpose(golden: Any) -> None:
    assert {str(int(purpose)) for purpose in Purpose} == set(golden["seeds"])


def test_derivation(golden: Any) -> None:
    assert derive_int(b"\x01" * 32, 67, NATIVE).hex() == golden["derive"]["int67"]
    assert derive_str(b"\x01" * 32, "home", NATIVE).hex() == golden["derive"]["str"]


def test_registry_entry(golden: Any) -> None:
    data = b"\x1e" + b"\x03" * 32
    entry = sign_entry(b"\x09" * 32, 7, data, NATIVE)

    assert entry.encode().hex() == golden["reg"]
    assert SignedEntry.decode(bytes.fromhex(golden["reg"]), NATIVE) == entry
    assert read_blob_pointer(entry.data).digest == b"\x03" * 32


def test_mutable_encryption(golden: Any) -> None:
    sealed = seal_mutable(b"hello", KEY, b"\x04" * 24, NATIVE)

    assert sealed.hex().startswith(golden["mut"]["head"])
    assert len(sealed) == golden["mut"]["len"]
    assert NATIVE.blake3(sealed).hex() == golden["mut"]["b3"]
    assert open_mutable(sealed, KEY, NATIVE) == b"hello"


def test_chunk_encryption(golden: Any) -> None:
    sealed = seal_chunk(KEY, 1, b"\x01" * 1000, NATIVE)

    assert len(sealed) == golden["chunk1"]["len"]
    assert NATIVE.blake3(sealed).hex() == golden["chunk1"]["b3"]
    assert open_chunk(KEY, 1, sealed, NATIVE) == b"\x01" * 1000
