// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {JobMarketplaceWithModels} from "../src/JobMarketplaceWithModels.sol";
import {Accounts} from "../src/marketplace/Accounts.sol";
import {Treasury} from "../src/marketplace/Treasury.sol";
import {ContractRenter, MoodyToken} from "./Doubles.sol";
import {MarketTest} from "./MarketFixture.sol";

/// Free deposits, delegates, accepted tokens, the treasury and the constructor.
contract AccountsTest is MarketTest {
    function test_nativeDepositComesBack() public {
        vm.startPrank(RENTER);
        vm.expectEmit(address(market));
        emit Accounts.DepositReceived(RENTER, 3 ether, NATIVE);
        market.depositNative{value: 3 ether}();
        vm.expectEmit(address(market));
        emit Accounts.WithdrawalProcessed(RENTER, 2 ether, NATIVE);

        market.withdrawNative(2 ether);

        assertEq(market.getDepositBalance(RENTER, NATIVE), 1 ether);
        assertEq(RENTER.balance, 9 ether);
    }

    function test_tokenDepositComesBack() public {
        vm.startPrank(RENTER);
        vm.expectEmit(address(market));
        emit Accounts.DepositReceived(RENTER, 3e6, address(usdc));
        market.depositToken(address(usdc), 3e6);
        vm.expectEmit(address(market));
        emit Accounts.WithdrawalProcessed(RENTER, 2e6, address(usdc));

        market.withdrawToken(address(usdc), 2e6);

        address[] memory tokens = new address[](2);
        (tokens[0], tokens[1]) = (address(usdc), NATIVE);
        uint256[] memory balances = market.getDepositBalances(RENTER, tokens);
        assertEq(balances[0], 1e6);
        assertEq(balances[1], 0);
        assertEq(usdc.balanceOf(RENTER), 99e6);
    }

    function test_depositReverts() public {
        vm.startPrank(RENTER);

        vm.expectRevert("Invalid amount");
        market.depositNative{value: 0}();
        vm.expectRevert("Invalid amount");
        market.depositToken(address(usdc), 0);
        vm.expectRevert("Token not accepted");
        market.depositToken(address(fab), 1);
        vm.expectRevert("Token not accepted");
        market.depositToken(NATIVE, 1);
    }

    function test_withdrawalReverts() public {
        vm.startPrank(RENTER);
        market.depositNative{value: 1 ether}();

        vm.expectRevert("Invalid amount");
        market.withdrawNative(0);
        vm.expectRevert("Invalid amount");
        market.withdrawToken(address(usdc), 0);
        vm.expectRevert("Invalid token");
        market.withdrawToken(NATIVE, 1 ether);
        vm.expectRevert("Insufficient deposit");
        market.withdrawNative(1 ether + 1);
        vm.expectRevert("Insufficient deposit");
        market.withdrawToken(address(usdc), 1);
    }

    function test_lockedMoneyCannotBeWithdrawn() public {
        openNative(RENTER);

        vm.expectRevert("Insufficient deposit");
        vm.prank(RENTER);
        market.withdrawNative(1);
    }

    function test_withdrawalToAContractThatRefusesReverts() public {
        ContractRenter renter = new ContractRenter{value: 1 ether}(market);
        renter.call(1 ether, abi.encodeCall(market.depositNative, ()));
        renter.setMood(ContractRenter.Mood.Refuse, "");

        vm.expectRevert("Native transfer failed");
        renter.call(0, abi.encodeCall(market.withdrawNative, (1 ether)));
    }

    function test_reentryFromAWithdrawalTakesNothing() public {
        vm.prank(RENTER);
        market.depositNative{value: 5 ether}();
        ContractRenter renter = new ContractRenter{value: 1 ether}(market);
        renter.call(1 ether, abi.encodeCall(market.depositNative, ()));
        bytes memory withdrawal = abi.encodeCall(market.withdrawNative, (0.5 ether));

        renter.setMood(ContractRenter.Mood.Reenter, withdrawal);
        vm.expectRevert("Native transfer failed");
        renter.call(0, withdrawal);
        renter.setMood(ContractRenter.Mood.ReenterAndSwallow, withdrawal);
        renter.call(0, withdrawal);

        assertEq(address(renter).balance, 0.5 ether);
        assertEq(market.getDepositBalance(address(renter), NATIVE), 0.5 ether);
    }

    function test_marketplaceTakesNoStrayCoins() public {
        vm.deal(address(this), 1 ether);

        (bool sent,) = address(market).call{value: 1 ether}("");

        assertFalse(sent);
    }

    function test_delegatesComeAndGo() public {
        vm.startPrank(RENTER);
        vm.expectEmit(address(market));
        emit Accounts.DelegateAuthorized(RENTER, DELEGATE, true);
        market.authorizeDelegate(DELEGATE, true);
        assertTrue(market.isDelegateAuthorized(RENTER, DELEGATE));
        assertTrue(market.isAuthorizedDelegate(RENTER, DELEGATE));

        market.authorizeDelegate(DELEGATE, false);

        assertFalse(market.isDelegateAuthorized(RENTER, DELEGATE));
        assertFalse(market.isDelegateAuthorized(DELEGATE, RENTER));
    }

    function test_invalidDelegateReverts() public {
        vm.startPrank(RENTER);

        vm.expectRevert("Invalid delegate");
        market.authorizeDelegate(address(0), true);
        vm.expectRevert("Invalid delegate");
        market.authorizeDelegate(RENTER, true);
    }

    function test_ownerAcceptsTokens() public {
        MoodyToken token = new MoodyToken();
        vm.expectEmit(address(market));
        emit Accounts.TokenAccepted(address(token), 5, 50);
        market.addAcceptedToken(address(token), 5, 50);
        vm.expectEmit(address(market));
        emit Accounts.TokenMinDepositUpdated(address(token), 5, 6);
        market.updateTokenMinDeposit(address(token), 6);
        vm.expectEmit(address(market));
        emit Accounts.TokenMaxDepositUpdated(address(token), 50, 60);

        market.updateTokenMaxDeposit(address(token), 60);

        assertTrue(market.acceptedTokens(address(token)));
        assertEq(market.tokenMinDeposits(address(token)), 6);
        assertEq(market.tokenMaxDeposits(address(token)), 60);
    }

    function test_acceptingATokenReverts() public {
        MoodyToken token = new MoodyToken();

        vm.expectRevert("Invalid token");
        market.addAcceptedToken(STRANGER, 1, 2);
        vm.expectRevert("Token already accepted");
        market.addAcceptedToken(address(usdc), 1, 2);
        vm.expectRevert("Invalid deposit limits");
        market.addAcceptedToken(address(token), 0, 2);
        vm.expectRevert("Invalid deposit limits");
        market.addAcceptedToken(address(token), 3, 2);
        vm.expectRevert("Token not accepted");
        market.updateTokenMinDeposit(address(token), 1);
        vm.expectRevert("Token not accepted");
        market.updateTokenMaxDeposit(address(token), 1);
        vm.expectRevert("Invalid deposit limits");
        market.updateTokenMinDeposit(address(usdc), 0);
        vm.expectRevert("Invalid deposit limits");
        market.updateTokenMinDeposit(address(usdc), 1e12 + 1);
        vm.expectRevert("Invalid deposit limits");
        market.updateTokenMaxDeposit(address(usdc), 499_999);
    }

    function test_onlyTheOwnerAcceptsTokens() public {
        bytes memory refused =
            abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, STRANGER);
        vm.startPrank(STRANGER);

        vm.expectRevert(refused);
        market.addAcceptedToken(address(fab), 1, 2);
        vm.expectRevert(refused);
        market.updateTokenMinDeposit(address(usdc), 1);
        vm.expectRevert(refused);
        market.updateTokenMaxDeposit(address(usdc), 1e12);
    }

    function test_treasuryWithdrawsItsShare() public {
        settleBoth();
        vm.startPrank(TREASURY);
        vm.expectEmit(address(market));
        emit Treasury.TreasuryWithdrawal(NATIVE, 0.00004 ether);
        market.withdrawTreasuryNative();
        vm.expectEmit(address(market));
        emit Treasury.TreasuryWithdrawal(address(usdc), 20_000);

        market.withdrawTreasuryTokens(address(usdc));

        assertEq(TREASURY.balance, 0.00004 ether);
        assertEq(usdc.balanceOf(TREASURY), 20_000);
        assertEq(address(market).balance, 0);
        assertEq(usdc.balanceOf(address(market)), 0);
    }

    function test_treasuryWithdrawsAllAtOnce() public {
        settleBoth();
        vm.startPrank(TREASURY);

        market.withdrawAllTreasuryFees(only(address(usdc)));
        market.withdrawAllTreasuryFees(only(address(usdc)));

        assertEq(TREASURY.balance, 0.00004 ether);
        assertEq(usdc.balanceOf(TREASURY), 20_000);
    }

    function test_emptyTreasuryReverts() public {
        vm.startPrank(TREASURY);

        vm.expectRevert("Nothing to withdraw");
        market.withdrawTreasuryNative();
        vm.expectRevert("Nothing to withdraw");
        market.withdrawTreasuryTokens(address(usdc));
    }

    function test_treasuryThatRefusesCoinsReverts() public {
        ContractRenter refuser = new ContractRenter(market);
        refuser.setMood(ContractRenter.Mood.Refuse, "");
        vm.prank(TREASURY);
        market.setTreasury(address(refuser));
        settleBoth();

        vm.expectRevert("Native transfer failed");
        refuser.call(0, abi.encodeCall(market.withdrawTreasuryNative, ()));
    }

    function test_onlyTheTreasuryHandlesItsMoney() public {
        vm.expectRevert("Only treasury");
        market.withdrawTreasuryNative();
        vm.expectRevert("Only treasury");
        market.withdrawTreasuryTokens(address(usdc));
        vm.expectRevert("Only treasury");
        market.withdrawAllTreasuryFees(only(address(usdc)));
        vm.expectRevert("Only treasury");
        market.setTreasury(address(this));
        vm.expectRevert("Invalid treasury");
        vm.prank(TREASURY);
        market.setTreasury(address(0));
    }

    function test_constructorReverts() public {
        expectDeployment("Invalid node registry", STRANGER, address(earnings), address(proofs));
        expectDeployment("Invalid host earnings", address(nodes), STRANGER, address(proofs));
        expectDeployment("Invalid proof system", address(nodes), address(earnings), STRANGER);
        expectDeployment("Invalid token", STRANGER, TREASURY, 1000, 30, 60);
        expectDeployment("Invalid treasury", address(usdc), address(0), 1000, 30, 60);
        expectDeployment("Invalid fee", address(usdc), TREASURY, 10_001, 30, 60);
        expectDeployment("Invalid dispute window", address(usdc), TREASURY, 0, 7 days + 1, 60);
        expectDeployment("Invalid proof timeout", address(usdc), TREASURY, 0, 30, 0);
        expectDeployment("Invalid proof timeout", address(usdc), TREASURY, 0, 30, 301);
    }

    function settleBoth() private {
        uint256 first = openNative(RENTER);
        uint256 second = openUsdc(RENTER);
        prove(first, 40_000);
        prove(second, 40_000);
        vm.startPrank(RENTER);
        market.completeSessionJob(first, "");
        market.completeSessionJob(second, "");
        vm.stopPrank();
    }

    function expectDeployment(
        bytes memory reason,
        address nodeRegistry,
        address hostEarnings,
        address proofSystem
    ) private {
        vm.expectRevert(reason);
        deploy(
            "JobMarketplaceWithModels",
            abi.encode(
                nodeRegistry, hostEarnings, proofSystem, usdc, TREASURY, 0, 30, 60, NATIVE, ""
            )
        );
    }

    function expectDeployment(
        bytes memory reason,
        address token,
        address treasury,
        uint256 fee,
        uint256 disputeWindow,
        uint256 minProofTimeout
    ) private {
        vm.expectRevert(reason);
        deploy(
            "JobMarketplaceWithModels",
            abi.encode(
                nodes,
                earnings,
                proofs,
                token,
                treasury,
                fee,
                disputeWindow,
                minProofTimeout,
                NATIVE,
                ""
            )
        );
    }
}
