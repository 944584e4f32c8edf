"""Engines by URL that are not taken, each with its cause and fix: a real llama-server says no."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engines.servers import ModelServer, free_port, llama_server

from fabstir.engines import EngineState
from fabstir.engines.openai import ServerProfile, UrlEngineConfig, open_url_engine
from fabstir.primitives.errors import ConfigError, EngineUnavailable

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


@pytest.fixture(scope="module")
def server(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    running = llama_server(small_model, tmp_path_factory.mktemp("server"))
    running.start()
    yield running
    running.end()


@pytest.fixture
def config(server: ModelServer, small_model: Path) -> UrlEngineConfig:
    return UrlEngineConfig(
        where="models[1]",
        url=server.url,
        api_key=server.key,
        model_path=small_model,
        max_model_len=512,
        num_slots=4,
        start_timeout=60,
    )


async def refused(config: UrlEngineConfig, error: type[Exception]) -> str:
    with pytest.raises(error) as failed:
        async with open_url_engine(config, on_progress=lambda _text: None):
            pytest.fail("it opened")
    return str(failed.value)


async def test_it_says_what_it_is(config: UrlEngineConfig, small_model: Path) -> None:
    async with open_url_engine(config, on_progress=lambda _text: None) as engine:
        assert engine.state is EngineState.READY
        assert engine.info.model == small_model.name
        assert (engine.info.max_model_len, engine.info.num_slots) == (512, 4)
        assert engine.info.chat_template


@pytest.mark.parametrize(
    ("profile", "instead"),
    [
        (ServerProfile.OLLAMA, "tells no token ids.*llama-server -m FILE"),
        (ServerProfile.OPENAI, "cannot be counted exactly.*Use vLLM or llama-server"),
        (ServerProfile.SGLANG, "SGLang.*vllm serve"),
    ],
)
async def test_a_server_without_exact_ids_is_refused_by_name(
    config: UrlEngineConfig, profile: ServerProfile, instead: str
) -> None:
    with pytest.raises(ConfigError, match=instead):
        async with open_url_engine(replace(config, profile=profile), on_progress=print):
            pass


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"api_key": "guess"}, "set models[1].engine_key_file"),
        ({"served_name": "other"}, "set models[1].engine_model to one of them"),
        ({"max_model_len": 4096}, "models[1].max_model_len is 4096: lower it"),
        ({"num_slots": 9}, "--parallel 9"),
        ({"profile": ServerProfile.VLLM}, "engine_profile"),
    ],
    ids=["key", "name", "context", "slots", "profile"],
)
async def test_what_does_not_fit_is_named(
    config: UrlEngineConfig, change: dict[str, Any], says: str
) -> None:
    assert says in await refused(replace(config, **change), ConfigError)


async def test_another_file_than_the_verified_one_is_refused(
    config: UrlEngineConfig, demo_model: Path, small_model: Path
) -> None:
    said = await refused(replace(config, model_path=demo_model), ConfigError)

    assert f"serves {small_model}, and models[1].path is {demo_model}" in said


async def test_a_server_that_is_not_there_is_waited_for_and_named(config: UrlEngineConfig) -> None:
    away = replace(config, url=f"http://127.0.0.1:{free_port()}", start_timeout=0.3)

    said = await refused(away, EngineUnavailable)

    assert f"nobody listens at {away.url}" in said
    assert "start the server there, or correct models[1].engine_url" in said
    assert "raise engine.start_timeout_seconds" in said
