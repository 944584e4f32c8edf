"""One real engine for the whole folder."""

from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from platformdirs import user_cache_path
from tests.integration.engines.servers import llama_server, vllm_server
from tests.integration.engines.ways import (
    STRICT_CHATML,
    ChildWay,
    LlamaUrlWay,
    VllmWay,
    Way,
    with_template,
)
from tests.second_model import second_model

from fabstir.engines.llamacpp import LlamaCppConfig, LlamaCppEngine, open_llamacpp
from fabstir.engines.openai import UrlEngineConfig

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


WAYS = ("llama.cpp child", "llama-server by URL")
VLLM = "vLLM by URL"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each driver; vLLM alone where `make test-vllm` has made a place for it."""
    if "way" in metafunc.fixturenames:
        names = (VLLM,) if metafunc.config.getoption("--vllm") else WAYS
        metafunc.parametrize("way", names, indirect=True, scope="module")


@pytest.fixture(scope="module")
def way(
    request: pytest.FixtureRequest,
    make_config: MakeConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Way]:
    """A driver and its server, which runs for the module's tests."""
    folder = tmp_path_factory.mktemp("way")
    model = with_template(
        request.getfixturevalue("demo_model"), STRICT_CHATML, folder / "conformance.gguf"
    )
    if request.param == WAYS[0]:
        yield ChildWay(make_config(model_path=model))
        return
    if request.param == WAYS[1]:
        server, path = llama_server(model, folder), model
    else:
        place = Path(str(request.config.getoption("--vllm")))
        template = folder / "template.jinja"
        template.write_text(STRICT_CHATML)
        weights = place / "model"
        server = vllm_server(place / "bin" / "vllm", weights, template, folder)
        path = weights / "model.safetensors"
    config = UrlEngineConfig(
        where="model",
        url=server.url + "/v1",
        api_key=server.key,
        model_path=path,
        max_model_len=512,
        num_slots=4,
        start_timeout=600,
    )
    server.start()
    try:
        yield (LlamaUrlWay if request.param == WAYS[1] else VllmWay)(server, config)
    finally:
        server.end()
