"""Crashes, hangs and restarts, with processes that do as they are told, on a clock that jumps."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
import trio.lowlevel
import trio.testing

from fabstir.engines import CannotStart, EngineState, RestartPolicy, Supervisor
from fabstir.engines._heartbeat import processor_seconds
from fabstir.primitives.errors import EngineUnavailable

POLICY = RestartPolicy(delays=(1.0, 2.0), steady_seconds=60.0, heartbeat_timeout=10.0)


class ScriptedProcess:
    """Ends when the test says so, or when it is killed."""

    def __init__(self) -> None:
        self.pid = 7
        self.has_ended = anyio.Event()
        self.hangs = False
        self.speed = 0.0  # processors that it keeps busy
        self.status = 0

    async def wait(self) -> int:
        await self.has_ended.wait()
        return self.status

    def end(self, status: int) -> None:
        self.status = status
        self.has_ended.set()

    def kill(self) -> None:
        self.end(-9)

    async def is_alive(self) -> bool:
        if self.hangs:
            await anyio.sleep_forever()
        return True

    def processor_time(self, pid: int) -> float:
        assert pid == self.pid
        return self.speed * anyio.current_time()


@dataclass
class ScriptedLauncher:
    """Each start takes the next of `refusals`: an error to raise, or None for a process."""

    refusals: Iterable[EngineUnavailable | None] = ()
    started: list[ScriptedProcess] = field(default_factory=list[ScriptedProcess])
    times: list[float] = field(default_factory=list[float])
    _left: Iterator[EngineUnavailable | None] = field(init=False)

    def __post_init__(self) -> None:
        self._left = iter(self.refusals)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[ScriptedProcess]:
        self.times.append(anyio.current_time())
        if (refusal := next(self._left, None)) is not None:
            raise refusal
        self.started.append(ScriptedProcess())
        yield self.started[-1]


def on_a_jumping_clock(test: Callable[[], Awaitable[None]]) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    anyio.run(test, backend="trio", backend_options={"clock": clock})


@asynccontextmanager
async def supervised(launcher: ScriptedLauncher) -> AsyncGenerator[Supervisor[ScriptedProcess]]:
    supervisor = Supervisor(launcher, POLICY, lambda pid: launcher.started[-1].processor_time(pid))
    ready = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.run, ready.set)
        await ready.wait()
        yield supervisor
        tasks.cancel_scope.cancel()


def test_it_is_started_again_ever_later_and_then_left_down() -> None:
    async def run() -> None:
        launcher = ScriptedLauncher()
        async with supervised(launcher) as supervisor:
            start = anyio.current_time()
            for _ in range(3):
                assert supervisor.state is EngineState.READY
                assert supervisor.process is launcher.started[-1]
                launcher.started[-1].end(1)
                await anyio.sleep(2.5)

            assert [at - start for at in launcher.times] == [0, 1.0, 2.5 + 2.0]
            assert (supervisor.state, supervisor.pid) == (EngineState.FAILED, None)
            with pytest.raises(EngineUnavailable, match=r"ended with status 1\): start the host"):
                _ = supervisor.process

    on_a_jumping_clock(run)


def test_a_long_life_earns_the_restarts_back() -> None:
    async def run() -> None:
        launcher = ScriptedLauncher()
        async with supervised(launcher) as supervisor:
            for _ in range(5):
                await anyio.sleep(POLICY.steady_seconds + 1)
                launcher.started[-1].end(-11)
                await anyio.sleep(1.5)

            assert supervisor.state is EngineState.READY
            assert len(launcher.started) == 6

    on_a_jumping_clock(run)


def test_one_that_hangs_is_killed_and_started_again() -> None:
    async def run() -> None:
        launcher = ScriptedLauncher()
        async with supervised(launcher) as supervisor:
            hung = launcher.started[0]
            hung.hangs = True

            await hung.has_ended.wait()
            await anyio.sleep(0.5)
            with pytest.raises(EngineUnavailable, match=r"restarting .it hung.*try again soon"):
                _ = supervisor.process
            await anyio.sleep(1.5)

            assert hung.status == -9
            assert supervisor.state is EngineState.READY

    on_a_jumping_clock(run)


def test_a_silence_in_which_this_process_was_not_run_is_not_held_against_it() -> None:
    async def run() -> None:
        launcher = ScriptedLauncher()
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        async with supervised(launcher) as supervisor:
            engine = launcher.started[0]
            engine.hangs = True
            await anyio.sleep(POLICY.heartbeat_seconds + 1)
            clock.jump(3 * POLICY.heartbeat_timeout)
            await anyio.sleep(POLICY.heartbeat_seconds / 2)
            assert not engine.has_ended.is_set()
            engine.hangs = False
            await anyio.sleep(3 * POLICY.heartbeat_timeout)
            assert supervisor.process is engine

            engine.hangs = True  # and nobody is late now
            await anyio.sleep(2 * POLICY.heartbeat_timeout)
            assert engine.has_ended.is_set()

    on_a_jumping_clock(run)


def test_one_that_works_is_not_killed_for_one_silence_but_for_several() -> None:
    async def run() -> None:
        launcher = ScriptedLauncher()
        async with supervised(launcher) as supervisor:
            engine = launcher.started[0]
            engine.hangs, engine.speed = True, 1.0
            await anyio.sleep(2 * POLICY.heartbeat_timeout)
            assert supervisor.process is engine

            await anyio.sleep(4 * POLICY.heartbeat_timeout)
            assert engine.status == -9

    on_a_jumping_clock(run)


def test_what_a_process_took_of_the_processors_is_read_with_those_below_it(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    for pid, children, seconds in ((5, "6 7 ", 2), (6, "", 3), (7, "", 4)):
        task = tmp_path / str(pid) / "task" / str(pid)
        task.mkdir(parents=True)
        (task / "children").write_text(children)
        stat = f"{pid} (a ) name) S {'0 ' * 10}{seconds * ticks} {ticks} 0 0"
        (tmp_path / str(pid) / "stat").write_text(stat)

    assert processor_seconds(5, tmp_path) == 2 + 3 + 4 + 3
    assert processor_seconds(8, tmp_path) == 0
    assert processor_seconds(os.getpid()) > 0


def test_a_machine_without_room_for_it_is_waited_for_as_long_as_it_takes() -> None:
    async def run() -> None:
        launcher = ScriptedLauncher(refusals=[None, *(CannotStart("no room") for _ in range(20))])
        async with supervised(launcher) as supervisor:
            launcher.started[0].end(-9)
            await anyio.sleep(10)
            assert supervisor.state is EngineState.RESTARTING
            await anyio.sleep(60)

            assert supervisor.state is EngineState.READY
            assert len(launcher.times) == 22

    on_a_jumping_clock(run)


@pytest.mark.parametrize("refusal", [EngineUnavailable("no model"), CannotStart("no room")])
def test_a_first_start_that_fails_is_said(refusal: EngineUnavailable) -> None:
    async def run() -> None:
        supervisor = Supervisor(ScriptedLauncher(refusals=[refusal]), POLICY)

        with pytest.raises(EngineUnavailable) as failed:
            await supervisor.run(lambda: None)

        assert failed.value is refusal
        assert supervisor.state is EngineState.LOADING

    on_a_jumping_clock(run)
