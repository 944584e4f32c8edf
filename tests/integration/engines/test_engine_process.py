"""The engine's process: crashes, hangs, restarts, keys, and parents that die."""

import asyncio
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.integration.engines.conftest import MakeConfig
from tests.open_files import no_more_open_files

from fabstir.engines import (
    EngineState,
    GenerationChunk,
    GenerationEvent,
    GenerationRequest,
    GenerationStart,
    RestartPolicy,
)
from fabstir.engines._http import EngineRefused
from fabstir.engines.llamacpp import LlamaCppConfig, LlamaCppEngine, open_llamacpp
from fabstir.engines.llamacpp.calibration import choose_threads
from fabstir.engines.llamacpp.launcher import ThreadCounts, open_child
from fabstir.primitives.errors import ConfigError, EngineCrashed, EngineUnavailable, ModelNotGguf
from fabstir.protocol.content import Message
from fabstir.protocol.sampling import SamplingParams

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

PARENT = Path(__file__).with_name("engine_parent.py")
LONG_REQUEST = GenerationRequest(
    messages=(Message("user", "Count from 1 to 1000."),),
    sampling=SamplingParams(max_tokens=400, seed=1),
)


def quietly(_text: str) -> None:
    """Nobody watches these starts."""


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


async def until_gone(pid: int) -> None:
    """Until it ended; whoever adopted it may not have buried it yet."""
    with anyio.fail_after(10):
        while (stat := Path(f"/proc/{pid}/stat")).exists() and ") Z " not in stat.read_text():
            await anyio.sleep(0.02)


async def until_it_is(engine: LlamaCppEngine, state: EngineState) -> None:
    with anyio.fail_after(30):
        while engine.state is not state:
            await anyio.sleep(0.02)


async def first_batch(engine: LlamaCppEngine) -> tuple[GenerationEvent, ...]:
    async with engine.generate(LONG_REQUEST) as batches:
        return await anext(batches)


async def signal_while_it_answers(engine: LlamaCppEngine, number: signal.Signals) -> None:
    """Send a signal with the first token, and read on."""
    assert engine.pid is not None
    child = engine.pid
    async with engine.generate(LONG_REQUEST) as batches:
        async for _batch in batches:
            os.kill(child, number)


async def test_a_killed_engine_fails_the_request_and_comes_back(make_config: MakeConfig) -> None:
    config = make_config(num_slots=1)
    async with open_llamacpp(config, on_progress=quietly) as engine:
        with pytest.raises(EngineCrashed, match="send the request again"):
            await signal_while_it_answers(engine, signal.SIGKILL)

        await until_it_is(engine, EngineState.RESTARTING)
        with pytest.raises(EngineUnavailable, match="signal 9"):
            await first_batch(engine)
        await until_it_is(engine, EngineState.READY)
        assert isinstance((await first_batch(engine))[0], GenerationStart)


async def test_a_hung_engine_is_killed_and_fails_the_request(make_config: MakeConfig) -> None:
    config = make_config(num_slots=1, restarts=RestartPolicy(heartbeat_timeout=1.0, delays=()))
    async with open_llamacpp(config, on_progress=quietly) as engine:
        with pytest.raises(EngineCrashed), anyio.fail_after(20):
            await signal_while_it_answers(engine, signal.SIGSTOP)

        await until_it_is(engine, EngineState.FAILED)
        with pytest.raises(EngineUnavailable, match="it hung"):
            await first_batch(engine)


async def test_an_engine_that_keeps_crashing_is_left_down(make_config: MakeConfig) -> None:
    config = make_config(num_slots=1, restarts=RestartPolicy(delays=(0.01,)))
    async with open_llamacpp(config, on_progress=quietly) as engine:
        for after in (EngineState.RESTARTING, EngineState.FAILED):
            await until_it_is(engine, EngineState.READY)
            with pytest.raises(EngineCrashed):
                await signal_while_it_answers(engine, signal.SIGKILL)
            await until_it_is(engine, after)

        with pytest.raises(EngineUnavailable, match=r"failed .*signal 9.*start the host again"):
            await first_batch(engine)


async def test_a_process_without_descriptors_kills_no_engine(make_config: MakeConfig) -> None:
    config = make_config(num_slots=1, restarts=RestartPolicy(heartbeat_timeout=0.5))
    async with open_llamacpp(config, on_progress=quietly) as engine:
        pid = engine.pid

        with no_more_open_files():
            await anyio.sleep(1.5)

        assert (engine.pid, engine.state) == (pid, EngineState.READY)


async def test_a_process_without_descriptors_restarts_its_engine_later(
    make_config: MakeConfig,
) -> None:
    config = make_config(num_slots=1, restarts=RestartPolicy(delays=(0.05,)))
    async with open_llamacpp(config, on_progress=quietly) as engine:
        assert engine.pid is not None
        with no_more_open_files():
            os.kill(engine.pid, signal.SIGKILL)
            await until_it_is(engine, EngineState.RESTARTING)
            await anyio.sleep(0.5)
            assert engine.state is EngineState.RESTARTING, "tried again and again, never given up"

        await until_it_is(engine, EngineState.READY)


