"""What the registry on chain says of a model's hosts: who they are, where, and with which keys.

A host cannot be invented here: each entry costs a stake. So this list, and not the DHT, says who is
looked at; the DHT only says who is online and where it moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import anyio

from fabstir.chain.contracts import NodeInfo, NodeRegistry
from fabstir.primitives.encoding import parse_json
from fabstir.primitives.errors import ChainError, HostRecordInvalid
from fabstir.primitives.ids import Address, ModelId, PeerId
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.limits import MAX_ID_CHARS, MAX_JSON_DEPTH

MAX_REGISTERED: Final = 512
"""Entries that are read of one model's list; of a longer one a sample. At 50 ms for each and 16 at
a time they take under two seconds."""

MAX_PARALLEL_READS: Final = 16
"""Entries read at a time: what public RPC endpoints allow one address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredHost:
    """An active host of a model, as the chain has it.

    Attributes:
        public_key: to which handshakes are encrypted; from the metadata.
        peer_id: its libp2p identity; from the metadata.
    """

    address: Address
    api_url: str
    public_key: bytes
    peer_id: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """Reads the registry for renters."""

    nodes: NodeRegistry
    crypto: Crypto
    random: Random

    async def addresses(self, model_id: ModelId, preferred: Sequence[Address]) -> list[Address]:
        """The model's hosts, at most MAX_REGISTERED of them; a longer list is sampled.

        Args:
            preferred: kept in a sample, if they are registered.

        Raises:
            ChainError: the chain does not answer.
        """
        found = list(dict.fromkeys(await self.nodes.hosts_for(model_id)))
        if len(found) <= MAX_REGISTERED:
            return found
        listed = set(found)
        kept = [host for host in preferred if host in listed][: MAX_REGISTERED // 2]
        others = sorted(listed.difference(kept))
        return kept + self.random.sample(others, MAX_REGISTERED - len(kept))

    async def hosts(
        self, addresses: Sequence[Address], model_id: ModelId, rejected: dict[str, str]
    ) -> list[RegisteredHost]:
        """Read the entries; what is wrong with those that cannot be used goes into `rejected`."""
        hosts: list[RegisteredHost] = []
        limiter = anyio.CapacityLimiter(MAX_PARALLEL_READS)

        async def read(address: Address) -> None:
            async with limiter:
                try:
                    node = await self.nodes.node(address)
                    hosts.append(registered_host(address, node, model_id, self.crypto))
                except (ChainError, HostRecordInvalid) as error:
                    rejected[address] = str(error)

        async with anyio.create_task_group() as tasks:
            for address in addresses:
                tasks.start_soon(read, address)
        return sorted(hosts, key=lambda host: host.address)


async def registered_url(nodes: NodeRegistry, host: Address) -> str:
    """Where a host is now, by its entry; "" for one that left. Raises ChainError."""
    node = await nodes.node(host)
    return node.api_url if node else ""


def registered_host(
    address: Address, node: NodeInfo | None, model_id: ModelId, crypto: Crypto
) -> RegisteredHost:
    """An entry of the registry as a host that can be used.

    Raises:
        HostRecordInvalid: it is not active, not for this model, or its metadata is unusable.
    """
    if node is None or not node.is_active:
        raise HostRecordInvalid(f"{address} is not registered (any more)")
    if model_id not in node.models:
        raise HostRecordInvalid(f"{address} is not registered for the model")
    try:
        metadata: Any = parse_json(node.metadata, max_depth=MAX_JSON_DEPTH)
        key, peer_id = bytes.fromhex(metadata["publicKey"]), metadata["peerId"]
        crypto.address_of(key)
    except (ValueError, TypeError, KeyError) as exc:
        raise HostRecordInvalid(
            f"{address} has no usable publicKey and peerId in its registered metadata"
        ) from exc
    if not isinstance(peer_id, str) or len(peer_id) > MAX_ID_CHARS:
        raise HostRecordInvalid(f"{address} has no usable peerId in its registered metadata")
    return RegisteredHost(
        address=address, api_url=node.api_url, public_key=key, peer_id=PeerId(peer_id)
    )
