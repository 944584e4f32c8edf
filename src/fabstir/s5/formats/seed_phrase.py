"""Seed phrases for 16 bytes: the fifteen words of S5 and the twelve of BIP-39.

S5's phrase is 13 words (twelve of 10 bits, the last of 8) and two words of checksum, the first 20
bits of BLAKE3 of the entropy; of every word only the first three letters count. BIP-39's is twelve
words of 11 bits: the entropy and four bits of its SHA-256. The word lists are arguments: who has
them on disk checks them first.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.derivation import ENTROPY_BYTES

S5_WORDS: Final = 1024
S5_PHRASE_WORDS: Final = 15
BIP39_WORDS: Final = 2048
BIP39_PHRASE_WORDS: Final = 12

_ENTROPY_BITS = 8 * ENTROPY_BYTES
_S5_WORD_BITS = 10
_S5_LAST_BITS = 8
_S5_SEED_WORDS = 13
_S5_CHECKSUM_BITS = 20
_S5_PREFIX = 3
_BIP39_WORD_BITS = 11
_BIP39_CHECKSUM_BITS = 4

_MAX_PHRASE_CHARS = 1024
"""Fifteen words of any list, with room: suggestions cost the square of a word's length."""


class SeedPhraseError(ValueError):
    """A phrase or hex text names no identity; the text says which word is wrong.

    Attributes:
        position: the word's number from 1; None: the phrase as a whole.
        suggestions: words of the list that look like it.
    """

    def __init__(
        self, message: str, *, position: int | None = None, suggestions: Sequence[str] = ()
    ) -> None:
        hint = f": did you mean {' or '.join(suggestions)}?" if suggestions else ""
        super().__init__(message + hint)
        self.position = position
        self.suggestions = tuple(suggestions)


def encode_s5_phrase(entropy: bytes, words: Sequence[str], crypto: Crypto) -> str:
    """The fifteen words of 16 bytes.

    Args:
        words: S5's list of 1,024.

    Raises:
        ValueError: another number of bytes or of words.
    """
    _check_entropy(entropy)
    _check_list(words, S5_WORDS)
    bits = int.from_bytes(entropy, "big")
    seed = [
        bits >> (_ENTROPY_BITS - _S5_WORD_BITS * (i + 1)) & (S5_WORDS - 1)
        for i in range(_S5_SEED_WORDS - 1)
    ]
    seed.append(bits & ((1 << _S5_LAST_BITS) - 1))
    return " ".join(words[index] for index in (*seed, *_s5_checksum(entropy, crypto)))


def decode_s5_phrase(phrase: str, words: Sequence[str], crypto: Crypto) -> bytes:
    """The 16 bytes of a phrase; case, spaces and what follows a word's third letter are ignored.

    Raises:
        SeedPhraseError: a wrong number of words, a word of no list, or a checksum that fails.
    """
    _check_list(words, S5_WORDS)
    spoken = _split(phrase, S5_PHRASE_WORDS)
    by_prefix = {word[:_S5_PREFIX]: index for index, word in enumerate(words)}
    indexes = [
        _s5_index(word, position, words, by_prefix) for position, word in enumerate(spoken, 1)
    ]
    bits = 0
    for index in indexes[: _S5_SEED_WORDS - 1]:
        bits = bits << _S5_WORD_BITS | index
    entropy = (bits << _S5_LAST_BITS | indexes[_S5_SEED_WORDS - 1]).to_bytes(ENTROPY_BYTES, "big")
    if tuple(indexes[_S5_SEED_WORDS:]) != _s5_checksum(entropy, crypto):
        raise SeedPhraseError(
            "the phrase's checksum, its last two words, does not belong to the other thirteen: "
            "one word is another one of the list, or two have changed places"
        )
    return entropy


def _s5_checksum(entropy: bytes, crypto: Crypto) -> tuple[int, int]:
    bits = int.from_bytes(crypto.blake3(entropy)[:3], "big") >> (24 - _S5_CHECKSUM_BITS)
    return bits >> _S5_WORD_BITS, bits & (S5_WORDS - 1)


