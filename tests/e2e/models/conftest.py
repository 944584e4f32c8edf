"""A chain on which two models are approved, and hosts that may serve both."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest
from platformdirs import user_cache_path
from tests.second_model import second_model

from fabstir.chain.contracts import ModelRegistry
from fabstir.chain.devnet import DevModel, Devnet, DevnetParameters, open_devnet
from fabstir.models import DEMO_MODEL, ModelSpec
from fabstir.primitives.ids import ModelId
from fabstir.primitives.units import Wei

SECOND_PRICE = Wei(4 * 10**14)
"""Twice what the hosts of these tests ask else, in wei for a million tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestModel:
    """A model with its file.

    Attributes:
        table: it as an entry of [[models]], on one line.
    """

    __test__ = False

    spec: ModelSpec
    path: Path

    @property
    def model_id(self) -> ModelId:
        return ModelRegistry.model_id(self.spec.repo, self.spec.file)

    @property
    def name(self) -> str:
        return f"{self.spec.repo}:{self.spec.file}"

    def table(self, **changes: str) -> str:
        values = {
            "repo": self.spec.repo,
            "file": self.spec.file,
            "sha256": self.spec.sha256[2:],
            "path": str(self.path),
        } | changes
        texts = [f'{name} = "{value}"' for name, value in values.items()]
        numbers = f"max_model_len = 1024, num_slots = 2, price_native_per_million = {SECOND_PRICE}"
        return "{" + ", ".join([*texts, numbers]) + "}"


@pytest.fixture(scope="session")
def first(demo_model: Path) -> TestModel:
    return TestModel(spec=DEMO_MODEL, path=demo_model)


@pytest.fixture(scope="module")
async def second(demo_model: Path, anyio_backend: str) -> TestModel:
    spec, path = await second_model(demo_model, user_cache_path("fabstir") / "models")
    return TestModel(spec=spec, path=path)


@pytest.fixture(scope="module")
async def devnet(
    tmp_path_factory: pytest.TempPathFactory,
    anyio_backend: str,
    first: TestModel,
    second: TestModel,
) -> AsyncGenerator[Devnet]:
    models = [
        DevModel(each.spec.repo, each.spec.file, each.spec.sha256) for each in (first, second)
    ]
    folder = tmp_path_factory.mktemp("deployments")
    async with open_devnet(folder, models, DevnetParameters(port=0)) as net:
        yield net
