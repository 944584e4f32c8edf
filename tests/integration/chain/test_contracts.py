"""The typed wrappers against the deployed contracts: a session's life, and every read."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from tests.anvil import increase_time, mine, revert_to, set_automine, snapshot
from tests.contract_calls import (
    MarketplaceCalls,
    ModelRegistryCalls,
    NodeRegistryCalls,
    marketplace_calls,
)
from tests.integration.chain.conftest import IMPATIENT, MODEL

from fabstir.chain.abi import load_abi
from fabstir.chain.anvil import DEV_CHAIN_ID
from fabstir.chain.contracts import (
    GAS_LIMIT_TO_END,
    Contracts,
    NodeRegistration,
    SessionJob,
    SessionOffer,
    SessionStatus,
)
from fabstir.chain.deploy import contracts_hash
from fabstir.chain.deployment import load_deployment
from fabstir.chain.devnet import Devnet, DevnetParameters, open_devnet
from fabstir.chain.events import (
    ChainEvent,
    EarningsCredited,
    EarningsWithdrawn,
    ModelAdded,
    NodeApiUrlUpdated,
    NodeMetadataUpdated,
    NodeModelsUpdated,
    NodePriceUpdated,
    NodeRegistered,
    NodeUnregistered,
    ProofSubmitted,
    SessionCompleted,
    SessionCompletedBy,
    SessionCreated,
    SessionCreatedByDelegate,
    SessionTimedOut,
    decode_event,
    event_filter,
)
from fabstir.chain.records import ContractCall, LogFilter
from fabstir.chain.rpc import Chain, open_chain
from fabstir.chain.transactions import TransactionQueue, open_transaction_queue
from fabstir.db import Database
from fabstir.primitives.errors import TransactionReverted
from fabstir.primitives.ids import NATIVE_TOKEN, Address, Hash32, JobId, ModelId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

PRICE = PricePerToken(300_000)
USDC_PRICE = PricePerToken(5_000)
DEPOSIT = Wei(10**15)
USDC_DEPOSIT = Wei(1_000_000)
STAKE = Wei(1_000 * 10**18)


@dataclass
class Market:
    """A registered host, a renter and a delegate, each with its queue."""

    net: Devnet
    contracts: Contracts
    model: ModelId
    host: TransactionQueue
    renter: TransactionQueue
    delegate: TransactionQueue
    treasury: TransactionQueue
    number: int = 0

    @property
    def marketplace(self) -> MarketplaceCalls:
        return marketplace_calls(self.net)

    async def do(self, queue: TransactionQueue, call: ContractCall) -> list[ChainEvent]:
        """Send a call once; returns the events that we know."""
        self.number += 1
        mined = await queue.send(f"step:{self.number}", call)
        receipt = await self.net.chain.receipt(mined.tx_hash)
        assert receipt is not None
        events = [decode_event(log) for log in receipt.logs]
        return [event for event in events if event is not None]

    def offer(self, token: Address = NATIVE_TOKEN) -> SessionOffer:
        return SessionOffer(
            host=self.host.signer.address,
            model_id=self.model,
            payment_token=token,
            deposit=DEPOSIT if token == NATIVE_TOKEN else USDC_DEPOSIT,
            price_per_token=PRICE if token == NATIVE_TOKEN else USDC_PRICE,
            max_duration=3600,
            proof_interval=TokenCount(100),
            proof_timeout_window=60,
        )

    async def open(self) -> JobId:
        job = await self.marketplace.next_job_id()
        await self.do(self.renter, self.marketplace.create_session(self.offer()))
        return job

    async def session(self, job: JobId) -> SessionJob:
        session = await self.marketplace.session(job)
        assert session is not None
        return session


@pytest.fixture
async def market(devnet: Devnet, db: Database, model_id: ModelId) -> AsyncGenerator[Market]:
    """Everything it does is taken back at the end."""
    mark = await snapshot(devnet.chain)
    host, renter, delegate = devnet.accounts[:3]
    async with (
        open_transaction_queue(devnet.chain, host, db, IMPATIENT) as host_queue,
        open_transaction_queue(devnet.chain, renter, db, IMPATIENT) as renter_queue,
        open_transaction_queue(devnet.chain, delegate, db, IMPATIENT) as delegate_queue,
        open_transaction_queue(devnet.chain, devnet.deployer, db, IMPATIENT) as treasury_queue,
    ):
        contracts = devnet.contracts
        made = Market(
            devnet,
            contracts,
            model_id,
            host_queue,
            renter_queue,
            delegate_queue,
            treasury_queue,
        )
        registration = NodeRegistration(
            metadata='{"publicKey":"02aa"}',
            api_url="http://127.0.0.1:8080",
            models=(model_id,),
            min_price_native=PRICE,
            min_price_stable=USDC_PRICE,
        )
        await made.do(host_queue, contracts.fab.approve(contracts.nodes.address, STAKE))
        await made.do(host_queue, contracts.nodes.register(registration))
        for token, price in ((NATIVE_TOKEN, PRICE), (contracts.usdc.address, USDC_PRICE)):
            await made.do(host_queue, contracts.nodes.set_price(model_id, token, price))
        yield made
    await revert_to(devnet.chain, mark)


async def test_the_devnet_is_as_its_parameters_say(devnet: Devnet, model_id: ModelId) -> None:
    contracts, account = devnet.contracts, devnet.accounts[9].address

    terms = await contracts.marketplace.terms()
    limits = await marketplace_calls(devnet).deposit_limits(contracts.usdc.address)
    model = await contracts.models.model(model_id)

    assert (terms.fee, terms.dispute_window, terms.min_proof_timeout) == (1000, 2, 1)
    assert (terms.default_proof_timeout, terms.max_proof_timeout) == (300, 3600)
    assert (terms.min_proven_tokens, terms.min_tokens_fee, terms.is_paused) == (1, 0, False)
    assert terms.min_deposit == 10**14
    assert (limits.is_accepted, limits.minimum, limits.maximum) == (True, 500_000, 10**12)
    assert model is not None
    assert (model.repo, model.file, model.sha256) == (MODEL.repo, MODEL.file, MODEL.sha256)
    assert await contracts.models.is_approved(model_id)
    assert await contracts.models.models() == [model_id]
    assert await ModelRegistryCalls(devnet.chain, contracts.models.address).rate_limit(model_id) > 0
    assert await contracts.marketplace.treasury() == devnet.deployer.address
    assert await devnet.chain.balance(account) == 1_000 * 10**18
    assert await contracts.fab.balance(account) == 10_000 * 10**18
    assert await contracts.usdc.balance(account) == 10_000 * 10**6
    assert (await contracts.usdc.decimals(), await contracts.fab.decimals()) == (6, 18)
    assert await contracts.usdc.symbol() != await contracts.fab.symbol()


async def test_a_devnet_starts_soon(tmp_path: Path) -> None:
    start = time.monotonic()

    async with open_devnet(tmp_path, [MODEL], DevnetParameters(port=0)) as net:
        seconds = time.monotonic() - start
        loaded = load_deployment(net.deployment_path)
        async with open_chain(net.rpc_url, chain_id=DEV_CHAIN_ID, deployment=loaded):
            pass

    assert loaded == net.deployment
    assert loaded.contracts_hash == contracts_hash()
    assert seconds < 15  # under 3 on a quiet machine


async def wait_until_pending(chain: Chain, queue: TransactionQueue) -> None:
    """Until the node has a transaction of the queue's account that is in no block."""
    account = queue.signer.address
    with anyio.fail_after(5):
        while await chain.nonce(account, tag="pending") == await chain.nonce(account, tag="latest"):
            pass


