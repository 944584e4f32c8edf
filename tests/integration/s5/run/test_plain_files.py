"""`fabstir s5 put --plain`: a file that others use by its CID, as `model.cid` names one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.s5.process import options, s5_process

from fabstir.cli.app import run
from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.telemetry import configure_logging

pytestmark = [pytest.mark.integration]

MODEL = b"GGUF" + bytes(range(256)) * 1024


@pytest.fixture(params=["alone", "serving"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "alone":
        yield tmp_path
    else:
        with s5_process(tmp_path):
            yield tmp_path
    configure_logging("warning")


def test_its_identifier_is_that_of_the_content(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "tiny.gguf").write_bytes(MODEL)

    def s5(*args: str, code: int = 0) -> str:
        capsys.readouterr()
        assert run([*options(folder, {}), "--json", "s5", *args]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    stored = json.loads(s5("put", "--plain", str(folder / "tiny.gguf"), "models/"))
    s5("get", stored["cid"], "-o", str(folder / "by-cid"))
    s5("get", "models/tiny.gguf", "-o", str(folder / "by-path"))
    sealed = json.loads(s5("put", str(folder / "tiny.gguf"), "sealed.gguf"))

    assert BlobId.decode(stored["cid"]) == BlobId(NATIVE.blake3(MODEL), len(MODEL))
    assert (folder / "by-cid").read_bytes() == (folder / "by-path").read_bytes() == MODEL
    assert (stored["is_encrypted"], sealed["is_encrypted"]) == (False, True)
    assert sealed["cid"] != stored["cid"]
    assert "one file at a time" in s5("put", "-r", "--plain", str(folder), "x", code=2)
