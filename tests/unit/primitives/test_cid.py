"""Blob identifiers against vectors that Enhanced S5.js 0.9.0-beta.48 made, and by their rules."""

import json
from pathlib import Path
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.strategies import blob_ids, model_ids

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, HashType, Multihash, model_cid, model_cid_sha256
from fabstir.primitives.encoding import decode_multibase, encode_multibase
from fabstir.primitives.ids import ModelId, to_bytes

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "data" / "s5-golden.json"

# The two smallest of those vectors, so that the rule is tested where the folder is absent.
HELLO = b"Hello, world!"
HELLO_FORMS = {
    "f": "f5b821eede5c0b10f2ec4979c69b52f61e42ff5b413519ce09be0f14d098dcfe5f6f98d0d",
    "b": "blobb53pfycyq6lwes6ogtnjpmhsc75nucnizzye34dyu2cmnz7s7n6mnbu",
    "z": "zhJTU2Mz5tATfj9rc5xorsXiadvYq3idS4CznEfW9Zg9zfksX2",
    "u": "uW4Ie7eXAsQ8uxJecabUvYeQv9bQTUZzgm-DxTQmNz-X2-Y0N",
}
EMPTY = "blobb5lytjg47l6nbu2qeatpkg3omssm3zms4tlobck34zgutzlsb6mtcaa"


def blob_of(data: bytes) -> BlobId:
    return BlobId(NATIVE.blake3(data), len(data))


@pytest.mark.parametrize("base", HELLO_FORMS)
def test_known_answers(base: str) -> None:
    assert blob_of(HELLO).encode(base) == HELLO_FORMS[base]
    assert BlobId.decode(HELLO_FORMS[base]) == blob_of(HELLO)


def test_an_empty_blob_keeps_one_byte_of_size() -> None:
    assert blob_of(b"").encode() == EMPTY
    assert BlobId.decode(EMPTY).size == 0


@pytest.mark.skipif(not GOLDEN.exists(), reason="shared/data/s5-golden.json is not here")
def test_golden_vectors() -> None:
    vectors = cast("list[dict[str, str]]", json.loads(GOLDEN.read_text(encoding="utf-8"))["cid"])

    for vector in vectors:
        blob = blob_of(vector["text"].encode())
        assert blob.encode("f") == vector["hex"]
        assert blob.encode("b") == vector["b32"]
        assert blob.encode("z") == vector["b58"]
        assert blob.encode("u") == vector["b64u"]
    assert vectors


@pytest.mark.parametrize(
    ("size", "tail"),
    [
        (1, "01"),
        (255, "ff"),
        (256, "0001"),
        (2 << 30, "00000080"),  # S5.js: 00000080ffffffff
        (4 << 30, "0000000001"),  # S5.js: 00
        (5 << 30, "0000004001"),  # S5.js: the size of 1 GiB
        ((1 << 64) - 1, "ff" * 8),
    ],
)
def test_sizes_beyond_two_gibibytes(size: int, tail: str) -> None:
    blob = BlobId(bytes(32), size)

    assert blob.to_bytes()[35:].hex() == tail
    assert BlobId.from_bytes(blob.to_bytes()) == blob


@given(blob_ids, st.sampled_from("fbzu"))
def test_round_trip(blob: BlobId, base: str) -> None:
    text = blob.encode(base)

    assert BlobId.decode(text) == blob
    assert 36 <= len(blob.to_bytes()) <= 43
    assert base != "b" or text.startswith("blobb")


@given(st.binary(max_size=45), blob_ids)
@example(bytes(35), BlobId(bytes(32), 7))  # cut off before its size, which is how s5-rs writes 0
def test_bytes_give_an_identifier_with_that_form_or_a_value_error(
    noise: bytes, blob: BlobId
) -> None:
    for raw in (noise, blob.to_bytes() + noise, blob.to_bytes()[: len(noise)]):
        try:
            read = BlobId.from_bytes(raw)
        except ValueError:
            continue
        assert BlobId.from_bytes(read.to_bytes()) == read
        tail = read.to_bytes()[3:]
        assert raw.endswith(tail) or (read.size == 0 and raw.endswith(tail[:-1]))


@given(blob_ids)
def test_identifiers_of_earlier_releases_are_read(blob: BlobId) -> None:
    """`26` instead of `5b 82`, and BLAKE3 as `1f`, which some portals write in either form."""
    tail = blob.to_bytes()[3:]
    types = (0x12,) if blob.type is HashType.SHA256 else (0x1E, 0x1F)

    for hash_type in types:
        for magic in (b"\x26", b"\x5b\x82"):
            assert BlobId.from_bytes(magic + bytes([hash_type]) + tail) == blob


