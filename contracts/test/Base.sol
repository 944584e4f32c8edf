// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// The cheat codes of forge that these tests use. npm has no working forge-std.
interface Vm {
    function clearMockedCalls() external;
    function mockCallRevert(address callee, bytes calldata data, bytes calldata reason) external;
    function addr(uint256 key) external pure returns (address);
    function deployCode(string calldata path, bytes calldata arguments) external returns (address);
    function deal(address account, uint256 balance) external;
    function expectEmit(address emitter) external;
    function expectRevert() external;
    function expectRevert(bytes4 selector) external;
    function expectRevert(bytes calldata reason) external;
    function prank(address sender) external;
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function startPrank(address sender) external;
    function stopPrank() external;
    function warp(uint256 timestamp) external;
}

abstract contract Test {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    /// The chain's time. Kept here because the optimizer takes `block.timestamp` for a constant of
    /// the running function, which `warp` makes false.
    uint256 internal time = 1_750_000_000;

    error NotEqual(uint256 found, uint256 expected);

    constructor() {
        vm.warp(time);
    }

    /// A contract of ours from its committed artifact: the very bytes that a market runs.
    function deploy(string memory name, bytes memory arguments) internal returns (address payable) {
        string memory artifact = string.concat("src/fabstir/chain/artifacts/", name, ".json");
        return payable(vm.deployCode(artifact, arguments));
    }

    function skip(uint256 numSeconds) internal {
        time += numSeconds;
        vm.warp(time);
    }

    function bound(uint256 value, uint256 low, uint256 high) internal pure returns (uint256) {
        return low + value % (high - low + 1);
    }

    function assertTrue(bool condition) internal pure {
        require(condition, "Expected true");
    }

    function assertFalse(bool condition) internal pure {
        require(!condition, "Expected false");
    }

    function assertEq(uint256 found, uint256 expected) internal pure {
        if (found != expected) {
            revert NotEqual(found, expected);
        }
    }

    function assertEq(address found, address expected) internal pure {
        assertEq(uint160(found), uint160(expected));
    }

    function assertEq(bytes32 found, bytes32 expected) internal pure {
        assertEq(uint256(found), uint256(expected));
    }

    function assertEq(string memory found, string memory expected) internal pure {
        assertEq(keccak256(bytes(found)), keccak256(bytes(expected)));
    }
}
