"""The native primitives against published answers, and against each other."""

import hashlib
from contextlib import suppress

import coincurve
import pytest
from eth_account import Account
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tests.strategies import byte_strings, secrets

from fabstir.crypto import NATIVE, checksum_address
from fabstir.primitives.ids import Address
from fabstir.protocol.crypto import BadSignatureError, DecryptionError, is_curve_point

GROUP_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
ONE = bytes(31) + b"\x01"
TWO = bytes(31) + b"\x02"
G = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
TWO_G_X = bytes.fromhex("c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5")


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),
        (b"abc", "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"),
    ],
)
def test_keccak256(data: bytes, digest: str) -> None:
    """From the Keccak team's vectors: not NIST's SHA-3."""
    assert NATIVE.keccak256(data).hex() == digest
    assert NATIVE.keccak256(data) != hashlib.sha3_256(data).digest()


def test_blake3() -> None:
    """From BLAKE3's own vectors."""
    assert (
        NATIVE.blake3(b"").hex()
        == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    )


def test_the_keys_one_and_two() -> None:
    assert NATIVE.public_key(ONE) == G
    assert NATIVE.public_key(TWO)[1:] == TWO_G_X
    assert NATIVE.address_of(G) == "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf"


def test_ecdh_of_the_generator() -> None:
    assert NATIVE.ecdh_x(TWO, G) == TWO_G_X
    assert NATIVE.ecdh_x(ONE, NATIVE.public_key(TWO)) == TWO_G_X
    assert NATIVE.ecdh_x((GROUP_ORDER - 2).to_bytes(32, "big"), G) == TWO_G_X


@given(secrets, secrets)
def test_both_sides_share_one_secret(ours: bytes, theirs: bytes) -> None:
    shared = NATIVE.ecdh_x(ours, NATIVE.public_key(theirs))

    assert shared == NATIVE.ecdh_x(theirs, NATIVE.public_key(ours))
    # The library's own constant-time function hashes the compressed point.
    hashed = coincurve.PrivateKey(ours).ecdh(NATIVE.public_key(theirs))
    assert hashed in {hashlib.sha256(prefix + shared).digest() for prefix in (b"\2", b"\3")}


@pytest.mark.parametrize("secret", [bytes(32), GROUP_ORDER.to_bytes(32, "big"), b"\1" * 31])
def test_impossible_secrets_are_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="secret"):
        NATIVE.ecdh_x(secret, G)


@pytest.mark.parametrize("secret", [bytes(32), GROUP_ORDER.to_bytes(32, "big")])
def test_impossible_secrets_have_no_public_key(secret: bytes) -> None:
    with pytest.raises(ValueError, match=r"[Ss]ecret"):
        NATIVE.public_key(secret)


@given(byte_strings(33))
@example(G)
@example(b"\x02" + (2**256 - 2**32 - 977 + 1).to_bytes(32, "big"))  # x = 1, not reduced
@example(b"\x04" + G[1:])
def test_points_are_told_from_other_bytes_as_libsecp256k1_does(candidate: bytes) -> None:
    for key in (candidate, b"\2" + candidate[1:], b"\3" + candidate[1:]):
        try:
            coincurve.PublicKey(key)
            is_point = True
        except ValueError:
            is_point = False

        assert is_curve_point(key) == is_point
        if not is_point:
            with pytest.raises(ValueError):  # noqa: PT011 - the library's text
                NATIVE.ecdh_x(ONE, key)


@pytest.mark.parametrize("size", [0, 32, 65])
def test_points_have_33_bytes(size: int) -> None:
    assert not is_curve_point(bytes(size))


def test_signature_known_answer() -> None:
    """RFC 6979 on secp256k1, key 1: the vector that wallets share."""
    digest = hashlib.sha256(b"Satoshi Nakamoto").digest()

    signature = NATIVE.sign(ONE, digest)

    assert signature[:64].hex() == (
        "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8"
        "2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5"
    )
    assert NATIVE.recover(signature, digest) == G


