"""What both composition roots of the SDK open: the wallet, the chain, the tokens to pay in."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from fabstir.chain.deployment import Deployment, load_deployment, locate_deployment
from fabstir.chain.keystore import Signer, load_keystore, read_secret_file
from fabstir.chain.rpc import Chain, open_chain
from fabstir.config import Settings
from fabstir.sdk.money import NATIVE_COIN, PaymentToken, read_token


async def load_wallet(settings: Settings) -> Signer:
    """The account that pays. Raises KeystoreError, ConfigError."""
    password = read_secret_file(settings.wallet.password_file)
    return await load_keystore(settings.wallet.keystore, password)


def find_deployment(settings: Settings) -> Deployment:
    """The contracts' addresses. Raises ConfigError."""
    chain = settings.chain
    return load_deployment(
        locate_deployment(chain.deployment, chain.chain_id, settings.paths.data_dir)
    )


def connect_chain(settings: Settings, deployment: Deployment) -> AbstractAsyncContextManager[Chain]:
    """The chain of the settings, once it has those contracts."""
    chain = settings.chain
    return open_chain(chain.rpc_url, chain_id=chain.chain_id, deployment=deployment)


async def payment_tokens(chain: Chain, deployment: Deployment) -> tuple[PaymentToken, ...]:
    """The chain's coin and USDC."""
    return (NATIVE_COIN, await read_token(chain, deployment.usdc, "usdc"))
