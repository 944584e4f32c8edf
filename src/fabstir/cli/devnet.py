"""`fabstir devnet`: a local chain with the contracts, an approved model and funded accounts."""

from __future__ import annotations

from typing import Annotated

import typer

from fabstir.chain.devnet import DevModel, Devnet, DevnetParameters, open_devnet
from fabstir.cli.context import invocation, run_async
from fabstir.cli.output import show, table
from fabstir.cli.signals import until_interrupted
from fabstir.config import Settings
from fabstir.crypto import checksum_address
from fabstir.node.model import model_spec

app = typer.Typer()


@app.command("devnet")
def devnet(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(help="Of the chain's RPC; 0: any free one.")] = 8545,
    block_time: Annotated[
        int | None, typer.Option(help="Seconds between blocks; none: one for each transaction.")
    ] = None,
) -> None:
    """Run a local chain until Ctrl-C. Its keys are public: nothing on it is worth anything."""
    settings = invocation(ctx).settings()
    parameters = DevnetParameters(port=port, block_time=block_time)
    run_async(lambda: _run(ctx, settings, parameters))


async def _run(ctx: typer.Context, settings: Settings, parameters: DevnetParameters) -> None:
    folder = settings.paths.data_dir / "deployments"
    async with (
        until_interrupted() as interruption,
        open_devnet(folder, [dev_model(settings)], parameters) as running,
    ):
        show(ctx, _facts(running), lambda: table("devnet", "", rows=_rows(running)))
        await interruption.wait()


def dev_model(settings: Settings) -> DevModel:
    """The model that the settings name, approved on a devnet."""
    spec = model_spec(settings)
    return DevModel(spec.repo, spec.file, spec.sha256)


def _facts(running: Devnet) -> dict[str, object]:
    return {
        "rpc_url": running.rpc_url,
        "chain_id": running.deployment.chain_id,
        "deployment": running.deployment_path,
        "accounts": [
            {"address": checksum_address(s.address), "public_test_key": "0x" + s.secret_key.hex()}
            for s in running.accounts
        ],
    }


def _rows(running: Devnet) -> list[tuple[str, str]]:
    accounts = [
        (f"account {index}", f"{checksum_address(s.address)}  key 0x{s.secret_key.hex()}")
        for index, s in enumerate(running.accounts)
    ]
    return [
        ("RPC", running.rpc_url),
        ("chain id", str(running.deployment.chain_id)),
        ("deployment", str(running.deployment_path)),
        *accounts,
        ("", "These keys are public: never send anything of value to them, on any chain."),
        ("", "Ctrl-C ends the chain and forgets it."),
    ]
