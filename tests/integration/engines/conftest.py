"""One real engine for the whole folder."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from platformdirs import user_cache_path
from tests.second_model import second_model

from fabstir.engines.llamacpp import LlamaCppConfig, LlamaCppEngine, open_llamacpp

MakeConfig = Callable[..., LlamaCppConfig]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def make_config(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeConfig:
    def make(**changes: Any) -> LlamaCppConfig:
        config = LlamaCppConfig(
            model_path=demo_model,
            cache_dir=tmp_path_factory.mktemp("engine"),
            model_digest="demo",
            max_model_len=512,
            num_slots=4,
            num_threads=1,  # two would only spin where other tests have the other core
            num_batch_threads=1,
        )
        return replace(config, **changes)

    return make


@pytest.fixture(scope="session")
def small_model(demo_model: Path) -> Path:
    """The demo model's first layers: a token takes half the time."""
    _spec, path = anyio.run(second_model, demo_model, user_cache_path("fabstir") / "models")
    return path


# Not for the whole session: while an async fixture lives, anyio's plugin runs every test on its
# event loop, also those of p2p, which are trio's.
@pytest.fixture(scope="module")
async def engine(make_config: MakeConfig) -> AsyncGenerator[LlamaCppEngine]:
    async with open_llamacpp(make_config(), on_progress=lambda _text: None) as opened:
        yield opened
