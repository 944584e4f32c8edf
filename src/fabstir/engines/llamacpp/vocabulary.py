"""The pieces of characters in a model's vocabulary.

llama.cpp's server keeps text back until it ends on a character's end and then reports the last of
the tokens that made it. The others follow from the bytes: this module knows the few tokens that
are not text by themselves (a byte or two of an emoji). Asking the server to tokenize the character
instead is wrong for 1 in 200 of them: a model may spell a character in more tokens than needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fabstir.models.gguf import GgufArray, GgufHeader, ValueKind
from fabstir.primitives.errors import ModelNotGguf

_TOKENS = "tokenizer.ggml.tokens"
_BYTE_TOKEN = re.compile(rb"<0x([0-9A-F]{2})>")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + index): byte for index, byte in enumerate(rest)}


_ALPHABET = _byte_alphabet()
_BLANK = "\u0120".encode()
"""Of GPT-2's letters."""


@dataclass(frozen=True, slots=True)
class CharacterPieces:
    """Tokens that are parts of characters, by their bytes."""

    ids: Mapping[bytes, int]

    def spell(self, text: str, num_tokens: int, last: int, *, is_whole: bool) -> tuple[int, ...]:
        """The tokens of a text that ends with a character of several.

        Args:
            last: the id that the server reported.
            is_whole: whether `text` is made of these tokens alone; else only its end is.

        Returns:
            `num_tokens` ids, or only `last` where the vocabulary offers no such spelling.
        """
        data = text.encode(errors="replace")
        starts = range(1 if is_whole else max(1, len(data) - num_tokens + 1))
        for start in starts:
            for spelling in self._spellings(data[start:], num_tokens):
                if spelling[-1] == last:
                    return spelling
        return (last,)

    def _spellings(self, data: bytes, num_tokens: int) -> Iterator[tuple[int, ...]]:
        """All ways, those with long pieces first: so a tokenizer would do it."""
        if num_tokens == 1:
            if data in self.ids:
                yield (self.ids[data],)
            return
        for length in range(len(data) - num_tokens + 1, 0, -1):
            token_id = self.ids.get(data[:length])
            if token_id is not None:
                for rest in self._spellings(data[length:], num_tokens - 1):
                    yield (token_id, *rest)


def character_pieces(header: GgufHeader) -> CharacterPieces:
    """Those of a model.

    Raises:
        ModelNotGguf: it names no tokens.
    """
    tokens = header.metadata.get(_TOKENS)
    if not isinstance(tokens, GgufArray) or tokens.kind is not ValueKind.STRING:
        raise ModelNotGguf(
            f"the model names no tokens ({_TOKENS}): take the file of a whole language model"
        )
    ids = {
        piece: token_id
        for token_id, token in enumerate(tokens.strings())
        if _may_be_no_text(token) and not _is_text(piece := _bytes_of(token))
    }
    return CharacterPieces(ids)


def _may_be_no_text(token: bytes) -> bool:
    """Nearly all tokens are ASCII in both kinds, but for the letter that stands for a blank.

    Not to look at each of their letters is most of the time of this module.
    """
    return not token.replace(_BLANK, b" ").isascii() or token.startswith(b"<0x")


def _bytes_of(token: bytes) -> bytes:
    """A token's own bytes: `<0xF0>` in one kind of vocabulary, GPT-2's letters in the other."""
    if match := _BYTE_TOKEN.fullmatch(token):
        return bytes.fromhex(match[1].decode())
    letters = token.decode(errors="replace")
    return b"".join(_byte_of(letter) for letter in letters)


def _byte_of(letter: str) -> bytes:
    byte = _ALPHABET.get(letter)
    return letter.encode() if byte is None else bytes([byte])


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True
