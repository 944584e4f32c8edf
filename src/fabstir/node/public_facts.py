"""What a host tells everybody about itself over HTTP, in the shapes that existing clients read."""

from __future__ import annotations

from fabstir import __version__
from fabstir.chain.deployment import Deployment
from fabstir.config import ChainSettings
from fabstir.crypto import checksum_address
from fabstir.engines import EngineState
from fabstir.primitives.encoding import Json
from fabstir.primitives.ids import ChainId
from fabstir.protocol.codes import ERROR_CODES
from fabstir.serving.models import ServedModels
from fabstir.telemetry.health import CheckResult, HealthReport

_CHAINS: dict[ChainId, tuple[str, str]] = {
    ChainId(1): ("Ethereum", "ETH"),
    ChainId(97): ("BNB Smart Chain Testnet", "BNB"),
    ChainId(204): ("opBNB", "BNB"),
    ChainId(5611): ("opBNB Testnet", "BNB"),
    ChainId(8453): ("Base", "ETH"),
    ChainId(31337): ("Fabstir devnet", "ETH"),
    ChainId(84532): ("Base Sepolia", "ETH"),
}
"""Names and native coins of the chains that hosts have been on; any other is called by its id."""

_HEALTH_WORDS = {"ok": "healthy", "degraded": "degraded", "failing": "unhealthy"}


def version_answer(chain_id: ChainId) -> Json:
    """GET /v1/version."""
    return {
        "version": __version__,
        "build": __version__,
        "date": "",
        "features": ["inference", "encrypted-sessions", "receipts", "fabstir/2"],
        "chains": [chain_id],
        "breaking_changes": [],
    }


def models_answer(models: ServedModels, chain_id: ChainId) -> Json:
    """GET /v1/models: what is served, and how much context it has. What is left down is not."""
    listed: list[Json] = [
        {
            "id": model.model_id,
            "name": model.name,
            "description": model.file,
            "context_length": model.info.max_model_len,
            "sha256": model.digest,
        }
        for model in models
        if model.state is not EngineState.FAILED
    ]
    return {"models": listed, "chain_id": chain_id}


def health_answer(report: HealthReport) -> Json:
    """GET /v1/health. A degraded host serves: nobody need go elsewhere.

    Reasons that may name places of the host's own stay in its log and `fabstir status`.
    """
    issues: list[Json] = [
        f"{name}: {_told(name, result)}"
        for name, result in report.checks.items()
        if result.status != "ok"
    ]
    return {
        "status": _HEALTH_WORDS[report.status],
        "healthy": report.status != "failing",
        "issues": issues,
    }


def _told(name: str, result: CheckResult) -> str:
    if not result.is_private:
        return result.reason
    is_chain = name == "chain"
    return ERROR_CODES["CHAIN_UNAVAILABLE"].meaning if is_chain else f"it is {result.status}"


def chains_answer(settings: ChainSettings, deployment: Deployment) -> Json:
    """GET /v1/chains. The host's own RPC URL stays its own: it may hold a key that somebody pays
    for. What clients are to use is a setting, and "" where there is none.
    """
    name, coin = _CHAINS.get(settings.chain_id, (f"chain {settings.chain_id}", "ETH"))
    contracts: dict[str, Json] = {
        contract: checksum_address(address) for contract, address in deployment.contracts().items()
    }
    chain: dict[str, Json] = {
        "chain_id": settings.chain_id,
        "name": name,
        "native_token": coin,
        "rpc_url": settings.public_rpc_url,
        "contracts": contracts,
    }
    return {"chains": [chain], "default_chain": settings.chain_id}
