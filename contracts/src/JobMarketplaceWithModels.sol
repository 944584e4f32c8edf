// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {IHostEarnings, INodeRegistry, IProofSystem} from "./Interfaces.sol";
import {Sessions} from "./marketplace/Sessions.sol";
import {Treasury} from "./marketplace/Treasury.sol";

/// @title Paid sessions: a renter locks a deposit, a host claims tokens against it, the rest returns
/// @notice What is paid is `tokensUsed * pricePerToken / PRICE_PRECISION`, rounded down. Everything
/// that a session is settled by is fixed when it is opened; no role can change it afterwards.
contract JobMarketplaceWithModels is Sessions, Treasury {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;

    /// The terms that a renter asks for.
    struct Offer {
        address host;
        bytes32 modelId;
        address paymentToken;
        uint256 deposit;
        uint256 pricePerToken;
        uint256 maxDuration;
        uint256 proofInterval;
        uint256 proofTimeoutWindow;
    }

    struct ChainConfig {
        address nativeWrapper;
        address stablecoin;
        uint256 minDeposit;
        string nativeTokenSymbol;
    }

    uint256 public constant MIN_PROVEN_TOKENS = 1;
    uint256 public constant DEFAULT_PROOF_TIMEOUT = 300;
    uint256 public constant MAX_PROOF_TIMEOUT = 3600;
    uint256 public constant USDC_MIN_DEPOSIT = 500_000;
    uint256 public constant USDC_MAX_DEPOSIT = 1_000_000_000_000;

    /// Part of the interface that clients read; here they never change.
    uint256 public constant minTokensFee = 0;
    bool public constant paused = false;

    uint256 private constant MAX_DURATION = 365 days;
    uint256 private constant MAX_DISPUTE_WINDOW = 7 days;
    uint256 private constant BASIS_POINTS = 10_000;

    INodeRegistry public immutable nodeRegistry;
    IHostEarnings public immutable hostEarnings;
    IProofSystem public immutable proofSystem;
    address public immutable usdcAddress;
    uint256 public immutable feeBasisPoints;
    uint256 public immutable disputeWindow;
    uint256 public immutable MIN_PROOF_TIMEOUT;

    ChainConfig public chainConfig;
    error NotDelegate();
    error ERC20Only();
    error BadDelegateParams();

    constructor(
        address nodeRegistry_,
        address hostEarnings_,
        address proofSystem_,
        address usdc_,
        address treasury_,
        uint256 feeBasisPoints_,
        uint256 disputeWindow_,
        uint256 minProofTimeout_,
        address nativeWrapper_,
        string memory nativeTokenSymbol_
    ) Ownable(msg.sender) Treasury(treasury_) {
        require(nodeRegistry_.code.length > 0, "Invalid node registry");
        require(hostEarnings_.code.length > 0, "Invalid host earnings");
        require(proofSystem_.code.length > 0, "Invalid proof system");
        require(feeBasisPoints_ <= BASIS_POINTS, "Invalid fee");
        require(disputeWindow_ <= MAX_DISPUTE_WINDOW, "Invalid dispute window");
        require(
            minProofTimeout_ > 0 && minProofTimeout_ <= DEFAULT_PROOF_TIMEOUT,
            "Invalid proof timeout"
        );
        nodeRegistry = INodeRegistry(nodeRegistry_);
        hostEarnings = IHostEarnings(hostEarnings_);
        proofSystem = IProofSystem(proofSystem_);
        usdcAddress = usdc_;
        feeBasisPoints = feeBasisPoints_;
        disputeWindow = disputeWindow_;
        MIN_PROOF_TIMEOUT = minProofTimeout_;
        chainConfig = ChainConfig(nativeWrapper_, usdc_, MIN_DEPOSIT, nativeTokenSymbol_);
        _accept(usdc_, USDC_MIN_DEPOSIT, USDC_MAX_DEPOSIT);
    }

    /// @notice Open a session with the native coin that comes with the call as its deposit.
    function createSessionJobForModel(
        address host,
        bytes32 modelId,
        uint256 pricePerToken,
        uint256 maxDuration,
        uint256 proofInterval,
        uint256 proofTimeoutWindow
    ) external payable nonReentrant returns (uint256 jobId) {
        Offer memory offer = Offer(
            host,
            modelId,
            NATIVE,
            msg.value,
            pricePerToken,
            maxDuration,
            proofInterval,
            proofTimeoutWindow
        );
        return _open(msg.sender, address(0), offer);
    }

    /// @notice Open a session with a deposit taken from the sender's token allowance.
    function createSessionJobForModelWithToken(
        address host,
        bytes32 modelId,
        address token,
        uint256 deposit,
        uint256 pricePerToken,
        uint256 maxDuration,
        uint256 proofInterval,
        uint256 proofTimeoutWindow
    ) external nonReentrant returns (uint256 jobId) {
        require(token != NATIVE, "Token not accepted");
        Offer memory offer = Offer(
            host,
            modelId,
            token,
            deposit,
            pricePerToken,
            maxDuration,
            proofInterval,
            proofTimeoutWindow
        );
        jobId = _open(msg.sender, address(0), offer);
        _pull(token, msg.sender, deposit);
    }

    /// @notice Open a session with money that the sender deposited before.
    function createSessionFromDepositForModel(
        bytes32 modelId,
        address host,
        address paymentToken,
        uint256 deposit,
        uint256 pricePerToken,
        uint256 maxDuration,
        uint256 proofInterval,
        uint256 proofTimeoutWindow
    ) external nonReentrant returns (uint256 sessionId) {
        Offer memory offer = Offer(
            host,
            modelId,
            paymentToken,
            deposit,
            pricePerToken,
            maxDuration,
            proofInterval,
            proofTimeoutWindow
        );
        sessionId = _open(msg.sender, address(0), offer);
        _debit(msg.sender, paymentToken, deposit);
        emit SessionCreatedByDepositor(sessionId, msg.sender, host, deposit);
    }

    /// @notice Open a session for an account that has made the sender its delegate. The deposit
    /// comes from the payer's token allowance and what is left of it goes back to the payer.
    function createSessionForModelAsDelegate(
        address payer,
        bytes32 modelId,
        address host,
        address paymentToken,
        uint256 amount,
        uint256 pricePerToken,
        uint256 maxDuration,
        uint256 proofInterval,
        uint256 proofTimeoutWindow
    ) external nonReentrant returns (uint256 sessionId) {
        if (payer == address(0) || host == address(0) || amount == 0) {
            revert BadDelegateParams();
        }
        if (paymentToken == NATIVE) {
            revert ERC20Only();
        }
        if (!isAuthorizedDelegate[payer][msg.sender]) {
            revert NotDelegate();
        }
        Offer memory offer = Offer(
            host,
            modelId,
            paymentToken,
            amount,
            pricePerToken,
            maxDuration,
            proofInterval,
            proofTimeoutWindow
        );
        sessionId = _open(payer, msg.sender, offer);
        emit SessionCreatedByDelegate(sessionId, payer, msg.sender, host, modelId, amount);
        _pull(paymentToken, payer, amount);
    }

    /// @notice Claim tokens served since the last claim. The host may claim as long as the session
    /// is open; what it may claim is bounded by the deposit and by the model's rate.
    function submitProofOfWork(
        uint256 jobId,
        uint256 tokensClaimed,
        bytes32 proofHash,
        string calldata proofCID,
        string calldata deltaCID
    ) external nonReentrant {
        Session storage session = _activeSession(jobId);
        require(msg.sender == session.host, "Not host");
        require(tokensClaimed >= MIN_PROVEN_TOKENS, "Must claim minimum tokens");
        uint256 total = session.tokensUsed;
        require(
            tokensClaimed <= _maxTokens(session.deposit, session.pricePerToken) - total,
            "Exceeds deposit"
        );
        // The second that is running counts, so that a claim in the block of the last one can pass.
        uint256 elapsed = block.timestamp - session.lastProofTime + 1;
        require(tokensClaimed <= elapsed * session.maxTokensPerSecond, "Excessive tokens claimed");

        session.tokensUsed = (total + tokensClaimed).toUint128();
        session.lastProofTime = block.timestamp.toUint64();
        session.lastProofHash = proofHash;
        session.lastProofCID = proofCID;
        _proofs[jobId].push(
            Proof(proofHash, tokensClaimed.toUint128(), block.timestamp.toUint64(), deltaCID)
        );
        emit ProofSubmitted(jobId, msg.sender, tokensClaimed, proofHash, proofCID, deltaCID);
        require(
            proofSystem.markProofUsed(proofHash, msg.sender, tokensClaimed, session.modelId),
            "Proof already used"
        );
    }

    /// @notice End a session and settle it. The depositor may at any time, and so may the delegate
    /// that opened it while its authority lasts; the host may `disputeWindow` seconds after its
    /// last proof, or after the start if there is none.
    function completeSessionJob(uint256 jobId, string calldata conversationCID)
        external
        nonReentrant
    {
        Session storage session = _activeSession(jobId);
        if (msg.sender != session.depositor && !_isItsDelegate(session, msg.sender)) {
            require(msg.sender == session.host, "Not authorized");
            require(
                block.timestamp >= session.lastProofTime + disputeWindow, "Must wait dispute window"
            );
        }
        session.conversationCID = conversationCID;
        (uint256 payment, uint256 hostShare, uint256 refund) =
            _close(session, SessionStatus.Completed);
        emit SessionCompleted(jobId, session.tokensUsed, hostShare, refund);
        emit SessionCompletedBy(jobId, msg.sender, session.tokensUsed, payment, refund);
        _payOut(jobId, session, hostShare, refund);
    }

    /// @notice End and settle a session that ran too long or whose host stopped proving.
    function triggerSessionTimeout(uint256 jobId) external nonReentrant {
        Session storage session = _activeSession(jobId);
        require(
            block.timestamp > uint256(session.startTime) + session.maxDuration
                || block.timestamp > uint256(session.lastProofTime) + session.proofTimeoutWindow,
            "Session not timed out"
        );
        (, uint256 hostShare, uint256 refund) = _close(session, SessionStatus.TimedOut);
        emit SessionTimedOut(jobId, hostShare, refund);
        _payOut(jobId, session, hostShare, refund);
    }

    function _open(address depositor, address delegate, Offer memory offer)
        private
        returns (uint256 jobId)
    {
        _requireDepositInLimits(offer.paymentToken, offer.deposit);
        _requireHostOffers(offer);
        require(offer.maxDuration > 0 && offer.maxDuration <= MAX_DURATION, "Invalid duration");
        require(
            offer.proofInterval > 0
                && offer.proofInterval <= _maxTokens(offer.deposit, offer.pricePerToken),
            "Invalid proof interval"
        );
        jobId = nextJobId;
        if (jobId == 1) {
            _requireWired();
        }
        nextJobId = jobId + 1;
        _store(_sessions[jobId], depositor, delegate, offer);
        _lock(depositor, offer.paymentToken, offer.deposit);
        userSessions[depositor].push(jobId);
        hostSessions[offer.host].push(jobId);
        emit SessionJobCreated(jobId, depositor, offer.host, offer.deposit);
        emit SessionJobCreatedForModel(jobId, depositor, offer.host, offer.modelId, offer.deposit);
    }

    function _store(
        Session storage session,
        address depositor,
        address delegate,
        Offer memory offer
    ) private {
        session.depositor = depositor;
        session.startTime = block.timestamp.toUint64();
        session.maxDuration = offer.maxDuration.toUint32();
        session.host = offer.host;
        session.lastProofTime = block.timestamp.toUint64();
        session.proofTimeoutWindow = _proofTimeout(offer.proofTimeoutWindow).toUint16();
        session.paymentToken = offer.paymentToken;
        session.maxTokensPerSecond =
            nodeRegistry.modelRegistry().getModelRateLimit(offer.modelId).toUint64();
        session.deposit = offer.deposit.toUint128();
        session.pricePerToken = offer.pricePerToken.toUint128();
        session.proofInterval = offer.proofInterval.toUint128();
        session.modelId = offer.modelId;
        if (delegate != address(0)) {
            session.delegate = delegate;
        }
    }

    /// Fixes who gets what and takes the session's deposit off the books; nothing is sent yet.
    function _close(Session storage session, SessionStatus outcome)
        private
        returns (uint256 payment, uint256 hostShare, uint256 refund)
    {
        uint256 deposit = session.deposit;
        payment = uint256(session.tokensUsed) * session.pricePerToken / PRICE_PRECISION;
        uint256 fee = payment * feeBasisPoints / BASIS_POINTS;
        hostShare = payment - fee;
        refund = deposit - payment;

        session.status = outcome;
        session.withdrawnByHost = hostShare.toUint128();
        session.refundedToUser = refund.toUint128();
        _unlock(session.depositor, session.paymentToken, deposit);
        if (fee > 0) {
            _accrue(session.paymentToken, fee);
        }
    }

    /// @notice A step of settling: send a host's share to the earnings contract and credit it there.
    /// Only this contract calls it, so that both are undone when either fails.
    function pushEarnings(address host, address token, uint256 amount) external {
        require(msg.sender == address(this), "Only the marketplace");
        if (token == NATIVE) {
            _sendNative(address(hostEarnings), amount);
        } else {
            IERC20(token).safeTransfer(address(hostEarnings), amount);
        }
        hostEarnings.creditEarnings(host, amount, token);
    }

    /// Neither share waits for the other: what cannot be sent becomes its owner's free deposit.
    function _payOut(uint256 jobId, Session storage session, uint256 hostShare, uint256 refund)
        private
    {
        address token = session.paymentToken;
        if (hostShare > 0) {
            _payHost(jobId, session.host, token, hostShare);
        }
        _refund(jobId, session.depositor, token, refund);
    }

    function _payHost(uint256 jobId, address host, address token, uint256 amount) private {
        _requireGas(PUSH_GAS);
        try this.pushEarnings{gas: PUSH_GAS}(host, token, amount) {
            emit PaymentSent(host, amount);
        } catch {
            _credit(host, token, amount);
            emit HostShareCreditedToDeposit(jobId, host, amount, token);
        }
    }

    function _isItsDelegate(Session storage session, address account) private view returns (bool) {
        return account == session.delegate && isAuthorizedDelegate[session.depositor][account];
    }

    function _requireHostOffers(Offer memory offer) private view {
        require(nodeRegistry.isActiveNode(offer.host), "Host not active");
        require(nodeRegistry.modelRegistry().isModelApproved(offer.modelId), "Model not approved");
        require(
            nodeRegistry.nodeSupportsModel(offer.host, offer.modelId), "Host does not support model"
        );
        require(
            offer.pricePerToken
                >= nodeRegistry.getModelPricing(offer.host, offer.modelId, offer.paymentToken),
            "Price below host minimum"
        );
    }

    /// Before the first deposit: a marketplace that cannot credit hosts could not settle. Checking
    /// once is enough, for neither contract can take the authority back.
    function _requireWired() private view {
        require(
            hostEarnings.authorizedCallers(address(this))
                && proofSystem.authorizedCallers(address(this)),
            "Marketplace not authorized"
        );
    }

    function _proofTimeout(uint256 window) private view returns (uint256) {
        if (window == 0) {
            return DEFAULT_PROOF_TIMEOUT;
        }
        require(window >= MIN_PROOF_TIMEOUT && window <= MAX_PROOF_TIMEOUT, "Invalid proof timeout");
        return window;
    }
}
