// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Accounts} from "../src/marketplace/Accounts.sol";
import {Sessions} from "../src/marketplace/Sessions.sol";
import {ContractRenter, MoodyToken} from "./Doubles.sol";
import {MarketTest} from "./MarketFixture.sol";

/// Ending a session: who may, when, and where each unit of the deposit goes.
contract SettlementTest is MarketTest {
    function test_depositorCompletesAtOnce() public {
        uint256 jobId = openNative(RENTER);
        prove(jobId, 40_000);
        uint256 before = RENTER.balance;
        vm.expectEmit(address(market));
        emit Sessions.SessionCompleted(jobId, 40_000, 0.00036 ether, 0.0006 ether);
        vm.expectEmit(address(market));
        emit Sessions.SessionCompletedBy(jobId, RENTER, 40_000, 0.0004 ether, 0.0006 ether);
        vm.expectEmit(address(market));
        emit Accounts.PaymentSent(HOST, 0.00036 ether);
        vm.expectEmit(address(market));
        emit Accounts.PaymentSent(RENTER, 0.0006 ether);

        vm.prank(RENTER);
        market.completeSessionJob(jobId, "conversation");

        SessionView memory s = session(jobId);
        assertTrue(s.status == Sessions.SessionStatus.Completed);
        assertEq(s.conversationCID, "conversation");
        assertEq(s.withdrawnByHost, 0.00036 ether);
        assertEq(s.refundedToUser, 0.0006 ether);
        assertEq(earnings.getBalance(HOST, NATIVE), 0.00036 ether);
        assertEq(address(earnings).balance, 0.00036 ether);
        assertEq(market.accumulatedTreasuryNative(), 0.00004 ether);
        assertEq(RENTER.balance, before + 0.0006 ether);
        assertEq(market.getLockedBalanceNative(RENTER), 0);
        assertEq(address(market).balance, 0.00004 ether);
    }

    function test_tokenSessionSettlesInItsToken() public {
        uint256 jobId = openUsdc(RENTER);
        prove(jobId, 100_001);

        vm.prank(RENTER);
        market.completeSessionJob(jobId, "");

        assertEq(earnings.getBalance(HOST, address(usdc)), 450_005);
        assertEq(usdc.balanceOf(address(earnings)), 450_005);
        assertEq(market.accumulatedTreasuryTokens(address(usdc)), 50_000);
        assertEq(usdc.balanceOf(RENTER), 100e6 - 500_005);
        assertEq(usdc.balanceOf(address(market)), 50_000);
    }

    function test_unusedSessionRefundsEverything() public {
        uint256 jobId = openNative(RENTER);

        vm.prank(RENTER);
        market.completeSessionJob(jobId, "");

        assertEq(RENTER.balance, 10 ether);
        assertEq(address(market).balance, 0);
    }

    function test_fullyUsedSessionRefundsNothing() public {
        uint256 jobId = openNative(RENTER);
        prove(jobId, NATIVE_TOKENS);

        vm.prank(RENTER);
        market.completeSessionJob(jobId, "");

        assertEq(session(jobId).refundedToUser, 0);
        assertEq(RENTER.balance, 10 ether - NATIVE_DEPOSIT);
    }

    function test_hostWaitsAfterItsLastProof() public {
        uint256 jobId = openNative(RENTER);
        skip(DISPUTE_WINDOW + 5);
        prove(jobId, 1000);
        skip(DISPUTE_WINDOW - 1);

        vm.startPrank(HOST);
        vm.expectRevert("Must wait dispute window");
        market.completeSessionJob(jobId, "");
        skip(1);
        market.completeSessionJob(jobId, "");

        assertTrue(session(jobId).status == Sessions.SessionStatus.Completed);
    }

    function test_hostWithoutProofWaitsFromTheStart() public {
        uint256 jobId = openNative(RENTER);
        skip(DISPUTE_WINDOW - 1);

        vm.startPrank(HOST);
        vm.expectRevert("Must wait dispute window");
        market.completeSessionJob(jobId, "");
        skip(1);
        market.completeSessionJob(jobId, "");

        assertEq(RENTER.balance, 10 ether);
    }

    function test_onlyThePartiesComplete() public {
        uint256 jobId = openNative(RENTER);
        skip(DURATION * 2);
        vm.prank(RENTER);
        market.authorizeDelegate(STRANGER, true);

        vm.expectRevert("Not authorized");
        market.completeSessionJob(jobId, "");
        vm.expectRevert("Not authorized");
        vm.prank(STRANGER);
        market.completeSessionJob(jobId, "");
        vm.expectRevert("Session not found");
        market.completeSessionJob(9, "");
    }

    function test_delegateCompletesWhatItOpened() public {
        uint256 jobId = openAsDelegate();

        vm.prank(DELEGATE);
        market.completeSessionJob(jobId, "");

        assertEq(usdc.balanceOf(RENTER), 100e6);
        assertEq(usdc.balanceOf(DELEGATE), 0);
    }

    function test_dismissedDelegateCannotComplete() public {
        uint256 jobId = openAsDelegate();
        vm.prank(RENTER);
        market.authorizeDelegate(DELEGATE, false);

        vm.expectRevert("Not authorized");
        vm.prank(DELEGATE);
        market.completeSessionJob(jobId, "");
    }

    function test_settledSessionCannotEndAgain() public {
        uint256 jobId = openNative(RENTER);
        vm.startPrank(RENTER);
        market.completeSessionJob(jobId, "");

        vm.expectRevert("Session not active");
        market.completeSessionJob(jobId, "");
        skip(2 * DURATION);
        vm.expectRevert("Session not active");
        market.triggerSessionTimeout(jobId);
    }

    function test_silentHostTimesOut() public {
        uint256 jobId = openNative(RENTER);
        prove(jobId, 40_000);
        skip(WINDOW);

        vm.expectRevert("Session not timed out");
        market.triggerSessionTimeout(jobId);
        skip(1);
        vm.expectEmit(address(market));
        emit Sessions.SessionTimedOut(jobId, 0.00036 ether, 0.0006 ether);
        vm.prank(STRANGER);
        market.triggerSessionTimeout(jobId);

        SessionView memory s = session(jobId);
        assertTrue(s.status == Sessions.SessionStatus.TimedOut);
        assertEq(earnings.getBalance(HOST, NATIVE), 0.00036 ether);
        assertEq(RENTER.balance, 10 ether - 0.0004 ether);
    }

    function test_sessionEndsAfterItsDuration() public {
        vm.prank(RENTER);
        uint256 jobId = market.createSessionJobForModel{value: NATIVE_DEPOSIT}(
            HOST, model, NATIVE_PRICE, 100, INTERVAL, WINDOW
        );
        skip(95);
        prove(jobId, 1);
        skip(5);

        vm.expectRevert("Session not timed out");
        market.triggerSessionTimeout(jobId);
        skip(1);
        market.triggerSessionTimeout(jobId);

        assertTrue(session(jobId).status == Sessions.SessionStatus.TimedOut);
    }

    function test_missingSessionCannotTimeOut() public {
        vm.expectRevert("Session not found");
        market.triggerSessionTimeout(1);
    }

    function test_hostThatLeftIsStillPaid() public {
        uint256 jobId = openNative(RENTER);
        vm.prank(HOST);
        nodes.unregisterNode();

        prove(jobId, 1000);
        vm.prank(RENTER);
        market.completeSessionJob(jobId, "");

        assertEq(earnings.getBalance(HOST, NATIVE), 0.000009 ether);
    }

    function test_refusedRefundIsCreditedAndHostIsPaid() public {
        refundFails(ContractRenter.Mood.Refuse, true);
        refundFails(ContractRenter.Mood.BurnGas, true);
        refundFails(ContractRenter.Mood.Refuse, false);
        refundFails(ContractRenter.Mood.BurnGas, false);
    }

    function test_creditedRefundCanBeWithdrawn() public {
        (ContractRenter renter,) = refundFails(ContractRenter.Mood.Refuse, true);
        renter.setMood(ContractRenter.Mood.Accept, "");

        renter.call(0, abi.encodeCall(market.withdrawNative, (0.0006 ether)));

        assertEq(address(renter).balance, 0.0006 ether);
        assertEq(market.userDepositsNative(address(renter)), 0);
    }

    function test_contractRenterGetsItsRefund() public {
        ContractRenter renter = new ContractRenter{value: NATIVE_DEPOSIT}(market);
        uint256 jobId = openByContract(renter);
        renter.setMood(ContractRenter.Mood.ReturnMuch, "");

        renter.call(0, abi.encodeCall(market.completeSessionJob, (jobId, "")));

        assertEq(address(renter).balance, NATIVE_DEPOSIT);
    }

    function test_tokenThatRefusesTheRenterDoesNotBlock() public {
        (MoodyToken token, uint256 jobId) = openMoody();
        prove(jobId, 100_000);
        token.refuse(RENTER);
        skip(DISPUTE_WINDOW);
        vm.expectEmit(address(market));
        emit Accounts.RefundCreditedToDeposit(jobId, RENTER, 500_000, address(token));

        vm.prank(HOST);
        market.completeSessionJob(jobId, "");
        token.refuse(address(0));
        vm.prank(RENTER);
        market.withdrawToken(address(token), 500_000);

        assertEq(earnings.getBalance(HOST, address(token)), 450_000);
        assertEq(token.balanceOf(RENTER), 500_001);
    }

    function test_reentryFromARefundChangesNothing() public {
        ContractRenter renter = new ContractRenter{value: 2 * NATIVE_DEPOSIT}(market);
        uint256 jobId = openByContract(renter);
        uint256 other = openByContract(renter);
        bytes memory again = abi.encodeCall(market.completeSessionJob, (other, ""));

        renter.setMood(ContractRenter.Mood.ReenterAndSwallow, again);
        renter.call(0, abi.encodeCall(market.completeSessionJob, (jobId, "")));

        assertEq(address(renter).balance, NATIVE_DEPOSIT);
        assertTrue(session(other).status == Sessions.SessionStatus.Active);
    }

    function test_reentryFromATokenReverts() public {
        (MoodyToken token, uint256 jobId) = openMoody();
        bytes4 refused = bytes4(keccak256("ReentrancyGuardReentrantCall()"));
        bytes[6] memory calls = [
            abi.encodeCall(market.triggerSessionTimeout, (jobId)),
            abi.encodeCall(market.completeSessionJob, (jobId, "")),
            abi.encodeCall(market.submitProofOfWork, (jobId, 1, "a", "", "")),
            abi.encodeCall(market.depositNative, ()),
            abi.encodeCall(market.withdrawNative, (1)),
            abi.encodeCall(market.withdrawToken, (address(token), 1))
        ];

        for (uint256 i = 0; i < calls.length; ++i) {
            token.onTransferCall(address(market), calls[i]);
            vm.expectRevert(refused);
            vm.prank(RENTER);
            market.depositToken(address(token), 1);
        }
    }

    function testFuzz_everyUnitOfTheDepositIsPaidOut(
        uint256 deposit,
        uint256 price,
        uint256 numTokens
    ) public {
        deposit = bound(deposit, 0.0001 ether, 9 ether);
        price = bound(price, NATIVE_PRICE, 1e20);
        uint256 maxTokens = deposit * 1000 / price;
        if (maxTokens == 0) {
            return;
        }
        numTokens = bound(numTokens, 1, maxTokens);
        vm.prank(RENTER);
        uint256 jobId =
            market.createSessionJobForModel{value: deposit}(HOST, model, price, 365 days, 1, 3600);
        prove(jobId, numTokens);

        vm.prank(RENTER);
        market.completeSessionJob(jobId, "");

        uint256 payment = numTokens * price / 1000;
        uint256 fee = payment * FEE_BPS / 10_000;
        assertEq(earnings.getBalance(HOST, NATIVE), payment - fee);
        assertEq(market.accumulatedTreasuryNative(), fee);
        assertEq(RENTER.balance, 10 ether - payment);
        assertEq(address(market).balance, fee);
    }

    function testFuzz_claimsAddUpWhateverTheirSizes(uint16[8] memory claims) public {
        uint256 jobId = openUsdc(RENTER);
        uint256 total;
        for (uint256 i = 0; i < claims.length; ++i) {
            uint256 claim = bound(claims[i], 1, 25_000);
            prove(jobId, claim);
            total += claim;
        }

        vm.prank(RENTER);
        market.completeSessionJob(jobId, "");

        SessionView memory s = session(jobId);
        uint256 fee = market.accumulatedTreasuryTokens(address(usdc));
        assertEq(s.tokensUsed, total);
        assertEq(s.withdrawnByHost + fee, total * USDC_PRICE / 1000);
        assertEq(s.withdrawnByHost + fee + s.refundedToUser, USDC_DEPOSIT);
    }

    /// A contract opens a session, the host proves 40,000 tokens, the refund of the rest fails.
    function refundFails(ContractRenter.Mood mood, bool completed)
        private
        returns (ContractRenter renter, uint256 jobId)
    {
        renter = new ContractRenter{value: NATIVE_DEPOSIT}(market);
        jobId = openByContract(renter);
        prove(jobId, 40_000);
        renter.setMood(mood, "");
        uint256 earned = earnings.getBalance(HOST, NATIVE);
        skip(WINDOW + 1);
        vm.expectEmit(address(market));
        emit Accounts.RefundCreditedToDeposit(jobId, address(renter), 0.0006 ether, NATIVE);
        if (completed) {
            vm.prank(HOST);
            market.completeSessionJob(jobId, "");
        } else {
            market.triggerSessionTimeout(jobId);
        }
        assertEq(earnings.getBalance(HOST, NATIVE), earned + 0.00036 ether);
        assertEq(market.getDepositBalance(address(renter), NATIVE), 0.0006 ether);
        assertEq(market.getLockedBalanceNative(address(renter)), 0);
    }

    function openByContract(ContractRenter renter) private returns (uint256) {
        bytes memory data = abi.encodeCall(
            market.createSessionJobForModel, (HOST, model, NATIVE_PRICE, DURATION, INTERVAL, WINDOW)
        );
        return abi.decode(renter.call(NATIVE_DEPOSIT, data), (uint256));
    }

    function openMoody() private returns (MoodyToken token, uint256 jobId) {
        token = new MoodyToken();
        token.mint(RENTER, USDC_DEPOSIT + 1);
        market.addAcceptedToken(address(token), 1, 1e18);
        vm.prank(HOST);
        nodes.setModelTokenPricing(model, address(token), USDC_PRICE);
        vm.startPrank(RENTER);
        token.approve(address(market), type(uint256).max);
        jobId = market.createSessionJobForModelWithToken(
            HOST, model, address(token), USDC_DEPOSIT, USDC_PRICE, DURATION, INTERVAL, WINDOW
        );
        vm.stopPrank();
    }
}
