"""Phrases of both kinds, with word lists made for the test or BIP-39's own."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mnemonic import Mnemonic

from fabstir.crypto import NATIVE
from fabstir.s5.formats.seed_phrase import (
    SeedPhraseError,
    decode_bip39_phrase,
    decode_entropy_hex,
    decode_s5_phrase,
    encode_bip39_phrase,
    encode_s5_phrase,
)

LETTERS = "abcdefghijklm"
WORDS = [a + b + c + "word" for a in LETTERS for b in LETTERS for c in LETTERS][:1024]
"""As S5's list: 1,024 words whose first three letters differ."""
BIP39 = Mnemonic("english")
ENTROPY = bytes(range(16))
entropies = st.binary(min_size=16, max_size=16)


@given(entropies)
def test_s5_phrases_survive(entropy: bytes) -> None:
    phrase = encode_s5_phrase(entropy, WORDS, NATIVE)

    assert len(phrase.split()) == 15
    assert decode_s5_phrase(phrase, WORDS, NATIVE) == entropy


@given(entropies)
def test_bip39_phrases_are_those_of_the_reference(entropy: bytes) -> None:
    phrase = encode_bip39_phrase(entropy, BIP39.wordlist)

    assert phrase == BIP39.to_mnemonic(entropy)
    assert decode_bip39_phrase(phrase, BIP39.wordlist) == entropy == BIP39.to_entropy(phrase)


def test_case_spaces_and_letters_after_the_third_do_not_count() -> None:
    phrase = encode_s5_phrase(ENTROPY, WORDS, NATIVE)
    sloppy = "  " + "\n ".join(word[:3].upper() + "xyz" for word in phrase.split()) + "\t"

    assert decode_s5_phrase(sloppy, WORDS, NATIVE) == ENTROPY


@given(entropies, st.integers(0, 14), st.integers(0, 14))
def test_words_that_change_places_are_noticed(entropy: bytes, first: int, second: int) -> None:
    """Of the seed and the checksum together; a checksum of 20 bits misses one in a million."""
    words = encode_s5_phrase(entropy, WORDS, NATIVE).split()
    words[first], words[second] = words[second], words[first]

    if words == encode_s5_phrase(entropy, WORDS, NATIVE).split():
        return
    with pytest.raises(SeedPhraseError):
        decode_s5_phrase(" ".join(words), WORDS, NATIVE)


def test_an_unknown_word_is_named_with_suggestions() -> None:
    words = encode_bip39_phrase(ENTROPY, BIP39.wordlist).split()
    words[3] = "abandun"

    with pytest.raises(
        SeedPhraseError, match=r"word 4 .*'abandun'.* did you mean abandon"
    ) as caught:
        decode_bip39_phrase(" ".join(words), BIP39.wordlist)

    assert caught.value.position == 4
    assert "abandon" in caught.value.suggestions


def test_an_unknown_word_without_a_likeness_has_no_suggestion() -> None:
    words = ["zzzzz", *encode_s5_phrase(ENTROPY, WORDS, NATIVE).split()[1:]]

    with pytest.raises(SeedPhraseError, match=r"not in the list$") as caught:
        decode_s5_phrase(" ".join(words), WORDS, NATIVE)

    assert caught.value.suggestions == ()


def test_the_thirteenth_word_is_one_of_the_first_256() -> None:
    words = encode_s5_phrase(ENTROPY, WORDS, NATIVE).split()
    words[12] = WORDS[256]

    with pytest.raises(SeedPhraseError, match=r"word 13 .* first 256") as caught:
        decode_s5_phrase(" ".join(words), WORDS, NATIVE)

    assert caught.value.position == 13


def test_another_word_of_the_list_breaks_the_checksum() -> None:
    s5 = encode_s5_phrase(ENTROPY, WORDS, NATIVE).split()
    bip39 = encode_bip39_phrase(ENTROPY, BIP39.wordlist).split()
    s5[0], bip39[0] = WORDS[-1], BIP39.wordlist[-1]

    with pytest.raises(SeedPhraseError, match="last two words"):
        decode_s5_phrase(" ".join(s5), WORDS, NATIVE)
    with pytest.raises(SeedPhraseError, match="in its last word"):
        decode_bip39_phrase(" ".join(bip39), BIP39.wordlist)


@pytest.mark.parametrize("phrase", ["", "one", " ".join(WORDS[:12]), " ".join(WORDS[:16])])
def test_another_number_of_words_is_said(phrase: str) -> None:
    with pytest.raises(SeedPhraseError, match=f"has {len(phrase.split())} words; S5's have 15"):
        decode_s5_phrase(phrase, WORDS, NATIVE)


def test_a_text_without_end_is_not_searched() -> None:
    with pytest.raises(SeedPhraseError, match="at most 1024 characters"):
        decode_bip39_phrase("a" * 1_000_000, BIP39.wordlist)


@given(st.text(max_size=200))
def test_any_text_is_a_phrase_or_one_kind_of_error(text: str) -> None:
    for decode in (
        lambda: decode_s5_phrase(text, WORDS, NATIVE),
        lambda: decode_bip39_phrase(text, BIP39.wordlist),
        lambda: decode_entropy_hex(text),
    ):
        with contextlib.suppress(SeedPhraseError):
            assert len(decode()) == 16


@pytest.mark.parametrize(
    "text", [ENTROPY.hex(), ENTROPY.hex().upper(), f"0x{ENTROPY.hex()}", f" {ENTROPY.hex()}\n"]
)
def test_entropy_in_hex(text: str) -> None:
    assert decode_entropy_hex(text) == ENTROPY


@pytest.mark.parametrize("text", ["", "00" * 15, "00" * 17, "0 " * 16, "g0" * 16, "٠" * 32])
def test_other_hex_is_refused(text: str) -> None:
    with pytest.raises(SeedPhraseError, match="32 hex digits"):
        decode_entropy_hex(text)


def test_wrong_lists_and_lengths_are_mistakes_of_ours() -> None:
    with pytest.raises(ValueError, match="1023 words instead of 1024"):
        encode_s5_phrase(ENTROPY, WORDS[1:], NATIVE)
    with pytest.raises(ValueError, match="1024 words instead of 2048"):
        encode_bip39_phrase(ENTROPY, WORDS)
    with pytest.raises(ValueError, match="16 bytes, not 32"):
        encode_s5_phrase(bytes(32), WORDS, NATIVE)