async def send_at_once(chain: Chain, sender: Address, call: ContractCall) -> None:
    """Have the next block begin with a call: nobody pays more for it."""
    await chain.request("anvil_impersonateAccount", [sender])
    transaction = {"from": sender, "to": call.to, "data": "0x" + call.data.hex()}
    fees = {"maxFeePerGas": hex(10**12), "maxPriorityFeePerGas": hex(10**11)}
    await chain.request("eth_sendTransaction", [{**transaction, **fees, "gas": hex(1_000_000)}])
    await chain.request("anvil_stopImpersonatingAccount", [sender])


@pytest.mark.parametrize("coin", ["eth", "usdc"])
async def test_an_end_that_a_claim_overtakes_has_gas_enough(market: Market, coin: str) -> None:
    marketplace, usdc = market.marketplace, market.contracts.usdc
    chain, renter = market.net.chain, market.renter.signer.address
    token = NATIVE_TOKEN if coin == "eth" else usdc.address
    job = await marketplace.next_job_id()
    await market.do(market.renter, usdc.approve(marketplace.address, USDC_DEPOSIT))
    await market.do(market.renter, marketplace.create_session(market.offer(token)))
    claim = marketplace.submit_proof(job, TokenCount(10), Hash32("0x" + "12" * 32))
    end = marketplace.complete_session(job)
    unclaimed = await chain.estimate_gas(end, renter)

    await set_automine(chain, enabled=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(market.renter.send, "end", end)
        await wait_until_pending(chain, market.renter)
        await send_at_once(chain, market.host.signer.address, claim)
        await mine(chain)
        await set_automine(chain, enabled=True)

    session = await market.session(job)
    assert session.tokens_used == 10
    assert session.status is SessionStatus.COMPLETED
    assert unclaimed < GAS_LIMIT_TO_END


async def test_a_session_in_native_coin(market: Market) -> None:
    marketplace, host = market.marketplace, market.host.signer.address
    renter, proof = market.renter.signer.address, Hash32("0x" + "12" * 32)
    job = await marketplace.next_job_id()

    created = await market.do(market.renter, marketplace.create_session(market.offer()))
    locked = await marketplace.locked_balance(renter, NATIVE_TOKEN)
    claim = marketplace.submit_proof(
        job, TokenCount(10), proof, proof_cid="blobbproof", delta_cid="blobbdelta"
    )
    proven = await market.do(market.host, claim)
    completed = await market.do(market.renter, marketplace.complete_session(job, "blobbtalk"))

    assert created == [SessionCreated(job, renter, host, market.model, DEPOSIT)]
    assert locked == DEPOSIT
    assert proven == [ProofSubmitted(job, host, TokenCount(10), proof, "blobbproof", "blobbdelta")]
    credited = EarningsCredited(host, NATIVE_TOKEN, Wei(2700), Wei(2700))
    refund = Wei(DEPOSIT - 3000)
    assert credited in completed
    assert SessionCompleted(job, TokenCount(10), Wei(2700), refund) in completed
    assert SessionCompletedBy(job, renter, TokenCount(10), Wei(3000), refund) in completed
    session = await market.session(job)
    assert session.status is SessionStatus.COMPLETED
    assert (session.depositor, session.host) == (renter, host)
    assert (session.tokens_used, session.deposit) == (10, DEPOSIT)
    assert (session.withdrawn_by_host, session.refunded_to_user) == (2700, refund)
    assert (session.conversation_cid, session.last_proof_cid) == ("blobbtalk", "blobbproof")
    assert session.last_proof_hash == proof
    assert (session.proof_interval, session.proof_timeout_window) == (100, 60)
    assert await marketplace.session_model(job) == market.model
    submission = await marketplace.proof(job, 0)
    assert (submission.proof_hash, submission.tokens_claimed) == (proof, 10)
    assert (submission.is_verified, submission.delta_cid) == (True, "blobbdelta")
    assert await marketplace.treasury_accumulated(NATIVE_TOKEN) == 300
    assert await marketplace.locked_balance(renter, NATIVE_TOKEN) == 0


async def test_a_host_withdraws_what_it_earned(market: Market) -> None:
    marketplace, earnings = market.marketplace, market.contracts.earnings
    host, job = market.host.signer.address, await market.open()
    proof = Hash32("0x" + "12" * 32)
    await market.do(market.host, marketplace.submit_proof(job, TokenCount(10), proof))
    await market.do(market.renter, marketplace.complete_session(job))

    part = await market.do(market.host, earnings.withdraw(Wei(700), NATIVE_TOKEN))
    rest = await market.do(market.host, earnings.withdraw_all(NATIVE_TOKEN))

    assert part == [EarningsWithdrawn(host, NATIVE_TOKEN, Wei(700), Wei(2000))]
    assert rest == [EarningsWithdrawn(host, NATIVE_TOKEN, Wei(2000), Wei(0))]
    assert await earnings.balance(host, NATIVE_TOKEN) == 0


async def test_a_session_in_an_erc20(market: Market) -> None:
    contracts, renter = market.contracts, market.renter.signer.address
    marketplace, usdc = market.marketplace, contracts.usdc
    before = await usdc.balance(renter)
    job = await marketplace.next_job_id()
    await market.do(market.renter, usdc.approve(marketplace.address, USDC_DEPOSIT))
    assert await usdc.allowance(renter, marketplace.address) == USDC_DEPOSIT

    await market.do(market.renter, marketplace.create_session(market.offer(usdc.address)))
    assert await marketplace.locked_balance(renter, usdc.address) == USDC_DEPOSIT
    proof = Hash32("0x" + "12" * 32)
    await market.do(market.host, marketplace.submit_proof(job, TokenCount(10), proof))
    await market.do(market.renter, marketplace.complete_session(job))

    assert await usdc.balance(renter) == before - 50
    assert await contracts.earnings.balance(market.host.signer.address, usdc.address) == 45
    assert await marketplace.treasury_accumulated(usdc.address) == 5
    await market.do(market.treasury, marketplace.withdraw_treasury([usdc.address]))
    assert await marketplace.treasury_accumulated(usdc.address) == 0


async def test_a_session_from_a_deposit(market: Market) -> None:
    marketplace, renter = market.marketplace, market.renter.signer.address
    twice = Wei(2 * DEPOSIT)

    await market.do(market.renter, marketplace.deposit(NATIVE_TOKEN, twice))
    assert await marketplace.deposit_balance(renter, NATIVE_TOKEN) == twice
    job = await marketplace.next_job_id()
    await market.do(market.renter, marketplace.create_session_from_deposit(market.offer()))
    await market.do(market.renter, marketplace.withdraw(NATIVE_TOKEN, DEPOSIT))

    assert (await market.session(job)).deposit == DEPOSIT
    assert await marketplace.deposit_balance(renter, NATIVE_TOKEN) == 0


async def test_tokens_are_deposited_and_withdrawn(market: Market) -> None:
    marketplace, usdc = market.marketplace, market.contracts.usdc
    renter = market.renter.signer.address

    await market.do(market.renter, usdc.approve(marketplace.address, USDC_DEPOSIT))
    await market.do(market.renter, marketplace.deposit(usdc.address, USDC_DEPOSIT))
    assert await marketplace.deposit_balance(renter, usdc.address) == USDC_DEPOSIT
    await market.do(market.renter, marketplace.withdraw(usdc.address, USDC_DEPOSIT))

    assert await marketplace.deposit_balance(renter, usdc.address) == 0


async def test_a_delegate_opens_a_session(market: Market) -> None:
    marketplace, usdc = market.marketplace, market.contracts.usdc
    payer, delegate = market.renter.signer.address, market.delegate.signer.address
    await market.do(market.renter, usdc.approve(marketplace.address, USDC_DEPOSIT))
    await market.do(market.renter, marketplace.authorize_delegate(delegate, authorized=True))
    assert await marketplace.is_delegate(payer, delegate)
    offer, job = market.offer(usdc.address), await marketplace.next_job_id()

    events = await market.do(market.delegate, marketplace.create_session_as_delegate(payer, offer))

    expected = SessionCreatedByDelegate(
        job, payer, delegate, offer.host, market.model, USDC_DEPOSIT
    )
    assert expected in events
    assert (await market.session(job)).depositor == payer
    await market.do(market.renter, marketplace.authorize_delegate(delegate, authorized=False))
    assert not await marketplace.is_delegate(payer, delegate)


async def test_an_abandoned_session_times_out(market: Market) -> None:
    marketplace, job = market.marketplace, await market.open()
    with pytest.raises(TransactionReverted):
        await market.do(market.delegate, marketplace.trigger_timeout(job))

    await increase_time(market.net.chain, 61)
    events = await market.do(market.delegate, marketplace.trigger_timeout(job))

    assert SessionTimedOut(job, Wei(0), DEPOSIT) in events
    assert (await market.session(job)).status is SessionStatus.TIMED_OUT


async def test_refusals_carry_the_contracts_own_words(market: Market) -> None:
    marketplace, proof = market.marketplace, Hash32("0x" + "12" * 32)
    job = await market.open()

    with pytest.raises(TransactionReverted, match="Not host"):
        await market.do(market.renter, marketplace.submit_proof(job, TokenCount(1), proof))
    offer = market.offer(market.contracts.usdc.address)
    by_stranger = marketplace.create_session_as_delegate(market.renter.signer.address, offer)
    with pytest.raises(TransactionReverted, match="NotDelegate"):
        await market.do(market.delegate, by_stranger)


async def test_what_is_not_there_is_none(market: Market) -> None:
    contracts, nobody = market.contracts, Address("0x" + "99" * 20)
    unknown = ModelId("0x" + "99" * 32)

    assert await contracts.marketplace.session(JobId(10**6)) is None
    assert await contracts.nodes.node(nobody) is None
    assert await contracts.models.model(unknown) is None
    assert await contracts.nodes.price(market.host.signer.address, unknown, NATIVE_TOKEN) is None
    assert not await contracts.nodes.is_active(nobody)


async def test_a_hosts_entry(market: Market) -> None:
    nodes = NodeRegistryCalls(market.net.chain, market.contracts.nodes.address)
    host = market.host.signer.address

    info = await nodes.node(host)
    limits = await nodes.price_limits()

    assert info is not None
    assert (info.operator, info.staked_amount, info.is_active) == (host, STAKE, True)
    assert (info.metadata, info.api_url) == ('{"publicKey":"02aa"}', "http://127.0.0.1:8080")
    assert (info.models, info.min_price_native) == ((market.model,), PRICE)
    assert info.min_price_stable == USDC_PRICE
    assert await nodes.active_nodes() == [host]
    assert await nodes.hosts_for(market.model) == [host]
    assert await nodes.price(host, market.model, NATIVE_TOKEN) == PRICE
    assert await nodes.min_stake() == STAKE
    assert limits.min_native <= PRICE <= limits.max_native
    assert limits.min_stable <= USDC_PRICE <= limits.max_stable


async def test_a_host_changes_its_entry_and_leaves(market: Market) -> None:
    nodes = NodeRegistryCalls(market.net.chain, market.contracts.nodes.address)
    host, model = market.host.signer.address, market.model
    price = PricePerToken(400_000)

    events = [
        *await market.do(market.host, nodes.update_metadata("{}")),
        *await market.do(market.host, nodes.update_api_url("http://127.0.0.1:1")),
        *await market.do(market.host, nodes.update_models([model])),
        *await market.do(market.host, nodes.set_price(model, NATIVE_TOKEN, price)),
        *await market.do(market.host, nodes.clear_price(model, NATIVE_TOKEN)),
        *await market.do(market.host, nodes.unregister()),
    ]

    assert events == [
        NodeMetadataUpdated(host, "{}"),
        NodeApiUrlUpdated(host, "http://127.0.0.1:1"),
        NodeModelsUpdated(host, (model,)),
        NodePriceUpdated(host, model, NATIVE_TOKEN, price),
        NodePriceUpdated(host, model, NATIVE_TOKEN, PricePerToken(0)),
        NodeUnregistered(host, STAKE),
    ]
    assert not await nodes.is_active(host)


async def test_filters_find_the_events_they_name(market: Market) -> None:
    contracts, chain = market.contracts, market.net.chain
    addresses = (contracts.nodes.address, contracts.models.address)
    head = await chain.block_number()

    registered = await chain.logs(event_filter(addresses, NodeRegistered), 0, head)
    everything = await chain.logs(event_filter(addresses), 0, head)

    assert [decode_event(log) for log in registered] == [
        NodeRegistered(market.host.signer.address, STAKE, '{"publicKey":"02aa"}', (market.model,))
    ]
    kinds = {type(decode_event(log)) for log in everything}
    assert kinds == {NodeRegistered, NodePriceUpdated, ModelAdded}


async def test_unknown_events_are_none(market: Market) -> None:
    transfer = load_abi("TestFab").events["Transfer"].topic
    log_filter = LogFilter(addresses=(market.contracts.fab.address,), topics=(transfer,))
    logs = await market.net.chain.logs(log_filter, 0, await market.net.chain.block_number())

    assert {decode_event(log) for log in logs} == {None}
