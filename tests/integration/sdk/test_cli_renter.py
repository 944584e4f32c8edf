"""The renter's commands as people and programs run them, against a real host."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from subprocess import STDOUT
from typing import Any

import anyio
import pytest
from tests.forked import open_forked, run_forked
from tests.terminal import CTRL_C, Terminal, terminal

from fabstir.chain.devnet import Devnet
from fabstir.config import Settings
from fabstir.node.build import Host

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.slow]

TIMEOUT = 60.0


def options(settings: Settings) -> list[str]:
    return [
        f"--config={settings.file}",
        f"--set=chain.rpc_url={settings.chain.rpc_url}",
        f"--set=chain.deployment={settings.chain.deployment}",
        f"--set=paths.data_dir={settings.paths.data_dir}",
        f"--set=p2p.bootstrap={settings.p2p.bootstrap[0]}",
        "--set=network.allow_private=true",
    ]


async def run(settings: Settings, *arguments: str, stdin: bytes = b"", code: int = 0) -> str:
    """Standard output of a command that ends with `code`; its errors if that is not 0."""
    with anyio.fail_after(TIMEOUT):
        done = await run_forked([*options(settings), *arguments], given=stdin)
    assert done.returncode == code, done.stderr.decode()
    return (done.stderr if code else done.stdout).decode()


async def run_json(settings: Settings, *arguments: str) -> Any:
    return json.loads(await run(settings, *arguments, "--json"))


async def test_hosts_lists_what_can_be_had(renter_settings: Settings, host: Host) -> None:
    (offer,) = await run_json(renter_settings, "hosts")
    shown = await run(renter_settings, "hosts", "--token", "usdc")

    assert offer["host"] == host.market.signer.address
    assert offer["api_url"] == host.api_url
    assert "tUSDC" in shown


async def test_a_program_talks_by_lines_of_json_and_finds_every_amount(
    renter_settings: Settings, devnet: Devnet
) -> None:
    questions = b"My name is Ada.\n\nSay hello.\n/quit\nnever read\n"

    output = await run(
        renter_settings, "chat", "--yes", "--json", "--max-tokens", "70", stdin=questions
    )

    events = [json.loads(line) for line in output.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds.count("finished") == 2
    assert kinds.index("quote") < kinds.index("opened") < kinds.index("text")
    delivered = sum(event["num_tokens"] for event in events if event["event"] == "text")
    settlement = events[-1]
    assert settlement["event"] == "settlement"
    assert settlement["tokens_settled"] == settlement["tokens_agreed"] == delivered
    parts = (settlement["host_paid"], settlement["fee"], settlement["refund"])
    assert sum(parts) == settlement["deposit"]

    listed = await run_json(renter_settings, "sessions", "list", "--all")
    assert [(line["state"], line["tokens"]) for line in listed] == [("settled", delivered)]
    assert await run_json(renter_settings, "sessions", "list") == []
    balance = await run_json(renter_settings, "balance")
    assert balance["address"] == devnet.accounts[1].address
    assert [entry["locked"] for entry in balance["balances"]] == [0, 0]


async def test_questions_can_come_from_a_file(renter_settings: Settings, tmp_path: Path) -> None:
    questions = anyio.Path(tmp_path / "questions")
    await questions.write_text("Say hello.\n/help\nSay it again.")
    arguments = [*options(renter_settings), "chat", "--yes", "--max-tokens", "8"]

    async with await anyio.open_file(questions) as stdin:
        with anyio.fail_after(TIMEOUT):
            process = await open_forked(arguments, stdin=stdin.wrapped, stderr=STDOUT)
            async with process:
                assert process.stdout is not None
                output = b"".join([piece async for piece in process.stdout]).decode()

    assert output.count("left ·") == 2  # one line after each answer
    assert "leave and settle" in output
    assert "acknowledged" in output


async def test_a_host_of_this_machine_is_not_asked_unless_the_settings_allow_it(
    renter_settings: Settings,
) -> None:
    flag = "--set=network.allow_private=false"

    error = await run(renter_settings, flag, "hosts", code=1)

    assert "127.0.0.1 is an address of this machine or a private network" in error
    assert "set network.allow_private = true" in error


async def test_nothing_is_locked_without_a_yes(renter_settings: Settings) -> None:
    error = await run(renter_settings, "chat", stdin=b"hello\n", code=2)

    assert "error: locking 0.001 ETH needs a yes" in error
    assert await run_json(renter_settings, "sessions", "list", "--all") == []


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["chat", "--yes", "--max-price", "0.00001"], 1, "raise --max-price"),
        (["chat", "--yes", "--deposit", "one"], 2, "--deposit: 'one' is not"),
        (["chat", "--yes", "--token", "doge"], 2, "choose one of eth, usdc"),
        (["chat", "--yes", "--model", "gpt"], 1, "no model called 'gpt' is approved"),
        (["sessions", "close", "77"], 2, "`fabstir sessions list` shows all"),
    ],
    ids=["price", "deposit", "token", "model", "session"],
)
async def test_errors_name_cause_and_fix(
    renter_settings: Settings, arguments: list[str], code: int, expected: str
) -> None:
    error = await run(renter_settings, *arguments, code=code)

    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert expected in error


# -- a terminal ---------------------------------------------------------------------------------


async def test_ctrl_c_stops_an_answer_and_twice_leaves_and_settles(
    renter_settings: Settings,
) -> None:
    arguments = [*options(renter_settings), "chat", "--max-tokens", "2000"]
    async with terminal([sys.executable, "-m", "fabstir", *arguments]) as (screen, process):
        await screen.see("Lock 0.001 ETH?")
        screen.type(b"y\n")
        await screen.see("twice leaves and settles")

        await screen.see("you")
        screen.type(b"Write a very long story about a lighthouse.\n")
        await screen.see(" the ")
        screen.type(CTRL_C)
        await screen.see("cancelled")
        screen.type(CTRL_C)
        await screen.see("settling")
        table = await screen.see("transaction")
        with anyio.fail_after(TIMEOUT):
            code = await process.wait()

    assert "completed" in table
    assert code == 0


async def test_a_reader_that_leaves_in_the_middle_does_not_leave_the_session_open(
    renter_settings: Settings,
) -> None:
    arguments = [*options(renter_settings), "chat", "--yes", "--json", "--max-tokens", "400"]
    question = b"Write a very long story about a lighthouse.\nAnd another one.\n"
    reading, writing = os.pipe()

    process = await open_forked(arguments, stdout=writing)
    os.close(writing)
    async with process:
        assert process.stdin is not None
        assert process.stderr is not None
        await process.stdin.send(question)
        screen = Terminal(reading)
        await screen.see('"event": "text"')
        os.close(reading)
        with anyio.fail_after(TIMEOUT):
            said = b"".join([piece async for piece in process.stderr]).decode()
            code = await process.wait()

    assert code == 1
    assert said == "error: standard output cannot be written: Broken pipe\n"
    (line,) = await run_json(renter_settings, "sessions", "list", "--all")
    assert line["state"] == "settled"
