"""The engine's process: crashes, restarts, keys, and parents that die."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from tests.integration.engines.conftest import MakeConfig

from fabstir.engines import (
    EngineState,
    GenerationRequest,
    LlamaCppConfig,
    LlamaCppEngine,
    open_llamacpp,
)
from fabstir.engines._http import EngineAddress, EngineRefused
from fabstir.engines._process import ThreadCounts, open_child
from fabstir.engines.calibration import choose_threads
from fabstir.primitives.errors import EngineCrashed, EngineUnavailable
from fabstir.protocol.chat import ChatMessage
from fabstir.protocol.sampling import SamplingParams

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

PARENT = Path(__file__).with_name("engine_parent.py")


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def engine_pids() -> list[int]:
    return [
        pid
        for pid in children_of(os.getpid())
        if "fabstir.engines._child" in Path(f"/proc/{pid}/cmdline").read_text()
    ]


async def until_gone(pid: int) -> None:
    with anyio.fail_after(10):
        while Path(f"/proc/{pid}").exists():
            await anyio.sleep(0.02)


async def until_answered(engine: LlamaCppEngine) -> tuple[int, ...]:
    with anyio.fail_after(20):
        while True:
            try:
                return await engine.tokenize_chat([ChatMessage("user", "Count from 1 to 1000.")])
            except (EngineUnavailable, EngineCrashed):
                await anyio.sleep(0.05)


async def test_a_killed_engine_fails_the_request_and_comes_back(make_config: MakeConfig) -> None:
    others = set(engine_pids())
    config = make_config(num_slots=1)
    async with open_llamacpp(config, on_progress=lambda _text: None) as engine:
        (child,) = set(engine_pids()) - others
        prompt = await engine.tokenize_chat([ChatMessage("user", "Count from 1 to 1000.")])
        request = GenerationRequest(
            prompt_token_ids=prompt, sampling=SamplingParams(max_tokens=400, seed=1)
        )

        with pytest.raises(EngineCrashed, match="send the request again"):
            async with engine.generate(request) as events:
                async for _event in events:
                    os.kill(child, signal.SIGKILL)

        assert await until_answered(engine) == prompt
        assert engine.state is EngineState.READY


async def test_the_child_dies_with_a_killed_parent(demo_model: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, str(PARENT), str(demo_model)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(await anyio.to_thread.run_sync(parent.stdout.readline))

    parent.kill()
    parent.wait()
    parent.stdout.close()

    await until_gone(child)


async def test_only_the_key_opens_it(make_config: MakeConfig) -> None:
    async with open_child(make_config(num_slots=1), ThreadCounts(2, 2)) as child:
        stranger = EngineAddress(child.address.host, child.address.port, "guess")

        with pytest.raises(EngineRefused) as refused:
            await stranger.get_json("/props")

    assert refused.value.status == 401
    assert child.address.api_key not in repr(child.address)


async def test_threads_are_measured_once(make_config: MakeConfig) -> None:
    config = make_config(num_threads=None, max_model_len=256, num_slots=1)
    said: list[str] = []

    threads, reason = await choose_threads(config, said.append)
    again, reason_again = await choose_threads(config, said.append)

    assert threads == again
    assert re.fullmatch(r"measured \(.+ tokens/s.*\)", reason)
    assert reason == reason_again
    assert len(said) == len(reason.split(","))


async def test_a_file_that_is_no_model_is_said_so(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF but nothing else")
    config = LlamaCppConfig(
        model_path=file,
        max_model_len=256,
        num_slots=1,
        cache_dir=tmp_path,
        model_digest="x",
        num_threads=1,
    )

    with pytest.raises(ExceptionGroup) as failed:
        async with open_llamacpp(config, on_progress=lambda _text: None):
            pass

    assert failed.group_contains(EngineUnavailable, match="did not start with")
