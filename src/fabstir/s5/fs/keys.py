"""The keys of a directory inside another.

As S5.js derives them: the write key from the parent's write key and the name, the encryption key
from the write key. Where that write key has been used before (a directory of this name was deleted
or moved away, and its registry entry is still there) a random one is taken, and kept beside the
reference, sealed for whoever can write the parent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.crypto import Crypto, DecryptionError
from fabstir.s5.formats.derivation import (
    KEY_BYTES,
    child_directory,
    child_encryption_key,
    derive_str,
)
from fabstir.s5.formats.directory import Cbor, DirRef, LinkKind
from fabstir.s5.formats.directory_cid import Capability, DirectoryCid
from fabstir.s5.formats.encryption import NONCE_BYTES
from fabstir.s5.fs.values import OWN_PREFIX

_WRITE_KEY: Final = f"{OWN_PREFIX}writeKey"
"""Beside a directory's reference: nonce and sealed write key."""

MOVING: Final = f"{OWN_PREFIX}moving"
"""Beside a directory that is getting another place: deleting this name leaves its content alone."""

MOUNTED: Final = f"{OWN_PREFIX}mounted"
"""Beside a directory whose content belongs to another tree: deleting the name leaves it alone."""

_SEALING = b"\0write keys"
"""Derives the key that seals them. No name begins with NUL, so no child has this key."""


def derived_child(parent: Capability, name: str, crypto: Crypto) -> Capability | None:
    """The keys that a child of this name has at first; None: the parent is for reading only."""
    if parent.write_key is None:
        return None
    keys = child_directory(parent.write_key, name, crypto)
    is_sealed = parent.cid.encryption_key is not None
    return _capability(keys.write_key, keys.encryption_key if is_sealed else None, crypto)


def random_child(parent: Capability, random: Callable[[int], bytes], crypto: Crypto) -> Capability:
    """Keys for a child whose derived ones have been used."""
    key = random(KEY_BYTES) if parent.cid.encryption_key is not None else None
    return _capability(random(KEY_BYTES), key, crypto)


def with_derived_key(capability: Capability, crypto: Crypto) -> Capability | None:
    """The same directory with the key that its write key gives it, where the reference to it has
    none; None: it has one, or the write key is not known."""
    cid, write_key = capability.cid, capability.write_key
    if cid.encryption_key is not None or write_key is None:
        return None
    key = child_encryption_key(write_key, crypto)
    return Capability(replace(cid, encryption_key=key), write_key)


def in_clear(capability: Capability) -> Capability:
    """The same directory, not encrypted."""
    cid = DirectoryCid(kind=capability.cid.kind, link=capability.cid.link)
    return Capability(cid, capability.write_key)


def sealed_write_key(
    parent: Capability, child: Capability, nonce: bytes, crypto: Crypto
) -> dict[Cbor, Cbor]:
    """What to keep beside a reference whose write key is not the derived one.

    Raises:
        ValueError: one of the two is for reading only.
    """
    if parent.write_key is None or child.write_key is None:
        raise ValueError("a write key is sealed by and for those who write")
    key = derive_str(parent.write_key, _SEALING, crypto)
    return {_WRITE_KEY: nonce + crypto.seal(key, nonce, child.cid.link, child.write_key)}


def plain_extra(ref: DirRef) -> dict[Cbor, Cbor]:
    """What stands beside a reference wherever it is."""
    return {key: value for key, value in ref.extra.items() if key not in {_WRITE_KEY, MOVING}}


def child_of(parent: Capability, name: str, ref: DirRef, crypto: Crypto) -> Capability:
    """What the holder of the parent may do with a directory in it.

    Raises:
        RemoteProtocolError: the reference leads nowhere.
    """
    if len(ref.link) != KEY_BYTES:
        raise RemoteProtocolError(
            f"the reference to the directory {name!a} has no link: S5.js loses it when a directory "
            "becomes a HAMT; put the directory there again"
        )
    cid = DirectoryCid.of(ref)
    if parent.write_key is None or ref.kind is LinkKind.FIXED:
        return Capability(cid)
    sealed = ref.extra.get(_WRITE_KEY)
    write_key = child_directory(parent.write_key, name, crypto).write_key
    if isinstance(sealed, bytes):
        key = derive_str(parent.write_key, _SEALING, crypto)
        try:
            write_key = crypto.open(key, sealed[:NONCE_BYTES], ref.link, sealed[NONCE_BYTES:])
        except DecryptionError:
            return Capability(cid)
    is_ours = len(write_key) == KEY_BYTES and crypto.ed25519_public_key(write_key) == ref.link
    return Capability(cid, write_key if is_ours else None)


def _capability(write_key: bytes, encryption_key: bytes | None, crypto: Crypto) -> Capability:
    link = crypto.ed25519_public_key(write_key)
    cid = DirectoryCid(kind=LinkKind.MUTABLE, link=link, encryption_key=encryption_key)
    return Capability(cid, write_key)
