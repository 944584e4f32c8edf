// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/// @title What the marketplace holds for its renters: free deposits and deposits locked in sessions
/// @notice `address(0)` is the native coin. A free deposit is the owner's to withdraw at any time.
abstract contract Accounts is Ownable, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    address internal constant NATIVE = address(0);

    uint256 public constant MIN_DEPOSIT = 0.0001 ether;
    uint256 private constant MAX_NATIVE_DEPOSIT = 1000 ether;

    /// Gas that a refund in native coin may use: a smart wallet's receive and its event fit, work on
    /// somebody else's bill does not.
    uint256 private constant NATIVE_GAS = 50_000;

    /// Gas for the transfer of a token, and for crediting a host besides: a proxied stablecoin uses
    /// a third of it. A token that burns all of it still lets the rest of the settlement happen.
    uint256 internal constant PUSH_GAS = 250_000;

    /// What a call itself costs: a new account, a value, memory.
    uint256 private constant CALL_GAS = 40_000;

    mapping(address => uint256) public userDepositsNative;
    mapping(address => mapping(address => uint256)) public userDepositsToken;
    mapping(address account => mapping(address token => uint256)) private _locked;

    mapping(address => bool) public acceptedTokens;
    mapping(address => uint256) public tokenMinDeposits;
    mapping(address => uint256) public tokenMaxDeposits;

    /// Who may open sessions in whose name, out of that account's token allowance.
    mapping(address => mapping(address => bool)) public isAuthorizedDelegate;

    event DepositReceived(address indexed depositor, uint256 amount, address indexed token);
    event WithdrawalProcessed(address indexed depositor, uint256 amount, address indexed token);
    event RefundCreditedToDeposit(
        uint256 indexed jobId, address indexed depositor, uint256 amount, address indexed token
    );
    event HostShareCreditedToDeposit(
        uint256 indexed jobId, address indexed host, uint256 amount, address indexed token
    );
    event PaymentSent(address indexed recipient, uint256 amount);
    event DelegateAuthorized(address indexed depositor, address indexed delegate, bool authorized);
    event TokenAccepted(address indexed token, uint256 minDeposit, uint256 maxDeposit);
    event TokenMinDepositUpdated(
        address indexed token, uint256 oldMinDeposit, uint256 newMinDeposit
    );
    event TokenMaxDepositUpdated(
        address indexed token, uint256 oldMaxDeposit, uint256 newMaxDeposit
    );

    function depositNative() external payable nonReentrant {
        require(msg.value > 0, "Invalid amount");
        _credit(msg.sender, NATIVE, msg.value);
        emit DepositReceived(msg.sender, msg.value, NATIVE);
    }

    function depositToken(address token, uint256 amount) external nonReentrant {
        require(amount > 0, "Invalid amount");
        require(acceptedTokens[token], "Token not accepted");
        _credit(msg.sender, token, amount);
        emit DepositReceived(msg.sender, amount, token);
        _pull(token, msg.sender, amount);
    }

    function withdrawNative(uint256 amount) external nonReentrant {
        require(amount > 0, "Invalid amount");
        _debit(msg.sender, NATIVE, amount);
        emit WithdrawalProcessed(msg.sender, amount, NATIVE);
        _sendNative(msg.sender, amount);
    }

    function withdrawToken(address token, uint256 amount) external nonReentrant {
        require(amount > 0, "Invalid amount");
        require(token != NATIVE, "Invalid token");
        _debit(msg.sender, token, amount);
        emit WithdrawalProcessed(msg.sender, amount, token);
        IERC20(token).safeTransfer(msg.sender, amount);
    }

    function authorizeDelegate(address delegate, bool authorized) external {
        require(delegate != address(0) && delegate != msg.sender, "Invalid delegate");
        isAuthorizedDelegate[msg.sender][delegate] = authorized;
        emit DelegateAuthorized(msg.sender, delegate, authorized);
    }

    /// @notice Accept a token for new deposits and sessions. There is no way to stop accepting one.
    function addAcceptedToken(address token, uint256 minDeposit, uint256 maxDeposit)
        external
        onlyOwner
    {
        _accept(token, minDeposit, maxDeposit);
    }

    function updateTokenMinDeposit(address token, uint256 minDeposit) external onlyOwner {
        require(acceptedTokens[token], "Token not accepted");
        require(minDeposit > 0 && minDeposit <= tokenMaxDeposits[token], "Invalid deposit limits");
        emit TokenMinDepositUpdated(token, tokenMinDeposits[token], minDeposit);
        tokenMinDeposits[token] = minDeposit;
    }

    function updateTokenMaxDeposit(address token, uint256 maxDeposit) external onlyOwner {
        require(acceptedTokens[token], "Token not accepted");
        require(maxDeposit >= tokenMinDeposits[token], "Invalid deposit limits");
        emit TokenMaxDepositUpdated(token, tokenMaxDeposits[token], maxDeposit);
        tokenMaxDeposits[token] = maxDeposit;
    }

    function isDelegateAuthorized(address depositor, address delegate)
        external
        view
        returns (bool)
    {
        return isAuthorizedDelegate[depositor][delegate];
    }

    function getDepositBalance(address account, address token) public view returns (uint256) {
        return token == NATIVE ? userDepositsNative[account] : userDepositsToken[account][token];
    }

    function getDepositBalances(address account, address[] calldata tokens)
        external
        view
        returns (uint256[] memory)
    {
        uint256[] memory balances = new uint256[](tokens.length);
        for (uint256 i = 0; i < tokens.length; ++i) {
            balances[i] = getDepositBalance(account, tokens[i]);
        }
        return balances;
    }

    function getLockedBalanceNative(address account) external view returns (uint256 locked) {
        return _locked[account][NATIVE];
    }

    function getLockedBalanceToken(address account, address token)
        external
        view
        returns (uint256 locked)
    {
        return _locked[account][token];
    }

    function getTotalBalanceNative(address account) external view returns (uint256) {
        return userDepositsNative[account] + _locked[account][NATIVE];
    }

    function getTotalBalanceToken(address account, address token) external view returns (uint256) {
        return userDepositsToken[account][token] + _locked[account][token];
    }

    function _accept(address token, uint256 minDeposit, uint256 maxDeposit) internal {
        require(token.code.length > 0, "Invalid token");
        require(!acceptedTokens[token], "Token already accepted");
        require(minDeposit > 0 && minDeposit <= maxDeposit, "Invalid deposit limits");
        acceptedTokens[token] = true;
        tokenMinDeposits[token] = minDeposit;
        tokenMaxDeposits[token] = maxDeposit;
        emit TokenAccepted(token, minDeposit, maxDeposit);
    }

    function _requireDepositInLimits(address token, uint256 amount) internal view {
        if (token == NATIVE) {
            require(amount >= MIN_DEPOSIT, "Deposit too small");
            require(amount <= MAX_NATIVE_DEPOSIT, "Deposit too large");
        } else {
            require(acceptedTokens[token], "Token not accepted");
            require(amount >= tokenMinDeposits[token], "Deposit too small");
            require(amount <= tokenMaxDeposits[token], "Deposit too large");
        }
    }

    function _lock(address account, address token, uint256 amount) internal {
        _locked[account][token] += amount;
    }

    function _unlock(address account, address token, uint256 amount) internal {
        _locked[account][token] -= amount;
    }

    function _credit(address account, address token, uint256 amount) internal {
        if (token == NATIVE) {
            userDepositsNative[account] += amount;
        } else {
            userDepositsToken[account][token] += amount;
        }
    }

    function _debit(address account, address token, uint256 amount) internal {
        require(getDepositBalance(account, token) >= amount, "Insufficient deposit");
        if (token == NATIVE) {
            userDepositsNative[account] -= amount;
        } else {
            userDepositsToken[account][token] -= amount;
        }
    }

    /// Takes exactly `amount`, or reverts: a token that keeps a fee would leave the books short.
    function _pull(address token, address from, uint256 amount) internal {
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(from, address(this), amount);
        require(
            IERC20(token).balanceOf(address(this)) == before + amount, "Token kept a transfer fee"
        );
    }

    function _sendNative(address to, uint256 amount) internal {
        (bool sent,) = to.call{value: amount}("");
        require(sent, "Native transfer failed");
    }

    /// Pays a refund out, or keeps it as a free deposit of the depositor. It never reverts: a
    /// depositor that refuses its refund must not be able to keep the host from being paid.
    function _refund(uint256 jobId, address depositor, address token, uint256 amount) internal {
        if (amount == 0) {
            return;
        }
        bool sent = token == NATIVE
            ? _trySendNative(depositor, amount)
            : _trySendToken(token, depositor, amount);
        if (sent) {
            emit PaymentSent(depositor, amount);
        } else {
            _credit(depositor, token, amount);
            emit RefundCreditedToDeposit(jobId, depositor, amount, token);
        }
    }

    /// A call gets at most 63/64 of the gas that is left, however much it is offered. Whoever settles
    /// picks the gas of the transaction, and with too little could turn a payment into a credit that
    /// its owner has to fetch. So the whole allowance must be there, or nothing happens.
    function _requireGas(uint256 allowance) internal view {
        require(gasleft() * 63 / 64 >= allowance + CALL_GAS, "Not enough gas");
    }

    /// In assembly because Solidity's call copies whatever the callee returns, at our cost.
    function _trySendNative(address to, uint256 amount) private returns (bool sent) {
        uint256 gasCap = NATIVE_GAS;
        _requireGas(gasCap);
        assembly ("memory-safe") {
            sent := call(gasCap, to, amount, 0, 0, 0, 0)
        }
    }

    /// As SafeERC20's, with a bound on the gas: a token returns true, or nothing if it is a contract.
    function _trySendToken(address token, address to, uint256 amount) private returns (bool sent) {
        uint256 gasCap = PUSH_GAS;
        bytes memory data = abi.encodeCall(IERC20.transfer, (to, amount));
        _requireGas(gasCap);
        assembly ("memory-safe") {
            mstore(0, 0)
            sent := call(gasCap, token, 0, add(data, 32), mload(data), 0, 32)
            switch returndatasize()
            case 0 { sent := and(sent, gt(extcodesize(token), 0)) }
            default { sent := and(sent, eq(mload(0), 1)) }
        }
    }
}
