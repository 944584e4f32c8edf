// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {HostEarnings} from "../src/HostEarnings.sol";
import {JobMarketplaceWithModels} from "../src/JobMarketplaceWithModels.sol";
import {ModelRegistry} from "../src/ModelRegistry.sol";
import {NodeRegistryWithModels} from "../src/NodeRegistryWithModels.sol";
import {ProofSystem} from "../src/ProofSystem.sol";
import {Sessions} from "../src/marketplace/Sessions.sol";
import {TestFab} from "../src/test-tokens/TestFab.sol";
import {TestUsdc} from "../src/test-tokens/TestUsdc.sol";
import {Test} from "./Base.sol";

/// Everything deployed and wired, one host registered with prices, one renter with money.
abstract contract MarketFixture is Test {
    struct SessionView {
        uint256 id;
        address depositor;
        address host;
        address paymentToken;
        uint256 deposit;
        uint256 pricePerToken;
        uint256 tokensUsed;
        uint256 maxDuration;
        uint256 startTime;
        uint256 lastProofTime;
        uint256 proofInterval;
        uint256 proofTimeoutWindow;
        Sessions.SessionStatus status;
        uint256 withdrawnByHost;
        uint256 refundedToUser;
        string conversationCID;
        bytes32 lastProofHash;
        string lastProofCID;
    }

    uint256 internal constant FEE_BPS = 1000;
    uint256 internal constant DISPUTE_WINDOW = 30;
    uint256 internal constant MIN_WINDOW = 60;

    /// 0.001 ETH at this price is 100,000 tokens; 1 USDC is 200,000 ($5 per million).
    uint256 internal constant NATIVE_PRICE = 1e13;
    uint256 internal constant NATIVE_DEPOSIT = 0.001 ether;
    uint256 internal constant NATIVE_TOKENS = 100_000;
    uint256 internal constant USDC_PRICE = 5000;
    uint256 internal constant USDC_DEPOSIT = 1_000_000;
    uint256 internal constant USDC_TOKENS = 200_000;

    uint256 internal constant DURATION = 1 days;
    uint256 internal constant INTERVAL = 1000;
    uint256 internal constant WINDOW = 600;

    address internal constant NATIVE = address(0);
    address internal constant HOST = address(0xA057);
    address internal constant RENTER = address(0xAE47);
    address internal constant STRANGER = address(0xA573);
    address internal constant TREASURY = address(0xA7EA);
    address internal constant DELEGATE = address(0xADE1);

    TestFab internal fab = TestFab(deploy("TestFab", ""));
    TestUsdc internal usdc = TestUsdc(deploy("TestUsdc", ""));
    ModelRegistry internal models = ModelRegistry(deploy("ModelRegistry", abi.encode(fab)));
    ProofSystem internal proofs = ProofSystem(deploy("ProofSystem", ""));
    HostEarnings internal earnings = HostEarnings(deploy("HostEarnings", ""));
    NodeRegistryWithModels internal nodes =
        NodeRegistryWithModels(deploy("NodeRegistryWithModels", abi.encode(fab, models)));
    JobMarketplaceWithModels internal market;
    bytes32 internal model;

    /// Makes each proof hash of a test a new one.
    uint256 private _numProofs;

    function deployAll() internal {
        market = deployMarket();
        earnings.setAuthorizedCaller(address(market), true);
        proofs.setAuthorizedCaller(address(market), true);
        models.addTrustedModel("org/tiny", "tiny.gguf", keccak256("weights"));
        model = models.getModelId("org/tiny", "tiny.gguf");
        registerHost(HOST);
        vm.deal(RENTER, 10 ether);
        usdc.mint(RENTER, 100e6);
        vm.prank(RENTER);
        usdc.approve(address(market), type(uint256).max);
    }

    function deployMarket() internal returns (JobMarketplaceWithModels) {
        return deployMarket(address(earnings));
    }

    function deployMarket(address earnings_) internal returns (JobMarketplaceWithModels) {
        return JobMarketplaceWithModels(
            deploy(
                "JobMarketplaceWithModels",
                abi.encode(
                    nodes,
                    earnings_,
                    proofs,
                    usdc,
                    TREASURY,
                    FEE_BPS,
                    DISPUTE_WINDOW,
                    MIN_WINDOW,
                    address(0xBEEF),
                    "ETH"
                )
            )
        );
    }

    function registerHost(address host) internal {
        fab.mint(host, 1000e18);
        vm.startPrank(host);
        fab.approve(address(nodes), type(uint256).max);
        nodes.registerNode("{}", "http://host", only(model), NATIVE_PRICE, USDC_PRICE);
        nodes.setModelTokenPricing(model, NATIVE, NATIVE_PRICE);
        nodes.setModelTokenPricing(model, address(usdc), USDC_PRICE);
        vm.stopPrank();
    }

    function openNative(address renter) internal returns (uint256) {
        vm.prank(renter);
        return market.createSessionJobForModel{value: NATIVE_DEPOSIT}(
            HOST, model, NATIVE_PRICE, DURATION, INTERVAL, WINDOW
        );
    }

    function openUsdc(address renter) internal returns (uint256) {
        vm.prank(renter);
        return market.createSessionJobForModelWithToken(
            HOST, model, address(usdc), USDC_DEPOSIT, USDC_PRICE, DURATION, INTERVAL, WINDOW
        );
    }

    function openAsDelegate() internal returns (uint256) {
        vm.prank(RENTER);
        market.authorizeDelegate(DELEGATE, true);
        vm.prank(DELEGATE);
        return market.createSessionForModelAsDelegate(
            RENTER, model, HOST, address(usdc), USDC_DEPOSIT, USDC_PRICE, DURATION, INTERVAL, WINDOW
        );
    }

    /// Waits long enough for the rate limit, then claims.
    function prove(uint256 jobId, uint256 numTokens) internal {
        skip(numTokens / models.DEFAULT_RATE_LIMIT());
        bytes32 proofHash = freshHash();
        vm.prank(HOST);
        market.submitProofOfWork(jobId, numTokens, proofHash, "proof-cid", "delta-cid");
    }

    function freshHash() internal returns (bytes32) {
        return keccak256(abi.encode("proof", ++_numProofs));
    }

    function session(uint256 jobId) internal view returns (SessionView memory) {
        (bool ok, bytes memory data) =
            address(market).staticcall(abi.encodeCall(market.sessionJobs, (jobId)));
        require(ok, "sessionJobs failed");
        return abi.decode(bytes.concat(bytes32(uint256(32)), data), (SessionView));
    }

    function only(bytes32 id) internal pure returns (bytes32[] memory ids) {
        ids = new bytes32[](1);
        ids[0] = id;
    }

    function only(address token) internal pure returns (address[] memory tokens) {
        tokens = new address[](1);
        tokens[0] = token;
    }
}

/// What most tests start from.
abstract contract MarketTest is MarketFixture {
    function setUp() public virtual {
        deployAll();
    }
}
