"""Identifiers: any spelling in, one spelling out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import addresses, hashes, texts

from fabstir.primitives.ids import (
    Address,
    Hash32,
    address,
    hash32,
    parse_address,
    parse_hash32,
    to_bytes,
)

forms = st.sampled_from(["{0}", "{1}", "0X{2}", " {0}\n", "{2}"])


def spelled(value: str, form: str) -> str:
    """`value` with or without 0x, in small letters or capitals, in white space or not."""
    return form.format(value, value[2:], value[2:].upper())


@given(addresses, forms)
def test_addresses(value: Address, form: str) -> None:
    assert parse_address(spelled(value, form)) == value
    assert address(to_bytes(value)) == value


@given(hashes, forms)
def test_hashes(value: Hash32, form: str) -> None:
    assert parse_hash32(spelled(value, form)) == value
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
