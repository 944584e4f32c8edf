// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {IModelRegistry} from "./Interfaces.sol";

/// @title The models that sessions may be opened for
/// @notice The owner lists models. Listing decides what new sessions may name; a session that is
/// open keeps the terms it was opened with.
contract ModelRegistry is IModelRegistry, Ownable {
    struct Model {
        string huggingfaceRepo;
        string fileName;
        bytes32 sha256Hash;
        uint256 approvalTier;
        bool active;
        uint256 timestamp;
    }

    /// Tier 1 is listed by the owner. Tier 2 belongs to governance voting, which is not built.
    uint256 private constant TIER_TRUSTED = 1;

    /// Existing clients read this at start-up and stop if it is missing. Nobody votes here.
    uint256 public constant APPROVAL_THRESHOLD = 100_000e18;

    /// Tokens per second that one session of a model may claim. The default is several times what
    /// one stream gets from today's fastest hardware: it stops absurd claims, not fast hosts.
    uint256 public constant MIN_RATE_LIMIT = 100;
    uint256 public constant DEFAULT_RATE_LIMIT = 10_000;
    uint256 public constant MAX_RATE_LIMIT = 1_000_000;

    address public immutable governanceToken;

    mapping(bytes32 => Model) public models;
    bytes32[] public modelList;

    /// A model's own limit; 0 where DEFAULT_RATE_LIMIT holds.
    mapping(bytes32 => uint256) public modelMaxTokensPerSecond;

    event ModelAdded(
        bytes32 indexed modelId, string huggingfaceRepo, string fileName, uint256 tier
    );
    event ModelDeactivated(bytes32 indexed modelId);
    event ModelReactivated(bytes32 indexed modelId);
    event ModelRateLimitUpdated(bytes32 indexed modelId, uint256 maxTokensPerSecond);

    constructor(address governanceToken_) Ownable(msg.sender) {
        require(governanceToken_ != address(0), "Invalid governance token");
        governanceToken = governanceToken_;
    }

    function addTrustedModel(
        string calldata huggingfaceRepo,
        string calldata fileName,
        bytes32 sha256Hash
    ) external onlyOwner {
        _add(huggingfaceRepo, fileName, sha256Hash);
    }

    function batchAddTrustedModels(
        string[] calldata repos,
        string[] calldata fileNames,
        bytes32[] calldata hashes
    ) external onlyOwner {
        require(
            repos.length == fileNames.length && repos.length == hashes.length, "Length mismatch"
        );
        for (uint256 i = 0; i < repos.length; ++i) {
            _add(repos[i], fileNames[i], hashes[i]);
        }
    }

    function deactivateModel(bytes32 modelId) external onlyOwner {
        require(models[modelId].active, "Model not active");
        models[modelId].active = false;
        emit ModelDeactivated(modelId);
    }

    function reactivateModel(bytes32 modelId) external onlyOwner {
        require(_exists(modelId), "Model not found");
        require(!models[modelId].active, "Model already active");
        models[modelId].active = true;
        emit ModelReactivated(modelId);
    }

    function setModelRateLimit(bytes32 modelId, uint256 maxTokensPerSec) external onlyOwner {
        require(_exists(modelId), "Model not found");
        require(
            maxTokensPerSec >= MIN_RATE_LIMIT && maxTokensPerSec <= MAX_RATE_LIMIT,
            "Rate limit out of range"
        );
        modelMaxTokensPerSecond[modelId] = maxTokensPerSec;
        emit ModelRateLimitUpdated(modelId, maxTokensPerSec);
    }

    function getModelId(string memory repo, string memory fileName) public pure returns (bytes32) {
        return keccak256(abi.encodePacked(repo, "/", fileName));
    }

    function getModel(bytes32 modelId) external view returns (Model memory) {
        return models[modelId];
    }

    function getModelHash(bytes32 modelId) external view returns (bytes32) {
        return models[modelId].sha256Hash;
    }

    function getAllModels() external view returns (bytes32[] memory) {
        return modelList;
    }

    function isModelApproved(bytes32 modelId) external view returns (bool) {
        return models[modelId].active;
    }

    function isTrustedModel(bytes32 modelId) external view returns (bool) {
        return models[modelId].approvalTier == TIER_TRUSTED;
    }

    function getModelRateLimit(bytes32 modelId) external view returns (uint256) {
        uint256 own = modelMaxTokensPerSecond[modelId];
        return own == 0 ? DEFAULT_RATE_LIMIT : own;
    }

    function _add(string calldata repo, string calldata fileName, bytes32 sha256Hash) private {
        require(bytes(repo).length > 0 && bytes(fileName).length > 0, "Empty model name");
        require(sha256Hash != bytes32(0), "Invalid model hash");
        bytes32 modelId = getModelId(repo, fileName);
        require(!_exists(modelId), "Model already exists");
        models[modelId] = Model({
            huggingfaceRepo: repo,
            fileName: fileName,
            sha256Hash: sha256Hash,
            approvalTier: TIER_TRUSTED,
            active: true,
            timestamp: block.timestamp
        });
        modelList.push(modelId);
        emit ModelAdded(modelId, repo, fileName, TIER_TRUSTED);
    }

    function _exists(bytes32 modelId) private view returns (bool) {
        return models[modelId].timestamp != 0;
    }
}
