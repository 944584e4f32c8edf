"""Keys are made once, never overwritten and never shown."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from fabstir.cli.app import run

pytestmark = [pytest.mark.usefixtures("restored_logging"), pytest.mark.timeout(30)]

KNOWN_KEY = "0x" + "00" * 31 + "01"
KNOWN_ADDRESS = "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config.toml").touch()
    monkeypatch.setenv("FABSTIR_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def test_new_keys_open_again_and_are_their_owners_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["keys", "new", "--json"]) == 0
    made = shown(capsys)
    assert run(["keys", "show", "--json"]) == 0
    opened = shown(capsys)

    assert opened == made
    assert made["keystore"] == str(folder / "wallet.json")
    secret_files = [folder / n for n in ("wallet.json", "wallet.password", "encryption.key")]
    assert {file.stat().st_mode & 0o777 for file in secret_files} == {0o600}


def test_an_imported_key_has_its_address_and_is_not_shown(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(KNOWN_KEY + "\n"))

    assert run(["keys", "import", "--json"]) == 0

    captured = capsys.readouterr()
    assert json.loads(captured.out)["address"] == KNOWN_ADDRESS
    assert KNOWN_KEY[2:] not in captured.out + captured.err + (folder / "wallet.json").read_text()


def test_nothing_is_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "wallet.json").write_text("{}")

    assert run(["keys", "new"]) == 1
    assert run(["keys", "import"]) == 1

    assert (folder / "wallet.json").read_text() == "{}"
    assert not (folder / "wallet.password").exists()
    assert capsys.readouterr().err.count("is not overwritten") == 2


@pytest.mark.parametrize(
    "text", ["0xhunter2", "0x00", "0x" + "00" * 32, "0x" + "ff" * 32, "", "ab" * 33]
)
def test_what_is_no_key_is_not_repeated_and_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{text}\n"))

    assert run(["keys", "import"]) == 1

    told = capsys.readouterr().err
    assert "that is not a private key" in told
    assert "hunter2" not in told
    assert not (folder / "wallet.password").exists()


def test_a_broken_encryption_key_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "encryption.key").write_text("00" * 32)
    (folder / "encryption.key").chmod(0o600)

    assert run(["keys", "new"]) == 1

    assert "encryption.key holds no encryption key" in capsys.readouterr().err
