// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {JobMarketplaceWithModels} from "../src/JobMarketplaceWithModels.sol";
import {Accounts} from "../src/marketplace/Accounts.sol";
import {MoodyToken, RefusingEarnings} from "./Doubles.sol";
import {MarketTest} from "./MarketFixture.sol";

/// A share that cannot be sent is kept for whom it belongs to, and no other share waits for it.
contract CreditsTest is MarketTest {
    uint256 private constant GAS = 1_000_000;
    uint256 private constant HOST_SHARE = 450_000;
    uint256 private constant FEE = 50_000;
    uint256 private constant REFUND = 500_000;

    MoodyToken private token = new MoodyToken();

    function setUp() public override {
        super.setUp();
        token.mint(RENTER, 10 * USDC_DEPOSIT);
        market.addAcceptedToken(address(token), 1, 1e18);
        vm.prank(HOST);
        nodes.setModelTokenPricing(model, address(token), USDC_PRICE);
        vm.prank(RENTER);
        token.approve(address(market), type(uint256).max);
    }

    function test_tokenThatRefusesTheEarningsContract() public {
        for (uint256 mood = 0; mood <= uint256(MoodyToken.Mood.KeepSome); ++mood) {
            uint256 jobId = openMoody(market);
            prove(jobId, 100_000);
            uint256 before = token.balanceOf(RENTER);
            token.refuseBoth(address(earnings), address(0), MoodyToken.Mood(mood));
            vm.expectEmit(address(market));
            emit Accounts.HostShareCreditedToDeposit(jobId, HOST, HOST_SHARE, address(token));

            vm.prank(RENTER);
            market.completeSessionJob{gas: GAS}(jobId, "");

            assertEq(token.balanceOf(RENTER), before + REFUND);
            assertEq(earnings.getBalance(HOST, address(token)), 0);
            assertEq(token.balanceOf(address(earnings)), 0);
            assertEq(market.getDepositBalance(HOST, address(token)), HOST_SHARE);
            assertEq(session(jobId).withdrawnByHost, HOST_SHARE);
            assertTakenByItsOwnerOnly(HOST, HOST_SHARE);
        }
        assertEq(token.balanceOf(address(market)), 5 * FEE);
    }

    function test_tokenThatRefusesEverybody() public {
        for (uint256 mood = 0; mood < uint256(MoodyToken.Mood.KeepSome); ++mood) {
            uint256 jobId = openMoody(market);
            prove(jobId, 100_000);
            token.refuseBoth(address(earnings), RENTER, MoodyToken.Mood(mood));
            skip(WINDOW + 1);

            market.triggerSessionTimeout{gas: GAS}(jobId);

            assertTakenByItsOwnerOnly(HOST, HOST_SHARE);
            assertTakenByItsOwnerOnly(RENTER, REFUND);
        }
        vm.prank(TREASURY);
        market.withdrawTreasuryTokens(address(token));
        assertEq(token.balanceOf(address(market)), 0);
    }

    function test_earningsContractThatCreditsNobody() public {
        for (uint256 takesCoins = 0; takesCoins < 2; ++takesCoins) {
            market = marketWith(address(new RefusingEarnings(takesCoins == 1)));
            uint256 jobId = openMoody(market);
            uint256 native = openNative(RENTER);
            prove(jobId, 100_000);
            prove(native, NATIVE_TOKENS / 2);
            uint256 before = RENTER.balance;

            vm.startPrank(RENTER);
            market.completeSessionJob{gas: GAS}(jobId, "");
            market.completeSessionJob{gas: GAS}(native, "");
            vm.stopPrank();

            assertEq(RENTER.balance, before + NATIVE_DEPOSIT / 2);
            assertTakenByItsOwnerOnly(HOST, HOST_SHARE);
            uint256 share = NATIVE_DEPOSIT / 2 * 9 / 10;
            before = HOST.balance;
            vm.prank(HOST);
            market.withdrawNative(share);
            assertEq(HOST.balance, before + share);
            assertEq(address(market).balance, market.accumulatedTreasuryNative());
        }
    }

    /// Whoever settles picks the gas. Too little must fail, not keep a share from being sent.
    function testFuzz_littleGasCreditsNobody(uint256 gasLimit, bool native) public {
        uint256 jobId = native ? openNative(RENTER) : openUsdc(RENTER);
        prove(jobId, 50_000);
        gasLimit = bound(gasLimit, 50_000, 800_000);
        address paymentToken = native ? NATIVE : address(usdc);

        vm.prank(RENTER);
        (bool ok,) = address(market).call{gas: gasLimit}(
            abi.encodeCall(market.completeSessionJob, (jobId, ""))
        );

        assertTrue(ok || gasLimit < 700_000);
        assertEq(market.getDepositBalance(HOST, paymentToken), 0);
        assertEq(market.getDepositBalance(RENTER, paymentToken), 0);
        assertTrue((earnings.getBalance(HOST, paymentToken) > 0) == ok);
    }

    function testFuzz_whatIsOwedIsThere(uint256 mood, uint8 refused, uint256 numTokens) public {
        numTokens = bound(numTokens, 1, USDC_TOKENS);
        uint256 jobId = openMoody(market);
        prove(jobId, numTokens);
        token.refuseBoth(
            refused & 1 == 0 ? address(1) : address(earnings),
            refused & 2 == 0 ? address(1) : RENTER,
            MoodyToken.Mood(bound(mood, 0, uint256(MoodyToken.Mood.KeepSome)))
        );

        vm.prank(RENTER);
        market.completeSessionJob{gas: GAS}(jobId, "");

        uint256 owed = market.getTotalBalanceToken(HOST, address(token))
            + market.getTotalBalanceToken(RENTER, address(token))
            + market.accumulatedTreasuryTokens(address(token));
        assertEq(token.balanceOf(address(market)), owed);
        assertEq(token.balanceOf(address(earnings)), earnings.getBalance(HOST, address(token)));
    }

    function test_onlyTheMarketplacePushes() public {
        uint256 jobId = openMoody(market);
        prove(jobId, 100_000);
        bytes memory push =
            abi.encodeWithSignature("pushEarnings(address,address,uint256)", HOST, token, 1);

        address[3] memory callers = [HOST, RENTER, address(this)];
        for (uint256 i = 0; i < callers.length; ++i) {
            vm.prank(callers[i]);
            (bool ok,) = address(market).call(push);
            assertFalse(ok);
        }
    }

    function test_oneTokenThatRefusesTheTreasuryHoldsUpNoOther() public {
        uint256 jobId = openMoody(market);
        prove(jobId, 100_000);
        uint256 native = openNative(RENTER);
        prove(native, NATIVE_TOKENS);
        vm.startPrank(RENTER);
        market.completeSessionJob(jobId, "");
        market.completeSessionJob(native, "");
        vm.stopPrank();
        token.refuse(TREASURY);

        vm.startPrank(TREASURY);
        vm.expectRevert();
        market.withdrawTreasuryTokens(address(token));
        market.withdrawTreasuryNative();
        vm.stopPrank();

        assertEq(TREASURY.balance, NATIVE_DEPOSIT / 10);
        assertEq(market.accumulatedTreasuryTokens(address(token)), FEE);
    }

    function openMoody(JobMarketplaceWithModels at) private returns (uint256) {
        vm.prank(RENTER);
        return at.createSessionJobForModelWithToken(
            HOST, model, address(token), USDC_DEPOSIT, USDC_PRICE, DURATION, INTERVAL, WINDOW
        );
    }

    function marketWith(address earnings_) private returns (JobMarketplaceWithModels made) {
        made = deployMarket(earnings_);
        proofs.setAuthorizedCaller(address(made), true);
        made.addAcceptedToken(address(token), 1, 1e18);
        vm.prank(RENTER);
        token.approve(address(made), type(uint256).max);
    }

    /// Nobody else can take it, and the owner can once the token has come to its senses.
    function assertTakenByItsOwnerOnly(address owner, uint256 amount) private {
        token.refuseBoth(address(0), address(0), MoodyToken.Mood.Revert);
        vm.expectRevert("Insufficient deposit");
        vm.prank(STRANGER);
        market.withdrawToken(address(token), 1);
        vm.expectRevert("Insufficient deposit");
        market.withdrawToken(address(token), 1);
        vm.expectRevert("Insufficient deposit");
        vm.prank(owner);
        market.withdrawToken(address(token), amount + 1);

        uint256 before = token.balanceOf(owner);
        vm.prank(owner);
        market.withdrawToken(address(token), amount);

        assertEq(token.balanceOf(owner), before + amount);
        assertEq(market.getDepositBalance(owner, address(token)), 0);
    }
}
