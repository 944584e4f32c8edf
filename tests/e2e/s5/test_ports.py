"""What `fabstir s5 serve` says where others have its ports."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.e2e.s5.process import run_cli, s5_process

pytestmark = pytest.mark.e2e


def test_every_port_that_is_taken_is_named_at_once(tmp_path: Path) -> None:
    with s5_process(tmp_path / "first") as first:
        ports = {
            "s5.port": urlsplit(first.url).port,
            "metrics.port": urlsplit(str(first.facts["metrics_url"])).port,
        }
        flags = [f"--set={setting}={port}" for setting, port in ports.items()]
        both = run_cli(tmp_path / "second", *flags, "serve")
        one = run_cli(tmp_path / "second", flags[1], "serve")

    assert (both[0], one[0]) == (2, 2)
    for setting, port in ports.items():
        assert f"127.0.0.1:{port} ({setting}: Address already in use)" in both[2]
    assert "--set s5.port=0 --set metrics.port=0" in both[2]
    assert "s5.port" not in one[2]
