"""Wallet keys: encrypted JSON keystores (version 3), and the signer that is made from one.

Every key file and password file must be its owner's alone (mode 0600).
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fabstir.chain._account import Account
from fabstir.crypto import NATIVE, checksum_address
from fabstir.db.files import OpenToOthers, create_private, read_secret
from fabstir.db.signed import SignedVersion
from fabstir.primitives.edited_text import decode_edited
from fabstir.primitives.errors import KeystoreError
from fabstir.primitives.ids import Address, ChainId, Hash32
from fabstir.primitives.units import Wei

SCRYPT_N = 2**18
"""The work to try one password: measured 0.6 s. What other wallets use."""


_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Signer:
    """An account that can sign. Its secret never appears in a repr, a log or an error.

    Raises:
        ValueError: the secret is not a key of secp256k1.
    """

    secret_key: bytes = field(repr=False)
    """32 bytes. Also the host's session-encryption key for clients of the existing wire."""
    address: Address = field(init=False)

    def __post_init__(self) -> None:
        if len(self.secret_key) != _SECRET_BYTES:  # the curve library would pad a short one
            raise ValueError(f"private keys have {_SECRET_BYTES} bytes")
        public_key = NATIVE.public_key(self.secret_key)
        object.__setattr__(self, "address", NATIVE.address_of(public_key))

    def sign_transaction(
        self,
        *,
        chain_id: ChainId,
        nonce: int,
        to: Address | None,
        value: Wei,
        data: bytes,
        gas_limit: int,
        max_fee_per_gas: Wei,
        max_priority_fee_per_gas: Wei,
        is_filler: bool = False,
    ) -> SignedVersion:
        """An EIP-1559 transaction, ready to be stored and broadcast.

        Args:
            to: None creates a contract.
            is_filler: goes into the record only.
        """
        fields: dict[str, Any] = {
            "type": 2,
            "chainId": chain_id,
            "nonce": nonce,
            "value": value,
            "data": data,
            "gas": gas_limit,
            "maxFeePerGas": max_fee_per_gas,
            "maxPriorityFeePerGas": max_priority_fee_per_gas,
        }
        if to is not None:
            fields["to"] = checksum_address(to)
        signed: Any = Account.sign_transaction(fields, self.secret_key)
        return SignedVersion(
            tx_hash=Hash32("0x" + bytes(signed.hash).hex()),
            raw=bytes(signed.raw_transaction),
            nonce=nonce,
            max_fee_per_gas=max_fee_per_gas,
            max_priority_fee_per_gas=max_priority_fee_per_gas,
            is_filler=is_filler,
        )


async def create_keystore(path: Path, password: str, *, scrypt_n: int = SCRYPT_N) -> Signer:
    """Make a new random key and store it encrypted.

    Raises:
        KeystoreError: the file exists, or cannot be written.
    """
    return await import_keystore(path, secrets.token_bytes(32), password, scrypt_n=scrypt_n)


async def import_keystore(
    path: Path, secret_key: bytes, password: str, *, scrypt_n: int = SCRYPT_N
) -> Signer:
    """Store an existing key encrypted; never overwrites a file.

    Raises:
        KeystoreError: not a key, or the file exists or cannot be written.
    """
    try:
        signer = Signer(secret_key)
    except ValueError as exc:
        raise KeystoreError("that is not a private key: 32 bytes of hex are needed") from exc
    await asyncio.to_thread(_write_keystore, path, signer, password, scrypt_n)
    return signer


async def load_keystore(path: Path, password: str) -> Signer:
    """Open a keystore.

    Raises:
        KeystoreError: no such file, others may read it, it is not a keystore, or the password
            is wrong.
    """
    text = read_secret_file(path)
    return Signer(await asyncio.to_thread(_decrypt, path, text, password))


_MAX_SECRET_BYTES = 1 << 20
"""A keystore has less than 1 KiB."""


def read_secret_file(path: Path) -> str:
    """The text of a file that only its owner may read, without the line end.

    Raises:
        KeystoreError: it is missing, not text, or group or others may read it.
    """
    try:
        text, _ = decode_edited(read_secret(path, _MAX_SECRET_BYTES))
    except OpenToOthers as exc:
        raise KeystoreError(
            f"{path} can be read by other users (mode {exc.mode:04o}), so it may be known to them: "
            f"run `chmod 600 {path}`, or make a new key"
        ) from exc
    except FileNotFoundError as exc:
        raise KeystoreError(
            f"there is no {path}: make a wallet with `fabstir keys new`, or correct the wallet.* "
            "settings"
        ) from exc
    except OSError as exc:
        raise KeystoreError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise KeystoreError(f"{path} is not a text file") from exc
    return text.rstrip("\r\n")


def write_secret_file(path: Path, text: str) -> None:
    """Create a file with mode 0600; never overwrites one.

    Raises:
        KeystoreError: it exists, or cannot be written.
    """
    try:
        is_written = create_private(path, f"{text}\n".encode())
    except OSError as exc:
        raise KeystoreError(f"{path} cannot be written: {exc.strerror}") from exc
    if not is_written:
        raise KeystoreError(
            f"{path} exists already and is not overwritten: choose another name, or move it away"
        )


def _write_keystore(path: Path, signer: Signer, password: str, scrypt_n: int) -> None:
    encrypted: Any = Account.encrypt(signer.secret_key, password, kdf="scrypt", iterations=scrypt_n)
    write_secret_file(path, json.dumps(encrypted))


def _decrypt(path: Path, text: str, password: str) -> bytes:
    try:
        keystore = json.loads(text)
        return bytes(Account.decrypt(keystore, password))
    except ValueError as exc:
        if "MAC mismatch" in str(exc):
            raise KeystoreError(f"the password does not open {path}") from None
        raise KeystoreError(f"{path} is not a keystore of version 3") from exc
    except (KeyError, TypeError, NotImplementedError) as exc:
        raise KeystoreError(f"{path} is not a keystore of version 3") from exc
