"""What a GGUF header may say, and that nothing it claims is believed."""

from __future__ import annotations

import io
import struct
import tracemalloc
from pathlib import Path

import pytest
from gguf.constants import GGML_QUANT_SIZES, LlamaFileType
from hypothesis import given
from hypothesis import strategies as st
from tests.gguf_files import (
    ARRAY,
    F16_TYPE,
    STRING,
    U16,
    U32,
    TensorRow,
    array_pair,
    gguf_file,
    small_model,
    string,
    strings_pair,
    text_pair,
    u32_pair,
)

from fabstir.models.gguf import (
    MAX_HEADER_BYTES,
    MAX_PAIRS,
    MAX_TENSORS,
    GgufArray,
    GgufHeader,
    parse_gguf,
    read_gguf,
)
from fabstir.models.gguf_types import FILE_TYPES, TENSOR_TYPES
from fabstir.primitives.errors import GgufRefused, ModelNotGguf

HUGE = (1 << 64) - 1


def parse(data: bytes) -> GgufHeader:
    return parse_gguf(io.BytesIO(data), len(data), "m.gguf")


def head(num_tensors: int, num_pairs: int) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, num_tensors, num_pairs)


def tensor(offset: int = 0, **changed: object) -> TensorRow:
    values = {"name": "w", "shape": (32,), "kind": F16_TYPE, "offset": offset} | changed
    return TensorRow(**values)  # pyright: ignore[reportArgumentType] - a test's shorthand


def test_a_header_is_read_whole(tmp_path: Path) -> None:
    (path := tmp_path / "m.gguf").write_bytes(small_model())

    header = read_gguf(path)

    assert header.metadata["general.name"] == "Small"
    assert header.metadata["llama.block_count"] == 2
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, GgufArray)
    assert list(tokens.strings()) == [b"a", b"b", "é".encode(), b"<0x8C>"]
    assert tokens.numbers() == ()
    kinds = header.metadata["tokenizer.ggml.token_type"]
    assert isinstance(kinds, GgufArray)
    assert kinds.numbers() == (1, 1, 1, 6)
    assert list(kinds.strings()) == []
    assert [tensor.kind.name for tensor in header.tensors] == ["F16", "Q4_1", "Q4_1"]
    assert header.weight_bytes == 512 + 2 * 2560
    assert header.file_bytes == path.stat().st_size == header.tensors[-1].offset + 2560


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (head(0, HUGE), "18446744073709551615 key-value pairs"),
        (head(HUGE, 0), "18446744073709551615 tensors"),
        (head(0, MAX_PAIRS) + bytes(50), "no room"),
        (head(MAX_TENSORS, 0) + bytes(50), "no room"),
        (head(0, 1) + struct.pack("<Q", HUGE) + bytes(50), "a key has 18446744073709551615 bytes"),
        (head(0, 1) + struct.pack("<Q", 1 << 63) + bytes(50), "a key has"),
        (head(0, 1) + struct.pack("<Q", 60_000) + bytes(50), "ends at byte"),
        (gguf_file([string(b"\xff\xfe") + struct.pack("<II", U32, 1)]), "no UTF-8"),
        (gguf_file([u32_pair("a", 1), u32_pair("a", 2)]), "the key 'a' twice"),
        (gguf_file([string(b"k") + struct.pack("<II", 13, 0)]), "unknown type 13"),
        (gguf_file([string(b"k") + struct.pack("<IQ", STRING, HUGE)]), "ends at byte"),
        (gguf_file([array_pair("k", ARRAY, 1, bytes(12))]), "array of arrays"),
        (gguf_file([array_pair("k", U16, HUGE, b"")]), "ends at byte"),
        (gguf_file([array_pair("k", STRING, 1 << 60, b"")]), "claims 1152921504606846976 strings"),
        (gguf_file([array_pair("k", STRING, 1, struct.pack("<Q", HUGE))]), "ends at byte"),
        (gguf_file([array_pair("k", 99, 1, b"1234")]), "unknown type 99"),
        (gguf_file([u32_pair("general.alignment", 0)]), "a power of two"),
        (gguf_file([u32_pair("general.alignment", 24)]), "a power of two"),
        (gguf_file([u32_pair("general.alignment", 1 << 31)]), "a power of two"),
        (gguf_file([text_pair("general.alignment", "32")]), "a power of two"),
        (gguf_file(tensors=[tensor(name="n" * 64)], weight_bytes=64), "a tensor's name has 64"),
        (gguf_file(tensors=[tensor(shape=(32, 1, 1, 1, 1))], weight_bytes=64), "5 dimensions"),
        (gguf_file(tensors=[tensor(shape=(HUGE,))], weight_bytes=64), "a shape that F16"),
        (gguf_file(tensors=[tensor(shape=(1 << 40, 1 << 40))], weight_bytes=64), "a shape that"),
        (gguf_file(tensors=[tensor(shape=(31,), kind=3)], weight_bytes=64), "a shape that Q4_1"),
        (gguf_file(tensors=[tensor(kind=4)], weight_bytes=64), "type 4, which is none"),
        (gguf_file(tensors=[tensor(kind=1 << 31)], weight_bytes=64), "which is none"),
        (gguf_file(tensors=[tensor(1)], weight_bytes=128), "not aligned to 32"),
        (gguf_file(tensors=[tensor(64)], weight_bytes=64), "behind the file's end"),
        (gguf_file(tensors=[tensor(HUGE - 31)], weight_bytes=64), "behind the file's end"),
        (gguf_file(tensors=[tensor(), tensor(64)], weight_bytes=128), "the same name"),
        (gguf_file(tensors=[tensor(), tensor(32, name="v")], weight_bytes=128), "share bytes"),
    ],
)
def test_a_header_that_lies_is_refused_by_its_cause(data: bytes, cause: str) -> None:
    with pytest.raises(GgufRefused) as refused:
        parse(data)

    assert str(refused.value).startswith("m.gguf has a GGUF header that is not loaded: ")
    assert cause in str(refused.value)
    assert "another" in str(refused.value)  # the fix: from another source, another quantisation


