// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title The sessions' records: how they are kept, read and announced
abstract contract Sessions {
    enum SessionStatus {
        Active,
        Completed,
        TimedOut
    }

    /// Packed: nine slots before the two strings, where a word for each field would take eighteen.
    struct Session {
        address depositor;
        uint64 startTime;
        uint32 maxDuration;
        address host;
        uint64 lastProofTime;
        uint16 proofTimeoutWindow;
        SessionStatus status;
        address paymentToken;
        uint64 maxTokensPerSecond;
        uint128 deposit;
        uint128 pricePerToken;
        uint128 tokensUsed;
        uint128 proofInterval;
        uint128 withdrawnByHost;
        uint128 refundedToUser;
        bytes32 modelId;
        bytes32 lastProofHash;
        address delegate;
        string conversationCID;
        string lastProofCID;
    }

    struct Proof {
        bytes32 proofHash;
        uint128 tokensClaimed;
        uint64 timestamp;
        string deltaCID;
    }

    /// Prices are in the payment token's smallest unit for this many LLM tokens.
    uint256 public constant PRICE_PRECISION = 1000;

    uint256 public nextJobId = 1;
    mapping(address => uint256[]) public userSessions;
    mapping(address => uint256[]) public hostSessions;
    mapping(uint256 jobId => Session) internal _sessions;
    mapping(uint256 jobId => Proof[]) internal _proofs;

    event SessionJobCreated(
        uint256 indexed jobId, address indexed depositor, address indexed host, uint256 deposit
    );
    event SessionJobCreatedForModel(
        uint256 indexed jobId,
        address indexed depositor,
        address indexed host,
        bytes32 modelId,
        uint256 deposit
    );
    event SessionCreatedByDepositor(
        uint256 indexed sessionId, address indexed depositor, address indexed host, uint256 deposit
    );
    event SessionCreatedByDelegate(
        uint256 indexed sessionId,
        address indexed payer,
        address indexed delegate,
        address host,
        bytes32 modelId,
        uint256 amount
    );
    event ProofSubmitted(
        uint256 indexed jobId,
        address indexed host,
        uint256 tokensClaimed,
        bytes32 proofHash,
        string proofCID,
        string deltaCID
    );
    event SessionCompleted(
        uint256 indexed jobId, uint256 totalTokensUsed, uint256 hostEarnings, uint256 userRefund
    );
    event SessionCompletedBy(
        uint256 indexed jobId,
        address indexed completedBy,
        uint256 tokensUsed,
        uint256 paymentAmount,
        uint256 refundAmount
    );
    event SessionTimedOut(uint256 indexed jobId, uint256 hostEarnings, uint256 userRefund);

    function sessionJobs(uint256 jobId)
        external
        view
        returns (
            uint256 id,
            address depositor,
            address host,
            address paymentToken,
            uint256 deposit,
            uint256 pricePerToken,
            uint256 tokensUsed,
            uint256 maxDuration,
            uint256 startTime,
            uint256 lastProofTime,
            uint256 proofInterval,
            uint256 proofTimeoutWindow,
            SessionStatus status,
            uint256 withdrawnByHost,
            uint256 refundedToUser,
            string memory conversationCID,
            bytes32 lastProofHash,
            string memory lastProofCID
        )
    {
        Session storage session = _sessions[jobId];
        id = session.depositor == address(0) ? 0 : jobId;
        depositor = session.depositor;
        host = session.host;
        paymentToken = session.paymentToken;
        deposit = session.deposit;
        pricePerToken = session.pricePerToken;
        tokensUsed = session.tokensUsed;
        maxDuration = session.maxDuration;
        startTime = session.startTime;
        lastProofTime = session.lastProofTime;
        proofInterval = session.proofInterval;
        proofTimeoutWindow = session.proofTimeoutWindow;
        status = session.status;
        withdrawnByHost = session.withdrawnByHost;
        refundedToUser = session.refundedToUser;
        conversationCID = session.conversationCID;
        lastProofHash = session.lastProofHash;
        lastProofCID = session.lastProofCID;
    }

    function sessionModel(uint256 jobId) external view returns (bytes32) {
        return _sessions[jobId].modelId;
    }

    /// @notice A stored proof is always `verified`: one that is not recorded reverts the claim.
    function getProofSubmission(uint256 sessionId, uint256 proofIndex)
        external
        view
        returns (
            bytes32 proofHash,
            uint256 tokensClaimed,
            uint256 timestamp,
            bool verified,
            string memory deltaCID
        )
    {
        require(proofIndex < _proofs[sessionId].length, "Proof not found");
        Proof storage proof = _proofs[sessionId][proofIndex];
        return (proof.proofHash, proof.tokensClaimed, proof.timestamp, true, proof.deltaCID);
    }

    function _activeSession(uint256 jobId) internal view returns (Session storage session) {
        session = _sessions[jobId];
        require(session.depositor != address(0), "Session not found");
        require(session.status == SessionStatus.Active, "Session not active");
    }

    function _maxTokens(uint256 deposit, uint256 pricePerToken) internal pure returns (uint256) {
        return deposit * PRICE_PRECISION / pricePerToken;
    }
}
