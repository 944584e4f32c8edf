// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {MarketTest} from "./MarketFixture.sol";

/// The transactions of one session each way, with identifiers as long as real ones. The gas table
/// of docs/contracts.md is forge's report on this contract.
contract GasTest is MarketTest {
    string private constant CID = "z5AnNspLHgGyahYsxHnbdQEyBcFBsLFbLqo5BjBoZpdxPgZ9TyJZ4kWRaA";

    function setUp() public override {
        super.setUp();
        // Balances that exist already, as in a market that has been running.
        uint256 native = openNative(RENTER);
        uint256 token = openUsdc(RENTER);
        prove(native, 1000);
        prove(token, 1000);
        vm.startPrank(RENTER);
        market.completeSessionJob(native, "");
        market.completeSessionJob(token, "");
        vm.stopPrank();
    }

    function test_nativeSession() public {
        uint256 jobId = openNative(RENTER);
        claim(jobId, 1000);
        claim(jobId, 1000);
        skip(DISPUTE_WINDOW);
        vm.prank(HOST);
        market.completeSessionJob(jobId, CID);
        vm.prank(HOST);
        earnings.withdrawAll(NATIVE);
    }

    function test_tokenSession() public {
        uint256 jobId = openUsdc(RENTER);
        claim(jobId, 1000);
        skip(WINDOW + 1);
        market.triggerSessionTimeout(jobId);
        vm.prank(HOST);
        earnings.withdrawAll(address(usdc));
    }

    function test_depositAndDelegate() public {
        vm.startPrank(RENTER);
        market.depositNative{value: 1 ether}();
        market.depositToken(address(usdc), 2e6);
        market.createSessionFromDepositForModel(
            model, HOST, NATIVE, NATIVE_DEPOSIT, NATIVE_PRICE, DURATION, INTERVAL, WINDOW
        );
        market.withdrawNative(0.5 ether);
        market.withdrawToken(address(usdc), 1e6);
        vm.stopPrank();
        openAsDelegate();
        vm.prank(TREASURY);
        market.withdrawTreasuryNative();
        vm.prank(HOST);
        nodes.unregisterNode();
    }

    function claim(uint256 jobId, uint256 numTokens) private {
        skip(10);
        bytes32 proofHash = freshHash();
        vm.prank(HOST);
        market.submitProofOfWork(jobId, numTokens, proofHash, CID, CID);
    }
}
