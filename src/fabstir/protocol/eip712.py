"""EIP-712 for flat structs: what receipts, acknowledgements and authorizations are signed as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fabstir.primitives.ids import Address, ChainId, Hash32, to_bytes
from fabstir.protocol.crypto import BadSignatureError, Crypto

_DOMAIN_TYPE = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"

FieldValue = int | str
"""A field: an integer (uintN), a 0x address or bytes32, or text."""


@dataclass(frozen=True, slots=True)
class Domain:
    """Where a signature counts: one contract on one chain.

    Attributes:
        chain_id: EIP-155 chain id.
        contract: JobMarketplace for everything about sessions, NodeRegistry for host records.
    """

    chain_id: ChainId
    contract: Address
    name: str = "Fabstir"
    version: str = "1"

    def separator(self, crypto: Crypto) -> bytes:
        """The domain's 32 bytes."""
        keccak = crypto.keccak256
        return keccak(
            keccak(_DOMAIN_TYPE)
            + keccak(self.name.encode())
            + keccak(self.version.encode())
            + self.chain_id.to_bytes(32, "big")
            + to_bytes(self.contract).rjust(32, b"\0")
        )


def _encode_field(kind: str, value: FieldValue, crypto: Crypto) -> bytes:
    if kind == "string" and isinstance(value, str):
        return crypto.keccak256(value.encode())
    if kind.startswith("uint") and isinstance(value, int):
        if not 0 <= value < 1 << int(kind[4:]):
            raise ValueError(f"{value} does not fit {kind}")
        return value.to_bytes(32, "big")
    if kind in {"address", "bytes32"} and isinstance(value, str):
        raw = bytes.fromhex(value[2:])
        if len(raw) != (20 if kind == "address" else 32):
            raise ValueError(f"{value} is not a {kind}")
        return raw.rjust(32, b"\0")
    raise TypeError(f"{value!r} is not a {kind}")


def struct_hash(type_string: str, values: Sequence[FieldValue], crypto: Crypto) -> bytes:
    """hashStruct of a flat struct.

    Args:
        type_string: such as "Mail(address to,string text)"; it names the field types.
        values: in the order of the type string.
    """
    fields = type_string[type_string.index("(") + 1 : -1].split(",")
    encoded = b"".join(
        _encode_field(field.split(" ")[0], value, crypto)
        for field, value in zip(fields, values, strict=True)
    )
    return crypto.keccak256(crypto.keccak256(type_string.encode()) + encoded)


def typed_digest(domain: Domain, struct: bytes, crypto: Crypto) -> Hash32:
    """The digest that is signed."""
    raw = crypto.keccak256(b"\x19\x01" + domain.separator(crypto) + struct)
    return Hash32("0x" + raw.hex())


def personal_digest(message: bytes, crypto: Crypto) -> bytes:
    """EIP-191 personal_sign, which era-C checkpoints use."""
    prefix = b"\x19Ethereum Signed Message:\n" + str(len(message)).encode()
    return crypto.keccak256(prefix + message)


def sign_digest(secret_key: bytes, digest: Hash32, crypto: Crypto) -> bytes:
    """65 bytes r | s | v with v 27 or 28, as wallets make it."""
    compact = crypto.sign(secret_key, to_bytes(digest))
    return compact[:64] + bytes([compact[64] + 27])


def recover_address(signature: bytes, digest: Hash32, crypto: Crypto) -> Address:
    """Who signed. Raises BadSignatureError."""
    return crypto.address_of(crypto.recover(signature, to_bytes(digest)))


def is_signed_by(signer: Address, signature: bytes, digest: Hash32, crypto: Crypto) -> bool:
    """Whether `signer` made this signature; a malformed one is simply not."""
    try:
        return recover_address(signature, digest, crypto) == signer
    except BadSignatureError:
        return False
