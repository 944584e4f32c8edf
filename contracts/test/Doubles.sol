// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

import {JobMarketplaceWithModels} from "../src/JobMarketplaceWithModels.sol";

/// A token that keeps one unit of each transfer.
contract FeeKeepingToken is ERC20 {
    constructor() ERC20("Fee", "FEE") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value);
        if (from != address(0) && to != address(0)) {
            super._update(to, address(this), 1);
        }
    }
}

/// A token that can refuse an account, as USDC can, and calls a hook on each transfer from one.
contract MoodyToken is ERC20 {
    enum Mood {
        Revert,
        RevertWithMuch,
        ReturnFalse,
        BurnGas,
        KeepSome
    }

    Mood public mood;
    address public refused;
    address private _alsoRefused;
    address private _hooked;
    bytes private _hookCall;

    constructor() ERC20("Moody", "MOOD") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function refuse(address account) external {
        refused = account;
    }

    function refuseBoth(address account, address other, Mood mood_) external {
        (refused, _alsoRefused, mood) = (account, other, mood_);
    }

    function transfer(address to, uint256 amount) public override returns (bool) {
        if ((to != refused && to != _alsoRefused) || mood == Mood.Revert) {
            return super.transfer(to, amount);
        }
        if (mood == Mood.BurnGas) {
            while (true) {}
        }
        if (mood == Mood.RevertWithMuch) {
            assembly ("memory-safe") {
                revert(0, 100000)
            }
        }
        if (mood == Mood.KeepSome) {
            _transfer(msg.sender, to, amount - 1);
            _burn(msg.sender, 1);
            return true;
        }
        return false;
    }

    function onTransferCall(address target, bytes calldata data) external {
        _hooked = target;
        _hookCall = data;
    }

    function _update(address from, address to, uint256 value) internal override {
        bool isRefused = to == refused || to == _alsoRefused;
        require(!isRefused || mood != Mood.Revert || to == address(0), "Refused");
        super._update(from, to, value);
        if (_hooked != address(0)) {
            (bool ok, bytes memory reason) = _hooked.call(_hookCall);
            if (!ok) {
                assembly ("memory-safe") {
                    revert(add(reason, 32), mload(reason))
                }
            }
        }
    }
}

/// A renter that is a contract. What it does when coins arrive is set by `mood`.
contract ContractRenter {
    enum Mood {
        Accept,
        Refuse,
        BurnGas,
        ReturnMuch,
        Reenter,
        ReenterAndSwallow
    }

    JobMarketplaceWithModels private immutable _market;
    Mood private _mood;
    bytes private _reentry;

    constructor(JobMarketplaceWithModels market) payable {
        _market = market;
    }

    receive() external payable {
        if (_mood == Mood.Refuse) {
            revert("No coins, please");
        } else if (_mood == Mood.BurnGas) {
            while (true) {}
        } else if (_mood == Mood.ReturnMuch) {
            assembly ("memory-safe") {
                return(0, 10000)
            }
        } else if (_mood == Mood.Reenter) {
            (bool ok,) = address(_market).call(_reentry);
            require(ok, "Reentry refused");
        } else if (_mood == Mood.ReenterAndSwallow) {
            (bool ok,) = address(_market).call(_reentry);
            ok;
        }
    }

    function setMood(Mood mood, bytes calldata reentry) external {
        _mood = mood;
        _reentry = reentry;
    }

    function call(uint256 value, bytes calldata data) external returns (bytes memory) {
        (bool ok, bytes memory result) = address(_market).call{value: value}(data);
        if (!ok) {
            assembly ("memory-safe") {
                revert(add(result, 32), mload(result))
            }
        }
        return result;
    }
}

/// An earnings contract that takes money and credits nobody, or takes nothing at all.
contract RefusingEarnings {
    bool private immutable _takesCoins;

    constructor(bool takesCoins) {
        _takesCoins = takesCoins;
    }

    receive() external payable {
        require(_takesCoins, "No coins, please");
    }

    function authorizedCallers(address) external pure returns (bool) {
        return true;
    }

    function creditEarnings(address, uint256, address) external pure {
        revert("No credit, please");
    }
}

/// A smart wallet in the sense of ERC-1271: one key signs for it.
contract SmartWallet {
    address private immutable _signer;

    constructor(address signer) {
        _signer = signer;
    }

    function isValidSignature(bytes32 digest, bytes calldata signature)
        external
        view
        returns (bytes4)
    {
        (bytes32 r, bytes32 s) = abi.decode(signature[:64], (bytes32, bytes32));
        bool valid = ecrecover(digest, uint8(signature[64]), r, s) == _signer;
        return valid ? this.isValidSignature.selector : bytes4(0);
    }
}
