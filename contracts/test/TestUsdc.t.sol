// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {TestFab} from "../src/test-tokens/TestFab.sol";
import {TestUsdc} from "../src/test-tokens/TestUsdc.sol";
import {Test} from "./Base.sol";
import {SmartWallet} from "./Doubles.sol";

contract TestUsdcTest is Test {
    uint256 private constant KEY = 0xA11CE;
    address private constant PAYEE = address(0xBEE);

    TestUsdc private usdc = TestUsdc(deploy("TestUsdc", ""));
    address private payer;

    struct Signed {
        uint8 v;
        bytes32 r;
        bytes32 s;
    }

    function setUp() public {
        payer = vm.addr(KEY);
        usdc.mint(payer, 100e6);
    }

    function test_looksLikeUsdc() public {
        TestFab fab = TestFab(deploy("TestFab", ""));
        fab.mint(PAYEE, 1);

        assertEq(usdc.name(), "USD Coin");
        assertEq(usdc.version(), "2");
        assertEq(usdc.decimals(), 6);
        assertEq(fab.decimals(), 18);
        assertEq(fab.balanceOf(PAYEE), 1);
        assertEq(
            usdc.DOMAIN_SEPARATOR(),
            keccak256(
                abi.encode(
                    keccak256(
                        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
                    ),
                    keccak256("USD Coin"),
                    keccak256("2"),
                    block.chainid,
                    address(usdc)
                )
            )
        );
    }

    function test_signedTransferMovesMoneyOnce() public {
        Signed memory sig = signTransfer(7e6, "n", time - 1, time + 1);
        vm.expectEmit(address(usdc));
        emit TestUsdc.AuthorizationUsed(payer, "n");

        usdc.transferWithAuthorization(
            payer, PAYEE, 7e6, time - 1, time + 1, "n", sig.v, sig.r, sig.s
        );

        assertEq(usdc.balanceOf(PAYEE), 7e6);
        assertTrue(usdc.authorizationState(payer, "n"));
        vm.expectRevert("Authorization used or canceled");
        usdc.transferWithAuthorization(
            payer, PAYEE, 7e6, time - 1, time + 1, "n", sig.v, sig.r, sig.s
        );
    }

    function test_signedTransferReverts() public {
        Signed memory sig = signTransfer(7e6, "n", time - 1, time + 10);

        vm.expectRevert("Invalid signature");
        usdc.transferWithAuthorization(
            payer, PAYEE, 8e6, time - 1, time + 10, "n", sig.v, sig.r, sig.s
        );
        vm.expectRevert("Authorization not yet valid");
        usdc.transferWithAuthorization(payer, PAYEE, 7e6, time, time + 10, "n", sig.v, sig.r, sig.s);
        skip(10);
        vm.expectRevert("Authorization expired");
        usdc.transferWithAuthorization(payer, PAYEE, 7e6, time - 11, time, "n", sig.v, sig.r, sig.s);
    }

    function test_smartWalletSignsTransfers() public {
        SmartWallet wallet = new SmartWallet(payer);
        usdc.mint(address(wallet), 5e6);
        Signed memory sig = sign(
            keccak256(
                abi.encode(
                    usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(),
                    address(wallet),
                    PAYEE,
                    5e6,
                    0,
                    time + 1,
                    bytes32("n")
                )
            )
        );

        usdc.transferWithAuthorization(
            address(wallet), PAYEE, 5e6, 0, time + 1, "n", abi.encodePacked(sig.r, sig.s, sig.v)
        );

        assertEq(usdc.balanceOf(PAYEE), 5e6);
    }

    function test_onlyThePayeeReceives() public {
        Signed memory sig = signReceive(7e6, "n");

        vm.expectRevert("Caller must be the payee");
        usdc.receiveWithAuthorization(payer, PAYEE, 7e6, 0, time + 1, "n", sig.v, sig.r, sig.s);
        vm.expectRevert("Invalid signature");
        usdc.transferWithAuthorization(payer, PAYEE, 7e6, 0, time + 1, "n", sig.v, sig.r, sig.s);
        vm.prank(PAYEE);
        usdc.receiveWithAuthorization(payer, PAYEE, 7e6, 0, time + 1, "n", sig.v, sig.r, sig.s);

        assertEq(usdc.balanceOf(PAYEE), 7e6);
    }

    function test_cancelledAuthorizationIsVoid() public {
        Signed memory transfer = signTransfer(7e6, "n", 0, time + 1);
        Signed memory cancel =
            sign(keccak256(abi.encode(usdc.CANCEL_AUTHORIZATION_TYPEHASH(), payer, bytes32("n"))));
        vm.expectRevert("Invalid signature");
        usdc.cancelAuthorization(payer, "other", cancel.v, cancel.r, cancel.s);
        vm.expectEmit(address(usdc));
        emit TestUsdc.AuthorizationCanceled(payer, "n");

        usdc.cancelAuthorization(payer, "n", cancel.v, cancel.r, cancel.s);

        vm.expectRevert("Authorization used or canceled");
        usdc.transferWithAuthorization(
            payer, PAYEE, 7e6, 0, time + 1, "n", transfer.v, transfer.r, transfer.s
        );
        vm.expectRevert("Authorization used or canceled");
        usdc.cancelAuthorization(payer, "n", cancel.v, cancel.r, cancel.s);
    }

    function test_permitApprovesOnce() public {
        Signed memory sig = signPermit(9e6, 0, time);

        usdc.permit(payer, PAYEE, 9e6, time, sig.v, sig.r, sig.s);

        assertEq(usdc.allowance(payer, PAYEE), 9e6);
        assertEq(usdc.nonces(payer), 1);
        vm.expectRevert("Invalid signature");
        usdc.permit(payer, PAYEE, 9e6, time, sig.v, sig.r, sig.s);
    }

    function test_latePermitReverts() public {
        Signed memory sig = signPermit(9e6, 0, time);
        skip(1);

        vm.expectRevert("Permit expired");
        usdc.permit(payer, PAYEE, 9e6, time - 1, sig.v, sig.r, sig.s);
    }

    function signTransfer(uint256 value, bytes32 nonce, uint256 validAfter, uint256 validBefore)
        private
        view
        returns (Signed memory)
    {
        return sign(
            keccak256(
                abi.encode(
                    usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(),
                    payer,
                    PAYEE,
                    value,
                    validAfter,
                    validBefore,
                    nonce
                )
            )
        );
    }

    function signReceive(uint256 value, bytes32 nonce) private view returns (Signed memory) {
        return sign(
            keccak256(
                abi.encode(
                    usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(),
                    payer,
                    PAYEE,
                    value,
                    0,
                    time + 1,
                    nonce
                )
            )
        );
    }

    function signPermit(uint256 value, uint256 nonce, uint256 deadline)
        private
        view
        returns (Signed memory)
    {
        return sign(
            keccak256(abi.encode(usdc.PERMIT_TYPEHASH(), payer, PAYEE, value, nonce, deadline))
        );
    }

    function sign(bytes32 structHash) private view returns (Signed memory sig) {
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", usdc.DOMAIN_SEPARATOR(), structHash));
        (sig.v, sig.r, sig.s) = vm.sign(KEY, digest);
    }
}
