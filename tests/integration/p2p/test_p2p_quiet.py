from __future__ import annotations

import logging
import subprocess
import sys

import pytest

import fabstir.p2p._quiet as quiet

pytestmark = pytest.mark.integration


def test_the_import_warns_of_nothing() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import fabstir.p2p"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (run.returncode, run.stderr) == (0, "")


def test_what_a_peer_can_cause_is_no_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger=quiet.__name__)

    logging.getLogger("libp2p.host").error("a stranger sent %s", "garbage")

    ours = [record for record in caplog.records if record.name == quiet.__name__]
    assert [record.levelno for record in ours] == [logging.DEBUG]
    assert vars(ours[0])["text"] == "a stranger sent garbage"


def test_stderr_stays_clean(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("libp2p.host").error("a stranger sent garbage")

    assert capsys.readouterr().err == ""
