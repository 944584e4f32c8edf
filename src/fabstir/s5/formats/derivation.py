"""The keys derived from a 16-byte identity: each is a hash of the one above it.

    root    = BLAKE3(entropy)
    main    = int(root, 0)
    public  = int(int(main, 1), 0)     2 signing, 3 encryption, 4 resolver
    private = int(int(main, 64), 0)    65 portal accounts, 66 hidden DB, 67 files, 127 extension

where `int(base, n)` = BLAKE3(base | n as 32 bytes little-endian) and `str(base, s)` =
BLAKE3(base | BLAKE3(s)). The zeros are S5's index of key rotation, which nobody turns yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from fabstir.protocol.crypto import Crypto

ENTROPY_BYTES: Final = 16
KEY_BYTES: Final = 32

_MAIN = 0
_PUBLIC = 1
_PRIVATE = 64
_ROTATION = 0
_ROOT_WRITE = 1
_ROOT_ENCRYPTION = 1
_CHILD_ENCRYPTION = 0x5E


class Purpose(IntEnum):
    """What a seed below the main one is for. The reserved ones complete S5's numbering."""

    SIGNING = 2
    ENCRYPTION = 3
    RESOLVER = 4
    PUBLIC_RESERVED_1 = 5
    PUBLIC_RESERVED_2 = 6
    PORTAL_ACCOUNTS = 65
    HIDDEN_DB = 66
    FILE_SYSTEM = 67
    PRIVATE_RESERVED_1 = 68
    PRIVATE_RESERVED_2 = 69
    EXTENSION = 127


def derive_int(base: bytes, number: int, crypto: Crypto) -> bytes:
    """int(base, number).

    Raises:
        ValueError: the base has not 32 bytes, or the number does not fit 32 bytes.
    """
    _check_key(base)
    if not 0 <= number < 1 << 256:
        raise ValueError(f"{number} is not an unsigned integer of 256 bits")
    return crypto.blake3(base + number.to_bytes(KEY_BYTES, "little"))


def derive_str(base: bytes, text: str | bytes, crypto: Crypto) -> bytes:
    """str(base, text); text is taken as UTF-8.

    Raises:
        ValueError: the base has not 32 bytes, or the text has lone surrogates.
    """
    _check_key(base)
    tweak = text.encode() if isinstance(text, str) else text
    return crypto.blake3(base + crypto.blake3(tweak))


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise ValueError(f"keys have {KEY_BYTES} bytes, not {len(key)}")


@dataclass(frozen=True, slots=True)
class DirectoryKeys:
    """What may write a directory, and what reads it.

    Attributes:
        write_key: the ed25519 seed that signs the directory's registry entry.
        encryption_key: opens the directory's bytes.
        public_key: 32 bytes; the registry entry's key.
    """

    write_key: bytes = field(repr=False)
    encryption_key: bytes = field(repr=False)
    public_key: bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """All keys of one S5 user. Its secrets appear in no repr.

    Attributes:
        entropy: 16 bytes, what the seed phrase says.
    """

    entropy: bytes = field(repr=False)
    crypto: Crypto = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.entropy) != ENTROPY_BYTES:
            raise ValueError(f"S5 identities have {ENTROPY_BYTES} bytes, not {len(self.entropy)}")

    def seed(self, purpose: Purpose) -> bytes:
        """The 32 bytes from which the keys of one purpose come."""
        root = self.crypto.blake3(self.entropy)
        main = derive_int(root, _MAIN, self.crypto)
        branch = _PRIVATE if purpose > _PRIVATE else _PUBLIC
        base = derive_int(derive_int(main, branch, self.crypto), _ROTATION, self.crypto)
        return derive_int(base, purpose, self.crypto)

    def file_system_root(self) -> DirectoryKeys:
        """The keys of the user's root directory."""
        write_key = derive_int(self.seed(Purpose.FILE_SYSTEM), _ROOT_WRITE, self.crypto)
        encryption_key = derive_int(write_key, _ROOT_ENCRYPTION, self.crypto)
        public_key = self.crypto.ed25519_public_key(write_key)
        return DirectoryKeys(write_key, encryption_key, public_key)

    def portal_account_key(self, account_seed: bytes) -> bytes:
        """The ed25519 seed of an account at a portal.

        Args:
            account_seed: 32 random bytes, kept in the hidden DB's accounts.json.

        Raises:
            ValueError: the account's seed has not 32 bytes.
        """
        _check_key(account_seed)
        return self.crypto.blake3(self.seed(Purpose.PORTAL_ACCOUNTS) + account_seed)

    def hidden_db_root(self) -> bytes:
        """The key above every path of the hidden DB."""
        return self.seed(Purpose.HIDDEN_DB)


def child_directory(parent_write_key: bytes, name: str, crypto: Crypto) -> DirectoryKeys:
    """The keys of a directory in a directory: S5.js derives the same, and leaves children in clear.

    Raises:
        ValueError: the parent's key has not 32 bytes, or the name has lone surrogates.
    """
    write_key = derive_str(parent_write_key, name, crypto)
    encryption_key = child_encryption_key(write_key, crypto)
    return DirectoryKeys(write_key, encryption_key, crypto.ed25519_public_key(write_key))


def child_encryption_key(write_key: bytes, crypto: Crypto) -> bytes:
    """What opens a directory in a directory, by the key that writes it."""
    return derive_int(write_key, _CHILD_ENCRYPTION, crypto)
