// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {JobMarketplaceWithModels} from "../src/JobMarketplaceWithModels.sol";
import {Sessions} from "../src/marketplace/Sessions.sol";
import {FeeKeepingToken} from "./Doubles.sol";
import {MarketTest} from "./MarketFixture.sol";

/// Opening a session and claiming tokens from it.
contract SessionsTest is MarketTest {
    function test_nativeSessionLocksItsDeposit() public {
        vm.expectEmit(address(market));
        emit Sessions.SessionJobCreated(1, RENTER, HOST, NATIVE_DEPOSIT);
        vm.expectEmit(address(market));
        emit Sessions.SessionJobCreatedForModel(1, RENTER, HOST, model, NATIVE_DEPOSIT);

        uint256 jobId = openNative(RENTER);

        SessionView memory s = session(jobId);
        assertEq(jobId, 1);
        assertEq(market.nextJobId(), 2);
        assertEq(s.id, jobId);
        assertEq(s.depositor, RENTER);
        assertEq(s.host, HOST);
        assertEq(s.paymentToken, NATIVE);
        assertEq(s.deposit, NATIVE_DEPOSIT);
        assertEq(s.pricePerToken, NATIVE_PRICE);
        assertEq(s.tokensUsed, 0);
        assertEq(s.maxDuration, DURATION);
        assertEq(s.startTime, time);
        assertEq(s.lastProofTime, time);
        assertEq(s.proofInterval, INTERVAL);
        assertEq(s.proofTimeoutWindow, WINDOW);
        assertTrue(s.status == Sessions.SessionStatus.Active);
        assertEq(market.sessionModel(jobId), model);
        assertEq(market.userSessions(RENTER, 0), jobId);
        assertEq(market.hostSessions(HOST, 0), jobId);
        assertEq(market.getLockedBalanceNative(RENTER), NATIVE_DEPOSIT);
        assertEq(market.getTotalBalanceNative(RENTER), NATIVE_DEPOSIT);
        assertEq(address(market).balance, NATIVE_DEPOSIT);
    }

    function test_tokenSessionLocksItsDeposit() public {
        uint256 jobId = openUsdc(RENTER);

        assertEq(session(jobId).paymentToken, address(usdc));
        assertEq(market.getLockedBalanceToken(RENTER, address(usdc)), USDC_DEPOSIT);
        assertEq(market.getTotalBalanceToken(RENTER, address(usdc)), USDC_DEPOSIT);
        assertEq(usdc.balanceOf(address(market)), USDC_DEPOSIT);
    }

    function test_sessionFromDepositSpendsTheDeposit() public {
        vm.startPrank(RENTER);
        market.depositNative{value: 2 * NATIVE_DEPOSIT}();
        market.depositToken(address(usdc), USDC_DEPOSIT);
        vm.expectEmit(address(market));
        emit Sessions.SessionCreatedByDepositor(1, RENTER, HOST, NATIVE_DEPOSIT);

        market.createSessionFromDepositForModel(
            model, HOST, NATIVE, NATIVE_DEPOSIT, NATIVE_PRICE, DURATION, INTERVAL, WINDOW
        );
        market.createSessionFromDepositForModel(
            model, HOST, address(usdc), USDC_DEPOSIT, USDC_PRICE, DURATION, INTERVAL, WINDOW
        );

        assertEq(market.userDepositsNative(RENTER), NATIVE_DEPOSIT);
        assertEq(market.userDepositsToken(RENTER, address(usdc)), 0);
        assertEq(market.getTotalBalanceNative(RENTER), 2 * NATIVE_DEPOSIT);
        assertEq(market.getLockedBalanceToken(RENTER, address(usdc)), USDC_DEPOSIT);
    }

    function test_sessionFromTooSmallADepositReverts() public {
        vm.startPrank(RENTER);
        market.depositNative{value: NATIVE_DEPOSIT - 1}();

        vm.expectRevert("Insufficient deposit");
        market.createSessionFromDepositForModel(
            model, HOST, NATIVE, NATIVE_DEPOSIT, NATIVE_PRICE, DURATION, INTERVAL, WINDOW
        );
    }

    function test_delegateSessionTakesThePayersMoney() public {
        vm.prank(RENTER);
        market.authorizeDelegate(DELEGATE, true);
        vm.prank(DELEGATE);
        vm.expectEmit(address(market));
        emit Sessions.SessionCreatedByDelegate(1, RENTER, DELEGATE, HOST, model, USDC_DEPOSIT);

        asDelegate(RENTER, HOST, address(usdc), USDC_DEPOSIT);

        assertEq(session(1).depositor, RENTER);
        assertEq(usdc.balanceOf(RENTER), 100e6 - USDC_DEPOSIT);
    }

    function test_delegateSessionReverts() public {
        bytes4 bad = JobMarketplaceWithModels.BadDelegateParams.selector;
        vm.startPrank(DELEGATE);

        vm.expectRevert(JobMarketplaceWithModels.NotDelegate.selector);
        asDelegate(RENTER, HOST, address(usdc), USDC_DEPOSIT);
        vm.expectRevert(JobMarketplaceWithModels.ERC20Only.selector);
        asDelegate(RENTER, HOST, NATIVE, USDC_DEPOSIT);
        vm.expectRevert(bad);
        asDelegate(address(0), HOST, address(usdc), USDC_DEPOSIT);
        vm.expectRevert(bad);
        asDelegate(RENTER, address(0), address(usdc), USDC_DEPOSIT);
        vm.expectRevert(bad);
        asDelegate(RENTER, HOST, address(usdc), 0);
    }

    function test_nativeDepositOutsideTheLimitsReverts() public {
        vm.deal(RENTER, 2000 ether);
        vm.startPrank(RENTER);

        vm.expectRevert("Deposit too small");
        market.createSessionJobForModel{value: 0.0001 ether - 1}(
            HOST, model, NATIVE_PRICE, DURATION, INTERVAL, WINDOW
        );
        vm.expectRevert("Deposit too large");
        market.createSessionJobForModel{value: 1000 ether + 1}(
            HOST, model, NATIVE_PRICE, DURATION, INTERVAL, WINDOW
        );
    }

    function test_tokenDepositOutsideTheLimitsReverts() public {
        vm.startPrank(RENTER);

        vm.expectRevert("Deposit too small");
        withToken(address(usdc), 499_999);
        vm.expectRevert("Deposit too large");
        withToken(address(usdc), 1e12 + 1);
        vm.expectRevert("Token not accepted");
        withToken(address(fab), USDC_DEPOSIT);
        vm.expectRevert("Token not accepted");
        withToken(NATIVE, USDC_DEPOSIT);
    }

    function test_tokenSessionWithoutAllowanceReverts() public {
        vm.startPrank(RENTER);
        usdc.approve(address(market), USDC_DEPOSIT - 1);

        vm.expectRevert(
            abi.encodeWithSelector(
                IERC20Errors.ERC20InsufficientAllowance.selector,
                address(market),
                USDC_DEPOSIT - 1,
                USDC_DEPOSIT
            )
        );
        withToken(address(usdc), USDC_DEPOSIT);
    }

    function test_tokenThatKeepsAFeeReverts() public {
        FeeKeepingToken token = new FeeKeepingToken();
        market.addAcceptedToken(address(token), 1, 1e18);
        vm.prank(HOST);
        nodes.setModelTokenPricing(model, address(token), USDC_PRICE);
        token.mint(RENTER, USDC_DEPOSIT);
        vm.startPrank(RENTER);
        token.approve(address(market), USDC_DEPOSIT);

        vm.expectRevert("Token kept a transfer fee");
        withToken(address(token), USDC_DEPOSIT);
        vm.expectRevert("Token kept a transfer fee");
        market.depositToken(address(token), USDC_DEPOSIT);
    }

    function test_hostThatDoesNotOfferTheModelReverts() public {
        models.addTrustedModel("org/other", "other.gguf", keccak256("other"));
        bytes32 other = models.getModelId("org/other", "other.gguf");

        vm.expectRevert("Host not active");
        open(STRANGER, model, NATIVE_PRICE, DURATION, INTERVAL, WINDOW);
        vm.expectRevert("Host does not support model");
        open(HOST, other, NATIVE_PRICE, DURATION, INTERVAL, WINDOW);
        vm.expectRevert("Price below host minimum");
        open(HOST, model, NATIVE_PRICE - 1, DURATION, INTERVAL, WINDOW);
        models.deactivateModel(model);
        vm.expectRevert("Model not approved");
        open(HOST, model, NATIVE_PRICE, DURATION, INTERVAL, WINDOW);
    }

    function test_modelWithoutAPriceReverts() public {
        vm.prank(HOST);
        nodes.clearModelTokenPricing(model, NATIVE);

        vm.expectRevert("No model pricing");
        open(HOST, model, NATIVE_PRICE, DURATION, INTERVAL, WINDOW);
    }

    function test_termsOutsideTheirRangesRevert() public {
        vm.expectRevert("Invalid duration");
        open(HOST, model, NATIVE_PRICE, 0, INTERVAL, WINDOW);
        vm.expectRevert("Invalid duration");
        open(HOST, model, NATIVE_PRICE, 365 days + 1, INTERVAL, WINDOW);
        vm.expectRevert("Invalid proof interval");
        open(HOST, model, NATIVE_PRICE, DURATION, 0, WINDOW);
        vm.expectRevert("Invalid proof interval");
        open(HOST, model, NATIVE_PRICE, DURATION, NATIVE_TOKENS + 1, WINDOW);
        vm.expectRevert("Invalid proof timeout");
        open(HOST, model, NATIVE_PRICE, DURATION, INTERVAL, MIN_WINDOW - 1);
        vm.expectRevert("Invalid proof timeout");
        open(HOST, model, NATIVE_PRICE, DURATION, INTERVAL, 3601);
    }

    function test_termsAtTheirLimitsOpen() public {
        open(HOST, model, NATIVE_PRICE, 1, 1, MIN_WINDOW);
        open(HOST, model, NATIVE_PRICE, 365 days, NATIVE_TOKENS, 3600);
        uint256 last = open(HOST, model, NATIVE_PRICE, DURATION, INTERVAL, 0);

        assertEq(session(last).proofTimeoutWindow, 300);
    }

    function test_unwiredMarketplaceTakesNoDeposit() public {
        market = deployMarket();

        vm.expectRevert("Marketplace not authorized");
        openNative(RENTER);
        earnings.setAuthorizedCaller(address(market), true);
        vm.expectRevert("Marketplace not authorized");
        openNative(RENTER);
        proofs.setAuthorizedCaller(address(market), true);
        assertEq(openNative(RENTER), 1);
    }

    function test_depositThatDoesNotFitItsSlotReverts() public {
        usdc.mint(RENTER, type(uint128).max);
        market.updateTokenMaxDeposit(address(usdc), type(uint256).max / 1000);
        uint256 tooWide = uint256(type(uint128).max) + 1;

        vm.expectRevert(
            abi.encodeWithSelector(
                SafeCast.SafeCastOverflowedUintDowncast.selector, uint8(128), tooWide
            )
        );
        vm.prank(RENTER);
        withToken(address(usdc), tooWide);
    }

    function test_proofAddsTokens() public {
        uint256 jobId = openNative(RENTER);
        skip(5);
        vm.expectEmit(address(market));
        emit Sessions.ProofSubmitted(jobId, HOST, 1, keccak256("head"), "proof", "delta");

        vm.prank(HOST);
        market.submitProofOfWork(jobId, 1, keccak256("head"), "proof", "delta");
        prove(jobId, 1234);

        SessionView memory s = session(jobId);
        assertEq(s.tokensUsed, 1235);
        assertEq(s.lastProofTime, time);
        assertEq(s.lastProofCID, "proof-cid");
        (bytes32 hash, uint256 tokens, uint256 timestamp, bool verified, string memory delta) =
            market.getProofSubmission(jobId, 0);
        assertEq(hash, keccak256("head"));
        assertEq(tokens, 1);
        assertEq(timestamp, time);
        assertTrue(verified);
        assertEq(delta, "delta");
        assertTrue(proofs.verifiedProofs(keccak256("head")));
    }

    function test_missingProofReverts() public {
        uint256 jobId = openNative(RENTER);

        vm.expectRevert("Proof not found");
        market.getProofSubmission(jobId, 0);
    }

    function test_claimIsBoundedByTheDeposit() public {
        uint256 jobId = openNative(RENTER);
        skip(100);
        vm.startPrank(HOST);

        vm.expectRevert("Exceeds deposit");
        market.submitProofOfWork(jobId, NATIVE_TOKENS + 1, "a", "", "");
        vm.expectRevert("Exceeds deposit");
        market.submitProofOfWork(jobId, type(uint256).max, "a", "", "");
        market.submitProofOfWork(jobId, NATIVE_TOKENS, "a", "", "");
        vm.expectRevert("Exceeds deposit");
        market.submitProofOfWork(jobId, 1, "b", "", "");
    }

    function test_claimIsBoundedByTheModelsRate() public {
        models.setModelRateLimit(model, 100);
        uint256 jobId = openNative(RENTER);
        vm.startPrank(HOST);

        vm.expectRevert("Excessive tokens claimed");
        market.submitProofOfWork(jobId, 101, "a", "", "");
        market.submitProofOfWork(jobId, 100, "a", "", "");
        skip(9);
        vm.expectRevert("Excessive tokens claimed");
        market.submitProofOfWork(jobId, 1001, "b", "", "");
        market.submitProofOfWork(jobId, 1000, "b", "", "");
    }

    function test_openSessionKeepsItsRate() public {
        uint256 jobId = openNative(RENTER);
        models.setModelRateLimit(model, 100);

        vm.prank(HOST);
        market.submitProofOfWork(jobId, 10_000, "a", "", "");

        assertEq(session(jobId).tokensUsed, 10_000);
    }

    function test_proofReverts() public {
        uint256 jobId = openNative(RENTER);

        vm.expectRevert("Session not found");
        market.submitProofOfWork(7, 1, "a", "", "");
        vm.expectRevert("Not host");
        vm.prank(RENTER);
        market.submitProofOfWork(jobId, 1, "a", "", "");
        vm.startPrank(HOST);
        vm.expectRevert("Must claim minimum tokens");
        market.submitProofOfWork(jobId, 0, "a", "", "");
        vm.expectRevert("Invalid proof hash");
        market.submitProofOfWork(jobId, 1, bytes32(0), "", "");
        market.submitProofOfWork(jobId, 1, "a", "", "");
        vm.expectRevert("Proof already used");
        market.submitProofOfWork(jobId, 1, "a", "", "");
        vm.stopPrank();
        vm.prank(RENTER);
        market.completeSessionJob(jobId, "");
        vm.expectRevert("Session not active");
        vm.prank(HOST);
        market.submitProofOfWork(jobId, 1, "b", "", "");
    }

    function test_missingSessionReadsAsZeros() public view {
        SessionView memory s = session(99);

        assertEq(s.id, 0);
        assertEq(s.depositor, address(0));
    }

    function test_constantsThatClientsRead() public view {
        assertEq(market.minTokensFee(), 0);
        assertFalse(market.paused());
        assertEq(market.MIN_PROVEN_TOKENS(), 1);
        assertEq(market.PRICE_PRECISION(), 1000);
        assertEq(market.MIN_PROOF_TIMEOUT(), MIN_WINDOW);
        assertEq(models.APPROVAL_THRESHOLD(), 100_000e18);
        (address wrapper, address stablecoin, uint256 minDeposit, string memory symbol) =
            market.chainConfig();
        assertEq(wrapper, address(0xBEEF));
        assertEq(stablecoin, address(usdc));
        assertEq(minDeposit, 0.0001 ether);
        assertEq(symbol, "ETH");
    }

    function open(
        address host,
        bytes32 modelId,
        uint256 price,
        uint256 duration,
        uint256 interval,
        uint256 window
    ) private returns (uint256) {
        return market.createSessionJobForModel{value: NATIVE_DEPOSIT}(
            host, modelId, price, duration, interval, window
        );
    }

    function withToken(address token, uint256 deposit) private {
        market.createSessionJobForModelWithToken(
            HOST, model, token, deposit, USDC_PRICE, DURATION, INTERVAL, WINDOW
        );
    }

    function asDelegate(address payer, address host, address token, uint256 amount) private {
        market.createSessionForModelAsDelegate(
            payer, model, host, token, amount, USDC_PRICE, DURATION, INTERVAL, WINDOW
        );
    }
}
