// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @title A stand-in for FAB on test chains. Anybody can mint it: it is worth nothing.
contract TestFab is ERC20 {
    constructor() ERC20("Fabstir Test Token", "tFAB") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}
