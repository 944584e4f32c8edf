"""Deployment files: they come back as they were written, and errors name file and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fabstir.chain.deployment import Deployment, load_deployment, save_deployment
from fabstir.primitives.errors import ConfigError
from fabstir.primitives.ids import Address, ChainId

DEPLOYMENT = Deployment(
    chain_id=ChainId(31337),
    block_number=3,
    contracts_hash="ab" * 32,
    model_registry=Address("0x" + "01" * 20),
    node_registry=Address("0x" + "02" * 20),
    job_marketplace=Address("0x" + "03" * 20),
    proof_system=Address("0x" + "04" * 20),
    host_earnings=Address("0x" + "05" * 20),
    fab_token=Address("0x" + "06" * 20),
    usdc=Address("0x" + "07" * 20),
)


def test_it_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "deployments" / "31337.json"

    save_deployment(path, DEPLOYMENT)
    first = path.read_bytes()
    save_deployment(path, DEPLOYMENT)

    assert load_deployment(path) == DEPLOYMENT
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["31337.json"]


def test_checksummed_addresses_are_read(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    save_deployment(path, DEPLOYMENT)
    mixed_case = "0xC78949004B4EB6dEf2D66e49Cd81231472612D62"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fab_token": mixed_case}))

    assert load_deployment(path).fab_token == mixed_case.lower()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"usdc": None}, "'usdc' in the deployment file .*d.json must be text"),
        ({"usdc": "0x12"}, "'usdc' in the deployment file .*d.json: '0x12' is not an address"),
        ({"chain_id": "1"}, "'chain_id' in .*d.json must be a whole number"),
        ({"block_number": -1}, "'block_number' in .*d.json must be a whole number"),
        ({"extra": 1}, "d.json has an unknown field 'extra'"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    path = tmp_path / "d.json"
    save_deployment(path, DEPLOYMENT)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(ConfigError, match=text):
        load_deployment(path)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text('{"chain_id": 1, "block_number": 1, "contracts_hash": ""}')

    with pytest.raises(ConfigError, match=r"d.json lacks the field 'model_registry'"):
        load_deployment(path)


@pytest.mark.parametrize(
    ("content", "text"), [("{", "is not JSON"), ("[]", "must hold one JSON object")]
)
def test_another_file_is_refused(tmp_path: Path, content: str, text: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(content)

    with pytest.raises(ConfigError, match=text):
        load_deployment(path)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fabstir devnet"):
        load_deployment(tmp_path / "none.json")
