// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {IProofSystem} from "./Interfaces.sol";

/// @title Remembers which proof hashes were claimed, so that none is claimed twice
/// @notice It does not verify a proof: the hash commits a host to a receipt chain that anybody can
/// check off chain. A hash is spent per marketplace and host, so a stranger who copies a pending
/// hash cannot make the honest host's claim fail.
contract ProofSystem is IProofSystem, Ownable {
    mapping(address => bool) public authorizedCallers;

    /// Who spent a hash first, as `_spender(caller, prover)`. One slot is all that a hash needs
    /// unless somebody copies it; copies go to `_laterUses`.
    mapping(bytes32 proofHash => bytes32 spender) private _firstUse;
    mapping(bytes32 proofHash => mapping(bytes32 spender => bool)) private _laterUses;

    event AuthorizedCallerUpdated(address indexed caller, bool authorized);
    event ProofVerified(bytes32 indexed proofHash, address indexed prover, uint256 tokens);

    constructor() Ownable(msg.sender) {}

    /// @notice Let a marketplace record proofs. It cannot be taken back: revoking would stop the
    /// hosts of that marketplace from claiming what they earned.
    function setAuthorizedCaller(address caller, bool authorized) external onlyOwner {
        require(caller != address(0), "Invalid caller");
        require(authorized, "Cannot revoke");
        authorizedCallers[caller] = true;
        emit AuthorizedCallerUpdated(caller, true);
    }

    /// @return False if this marketplace has recorded the hash for this prover before.
    function markProofUsed(
        bytes32 proofHash,
        address prover,
        uint256 claimedTokens,
        bytes32 modelId
    ) external returns (bool) {
        require(authorizedCallers[msg.sender], "Not authorized");
        require(proofHash != bytes32(0), "Invalid proof hash");
        bytes32 spender = _spender(msg.sender, prover);
        bytes32 first = _firstUse[proofHash];
        if (first == bytes32(0)) {
            _firstUse[proofHash] = spender;
        } else if (first == spender || _laterUses[proofHash][spender]) {
            return false;
        } else {
            _laterUses[proofHash][spender] = true;
        }
        emit ProofVerified(proofHash, prover, claimedTokens);
        return true;
    }

    /// @notice Whether anybody has claimed with this hash.
    function verifiedProofs(bytes32 proofHash) external view returns (bool) {
        return _firstUse[proofHash] != bytes32(0);
    }

    function _spender(address caller, address prover) private pure returns (bytes32) {
        return keccak256(abi.encode(caller, prover));
    }
}