@pytest.mark.parametrize("data", [b"", b"GGUF", b"GGML\3\0\0\0" + bytes(16), b"PK\3\4" * 8])
def test_another_format_is_told_apart(data: bytes) -> None:
    with pytest.raises(ModelNotGguf, match="no GGUF file"):
        parse(data)


@pytest.mark.parametrize("version", [0, 1, 4, 0x03000000])
def test_other_versions_are_named(version: int) -> None:
    with pytest.raises(ModelNotGguf, match=f"of version {version} "):
        parse(gguf_file(version=version))


def test_every_cut_of_a_good_file_is_refused() -> None:
    whole = small_model()

    for length in range(len(whole)):
        with pytest.raises(ModelNotGguf):
            parse(whole[:length])


def test_a_file_that_becomes_shorter_meanwhile_is_noticed() -> None:
    whole = small_model()

    with pytest.raises(GgufRefused, match="became shorter"):
        parse_gguf(io.BytesIO(whole[:100]), len(whole), "m.gguf")


def test_a_claim_allocates_nothing() -> None:
    """The file is large enough for the claim (a hole), and the header still may not be."""

    class Endless(io.RawIOBase):
        def __init__(self, start: bytes) -> None:
            self._start = io.BytesIO(start)

        def read(self, size: int = -1, /) -> bytes:
            return self._start.read(size) or bytes(size)

    start = head(0, 1) + string(b"k") + struct.pack("<IIQ", ARRAY, U16, 1 << 35)
    tracemalloc.start()
    try:
        with pytest.raises(GgufRefused, match=f"longer than {MAX_HEADER_BYTES} bytes"):
            parse_gguf(Endless(start), 1 << 40, "m.gguf")  # pyright: ignore[reportArgumentType] - reads
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 << 20


def test_tensors_of_no_elements_may_share_a_place() -> None:
    empty = [tensor(shape=(0,)), tensor(name="v", shape=(0,)), tensor(name="x")]

    assert parse(gguf_file(tensors=empty, weight_bytes=64)).weight_bytes == 64


names = st.text(st.characters(codec="utf-8"), max_size=20)
entries = st.dictionaries(names, st.integers(0, (1 << 32) - 1) | names, max_size=6)
words = st.lists(st.binary(max_size=9), max_size=9)


@given(entries=entries, words=words)
def test_what_is_written_is_read(entries: dict[str, int | str], words: list[bytes]) -> None:
    entries.pop("general.alignment", None)
    entries.pop("words", None)
    pairs = [
        u32_pair(key, value) if isinstance(value, int) else text_pair(key, value)
        for key, value in entries.items()
    ]

    read = dict(parse(gguf_file([*pairs, strings_pair("words", *words)])).metadata)

    array = read.pop("words")
    assert isinstance(array, GgufArray)
    assert list(array.strings()) == words
    assert read == entries


@given(data=st.binary(max_size=300), at=st.integers(0, 700))
def test_bytes_in_a_header_raise_one_kind_of_error(data: bytes, at: int) -> None:
    whole = small_model()
    spoiled = whole[:at] + data + whole[at + len(data) :]

    try:
        header = parse(spoiled)
    except ModelNotGguf:
        return
    assert header.file_bytes == len(spoiled)
    assert all(t.offset + t.num_bytes <= len(spoiled) for t in header.tensors)


def test_types_are_those_of_the_gguf_package() -> None:
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}

    ours = {c: (t.name, t.block_size, t.block_bytes) for c, t in TENSOR_TYPES.items()}

    assert ours == theirs
    assert {
        code: f"MOSTLY_{name}" if code else f"ALL_{name}" for code, name in FILE_TYPES.items()
    } == {int(kind): kind.name for kind in LlamaFileType if kind < 1024}
