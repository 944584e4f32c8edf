"""A real market on this machine: a chain, a host that runs the demo model, renters with wallets."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from fabstir.chain.devnet import DevModel, Devnet, DevnetParameters, open_devnet
from fabstir.chain.keystore import Signer, import_keystore, write_secret_file
from fabstir.config import Settings, load_settings
from fabstir.models import DEMO_MODEL
from fabstir.node.build import Host, open_host
from fabstir.node.registration import RegistrationPlan
from fabstir.primitives.ids import parse_hash32
from fabstir.sdk import AsyncClient, open_async_client

MakeSettings = Callable[..., Awaitable[Settings]]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


async def make_home(folder: Path, signer: Signer, overrides: Mapping[str, str]) -> Settings:
    """A folder with a wallet and settings, as a user has it."""
    write_secret_file(folder / "wallet.password", "a test")
    await import_keystore(folder / "wallet.json", signer.secret_key, "a test", scrypt_n=2)
    write_secret_file(folder / "config.toml", "")
    overrides = {"paths.data_dir": str(folder / "data"), **overrides}
    return load_settings(file=folder / "config.toml", environ={}, overrides=overrides)


def chain_settings(devnet: Devnet) -> dict[str, str]:
    return {
        "chain.rpc_url": devnet.rpc_url,
        "chain.deployment": str(devnet.deployment_path),
        "chain.poll_seconds": "0.2",
        "network.allow_private": "true",
    }


@pytest.fixture(scope="module")
async def devnet(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str, demo_model: Path
) -> AsyncGenerator[Devnet]:
    model = DevModel(DEMO_MODEL.repo, DEMO_MODEL.file, parse_hash32(DEMO_MODEL.sha256))
    folder = tmp_path_factory.mktemp("devnet")
    async with open_devnet(folder, [model], DevnetParameters(port=0)) as net:
        yield net


@pytest.fixture(scope="module")
async def host(
    devnet: Devnet, demo_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Host]:
    """Serves in this process; its language model runs in a child of its own, as always."""
    settings = await make_home(
        tmp_path_factory.mktemp("host") / "home",
        devnet.accounts[0],
        {
            **chain_settings(devnet),
            "host.port": "0",
            "p2p.port": "0",
            "metrics.port": "0",
            "s5.port": "0",
            "model.path": str(demo_model),
            # Two would only spin where other tests have the other core.
            "engine.num_threads": "1",
            "engine.num_batch_threads": "1",
            # So dear that the smallest deposit pays for 100 tokens: an answer can use it up.
            "host.price_usdc_per_million": str(5_000_000_000),
        },
    )

    async def confirm(plan: RegistrationPlan) -> bool:
        return plan.account == devnet.accounts[0].address

    async with open_host(settings, confirm=confirm, on_progress=lambda _what, _state: None) as made:
        yield made


@pytest.fixture
async def renter_settings(devnet: Devnet, host: Host, tmp_path: Path) -> Settings:
    bootstrap = {"p2p.bootstrap": host.p2p.addresses[0]}
    return await make_home(
        tmp_path / "renter", devnet.accounts[1], {**chain_settings(devnet), **bootstrap}
    )


@pytest.fixture
async def client(renter_settings: Settings) -> AsyncGenerator[AsyncClient]:
    async with open_async_client(renter_settings) as opened:
        yield opened
