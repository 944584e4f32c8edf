"""Where the contracts are: one JSON file per chain id, because addresses are data."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from fabstir.config import user_data_folder
from fabstir.db.files import replace_private
from fabstir.primitives.edited_text import decode_edited
from fabstir.primitives.errors import ConfigError
from fabstir.primitives.ids import Address, ChainId, parse_address

_NUMBERS = ("chain_id", "block_number")
_TEXTS = ("contracts_hash",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """The contracts of one chain."""

    chain_id: ChainId
    block_number: int
    """The block before the first of them: where following their events begins."""
    contracts_hash: str
    """BLAKE3 over the creation code of all of them: tells which build this is."""
    model_registry: Address
    node_registry: Address
    job_marketplace: Address
    proof_system: Address
    host_earnings: Address
    fab_token: Address
    usdc: Address

    def contracts(self) -> dict[str, Address]:
        """Every contract by the name of its field."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: values[name] for name in values if name not in (*_NUMBERS, *_TEXTS)}


def load_deployment(path: Path) -> Deployment:
    """Read a deployment file.

    Raises:
        ConfigError: it cannot be read; the text names the file and the field.
    """
    try:
        raw: Any = json.loads(decode_edited(path.read_bytes())[0])
    except OSError as exc:
        raise ConfigError(
            f"the deployment file {path} cannot be read: {exc.strerror}. "
            "Run `fabstir devnet`, or point chain.deployment at the file of your chain"
        ) from exc
    except ValueError as exc:
        raise ConfigError(f"the deployment file {path} is not JSON: {exc}") from exc
    if not isinstance(raw, dict):
        raise ConfigError(f"the deployment file {path} must hold one JSON object")
    values = cast("dict[str, Any]", raw)
    known = [field.name for field in fields(Deployment)]
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"the deployment file {path} has an unknown field {unknown[0]!r}")
    return Deployment(**{name: _parse_field(path, name, values) for name in known})


def save_deployment(path: Path, deployment: Deployment) -> None:
    """Write the file whole or not at all; the same deployment always gives the same bytes."""
    values = {field.name: getattr(deployment, field.name) for field in fields(deployment)}
    replace_private(path, (json.dumps(values, indent=2) + "\n").encode())


def _parse_field(path: Path, name: str, values: dict[str, Any]) -> Any:
    if name not in values:
        raise ConfigError(f"the deployment file {path} lacks the field {name!r}")
    value = values[name]
    if name in _NUMBERS:
        if type(value) is not int or value < 0:
            raise ConfigError(f"{name!r} in the deployment file {path} must be a whole number")
        return value
    if not isinstance(value, str):
        raise ConfigError(f"{name!r} in the deployment file {path} must be text")
    if name in _TEXTS:
        return value
    try:
        return parse_address(value)
    except ValueError as exc:
        raise ConfigError(f"{name!r} in the deployment file {path}: {exc}") from exc


def locate_deployment(configured: Path | None, chain_id: ChainId, data_dir: Path) -> Path:
    """Which deployment file counts: the configured one, else what `fabstir devnet` wrote (into
    this data folder or the user's own), else the one that comes with the package for this chain.
    """
    if configured is not None:
        return configured
    name = f"{chain_id}.json"
    folders = (data_dir, user_data_folder() or data_dir)
    written = [folder / "deployments" / name for folder in folders]
    packaged = Path(__file__).with_name("deployments") / name
    return next((path for path in (*written, packaged) if path.exists()), written[0])