@given(blob_ids)
def test_a_multihash_is_the_identifier_without_its_size(blob: BlobId) -> None:
    multihash = blob.multihash

    assert Multihash.from_bytes(multihash.to_bytes()) == multihash
    assert blob.to_bytes()[2:35] == multihash.to_bytes()
    assert Multihash.decode(encode_multibase(multihash.to_bytes(), "z")) == multihash
    if multihash.type is HashType.BLAKE3:
        assert len(multihash.encode()) == 53
        assert Multihash.decode(multihash.encode()) == multihash


def test_the_bare_hash_of_s5js() -> None:
    bare = Multihash(NATIVE.blake3(HELLO)).encode()

    assert decode_multibase(bare) == NATIVE.blake3(HELLO)
    assert BlobId.decode(HELLO_FORMS["b"]).multihash == Multihash.decode(bare)


def test_peers_write_blake3_with_two_types() -> None:
    assert Multihash.from_bytes(b"\x1f" + bytes(32)) == Multihash.from_bytes(b"\x1e" + bytes(32))


@pytest.mark.parametrize("text", ["", "b", HELLO_FORMS["b"], "f" + "00" * 31, "f13" + "00" * 32])
def test_other_texts_are_no_hash(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever the decoder says
        Multihash.decode(text)


def test_a_sha256_has_no_bare_form() -> None:
    with pytest.raises(ValueError, match="BLAKE3"):
        Multihash(bytes(32), HashType.SHA256).encode()
    with pytest.raises(ValueError, match="32 bytes"):
        Multihash(bytes(31))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", "not an S5"),
        ("5b82", "not an S5"),
        ("5b8213" + "00" * 33, "not an S5"),  # sha512
        ("5b831e" + "00" * 33, "not an S5"),  # an encrypted blob
        ("26", "not an S5"),
        ("2613" + "00" * 33, "not an S5"),
        ("5b821e" + "00" * 31, "0 to 8"),
        ("5b8212" + "00" * 32 + "01" * 9, "0 to 8"),
        ("5b821e" + "00" * 32 + "0100", "zero bytes"),
        ("261f" + "00" * 34, "zero bytes"),
    ],
)
def test_other_bytes_are_refused(raw: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        BlobId.from_bytes(bytes.fromhex(raw))


@pytest.mark.parametrize(("digest", "size"), [(31, 0), (33, 0), (32, -1), (32, 1 << 64)])
def test_impossible_identifiers_are_refused(digest: int, size: int) -> None:
    with pytest.raises(ValueError, match=r"32 bytes|size"):
        BlobId(bytes(digest), size)


def test_another_spelling_of_an_identifier_is_not_one() -> None:
    """Else one blob would have many names, and a claim's CID could be disputed by its letters."""
    for text in (HELLO_FORMS["b"].upper(), HELLO_FORMS["f"].upper(), HELLO_FORMS["u"] + "="):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever the decoder says
            BlobId.decode(text)
    spaced = encode_multibase(decode_multibase(HELLO_FORMS["f"]), "f").replace("5b82", "5b 82")
    with pytest.raises(ValueError, match="canonical"):
        BlobId.decode(spaced)


@given(model_ids)
def test_model_cid_is_cid_v1_raw_keccak_256(model_id: ModelId) -> None:
    assert model_cid(model_id) == bytes.fromhex("01551b20") + to_bytes(model_id)


def test_model_cid_for_generic_dht_servers_is_sha2_256_of_the_id() -> None:
    """What `hashlib.sha256` and multiformats' `sha256.digest` make of 32 bytes of ab."""
    model_id = ModelId("0x" + "ab" * 32)

    assert model_cid_sha256(model_id) == bytes.fromhex(
        "015512209a2db2e23f1504cd056606553ac049c5e718e8f9ce9233876df1a7a1821af885"
    )


@pytest.mark.parametrize("magic", ["5b821e", "5b821f", "261f"])
def test_s5_rs_writes_the_size_of_an_empty_blob_in_no_byte(magic: str) -> None:
    raw = bytes.fromhex(magic + "07" * 32)

    assert BlobId.from_bytes(raw) == BlobId(b"\7" * 32, 0)
    assert BlobId.decode(encode_multibase(raw, "m")).size == 0
