from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
import pytest
from tests.integration.p2p.conftest import OpenNode
from tests.unit.p2p.making import MODEL, NOW, signed_record

from fabstir.crypto import NATIVE
from fabstir.p2p import P2PConfig, P2PNode, open_advertiser, open_p2p
from fabstir.primitives.ids import ModelId

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

OTHER_MODEL = ModelId("0x" + "cd" * 32)


def make_record_of(node: P2PNode) -> Callable[[int, int], bytes]:
    return lambda sequence, expires_at: signed_record(
        node.peer_id, sequence=sequence, expires_at=expires_at
    )


async def test_models_and_record_are_found(open_node: OpenNode) -> None:
    bootstrap = await open_node()
    host = await open_node(bootstrap=bootstrap.addresses)
    renter = await open_node(bootstrap=bootstrap.addresses, dht_mode="client")
    models = (MODEL, OTHER_MODEL)

    async with open_advertiser(
        host, make_record_of(host), models, lifetime=600, clock=lambda: NOW
    ) as advertiser:
        with anyio.fail_after(10):
            status = await advertiser.wait_published()
        record = await renter.get_host_record(host.peer_id)
        found = [await renter.find_providers(model) for model in models]

    assert (status.last_success, status.num_keepers, status.last_error) == (NOW, 1, None)
    assert record.expires_at == NOW + 600
    assert [[provider.peer_id for provider in each] for each in found] == [[host.peer_id]] * 2


async def test_a_record_is_renewed_at_half_its_life(open_node: OpenNode) -> None:
    bootstrap = await open_node()
    host = await open_node(bootstrap=bootstrap.addresses)
    async with open_advertiser(
        host, make_record_of(host), [MODEL], lifetime=1, clock=lambda: NOW
    ) as advertiser:
        with anyio.fail_after(10):
            await advertiser.wait_published()
            started = anyio.current_time()
            first = await bootstrap.get_host_record(host.peer_id)
            await advertiser.wait_published()
            second = await bootstrap.get_host_record(host.peer_id)

    assert second.sequence > first.sequence
    assert 0.4 < anyio.current_time() - started < 5


async def test_the_first_peer_to_come_gets_the_record(
    open_node: OpenNode, make_config: Callable[..., P2PConfig]
) -> None:
    host = await open_node()
    async with open_advertiser(
        host, make_record_of(host), [MODEL], clock=lambda: NOW
    ) as advertiser:
        with anyio.fail_after(10):
            alone = await advertiser.wait_published()
            config = make_config(bootstrap=host.addresses)
            async with open_p2p(config, NATIVE, clock=lambda: NOW) as first:
                status = alone
                while status.last_success is None:
                    status = await advertiser.wait_published()
                found = await first.find_providers(MODEL)

    assert alone.num_keepers == 0
    assert alone.last_error == "no other DHT server took the record yet"
    assert status.num_keepers == 1
    assert [provider.peer_id for provider in found] == [host.peer_id]


async def test_an_invalid_record_is_the_operators_business(
    open_node: OpenNode, caplog: pytest.LogCaptureFixture
) -> None:
    host = await open_node()

    def too_long(_sequence: int, _expires_at: int) -> bytes:
        return b"x" * 10_000

    async with open_advertiser(host, too_long, [MODEL], clock=lambda: NOW) as advertiser:
        with anyio.fail_after(10):
            status = await advertiser.wait_published()

    assert status.last_error is not None
    assert "offer fewer models" in status.last_error
    assert logging.ERROR in [
        record.levelno for record in caplog.records if record.name.startswith("fabstir")
    ]


async def test_a_host_without_models_is_a_mistake(open_node: OpenNode) -> None:
    host = await open_node()

    with pytest.raises(ValueError, match="without models"):
        async with open_advertiser(host, make_record_of(host), []):
            pytest.fail("nothing to advertise")


async def test_an_error_does_not_outlive_its_cause(open_node: OpenNode) -> None:
    bootstrap = await open_node()
    host = await open_node(bootstrap=bootstrap.addresses)
    is_bad = True

    def make(sequence: int, expires_at: int) -> bytes:
        return b"x" * 10_000 if is_bad else make_record_of(host)(sequence, expires_at)

    async with open_advertiser(host, make, [MODEL], clock=lambda: NOW) as advertiser:
        with anyio.fail_after(10):
            bad = await advertiser.wait_published()
            is_bad = False
            good = await advertiser.wait_published()

        assert bad.last_error is not None
        assert (good.last_error, good.num_keepers, good.num_informed) == (None, 1, 1)
        assert advertiser.complaints() == ()
