// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {Accounts} from "./Accounts.sol";

/// @title The fee share of settled sessions
/// @notice Only the treasury can move its money or name its successor; the owner cannot.
abstract contract Treasury is Accounts {
    using SafeERC20 for IERC20;

    address public treasuryAddress;
    uint256 public accumulatedTreasuryNative;
    mapping(address => uint256) public accumulatedTreasuryTokens;

    event TreasuryWithdrawal(address indexed token, uint256 amount);

    modifier onlyTreasury() {
        require(msg.sender == treasuryAddress, "Only treasury");
        _;
    }

    constructor(address treasury_) {
        require(treasury_ != address(0), "Invalid treasury");
        treasuryAddress = treasury_;
    }

    function setTreasury(address _treasury) external onlyTreasury {
        require(_treasury != address(0), "Invalid treasury");
        treasuryAddress = _treasury;
    }

    function withdrawTreasuryNative() external onlyTreasury nonReentrant {
        require(accumulatedTreasuryNative > 0, "Nothing to withdraw");
        _withdrawNative();
    }

    function withdrawTreasuryTokens(address token) external onlyTreasury nonReentrant {
        require(accumulatedTreasuryTokens[token] > 0, "Nothing to withdraw");
        _withdrawToken(token);
    }

    /// @notice Withdraw the native share and that of each of these tokens; empty ones are skipped.
    function withdrawAllTreasuryFees(address[] calldata tokens) external onlyTreasury nonReentrant {
        if (accumulatedTreasuryNative > 0) {
            _withdrawNative();
        }
        for (uint256 i = 0; i < tokens.length; ++i) {
            if (accumulatedTreasuryTokens[tokens[i]] > 0) {
                _withdrawToken(tokens[i]);
            }
        }
    }

    function _accrue(address token, uint256 amount) internal {
        if (token == NATIVE) {
            accumulatedTreasuryNative += amount;
        } else {
            accumulatedTreasuryTokens[token] += amount;
        }
    }

    function _withdrawNative() private {
        uint256 amount = accumulatedTreasuryNative;
        accumulatedTreasuryNative = 0;
        emit TreasuryWithdrawal(NATIVE, amount);
        _sendNative(msg.sender, amount);
    }

    function _withdrawToken(address token) private {
        uint256 amount = accumulatedTreasuryTokens[token];
        accumulatedTreasuryTokens[token] = 0;
        emit TreasuryWithdrawal(token, amount);
        IERC20(token).safeTransfer(msg.sender, amount);
    }
}
