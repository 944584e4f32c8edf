"""Questions to the DHT: one to a peer, and the walk to the peers nearest to a key.

py-libp2p serves the DHT for us, but its own lookups do not do: they answer from the local store
when it holds any copy (so a host that provides a model finds only itself, and a renter sees a
host's old prices), walk by FIND_NODE, which its own server refuses for keys above 50 bytes such as
ours, and report a refused provider record as stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import anyio
import trio
from google.protobuf.message import DecodeError
from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.kad_dht.common import PROTOCOL_ID
from libp2p.kad_dht.kad_dht import KadDHT
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.kad_dht.utils import maybe_consume_signed_record, sort_peer_ids_by_distance
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStoreError, env_to_send_in_RPC
from libp2p.utils.varint import encode_uvarint, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from fabstir.p2p._addresses import parse_addresses
from fabstir.p2p._workarounds import LIBRARY_ERRORS, dial, open_stream
from fabstir.p2p.limits import (
    ADDRESS_TTL,
    CLOSE_TIMEOUT,
    MAX_MESSAGE_BYTES,
    MAX_QUERIES,
    PARALLEL_QUERIES,
    QUERY_TIMEOUT,
    REPLICATION,
    SILENCE_TIMEOUT,
    STREAM_TIMEOUT,
)
from fabstir.primitives.errors import PeerError, PeerRefused, PeerUnreachable

logger = logging.getLogger(__name__)

OnAnswer = Callable[[ID, Message], object]


class DhtClient:
    """Asks other peers' DHT servers."""

    def __init__(self, host: BasicHost, dht: KadDHT) -> None:
        self._host = host
        self._dht = dht

    async def ask(self, peer_id: ID, request: Message) -> Message:
        """One question, one answer.

        Raises:
            PeerUnreachable: no answer in QUERY_TIMEOUT.
            PeerRefused: it is there, but does not answer this.
        """
        try:
            with anyio.fail_after(QUERY_TIMEOUT):
                return await self._converse(peer_id, request)
        except (TimeoutError, trio.TooSlowError) as exc:
            raise PeerUnreachable(f"peer {peer_id} gave no answer in {QUERY_TIMEOUT} s") from exc

    async def tell(self, peer_id: ID, record: Message) -> bool:
        """Whether the peer took a record. It echoes what it took and resets the stream if not;
        go-libp2p takes provider records without a word."""
        needs_echo = record.type == Message.PUT_VALUE
        try:
            with anyio.fail_after(QUERY_TIMEOUT):
                await self._converse(peer_id, record, is_silence_fine=not needs_echo)
        except (PeerUnreachable, PeerRefused, TimeoutError, trio.TooSlowError) as exc:
            logger.debug("a peer took no DHT record", extra={"cause": repr(exc)})
            return False
        return True

    async def _converse(
        self, peer_id: ID, request: Message, *, is_silence_fine: bool = False
    ) -> Message:
        await dial(self._host, PeerInfo(peer_id, known_addresses(self._host, peer_id)))
        try:
            stream = await open_stream(self._host, peer_id, PROTOCOL_ID)
        except PeerUnreachable as exc:
            raise self._failure(peer_id, str(exc)) from exc
        request.senderRecord, _ = env_to_send_in_RPC(self._host)
        body, answer = request.SerializeToString(), Message()
        patience = SILENCE_TIMEOUT if is_silence_fine else QUERY_TIMEOUT
        try:
            await stream.write(encode_uvarint(len(body)) + body)
            # Not closed for writing before the answer is here: py-libp2p's server takes that for
            # an error and resets the stream, which throws its answer away.
            with anyio.move_on_after(patience):
                encoded = await read_varint_prefixed_bytes_limited(stream, MAX_MESSAGE_BYTES)
                answer.ParseFromString(encoded)
            await stream.close()
        except (*LIBRARY_ERRORS, DecodeError) as exc:
            await _abandon(stream)
            raise self._failure(peer_id, repr(exc)) from exc
        except anyio.get_cancelled_exc_class():
            await _abandon(stream)
            raise
        return answer

    def _failure(self, peer_id: ID, cause: str) -> PeerError:
        """What an unanswered question means: a peer that is still connected has refused it, for
        instance because its DHT knows no such key."""
        text = f"peer {peer_id} did not answer the DHT: {cause}"
        is_connected = self._host.is_peer_connected(peer_id)
        return PeerRefused(text) if is_connected else PeerUnreachable(text)

    async def walk(self, request: Message, on_answer: OnAnswer, *, budget: float) -> list[ID]:
        """Ask nearer and nearer peers until the nearest ones have all answered.

        Args:
            on_answer: called with each answer.
            budget: seconds; what is known by then is the result.

        Returns:
            The peers nearest to the request's key that answered, nearest first.
        """
        known = set(self._dht.routing_table.find_local_closest_peers(request.key, REPLICATION))
        asked, answered = set[ID](), set[ID]()

        async def visit(peer_id: ID) -> None:
            try:
                answer = await self.ask(peer_id, request)
            except PeerError as exc:
                logger.debug("a peer left the DHT lookup", extra={"cause": str(exc)})
                known.discard(peer_id)
                if isinstance(exc, PeerUnreachable):
                    self._dht.routing_table.remove_peer(peer_id)
                return
            answered.add(peer_id)
            with anyio.move_on_after(STREAM_TIMEOUT):  # a full bucket asks its oldest peer first
                await self._dht.routing_table.add_peer(peer_id)
            known.update(self._learn(answer.closerPeers))
            on_answer(peer_id, answer)

        with anyio.move_on_after(budget):
            while len(asked) < MAX_QUERIES:
                nearest = sort_peer_ids_by_distance(request.key, list(known))[:REPLICATION]
                batch = [peer for peer in nearest if peer not in asked][:PARALLEL_QUERIES]
                if not batch:
                    break
                asked.update(batch)
                async with anyio.create_task_group() as tasks:
                    for peer in batch:
                        tasks.start_soon(visit, peer)
        return sort_peer_ids_by_distance(request.key, list(answered))[:REPLICATION]

    def _learn(self, peers: Sequence[Message.Peer]) -> Iterable[ID]:
        """Note the addresses of peers that an answer names."""
        for peer in peers[:REPLICATION]:
            peer_id = ID(peer.id)
            if not peer.id or peer_id == self._host.get_id():
                continue
            if not maybe_consume_signed_record(peer, self._host):
                continue
            addresses = parse_addresses(peer.addrs)
            if addresses:
                self._host.get_peerstore().add_addrs(peer_id, addresses, ADDRESS_TTL)
            if known_addresses(self._host, peer_id):
                yield peer_id


async def _abandon(stream: INetStream) -> None:
    """Reset it, and wait for a peer that reads nothing no longer than for any other."""
    with anyio.move_on_after(CLOSE_TIMEOUT, shield=True), suppress(*LIBRARY_ERRORS):
        await stream.reset()


def known_addresses(host: BasicHost, peer_id: ID) -> list[Multiaddr]:
    """The peer's addresses in the peerstore, without the /p2p part."""
    try:
        return host.get_peerstore().addrs(peer_id)
    except PeerStoreError:
        return []
