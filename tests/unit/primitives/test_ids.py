"""Identifiers: any spelling in, one spelling out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.primitives.ids import (
    Address,
    Hash32,
    address,
    hash32,
    parse_address,
    parse_hash32,
    to_bytes,
)
from tests.strategies import addresses, hashes, texts

spellings = st.sampled_from(
    [
        lambda text: text,
        lambda text: text[2:],
        lambda text: "0X" + text[2:].upper(),
        lambda text: f" {text}\n",
    ]
)


@given(addresses, spellings)
def test_addresses(value: Address, spell: object) -> None:
    assert callable(spell)
    assert parse_address(spell(value)) == value
    assert address(to_bytes(value)) == value


@given(hashes, spellings)
def test_hashes(value: Hash32, spell: object) -> None:
    assert callable(spell)
    assert parse_hash32(spell(value)) == value
    assert hash32(to_bytes(value)) == value


@given(texts(70) | st.text("0x9aF", max_size=70))
def test_other_text_is_refused_with_a_value_error(text: str) -> None:
    for parse, size in ((parse_address, 42), (parse_hash32, 66)):
        try:
            assert len(parse(text)) == size
        except ValueError:
            continue


@pytest.mark.parametrize("size", [19, 21, 0])
def test_addresses_have_20_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="20 bytes"):
        address(bytes(size))


@pytest.mark.parametrize("size", [31, 33, 0])
def test_hashes_have_32_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        hash32(bytes(size))
