"""The tokens of a character that the server does not report follow from its bytes."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.engines.llamacpp.vocabulary import CharacterPieces, character_pieces
from fabstir.models.gguf import read_gguf
from fabstir.primitives.errors import ModelNotGguf

SINGLE_BYTES = {bytes([byte]): byte for byte in range(0x80, 0x100)}
PIECES = CharacterPieces({**SINGLE_BYTES, b"\xf0\x9f": 500, b"\x92\x8c": 501, b" \xf0\x9f": 502})


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def array(kind: int, count: int, items: bytes) -> bytes:
    return struct.pack("<IIQ", 9, kind, count) + items


def gguf(*pairs: bytes, version: int = 3) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", version, 0, len(pairs)) + b"".join(pairs)


def tokens(*names: str) -> bytes:
    items = b"".join(string(name.encode()) for name in names)
    return string(b"tokenizer.ggml.tokens") + array(8, len(names), items)


BEFORE = (
    string(b"general.name") + struct.pack("<I", 8) + string(b"tiny"),
    string(b"general.alignment") + struct.pack("<II", 4, 32),
    string(b"a.list") + array(5, 3, struct.pack("<iii", 1, 2, 3)),
    string(b"a.list.of.words") + array(8, 1, string(b"word")),
)


@pytest.mark.parametrize(
    ("num_tokens", "last", "expected"),
    [
        (2, 501, (500, 501)),
        (3, 0x8C, (500, 0x92, 0x8C)),
        (4, 0x8C, (0xF0, 0x9F, 0x92, 0x8C)),
        (3, 501, (0xF0, 0x9F, 501)),
    ],
)
def test_a_character_is_spelled_in_as_many_tokens_as_were_generated(
    num_tokens: int, last: int, expected: tuple[int, ...]
) -> None:
    assert PIECES.spell("💌", num_tokens, last, is_whole=True) == expected


def test_text_that_was_kept_back_before_is_skipped() -> None:
    assert PIECES.spell("and 💌", 2, 501, is_whole=False) == (502, 501)


def test_without_a_spelling_only_the_reported_token_counts() -> None:
    assert PIECES.spell("�", 3, 7, is_whole=True) == (7,)
    assert PIECES.spell("💌", 2, 7, is_whole=True) == (7,)


@given(
    st.text(st.characters(min_codepoint=0x80, exclude_categories=["Cs"]), min_size=1, max_size=1)
)
def test_single_bytes_spell_every_character(character: str) -> None:
    data = character.encode()

    assert PIECES.spell(character, len(data), data[-1], is_whole=True) == tuple(data)


def test_pieces_are_read_from_a_model_file(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(gguf(*BEFORE, tokens("hello", "ðŁ", "Ġx", "<0x8C>", "é", "Ģ")))

    pieces = character_pieces(read_gguf(file))

    assert pieces.ids == {b"\xf0\x9f": 1, b"\x8c": 3, b"\xe9": 4, b"\x80": 5}


@pytest.mark.parametrize(
    "content",
    [
        b"GGUF",
        b"nonsense that is long enough for a header",
        gguf(*BEFORE),
        gguf(tokens("a", "b"))[:-3],
        gguf(tokens("a"), version=1),
        gguf(string(b"x") + struct.pack("<I", 99)),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)

    with pytest.raises(ModelNotGguf, match=r"GGUF|names no tokens"):
        character_pieces(read_gguf(file))
