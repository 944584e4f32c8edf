// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// What the contracts ask of one another. Each is a slice of the full contract's ABI.

interface IModelRegistry {
    function isModelApproved(bytes32 modelId) external view returns (bool);

    function getModelRateLimit(bytes32 modelId) external view returns (uint256);
}

interface INodeRegistry {
    function modelRegistry() external view returns (IModelRegistry);

    function isActiveNode(address operator) external view returns (bool);

    function nodeSupportsModel(address nodeAddress, bytes32 modelId) external view returns (bool);

    function getModelPricing(address operator, bytes32 modelId, address token)
        external
        view
        returns (uint256);
}

interface IProofSystem {
    function authorizedCallers(address caller) external view returns (bool);

    function markProofUsed(
        bytes32 proofHash,
        address prover,
        uint256 claimedTokens,
        bytes32 modelId
    ) external returns (bool);
}

interface IHostEarnings {
    function authorizedCallers(address caller) external view returns (bool);

    function creditEarnings(address host, uint256 amount, address token) external;
}