@given(secrets, byte_strings(32))
def test_signatures_recover_in_both_forms_of_the_recovery_id(secret: bytes, digest: bytes) -> None:
    signature = NATIVE.sign(secret, digest)
    with_v = signature[:64] + bytes([signature[64] + 27])

    assert NATIVE.recover(signature, digest) == NATIVE.public_key(secret)
    assert NATIVE.recover(with_v, digest) == NATIVE.public_key(secret)


@given(secrets, byte_strings(32))
def test_the_twin_with_the_high_s_is_refused(secret: bytes, digest: bytes) -> None:
    """It recovers to the same key, so a signature would have two forms."""
    signature = NATIVE.sign(secret, digest)
    s = GROUP_ORDER - int.from_bytes(signature[32:64], "big")
    twin = signature[:32] + s.to_bytes(32, "big") + bytes([1 - signature[64]])

    with pytest.raises(BadSignatureError, match="high half"):
        NATIVE.recover(twin, digest)


@given(st.binary(max_size=70), st.binary(max_size=33))
@example(bytes(65), bytes(32))
@example(b"\xff" * 32 + bytes(31) + b"\1\0", bytes(32))
@example(b"\1" * 64 + b"\2", bytes(32))
@example(b"\1" * 64 + b"\x1d", bytes(32))
def test_other_bytes_are_a_key_or_a_bad_signature(signature: bytes, digest: bytes) -> None:
    with suppress(BadSignatureError):
        assert is_curve_point(NATIVE.recover(signature, digest))


@given(secrets)
def test_addresses_are_those_of_wallets(secret: bytes) -> None:
    address = NATIVE.address_of(NATIVE.public_key(secret))

    assert checksum_address(address) == Account.from_key(secret).address


@pytest.mark.parametrize(
    "checksummed",
    [
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    ],
)
def test_checksummed_addresses(checksummed: str) -> None:
    """From EIP-55."""
    assert checksum_address(Address(checksummed.lower())) == checksummed


def test_seal_known_answer() -> None:
    """draft-irtf-cfrg-xchacha-03, A.3.1."""
    key, nonce = bytes(range(0x80, 0xA0)), bytes(range(0x40, 0x58))
    aad = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    plaintext = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
        b"future, sunscreen would be it."
    )

    sealed = NATIVE.seal(key, nonce, aad, plaintext)

    assert sealed.hex() == (
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
        "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
        "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
        "21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49"
    )
    assert NATIVE.open(key, nonce, aad, sealed) == plaintext


@given(
    byte_strings(32), byte_strings(24), st.binary(max_size=20), st.binary(max_size=40), st.data()
)
def test_seal_round_trip_and_tampering(
    key: bytes, nonce: bytes, aad: bytes, plaintext: bytes, data: st.DataObject
) -> None:
    sealed = NATIVE.seal(key, nonce, aad, plaintext)
    position = data.draw(st.integers(0, len(sealed) - 1))
    altered = bytearray(sealed)
    altered[position] ^= data.draw(st.integers(1, 255))

    assert NATIVE.open(key, nonce, aad, sealed) == plaintext
    for arguments in (
        (key, nonce, aad, bytes(altered)),
        (key, nonce, aad + b"\0", sealed),
        (key, nonce, aad, sealed[:-1]),
    ):
        with pytest.raises(DecryptionError):
            NATIVE.open(*arguments)


@given(st.binary(max_size=40), st.binary(max_size=30), st.binary(max_size=40))
def test_any_bytes_open_or_raise_one_error(key: bytes, nonce: bytes, ciphertext: bytes) -> None:
    assume(len(ciphertext) < 16 or len(key) != 32 or len(nonce) != 24)
    with pytest.raises(DecryptionError):
        NATIVE.open(key, nonce, b"", ciphertext)
