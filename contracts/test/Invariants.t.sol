// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Sessions} from "../src/marketplace/Sessions.sol";
import {ContractRenter} from "./Doubles.sol";
import {MarketFixture} from "./MarketFixture.sol";

/// Random renters, hosts and strangers. Each action does something that must succeed, or nothing.
contract Actors is MarketFixture {
    uint256 private constant NUM_RENTERS = 3;

    address[NUM_RENTERS] private _renters;
    uint256 public numSettled;

    constructor() {
        deployAll();
        for (uint256 i = 0; i < NUM_RENTERS; ++i) {
            _renters[i] = address(new ContractRenter(market));
            vm.deal(_renters[i], 100 ether);
            usdc.mint(_renters[i], 1_000e6);
            vm.prank(_renters[i]);
            usdc.approve(address(market), type(uint256).max);
        }
    }

    function depositNative(uint256 who, uint256 amount) external {
        amount = bound(amount, 1, 0.1 ether);
        if (renter(who).balance >= amount) {
            vm.prank(renter(who));
            market.depositNative{value: amount}();
        }
    }

    function depositToken(uint256 who, uint256 amount) external {
        amount = bound(amount, 1, 10e6);
        if (usdc.balanceOf(renter(who)) >= amount) {
            vm.prank(renter(who));
            market.depositToken(address(usdc), amount);
        }
    }

    function withdraw(uint256 who, uint256 amount, bool native) external {
        address token = native ? NATIVE : address(usdc);
        uint256 balance = market.getDepositBalance(renter(who), token);
        if (balance == 0) {
            return;
        }
        amount = bound(amount, 1, balance);
        ContractRenter(payable(renter(who))).setMood(ContractRenter.Mood.Accept, "");
        vm.prank(renter(who));
        if (native) {
            market.withdrawNative(amount);
        } else {
            market.withdrawToken(token, amount);
        }
    }

    function openWithNative(uint256 who, uint256 deposit, uint256 price) external {
        deposit = bound(deposit, 0.0001 ether, 0.1 ether);
        price = bound(price, NATIVE_PRICE, 100 * NATIVE_PRICE);
        if (renter(who).balance >= deposit) {
            vm.prank(renter(who));
            market.createSessionJobForModel{value: deposit}(HOST, model, price, DURATION, 1, WINDOW);
        }
    }

    function openWithToken(uint256 who, uint256 deposit, uint256 price) external {
        deposit = bound(deposit, 500_000, 5e6);
        price = bound(price, USDC_PRICE, 100 * USDC_PRICE);
        if (usdc.balanceOf(renter(who)) >= deposit) {
            vm.prank(renter(who));
            market.createSessionJobForModelWithToken(
                HOST, model, address(usdc), deposit, price, DURATION, 1, WINDOW
            );
        }
    }

    function openFromDeposit(uint256 who, uint256 deposit, bool native) external {
        address token = native ? NATIVE : address(usdc);
        uint256 least = native ? 0.0001 ether : 500_000;
        uint256 balance = market.getDepositBalance(renter(who), token);
        if (balance < least) {
            return;
        }
        vm.prank(renter(who));
        market.createSessionFromDepositForModel(
            model,
            HOST,
            token,
            bound(deposit, least, balance),
            native ? NATIVE_PRICE : USDC_PRICE,
            DURATION,
            1,
            WINDOW
        );
    }

    function claim(uint256 which, uint256 numTokens) external {
        (uint256 jobId, SessionView memory s) = active(which);
        if (jobId == 0) {
            return;
        }
        uint256 left = s.deposit * 1000 / s.pricePerToken - s.tokensUsed;
        if (left > 0) {
            prove(jobId, bound(numTokens, 1, left > 50_000 ? 50_000 : left));
        }
    }

    function complete(uint256 which, uint256 mood, bool byHost) external {
        (uint256 jobId, SessionView memory s) = active(which);
        if (jobId == 0) {
            return;
        }
        setMood(s.depositor, mood);
        skip(DISPUTE_WINDOW);
        vm.prank(byHost ? HOST : s.depositor);
        market.completeSessionJob(jobId, "");
        ++numSettled;
    }

    function timeOut(uint256 which, uint256 mood) external {
        (uint256 jobId, SessionView memory s) = active(which);
        if (jobId == 0) {
            return;
        }
        setMood(s.depositor, mood);
        skip(WINDOW + 1);
        market.triggerSessionTimeout(jobId);
        ++numSettled;
    }

    /// From here on the token takes nothing for the earnings contract, or does again.
    function changeTheTokensMind(bool refuses) external {
        vm.clearMockedCalls();
        if (refuses) {
            bytes memory push = abi.encodeWithSelector(usdc.transfer.selector, address(earnings));
            vm.mockCallRevert(address(usdc), push, "Refused");
        }
    }

    function withdrawHostsCredit() external {
        uint256 credit = market.getDepositBalance(HOST, address(usdc));
        if (credit > 0) {
            vm.prank(HOST);
            market.withdrawToken(address(usdc), credit);
        }
    }

    function withdrawFees() external {
        vm.prank(TREASURY);
        market.withdrawAllTreasuryFees(only(address(usdc)));
    }

    function withdrawEarnings() external {
        address[] memory tokens = new address[](2);
        (tokens[0], tokens[1]) = (NATIVE, address(usdc));
        vm.prank(HOST);
        earnings.withdrawMultiple(tokens);
    }

    function assertBooksBalance() external view {
        (uint256 native, uint256 token) =
            (market.accumulatedTreasuryNative(), market.accumulatedTreasuryTokens(address(usdc)));
        token += market.getTotalBalanceToken(HOST, address(usdc));
        for (uint256 i = 0; i < NUM_RENTERS; ++i) {
            native += market.getTotalBalanceNative(_renters[i]);
            token += market.getTotalBalanceToken(_renters[i], address(usdc));
        }
        assertEq(address(market).balance, native);
        assertEq(usdc.balanceOf(address(market)), token);
        assertEq(address(earnings).balance, earnings.getBalance(HOST, NATIVE));
        assertEq(usdc.balanceOf(address(earnings)), earnings.getBalance(HOST, address(usdc)));
    }

    function assertSessionsAddUp() external view {
        uint256[NUM_RENTERS] memory lockedNative;
        uint256[NUM_RENTERS] memory lockedToken;
        for (uint256 jobId = 1; jobId < market.nextJobId(); ++jobId) {
            SessionView memory s = session(jobId);
            if (s.status == Sessions.SessionStatus.Active) {
                uint256 who = indexOf(s.depositor);
                if (s.paymentToken == NATIVE) {
                    lockedNative[who] += s.deposit;
                } else {
                    lockedToken[who] += s.deposit;
                }
            } else {
                uint256 fee = s.tokensUsed * s.pricePerToken / 1000 * FEE_BPS / 10_000;
                assertEq(s.withdrawnByHost + s.refundedToUser + fee, s.deposit);
            }
        }
        for (uint256 i = 0; i < NUM_RENTERS; ++i) {
            assertEq(market.getLockedBalanceNative(_renters[i]), lockedNative[i]);
            assertEq(market.getLockedBalanceToken(_renters[i], address(usdc)), lockedToken[i]);
        }
    }

    function setMood(address who, uint256 mood) private {
        ContractRenter.Mood[3] memory moods =
            [ContractRenter.Mood.Accept, ContractRenter.Mood.Refuse, ContractRenter.Mood.BurnGas];
        ContractRenter(payable(who)).setMood(moods[mood % 3], "");
    }

    function active(uint256 which) private view returns (uint256, SessionView memory s) {
        uint256 numSessions = market.nextJobId() - 1;
        for (uint256 i = 0; i < numSessions; ++i) {
            s = session(1 + (which % numSessions + i) % numSessions);
            if (s.status == Sessions.SessionStatus.Active) {
                return (s.id, s);
            }
        }
        return (0, s);
    }

    function renter(uint256 who) private view returns (address) {
        return _renters[who % NUM_RENTERS];
    }

    function indexOf(address who) private view returns (uint256 i) {
        while (_renters[i] != who) {
            ++i;
        }
    }
}

contract InvariantsTest {
    Actors private actors;

    function setUp() public {
        actors = new Actors();
    }

    /// forge calls only this contract, only these functions, in random order.
    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(actors);
    }

    function invariant_balanceIsLockedPlusCreditsPlusTreasury() public view {
        actors.assertBooksBalance();
    }

    function invariant_sessionsAddUp() public view {
        actors.assertSessionsAddUp();
    }
}
