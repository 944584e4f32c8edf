// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {HostEarnings} from "../src/HostEarnings.sol";
import {ProofSystem} from "../src/ProofSystem.sol";
import {MarketTest} from "./MarketFixture.sol";

contract ProofSystemTest is MarketTest {
    function test_proofCountsOncePerCallerAndProver() public {
        proofs.setAuthorizedCaller(address(this), true);
        proofs.setAuthorizedCaller(STRANGER, true);
        vm.expectEmit(address(proofs));
        emit ProofSystem.ProofVerified("hash", HOST, 5);

        assertTrue(proofs.markProofUsed("hash", HOST, 5, model));
        assertFalse(proofs.markProofUsed("hash", HOST, 5, model));
        assertTrue(proofs.markProofUsed("hash", RENTER, 5, model));
        assertFalse(proofs.markProofUsed("hash", RENTER, 5, model));
        vm.startPrank(STRANGER);
        assertTrue(proofs.markProofUsed("hash", HOST, 5, model));
        assertFalse(proofs.markProofUsed("hash", HOST, 5, model));
        assertTrue(proofs.verifiedProofs("hash"));
        assertFalse(proofs.verifiedProofs("other"));
    }

    function test_markingReverts() public {
        vm.expectRevert("Not authorized");
        proofs.markProofUsed("hash", HOST, 5, model);
        vm.expectRevert("Invalid proof hash");
        vm.prank(address(market));
        proofs.markProofUsed(bytes32(0), HOST, 5, model);
    }

    function test_authorityCannotBeRevoked() public {
        vm.expectEmit(address(proofs));
        emit ProofSystem.AuthorizedCallerUpdated(STRANGER, true);
        proofs.setAuthorizedCaller(STRANGER, true);

        vm.expectRevert("Cannot revoke");
        proofs.setAuthorizedCaller(STRANGER, false);
        vm.expectRevert("Invalid caller");
        proofs.setAuthorizedCaller(address(0), true);
        vm.expectRevert(
            abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, STRANGER)
        );
        vm.prank(STRANGER);
        proofs.setAuthorizedCaller(STRANGER, true);
        assertTrue(proofs.authorizedCallers(STRANGER));
    }
}

