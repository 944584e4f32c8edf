// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {IHostEarnings} from "./Interfaces.sol";

/// @title What hosts have earned and not yet withdrawn
/// @notice Every credit is backed by money that is already here, so neither the owner nor a caller
/// that it authorises can turn one host's earnings into another's. `address(0)` is the native coin.
contract HostEarnings is IHostEarnings, Ownable, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    address private constant NATIVE = address(0);

    mapping(address => bool) public authorizedCallers;
    mapping(address => uint256) public totalAccumulated;
    mapping(address => uint256) public totalWithdrawn;
    mapping(address host => mapping(address token => uint256)) private _balances;

    event CallerAuthorized(address indexed caller, bool authorized);
    event EarningsCredited(
        address indexed host, address indexed token, uint256 amount, uint256 newBalance
    );
    event EarningsWithdrawn(
        address indexed host, address indexed token, uint256 amount, uint256 remainingBalance
    );

    constructor() Ownable(msg.sender) {}

    /// Native earnings arrive here just before they are credited; strangers' coins do not.
    receive() external payable {
        require(authorizedCallers[msg.sender], "Not authorized");
    }

    /// @notice Let a marketplace credit hosts. It cannot be taken back: revoking would make every
    /// settlement of that marketplace revert, with the deposits of its sessions inside.
    function setAuthorizedCaller(address caller, bool authorized) external onlyOwner {
        require(caller != address(0), "Invalid caller");
        require(authorized, "Cannot revoke");
        authorizedCallers[caller] = true;
        emit CallerAuthorized(caller, true);
    }

    /// @notice Credit money that the caller has sent here before this call.
    function creditEarnings(address host, uint256 amount, address token) external {
        require(authorizedCallers[msg.sender], "Not authorized");
        require(host != address(0), "Invalid host");
        require(amount > 0, "Invalid amount");
        require(_held(token) >= _outstanding(token) + amount, "Unbacked credit");
        totalAccumulated[token] += amount;
        uint256 newBalance = _balances[host][token] + amount;
        _balances[host][token] = newBalance;
        emit EarningsCredited(host, token, amount, newBalance);
    }

    function withdraw(uint256 amount, address token) external nonReentrant {
        require(amount > 0, "Invalid amount");
        require(_balances[msg.sender][token] >= amount, "Insufficient balance");
        _withdraw(amount, token);
    }

    function withdrawAll(address token) external nonReentrant {
        uint256 amount = _balances[msg.sender][token];
        require(amount > 0, "No earnings");
        _withdraw(amount, token);
    }

    /// @notice Withdraw everything in each of these; those without a balance are skipped.
    function withdrawMultiple(address[] calldata tokens) external nonReentrant {
        for (uint256 i = 0; i < tokens.length; ++i) {
            uint256 amount = _balances[msg.sender][tokens[i]];
            if (amount > 0) {
                _withdraw(amount, tokens[i]);
            }
        }
    }

    /// @notice Return what was sent here by mistake. Hosts' earnings are out of its reach.
    function rescueTokens(address token, uint256 amount) external onlyOwner nonReentrant {
        require(_held(token) >= _outstanding(token) + amount, "Exceeds surplus");
        _send(msg.sender, amount, token);
    }

    function getBalance(address host, address token) external view returns (uint256) {
        return _balances[host][token];
    }

    function getBalances(address host, address[] calldata tokens)
        external
        view
        returns (uint256[] memory balances)
    {
        balances = new uint256[](tokens.length);
        for (uint256 i = 0; i < tokens.length; ++i) {
            balances[i] = _balances[host][tokens[i]];
        }
    }

    function getTokenStats(address token)
        external
        view
        returns (uint256 accumulated, uint256 withdrawn, uint256 outstanding)
    {
        return (totalAccumulated[token], totalWithdrawn[token], _outstanding(token));
    }

    function _withdraw(uint256 amount, address token) private {
        uint256 remaining = _balances[msg.sender][token] - amount;
        _balances[msg.sender][token] = remaining;
        totalWithdrawn[token] += amount;
        emit EarningsWithdrawn(msg.sender, token, amount, remaining);
        _send(msg.sender, amount, token);
    }

    function _send(address to, uint256 amount, address token) private {
        if (token == NATIVE) {
            (bool sent,) = to.call{value: amount}("");
            require(sent, "Native transfer failed");
        } else {
            IERC20(token).safeTransfer(to, amount);
        }
    }

    function _held(address token) private view returns (uint256) {
        return token == NATIVE ? address(this).balance : IERC20(token).balanceOf(address(this));
    }

    function _outstanding(address token) private view returns (uint256) {
        return totalAccumulated[token] - totalWithdrawn[token];
    }
}