@pytest.mark.parametrize("moment", ["loading", "ready"])
async def test_the_child_dies_with_a_killed_parent(demo_model: Path, moment: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, str(PARENT), str(demo_model)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with anyio.fail_after(30):
        while await anyio.to_thread.run_sync(parent.stdout.readline) != f"{moment}\n":
            pass
        while not (children := children_of(parent.pid)):
            await anyio.sleep(0.01)

    parent.kill()
    parent.wait()
    parent.stdout.close()

    await until_gone(children[0])


async def test_only_the_key_opens_it(make_config: MakeConfig) -> None:
    async with open_child(make_config(num_slots=1), ThreadCounts(2, 2)) as child:
        stranger = replace(child.address, api_key="guess")

        with pytest.raises(EngineRefused) as refused:
            await stranger.post_json("/completion", {"prompt": "Hi", "n_predict": 1})

        assert refused.value.status == 401
        assert child.address.api_key not in repr(child.address)
        assert child.address.api_key not in Path(f"/proc/{child.pid}/cmdline").read_text()


async def test_threads_are_measured_once(make_config: MakeConfig, small_model: Path) -> None:
    config = make_config(
        model_path=small_model,
        num_threads=None,
        num_batch_threads=None,
        max_model_len=256,
        num_slots=1,
        calibration_timeout=60,
    )
    said: list[str] = []

    choice = await choose_threads(config, said.append)
    again = await choose_threads(config, said.append)

    assert choice.threads == again.threads
    assert re.fullmatch(r"measured \(.+ tokens/s.*\)", choice.reason)
    assert choice.reason == again.reason
    assert len(said) == len(choice.reason.split(","))


@pytest.mark.heavy  # the rule itself: tests/unit/engines/test_speed_check.py
async def test_what_a_busy_machine_measured_is_measured_again(make_config: MakeConfig) -> None:
    config = make_config(num_threads=None, max_model_len=512, num_slots=1, calibration_timeout=60)
    await choose_threads(config, quietly)
    (file,) = config.cache_dir.glob("engine-threads-*.json")
    figures = json.loads(file.read_text())
    file.write_text(json.dumps({name: speed / 100 for name, speed in figures.items()}))

    async with (
        open_llamacpp(config, on_progress=quietly) as engine,
        engine.generate(LONG_REQUEST) as events,
    ):
        async for _event in events:
            pass

    assert not file.exists()


async def test_a_start_does_not_wait_for_measuring_for_ever(make_config: MakeConfig) -> None:
    config = make_config(num_threads=None, calibration_timeout=0.01)

    choice = await choose_threads(config, quietly)

    assert choice.threads.decode >= 1
    assert "no time to measure" in choice.reason


def cancel_later(scope: anyio.CancelScope, num_turns: int) -> None:
    """Cancel after so many turns of the event loop."""
    if num_turns == 0:
        scope.cancel()
    else:
        asyncio.get_running_loop().call_soon(cancel_later, scope, num_turns - 1)


def test_a_start_that_is_given_up_at_any_moment_leaves_no_child(make_config: MakeConfig) -> None:
    config = make_config(num_threads=1)

    async def give_up(num_turns: int) -> None:
        with anyio.CancelScope() as scope:
            cancel_later(scope, num_turns)
            async with open_child(config, ThreadCounts(1, 1)):
                pass

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", ResourceWarning)
        for num_turns in range(8):
            anyio.run(give_up, num_turns)
            gc.collect()

    assert [str(warning.message) for warning in found] == []


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

    with pytest.raises(ModelNotGguf, match="GGUF of version"):
        async with open_llamacpp(config, on_progress=quietly):
            pass
    with pytest.raises(
        EngineUnavailable, match=r"ended at once .* It said: .*GGUF.* \| .*"
    ) as failed:
        async with open_child(config, ThreadCounts(1, 1)):
            pass
    assert str(file) in str(failed.value)


@pytest.mark.parametrize("change", ["written", "replaced", "removed"])
async def test_a_model_that_is_changed_while_it_is_served_answers_no_more(
    make_config: MakeConfig, small_model: Path, tmp_path: Path, change: str
) -> None:
    file = tmp_path / "model.gguf"
    shutil.copyfile(small_model, file)
    policy = RestartPolicy(delays=(0.05,), heartbeat_seconds=0.05)
    config = make_config(model_path=file, num_slots=1, restarts=policy)

    async with open_llamacpp(config, on_progress=quietly) as engine:
        if change == "written":
            with file.open("r+b") as opened:
                opened.seek(-1, os.SEEK_END)
                opened.write(b"?")
        elif change == "replaced":
            shutil.copyfile(small_model, tmp_path / "other.gguf")
            (tmp_path / "other.gguf").replace(file)
        else:
            file.unlink()
        await until_it_is(engine, EngineState.FAILED)

        with pytest.raises(EngineUnavailable, match=r"changed on the disk .* start the host again"):
            await first_batch(engine)


async def test_a_context_that_the_model_does_not_have_is_refused(make_config: MakeConfig) -> None:
    config = make_config(max_model_len=16_384, num_slots=1)

    with pytest.raises(ConfigError, match=r"8192 tokens, and model\.max_model_len is 16384"):
        async with open_llamacpp(config, on_progress=quietly):
            pass


@pytest.mark.skipif(shutil.which("llama-server") is None, reason="no llama-server on the PATH")
async def test_a_binary_answers_and_leaves_nothing_behind(make_config: MakeConfig) -> None:
    binary = Path(shutil.which("llama-server") or "")
    config = make_config(num_slots=1, server_binary=binary)

    async with open_llamacpp(config, on_progress=quietly) as engine:
        assert engine.pid is not None
        (server,) = children_of(engine.pid)
        async with engine.generate(LONG_REQUEST) as events:
            first = await anext(events)

    assert isinstance(first, GenerationChunk)
    await until_gone(server)