contract HostEarningsTest is MarketTest {
    function setUp() public override {
        super.setUp();
        earnings.setAuthorizedCaller(address(this), true);
        vm.deal(address(this), 10 ether);
    }

    function test_creditsAddUp() public {
        pay(3 ether);
        vm.expectEmit(address(earnings));
        emit HostEarnings.EarningsCredited(HOST, NATIVE, 1 ether, 1 ether);
        earnings.creditEarnings(HOST, 1 ether, NATIVE);
        vm.expectEmit(address(earnings));
        emit HostEarnings.EarningsCredited(HOST, NATIVE, 2 ether, 3 ether);

        earnings.creditEarnings(HOST, 2 ether, NATIVE);

        assertEq(earnings.getBalance(HOST, NATIVE), 3 ether);
        assertEq(earnings.totalAccumulated(NATIVE), 3 ether);
    }

    function test_hostWithdraws() public {
        creditNative(3 ether);
        vm.startPrank(HOST);
        vm.expectEmit(address(earnings));
        emit HostEarnings.EarningsWithdrawn(HOST, NATIVE, 1 ether, 2 ether);

        earnings.withdraw(1 ether, NATIVE);

        assertEq(HOST.balance, 1 ether);
        (uint256 accumulated, uint256 withdrawn, uint256 outstanding) =
            earnings.getTokenStats(NATIVE);
        assertEq(accumulated, 3 ether);
        assertEq(withdrawn, 1 ether);
        assertEq(outstanding, 2 ether);
        earnings.withdrawAll(NATIVE);
        assertEq(HOST.balance, 3 ether);
        assertEq(earnings.totalWithdrawn(NATIVE), 3 ether);
    }

    function test_hostWithdrawsSeveralTokens() public {
        creditNative(1 ether);
        creditUsdc(5e6);
        address[] memory tokens = new address[](3);
        (tokens[0], tokens[1], tokens[2]) = (NATIVE, address(usdc), address(fab));
        uint256[] memory balances = earnings.getBalances(HOST, tokens);
        assertEq(balances[0], 1 ether);
        assertEq(balances[1], 5e6);
        assertEq(balances[2], 0);

        vm.prank(HOST);
        earnings.withdrawMultiple(tokens);

        assertEq(HOST.balance, 1 ether);
        assertEq(usdc.balanceOf(HOST), 5e6);
    }

    function test_withdrawalReverts() public {
        creditNative(1 ether);

        vm.expectRevert("Insufficient balance");
        vm.prank(HOST);
        earnings.withdraw(1 ether + 1, NATIVE);
        vm.expectRevert("Invalid amount");
        vm.prank(HOST);
        earnings.withdraw(0, NATIVE);
        vm.expectRevert("No earnings");
        earnings.withdrawAll(NATIVE);
    }

    function test_hostThatRefusesCoinsReverts() public {
        Refuser refuser = new Refuser(earnings);
        pay(1 ether);
        earnings.creditEarnings(address(refuser), 1 ether, NATIVE);

        vm.expectRevert("Native transfer failed");
        refuser.withdraw();
    }

    function test_creditNeedsMoneyBehindIt() public {
        creditNative(1 ether);

        vm.expectRevert("Unbacked credit");
        earnings.creditEarnings(STRANGER, 1, NATIVE);
        vm.expectRevert("Unbacked credit");
        earnings.creditEarnings(STRANGER, 1, address(usdc));
    }

    function test_creditReverts() public {
        vm.expectRevert("Not authorized");
        vm.prank(STRANGER);
        earnings.creditEarnings(HOST, 1, NATIVE);
        vm.expectRevert("Invalid host");
        earnings.creditEarnings(address(0), 1, NATIVE);
        vm.expectRevert("Invalid amount");
        earnings.creditEarnings(HOST, 0, NATIVE);
    }

    function test_strangersCoinsAreRefused() public {
        vm.deal(STRANGER, 1 ether);
        vm.expectRevert("Not authorized");
        vm.prank(STRANGER);
        (bool reverted,) = address(earnings).call{value: 1 ether}("");

        assertTrue(reverted);
    }

    function test_rescueReachesTheSurplusOnly() public {
        creditUsdc(5e6);
        usdc.mint(address(earnings), 3e6);

        vm.expectRevert("Exceeds surplus");
        earnings.rescueTokens(address(usdc), 3e6 + 1);
        earnings.rescueTokens(address(usdc), 3e6);
        vm.expectRevert(
            abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, STRANGER)
        );
        vm.prank(STRANGER);
        earnings.rescueTokens(address(usdc), 0);

        assertEq(usdc.balanceOf(address(this)), 3e6);
        assertEq(usdc.balanceOf(address(earnings)), 5e6);
    }

    function test_authorityCannotBeRevoked() public {
        vm.expectEmit(address(earnings));
        emit HostEarnings.CallerAuthorized(STRANGER, true);
        earnings.setAuthorizedCaller(STRANGER, true);

        vm.expectRevert("Cannot revoke");
        earnings.setAuthorizedCaller(STRANGER, false);
        vm.expectRevert("Invalid caller");
        earnings.setAuthorizedCaller(address(0), true);
        vm.expectRevert(
            abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, STRANGER)
        );
        vm.prank(STRANGER);
        earnings.setAuthorizedCaller(STRANGER, true);
    }

    function test_reentryFromAWithdrawalTakesNothing() public {
        creditNative(5 ether);
        Thief thief = new Thief(earnings);
        pay(1 ether);
        earnings.creditEarnings(address(thief), 1 ether, NATIVE);

        thief.steal();

        assertEq(address(thief).balance, 0.5 ether);
        assertEq(earnings.getBalance(address(thief), NATIVE), 0.5 ether);
    }

    function pay(uint256 amount) private {
        (bool sent,) = address(earnings).call{value: amount}("");
        assertTrue(sent);
    }

    function creditNative(uint256 amount) private {
        pay(amount);
        earnings.creditEarnings(HOST, amount, NATIVE);
    }

    function creditUsdc(uint256 amount) private {
        usdc.mint(address(earnings), amount);
        earnings.creditEarnings(HOST, amount, address(usdc));
    }
}

/// A host whose contract takes no coins.
contract Refuser {
    HostEarnings private immutable _earnings;

    constructor(HostEarnings earnings) {
        _earnings = earnings;
    }

    function withdraw() external {
        _earnings.withdrawAll(address(0));
    }
}

/// A host that withdraws again while its withdrawal is being paid.
contract Thief {
    HostEarnings private immutable _earnings;

    constructor(HostEarnings earnings) {
        _earnings = earnings;
    }

    receive() external payable {
        (bool ok,) =
            address(_earnings).call(abi.encodeCall(HostEarnings.withdraw, (0.5 ether, address(0))));
        require(!ok, "Reentry went through");
    }

    function steal() external {
        _earnings.withdraw(0.5 ether, address(0));
    }
}
