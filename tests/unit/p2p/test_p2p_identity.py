from __future__ import annotations

import stat
from pathlib import Path

import pytest
from libp2p.crypto import secp256k1

from fabstir.p2p._identity import load_or_create_identity
from fabstir.primitives.errors import KeystoreError


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "libp2p.key"

    first = load_or_create_identity(path)
    second = load_or_create_identity(path)

    assert first.private_key.to_bytes() == second.private_key.to_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["libp2p.key"]


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    load_or_create_identity(path)
    path.chmod(0o644)

    with pytest.raises(KeystoreError, match="chmod 600"):
        load_or_create_identity(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a key",
        b"\x08\x01\x12\x03abc",
        secp256k1.create_new_key_pair(b"\x01" * 32).private_key.serialize(),
    ],
)
def test_another_file_is_not_taken_for_a_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(KeystoreError, match="no libp2p Ed25519 key"):
        load_or_create_identity(path)


def test_a_path_that_cannot_be_used_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(KeystoreError, match=r"p2p\.identity"):
        load_or_create_identity(tmp_path / "file" / "key")
