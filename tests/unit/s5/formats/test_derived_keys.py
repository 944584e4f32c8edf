"""The tree of keys, where S5.js left no golden bytes: its rules, step by step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.crypto import NATIVE
from fabstir.s5.formats.derivation import (
    Identity,
    Purpose,
    child_directory,
    derive_int,
    derive_str,
)
from fabstir.s5.formats.hidden_db import ACCOUNTS_PATH, hidden_db_keys

IDENTITY = Identity(bytes(range(16)), NATIVE)
ROOT = IDENTITY.hidden_db_root()
bases = st.binary(min_size=32, max_size=32)


@given(bases, st.integers(0, 2**256 - 1), st.integers(0, 2**256 - 1))
def test_different_numbers_give_different_keys(base: bytes, one: int, other: int) -> None:
    assert (derive_int(base, one, NATIVE) == derive_int(base, other, NATIVE)) == (one == other)


def test_text_is_utf8() -> None:
    assert derive_str(bytes(32), "é", NATIVE) == derive_str(bytes(32), b"\xc3\xa9", NATIVE)


@pytest.mark.parametrize("number", [-1, 2**256])
def test_a_number_has_32_bytes(number: int) -> None:
    with pytest.raises(ValueError, match="256 bits"):
        derive_int(bytes(32), number, NATIVE)


def test_a_base_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        derive_int(bytes(31), 0, NATIVE)
    with pytest.raises(ValueError, match="32 bytes, not 0"):
        derive_str(b"", "", NATIVE)


def test_an_identity_has_16_bytes_and_shows_none_of_them() -> None:
    with pytest.raises(ValueError, match="16 bytes, not 15"):
        Identity(bytes(15), NATIVE)
    assert repr(IDENTITY) == "Identity()"
    assert Identity(bytes(range(16)), NATIVE) == IDENTITY


def test_the_root_directory() -> None:
    key1 = derive_int(IDENTITY.seed(Purpose.FILE_SYSTEM), 1, NATIVE)

    keys = IDENTITY.file_system_root()

    assert keys.write_key == key1
    assert keys.encryption_key == derive_int(key1, 1, NATIVE)
    assert keys.public_key == NATIVE.ed25519_public_key(key1)
    assert key1.hex() not in repr(keys)


def test_a_directory_in_a_directory() -> None:
    parent = IDENTITY.file_system_root().write_key

    keys = child_directory(parent, "home", NATIVE)

    assert keys.write_key == derive_str(parent, "home", NATIVE)
    assert keys.encryption_key == derive_int(keys.write_key, 0x5E, NATIVE)
    assert keys.public_key == NATIVE.ed25519_public_key(keys.write_key)


def test_the_key_of_a_portal_account() -> None:
    account = b"\x07" * 32

    assert IDENTITY.portal_account_key(account) == NATIVE.blake3(
        IDENTITY.seed(Purpose.PORTAL_ACCOUNTS) + account
    )
    with pytest.raises(ValueError, match="32 bytes, not 12"):
        IDENTITY.portal_account_key(bytes(12))


def test_a_path_of_the_hidden_db() -> None:
    path = derive_int(derive_str(derive_str(ROOT, "a", NATIVE), "b", NATIVE), 1, NATIVE)

    keys = hidden_db_keys(ROOT, "a/b", NATIVE)

    assert keys.write_key == derive_int(path, 2, NATIVE)
    assert keys.encryption_key == derive_int(path, 3, NATIVE)
    assert keys == hidden_db_keys(ROOT, "/ a// b /", NATIVE)
    assert keys != hidden_db_keys(ROOT, ACCOUNTS_PATH, NATIVE)
