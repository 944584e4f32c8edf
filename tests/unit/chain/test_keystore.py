"""Keystores and signers: keys stay secret, files stay their owner's."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from eth_account import Account

from fabstir.chain.devnet import public_test_key
from fabstir.chain.keystore import (
    Signer,
    create_keystore,
    import_keystore,
    load_keystore,
    read_secret_file,
    write_secret_file,
)
from fabstir.primitives.errors import KeystoreError
from fabstir.primitives.ids import Address, ChainId
from fabstir.primitives.units import Wei

pytestmark = pytest.mark.anyio

FAST = 2
"""scrypt's work: next to none."""

SIGNER = public_test_key("of these tests")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_new_key_opens_with_its_password(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "wallet.json"

    made = await create_keystore(path, "a password", scrypt_n=FAST)

    assert await load_keystore(path, "a password") == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.secret_key.hex() not in path.read_text()


async def test_an_imported_key_is_the_same_account(tmp_path: Path) -> None:
    path = tmp_path / "wallet.json"

    imported = await import_keystore(path, SIGNER.secret_key, "pw", scrypt_n=FAST)

    assert imported.address == SIGNER.address
    assert (await load_keystore(path, "pw")).secret_key == SIGNER.secret_key


async def test_a_wrong_password_is_told_from_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "wallet.json"
    await import_keystore(path, SIGNER.secret_key, "pw", scrypt_n=FAST)
    broken = tmp_path / "broken.json"
    write_secret_file(broken, '{"version": 3}')

    with pytest.raises(KeystoreError, match="the password does not open"):
        await load_keystore(path, "other")
    with pytest.raises(KeystoreError, match="is not a keystore of version 3"):
        await load_keystore(broken, "pw")


@pytest.mark.parametrize(
    "text", ["", "[]", "nonsense", '{"version": 1}', '{"version": 3, "crypto"']
)
async def test_other_files_are_no_keystores(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wallet.json"
    write_secret_file(path, text)

    with pytest.raises(KeystoreError, match="is not a keystore"):
        await load_keystore(path, "pw")


async def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "wallet.json"
    await import_keystore(path, SIGNER.secret_key, "pw", scrypt_n=FAST)

    with pytest.raises(KeystoreError, match="is not overwritten"):
        await create_keystore(path, "pw", scrypt_n=FAST)

    assert await load_keystore(path, "pw") == SIGNER


@pytest.mark.parametrize("secret", [b"", bytes(32), b"\xff" * 32, b"\x01" * 31])
async def test_what_is_no_key_is_refused(tmp_path: Path, secret: bytes) -> None:
    with pytest.raises(KeystoreError, match="not a private key"):
        await import_keystore(tmp_path / "wallet.json", secret, "pw", scrypt_n=FAST)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
async def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "password"
    write_secret_file(path, "secret")
    path.chmod(mode)

    with pytest.raises(KeystoreError, match=f"chmod 600 {path}"):
        read_secret_file(path)


async def test_a_password_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "password"
    write_secret_file(path, " with spaces ")

    assert read_secret_file(path) == " with spaces "


async def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "binary").chmod(0o600)

    with pytest.raises(KeystoreError, match=r"there is no .*none: make a wallet with"):
        read_secret_file(tmp_path / "none")
    with pytest.raises(KeystoreError, match="is not a text file"):
        read_secret_file(tmp_path / "binary")
    with pytest.raises(KeystoreError, match="cannot be written"):
        write_secret_file(tmp_path / "binary" / "x", "text")


async def test_a_signer_does_not_show_its_secret() -> None:
    assert SIGNER.secret_key.hex() not in repr(SIGNER)
    assert str(SIGNER.secret_key) not in repr(SIGNER)
    assert SIGNER.address in repr(SIGNER)


@pytest.mark.parametrize("to", [None, Address("0x" + "ab" * 20)])
async def test_a_signed_transaction_is_the_accounts(to: Address | None) -> None:
    signed = SIGNER.sign_transaction(
        chain_id=ChainId(31337),
        nonce=7,
        to=to,
        value=Wei(5),
        data=b"\x01\x02",
        gas_limit=50_000,
        max_fee_per_gas=Wei(3),
        max_priority_fee_per_gas=Wei(1),
    )

    sender: str = Account.recover_transaction(signed.raw)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - untyped
    assert sender.lower() == Signer(SIGNER.secret_key).address
    assert signed.raw[0] == 2
    assert (signed.nonce, signed.is_filler) == (7, False)