def _s5_index(word: str, position: int, words: Sequence[str], by_prefix: dict[str, int]) -> int:
    index = by_prefix.get(word[:_S5_PREFIX])
    if index is None:
        raise _unknown(word, position, words)
    if position == _S5_SEED_WORDS and index >> _S5_LAST_BITS:
        raise SeedPhraseError(
            f"word {position} of a phrase is one of the first {1 << _S5_LAST_BITS} of the list, "
            f"and {word!r} is not",
            position=position,
        )
    return index


def encode_bip39_phrase(entropy: bytes, words: Sequence[str]) -> str:
    """The twelve words of 16 bytes.

    Args:
        words: BIP-39's English list of 2,048.

    Raises:
        ValueError: another number of bytes or of words.
    """
    _check_entropy(entropy)
    _check_list(words, BIP39_WORDS)
    bits = int.from_bytes(entropy, "big") << _BIP39_CHECKSUM_BITS | _bip39_checksum(entropy)
    shifts = range(_BIP39_WORD_BITS * (BIP39_PHRASE_WORDS - 1), -1, -_BIP39_WORD_BITS)
    return " ".join(words[bits >> shift & (BIP39_WORDS - 1)] for shift in shifts)


def decode_bip39_phrase(phrase: str, words: Sequence[str]) -> bytes:
    """The 16 bytes of a phrase; case and spaces are ignored.

    Raises:
        SeedPhraseError: a wrong number of words, a word of no list, or a checksum that fails.
    """
    _check_list(words, BIP39_WORDS)
    index_of = {word: index for index, word in enumerate(words)}
    bits = 0
    for position, word in enumerate(_split(phrase, BIP39_PHRASE_WORDS), 1):
        if word not in index_of:
            raise _unknown(word, position, words)
        bits = bits << _BIP39_WORD_BITS | index_of[word]
    entropy = (bits >> _BIP39_CHECKSUM_BITS).to_bytes(ENTROPY_BYTES, "big")
    if bits & ((1 << _BIP39_CHECKSUM_BITS) - 1) != _bip39_checksum(entropy):
        raise SeedPhraseError(
            "the phrase's checksum, in its last word, does not belong to the other words: one "
            "word is another one of the list, or two have changed places"
        )
    return entropy


def _bip39_checksum(entropy: bytes) -> int:
    return hashlib.sha256(entropy).digest()[0] >> (8 - _BIP39_CHECKSUM_BITS)


def decode_entropy_hex(text: str) -> bytes:
    """The 16 bytes of 32 hex digits, of either case, with or without 0x.

    Raises:
        SeedPhraseError: anything else.
    """
    digits = text.strip().lower().removeprefix("0x")
    if len(digits) != 2 * ENTROPY_BYTES or set(digits) - set(string.hexdigits):
        raise SeedPhraseError(
            f"the entropy of an identity is {2 * ENTROPY_BYTES} hex digits, and nothing else"
        )
    return bytes.fromhex(digits)


def _split(phrase: str, num_words: int) -> list[str]:
    if len(phrase) > _MAX_PHRASE_CHARS:
        raise SeedPhraseError(f"phrases have at most {_MAX_PHRASE_CHARS} characters")
    words = phrase.lower().split()
    if len(words) != num_words:
        raise SeedPhraseError(
            f"this phrase has {len(words)} words; S5's have {S5_PHRASE_WORDS}, and those of "
            f"BIP-39 {BIP39_PHRASE_WORDS}"
        )
    return words


def _unknown(word: str, position: int, words: Sequence[str]) -> SeedPhraseError:
    return SeedPhraseError(
        f"word {position} of the phrase, {word!r}, is not in the list",
        position=position,
        suggestions=get_close_matches(word, words, n=3),
    )


def _check_entropy(entropy: bytes) -> None:
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"phrases stand for {ENTROPY_BYTES} bytes, not {len(entropy)}")


def _check_list(words: Sequence[str], num_words: int) -> None:
    if len(words) != num_words:
        raise ValueError(f"the word list has {len(words)} words instead of {num_words}")
