"""The S5 identity on disk: 32 hex digits in a file of mode 0600, and the words that bring one in.

Everything else that a user of S5 has (files, registry keys, portal accounts, the node's id) comes
from these 16 bytes, so the file is made once, never overwritten, and its content never logged.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Final

from mnemonic import Mnemonic

from fabstir.db.files import OpenToOthers, create_private, read_secret
from fabstir.primitives.edited_text import decode_edited
from fabstir.primitives.errors import KeystoreError
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.derivation import ENTROPY_BYTES, Identity
from fabstir.s5.formats.seed_phrase import (
    BIP39_PHRASE_WORDS,
    S5_PHRASE_WORDS,
    SeedPhraseError,
    decode_bip39_phrase,
    decode_entropy_hex,
    decode_s5_phrase,
    encode_bip39_phrase,
    encode_s5_phrase,
)

S5_WORD_LIST_SHA256: Final = "c5a77384579f73ca247402805281849a0766c60240fc8323c7a0b79a0975a87e"
"""Of the 1,024 words of S5's phrases, one a line: another list would give another identity."""

_MAX_WORD_LIST_BYTES = 64 * 1024
_MAX_IDENTITY_BYTES = 256


def load_or_create_identity(path: Path, crypto: Crypto) -> Identity:
    """The identity in `path`; a new one is written there if there is no file.

    Raises:
        KeystoreError: others may read the file, it cannot be read or written, or it holds no
            identity.
    """
    if not path.exists():
        _create(path, secrets.token_bytes(ENTROPY_BYTES))
    return load_identity(path, crypto)


def load_identity(path: Path, crypto: Crypto) -> Identity:
    """The identity in `path`.

    Raises:
        KeystoreError: there is no file, others may read it, or it holds no identity.
    """
    try:
        content = read_secret(path, _MAX_IDENTITY_BYTES)
    except OpenToOthers as exc:
        raise KeystoreError(
            f"{path} can be read by other users (mode {exc.mode:04o}), so it may be known to them: "
            f"run `chmod 600 {path}`, or make a new identity"
        ) from exc
    except OSError as exc:
        raise KeystoreError(
            f"the S5 identity {path} cannot be read ({exc.strerror}): correct s5.identity"
        ) from exc
    try:
        return Identity(decode_entropy_hex(decode_edited(content)[0]), crypto)
    except ValueError:
        # `from None`: the cause would carry a part of the secret
        raise KeystoreError(
            f"{path} holds no S5 identity (32 hex digits): restore it, or move it away to get a "
            "new one, which finds nothing of what the old one stored"
        ) from None


def import_identity(
    path: Path, text: str, crypto: Crypto, *, word_list: Path | None = None
) -> Identity:
    """Write an identity that somebody already has to `path`.

    Args:
        text: a phrase or the entropy, as of `read_identity`.

    Raises:
        KeystoreError: the text is no identity, the file exists, or it cannot be written.
    """
    identity = read_identity(text, crypto, word_list=word_list)
    if not _create(path, identity.entropy):
        raise KeystoreError(
            f"{path} exists already and is not overwritten: move it away, or name another file "
            "in s5.identity"
        )
    return identity


def read_identity(text: str, crypto: Crypto, *, word_list: Path | None = None) -> Identity:
    """The identity that a text says.

    Args:
        text: 32 hex digits, the twelve words of BIP-39, or the fifteen of S5.
        word_list: S5's words; needed for fifteen words only.

    Raises:
        KeystoreError: the text is none of these; its own text says which word is wrong. Or the
            word list is missing or another one.
    """
    try:
        return Identity(_read_entropy(text, crypto, word_list), crypto)
    except SeedPhraseError as exc:
        raise KeystoreError(f"not an S5 identity: {exc}") from exc


def _read_entropy(text: str, crypto: Crypto, word_list: Path | None) -> bytes:
    num_words = len(text.split())
    if num_words == 1:
        return decode_entropy_hex(text)
    if num_words == S5_PHRASE_WORDS:
        if word_list is None:
            raise KeystoreError(
                f"a phrase of {S5_PHRASE_WORDS} words is read with S5's own word list: name its "
                "file (--wordlist), or give the 32 hex digits of the entropy"
            )
        return decode_s5_phrase(text, load_word_list(word_list), crypto)
    if num_words != BIP39_PHRASE_WORDS:
        raise SeedPhraseError(
            f"it has {num_words} words; S5's phrases have {S5_PHRASE_WORDS}, those of BIP-39 "
            f"{BIP39_PHRASE_WORDS}, and the entropy is 32 hex digits"
        )
    return decode_bip39_phrase(text, _bip39_words())


def identity_phrase(identity: Identity, *, word_list: Path | None = None) -> str:
    """The words to write down: twelve of BIP-39, or with S5's list its fifteen, for S5.js.

    Raises:
        KeystoreError: the word list is missing or another one.
    """
    if word_list is None:
        return encode_bip39_phrase(identity.entropy, _bip39_words())
    return encode_s5_phrase(identity.entropy, load_word_list(word_list), identity.crypto)


def load_word_list(path: Path) -> tuple[str, ...]:
    """S5's 1,024 words.

    Raises:
        KeystoreError: the file cannot be read, or its SHA-256 is another one.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_WORD_LIST_BYTES)
    except OSError as exc:
        raise KeystoreError(f"the word list {path} cannot be read: {exc.strerror}") from exc
    digest = hashlib.sha256(content).hexdigest()
    if digest != S5_WORD_LIST_SHA256:
        raise KeystoreError(
            f"{path} has sha256 {digest}, and S5's word list {S5_WORD_LIST_SHA256}: another list "
            "would give another identity, so fetch the right one"
        )
    return tuple(content.decode("ascii").split())


def _bip39_words() -> list[str]:
    return Mnemonic("english").wordlist


def _create(path: Path, entropy: bytes) -> bool:
    """Returns whether it was written; False: there is a file already."""
    try:
        return create_private(path, f"{entropy.hex()}\n".encode("ascii"))
    except OSError as exc:
        raise KeystoreError(
            f"the S5 identity {path} cannot be written ({exc.strerror}): correct s5.identity"
        ) from exc
