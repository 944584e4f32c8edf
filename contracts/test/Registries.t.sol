// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {ModelRegistry} from "../src/ModelRegistry.sol";
import {NodeRegistryWithModels} from "../src/NodeRegistryWithModels.sol";
import {MarketTest} from "./MarketFixture.sol";

contract ModelRegistryTest is MarketTest {
    function test_listedModelIsApproved() public {
        bytes32 id = keccak256(abi.encodePacked("org/new", "/", "new.gguf"));
        vm.expectEmit(address(models));
        emit ModelRegistry.ModelAdded(id, "org/new", "new.gguf", 1);

        models.addTrustedModel("org/new", "new.gguf", keccak256("new"));

        assertEq(models.getModelId("org/new", "new.gguf"), id);
        assertTrue(models.isModelApproved(id));
        assertTrue(models.isTrustedModel(id));
        assertEq(models.getModelHash(id), keccak256("new"));
        assertEq(models.getAllModels().length, 2);
        assertEq(models.modelList(1), id);
        ModelRegistry.Model memory listed = models.getModel(id);
        assertEq(listed.huggingfaceRepo, "org/new");
        assertEq(listed.fileName, "new.gguf");
        assertEq(listed.approvalTier, 1);
        assertEq(listed.timestamp, time);
        assertTrue(listed.active);
    }

    function test_batchListsEach() public {
        (string[] memory repos, string[] memory files, bytes32[] memory hashes) = batch(3);

        models.batchAddTrustedModels(repos, files, hashes);

        assertEq(models.getAllModels().length, 4);
        assertTrue(models.isModelApproved(models.getModelId("repo2", "file")));
    }

    function test_unevenBatchReverts() public {
        (string[] memory repos, string[] memory files, bytes32[] memory hashes) = batch(3);
        (string[] memory fewRepos, string[] memory fewFiles, bytes32[] memory fewHashes) = batch(2);

        vm.expectRevert("Length mismatch");
        models.batchAddTrustedModels(fewRepos, files, hashes);
        vm.expectRevert("Length mismatch");
        models.batchAddTrustedModels(repos, fewFiles, hashes);
        vm.expectRevert("Length mismatch");
        models.batchAddTrustedModels(repos, files, fewHashes);
    }

    function test_invalidModelReverts() public {
        vm.expectRevert("Empty model name");
        models.addTrustedModel("", "file", keccak256("x"));
        vm.expectRevert("Empty model name");
        models.addTrustedModel("repo", "", keccak256("x"));
        vm.expectRevert("Invalid model hash");
        models.addTrustedModel("repo", "file", bytes32(0));
        vm.expectRevert("Model already exists");
        models.addTrustedModel("org/tiny", "tiny.gguf", keccak256("x"));
    }

    function test_modelsCanBeWithdrawnAndListedAgain() public {
        vm.expectEmit(address(models));
        emit ModelRegistry.ModelDeactivated(model);
        models.deactivateModel(model);
        assertFalse(models.isModelApproved(model));
        assertTrue(models.isTrustedModel(model));
        vm.expectEmit(address(models));
        emit ModelRegistry.ModelReactivated(model);

        models.reactivateModel(model);

        assertTrue(models.isModelApproved(model));
    }

    function test_activationReverts() public {
        vm.expectRevert("Model not found");
        models.reactivateModel("none");
        vm.expectRevert("Model already active");
        models.reactivateModel(model);
        models.deactivateModel(model);
        vm.expectRevert("Model not active");
        models.deactivateModel(model);
    }

    function test_rateLimitHasADefault() public {
        assertEq(models.getModelRateLimit(model), 10_000);
        vm.expectEmit(address(models));
        emit ModelRegistry.ModelRateLimitUpdated(model, 500);

        models.setModelRateLimit(model, 500);

        assertEq(models.getModelRateLimit(model), 500);
        assertEq(models.modelMaxTokensPerSecond(model), 500);
    }

    function test_rateLimitReverts() public {
        vm.expectRevert("Model not found");
        models.setModelRateLimit("none", 500);
        vm.expectRevert("Rate limit out of range");
        models.setModelRateLimit(model, 99);
        vm.expectRevert("Rate limit out of range");
        models.setModelRateLimit(model, 1_000_001);
    }

    function test_onlyTheOwnerLists() public {
        (string[] memory repos, string[] memory files, bytes32[] memory hashes) = batch(1);
        bytes memory refused =
            abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, STRANGER);
        vm.startPrank(STRANGER);

        vm.expectRevert(refused);
        models.addTrustedModel("repo", "file", keccak256("x"));
        vm.expectRevert(refused);
        models.batchAddTrustedModels(repos, files, hashes);
        vm.expectRevert(refused);
        models.deactivateModel(model);
        vm.expectRevert(refused);
        models.reactivateModel(model);
        vm.expectRevert(refused);
        models.setModelRateLimit(model, 500);
    }

    function test_constructorReverts() public {
        vm.expectRevert("Invalid governance token");
        deploy("ModelRegistry", abi.encode(address(0)));
    }

    function batch(uint256 length)
        private
        pure
        returns (string[] memory repos, string[] memory files, bytes32[] memory hashes)
    {
        (repos, files, hashes) = (new string[](length), new string[](length), new bytes32[](length));
        for (uint256 i = 0; i < length; ++i) {
            repos[i] = string(abi.encodePacked("repo", bytes1(uint8(0x30 + i))));
            files[i] = "file";
            hashes[i] = bytes32(i + 1);
        }
    }
}

contract NodeRegistryTest is MarketTest {
    address private constant SECOND = address(0xA001);
    address private constant THIRD = address(0xA002);

    function test_registrationTakesTheStake() public {
        fab.mint(SECOND, 1000e18);
        vm.startPrank(SECOND);
        fab.approve(address(nodes), 1000e18);
        vm.expectEmit(address(nodes));
        emit NodeRegistryWithModels.NodeRegistered(SECOND, 1000e18, "meta", only(model));

        nodes.registerNode("meta", "http://second", only(model), NATIVE_PRICE, USDC_PRICE);

        (
            address operator,
            uint256 staked,
            bool active,
            string memory metadata,
            string memory apiUrl,
            bytes32[] memory served,
            uint256 minNative,
            uint256 minStable
        ) = nodes.getNodeFullInfo(SECOND);
        assertEq(operator, SECOND);
        assertEq(staked, 1000e18);
        assertTrue(active);
        assertEq(metadata, "meta");
        assertEq(apiUrl, "http://second");
        assertEq(served.length, 1);
        assertEq(served[0], model);
        assertEq(minNative, NATIVE_PRICE);
        assertEq(minStable, USDC_PRICE);
        assertEq(fab.balanceOf(SECOND), 0);
        assertTrue(nodes.isActiveNode(SECOND));
        assertTrue(nodes.nodeSupportsModel(SECOND, model));
        assertEq(nodes.getNodeApiUrl(SECOND), "http://second");
        assertEq(nodes.getNodeModels(SECOND).length, 1);
        assertEq(nodes.getNodesForModel(model).length, 2);
        assertEq(nodes.modelToNodes(model, 1), SECOND);
        assertEq(nodes.activeNodesIndex(SECOND), 1);
    }

    function test_registrationReverts() public {
        vm.startPrank(SECOND);

        vm.expectRevert("Empty metadata");
        nodes.registerNode("", "u", only(model), NATIVE_PRICE, USDC_PRICE);
        vm.expectRevert("Empty API URL");
        nodes.registerNode("m", "", only(model), NATIVE_PRICE, USDC_PRICE);
        vm.expectRevert("Native price out of range");
        nodes.registerNode("m", "u", only(model), 227_272, USDC_PRICE);
        vm.expectRevert("Native price out of range");
        nodes.registerNode("m", "u", only(model), 22_727_272_727_273_001, USDC_PRICE);
        vm.expectRevert("Stable price out of range");
        nodes.registerNode("m", "u", only(model), NATIVE_PRICE, 0);
        vm.expectRevert("Stable price out of range");
        nodes.registerNode("m", "u", only(model), NATIVE_PRICE, 100_000_001);
        vm.expectRevert("No models");
        nodes.registerNode("m", "u", new bytes32[](0), NATIVE_PRICE, USDC_PRICE);
        vm.expectRevert("Too many models");
        nodes.registerNode("m", "u", new bytes32[](101), NATIVE_PRICE, USDC_PRICE);
        vm.expectRevert("Model not approved");
        nodes.registerNode("m", "u", only(bytes32("none")), NATIVE_PRICE, USDC_PRICE);
        bytes32[] memory twice = new bytes32[](2);
        (twice[0], twice[1]) = (model, model);
        vm.expectRevert("Duplicate model");
        nodes.registerNode("m", "u", twice, NATIVE_PRICE, USDC_PRICE);
        vm.stopPrank();
        vm.expectRevert("Already registered");
        vm.prank(HOST);
        nodes.registerNode("m", "u", only(model), NATIVE_PRICE, USDC_PRICE);
    }

    function test_registrationWithoutStakeReverts() public {
        vm.startPrank(SECOND);
        fab.approve(address(nodes), 1000e18);

        vm.expectRevert(
            abi.encodeWithSignature(
                "ERC20InsufficientBalance(address,uint256,uint256)", SECOND, 0, 1000e18
            )
        );
        nodes.registerNode("m", "u", only(model), NATIVE_PRICE, USDC_PRICE);
    }

    function test_leavingReturnsTheWholeStake() public {
        fab.mint(HOST, 7);
        vm.startPrank(HOST);
        nodes.stake(7);
        vm.expectEmit(address(nodes));
        emit NodeRegistryWithModels.NodeUnregistered(HOST, 1000e18 + 7);

        nodes.unregisterNode();

        assertEq(fab.balanceOf(HOST), 1000e18 + 7);
        assertEq(fab.balanceOf(address(nodes)), 0);
        assertFalse(nodes.isActiveNode(HOST));
        assertFalse(nodes.nodeSupportsModel(HOST, model));
        assertEq(nodes.getNodeModels(HOST).length, 0);
        assertEq(nodes.getAllActiveNodes().length, 0);
        assertEq(nodes.getNodesForModel(model).length, 0);
    }

    function test_hostCanComeBack() public {
        vm.startPrank(HOST);
        nodes.unregisterNode();

        nodes.registerNode("m", "u", only(model), NATIVE_PRICE, USDC_PRICE);

        assertTrue(nodes.nodeSupportsModel(HOST, model));
        assertEq(nodes.getAllActiveNodes().length, 1);
    }

    function test_listsCloseTheGapOfAHostThatLeft() public {
        registerHost(SECOND);
        registerHost(THIRD);

        vm.prank(HOST);
        nodes.unregisterNode();
        vm.prank(THIRD);
        nodes.unregisterNode();

        assertEq(nodes.getAllActiveNodes().length, 1);
        assertEq(nodes.activeNodesList(0), SECOND);
        assertEq(nodes.activeNodesIndex(SECOND), 0);
        assertEq(nodes.getNodesForModel(model).length, 1);
        assertEq(nodes.modelToNodes(model, 0), SECOND);
        vm.prank(SECOND);
        nodes.unregisterNode();
        assertEq(nodes.getAllActiveNodes().length, 0);
        assertEq(nodes.getNodesForModel(model).length, 0);
    }

    function test_hostUpdatesWhatItSaid() public {
        bytes32 other = addModel();
        vm.startPrank(HOST);
        vm.expectEmit(address(nodes));
        emit NodeRegistryWithModels.MetadataUpdated(HOST, "new");
        nodes.updateMetadata("new");
        vm.expectEmit(address(nodes));
        emit NodeRegistryWithModels.ApiUrlUpdated(HOST, "http://new");
        nodes.updateApiUrl("http://new");
        vm.expectEmit(address(nodes));
        emit NodeRegistryWithModels.ModelsUpdated(HOST, only(other));

        nodes.updateSupportedModels(only(other));

        (,,, string memory metadata, string memory apiUrl,,) = nodes.nodes(HOST);
        assertEq(metadata, "new");
        assertEq(apiUrl, "http://new");
        assertTrue(nodes.nodeSupportsModel(HOST, other));
        assertFalse(nodes.nodeSupportsModel(HOST, model));
        assertEq(nodes.getNodesForModel(model).length, 0);
        assertEq(nodes.getNodesForModel(other).length, 1);
    }

    function test_updatesRevert() public {
        vm.startPrank(HOST);

        vm.expectRevert("Empty metadata");
        nodes.updateMetadata("");
        vm.expectRevert("Empty API URL");
        nodes.updateApiUrl("");
        vm.expectRevert("No models");
        nodes.updateSupportedModels(new bytes32[](0));
        vm.expectRevert("Model not approved");
        nodes.updateSupportedModels(only(bytes32("none")));
        vm.expectRevert("Invalid amount");
        nodes.stake(0);
    }

    function test_onlyHostsUpdate() public {
        vm.startPrank(STRANGER);

        vm.expectRevert("Not registered");
        nodes.unregisterNode();
        vm.expectRevert("Not registered");
        nodes.stake(1);
        vm.expectRevert("Not registered");
        nodes.updateMetadata("m");
        vm.expectRevert("Not registered");
        nodes.updateApiUrl("u");
        vm.expectRevert("Not registered");
        nodes.updateSupportedModels(only(model));
        vm.expectRevert("Not registered");
        nodes.setModelTokenPricing(model, NATIVE, NATIVE_PRICE);
        vm.expectRevert("Not registered");
        nodes.clearModelTokenPricing(model, NATIVE);
    }

    function test_pricesArePerModelAndToken() public {
        bytes32 other = addModel();
        bytes32[] memory both = new bytes32[](2);
        (both[0], both[1]) = (model, other);
        vm.startPrank(HOST);
        nodes.updateSupportedModels(both);
        vm.expectEmit(address(nodes));
        emit NodeRegistryWithModels.ModelTokenPricingUpdated(HOST, other, address(usdc), 77);

        nodes.setModelTokenPricing(other, address(usdc), 77);

        assertEq(nodes.getModelPricing(HOST, other, address(usdc)), 77);
        assertEq(nodes.modelTokenPricing(HOST, model, address(usdc)), USDC_PRICE);
        (bytes32[] memory ids, uint256[] memory prices) =
            nodes.getHostModelPrices(HOST, address(usdc));
        assertEq(ids[1], other);
        assertEq(prices[0], USDC_PRICE);
        assertEq(prices[1], 77);
        vm.expectRevert("No model pricing");
        nodes.getModelPricing(HOST, other, NATIVE);
    }

    function test_clearedPriceIsGone() public {
        vm.startPrank(HOST);
        vm.expectEmit(address(nodes));
        emit NodeRegistryWithModels.ModelTokenPricingUpdated(HOST, model, NATIVE, 0);

        nodes.clearModelTokenPricing(model, NATIVE);

        vm.expectRevert("No model pricing");
        nodes.getModelPricing(HOST, model, NATIVE);
    }

    function test_pricingReverts() public {
        vm.startPrank(HOST);

        vm.expectRevert("Model not supported");
        nodes.setModelTokenPricing("none", NATIVE, NATIVE_PRICE);
        vm.expectRevert("Native price out of range");
        nodes.setModelTokenPricing(model, NATIVE, 227_272);
        vm.expectRevert("Stable price out of range");
        nodes.setModelTokenPricing(model, address(usdc), 100_000_001);
    }

    function test_ownerPointsAtAnotherModelRegistry() public {
        ModelRegistry other = ModelRegistry(deploy("ModelRegistry", abi.encode(fab)));
        vm.expectEmit(address(nodes));
        emit NodeRegistryWithModels.ModelRegistryUpdated(address(other));

        nodes.updateModelRegistry(address(other));

        assertEq(address(nodes.modelRegistry()), address(other));
        vm.expectRevert("Invalid model registry");
        nodes.updateModelRegistry(address(0));
        vm.expectRevert(
            abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, STRANGER)
        );
        vm.prank(STRANGER);
        nodes.updateModelRegistry(address(models));
    }

    function test_constructorReverts() public {
        vm.expectRevert("Invalid FAB token");
        deploy("NodeRegistryWithModels", abi.encode(address(0), models));
        vm.expectRevert("Invalid model registry");
        deploy("NodeRegistryWithModels", abi.encode(fab, address(0)));
    }

    function testFuzz_stakesAreAllThere(uint8[12] memory moves) public {
        address[3] memory hosts = [HOST, SECOND, THIRD];
        for (uint256 i = 0; i < moves.length; ++i) {
            address host = hosts[moves[i] % 3];
            if (nodes.isActiveNode(host)) {
                vm.prank(host);
                nodes.unregisterNode();
            } else {
                registerHost(host);
            }
        }

        address[] memory active = nodes.getAllActiveNodes();

        assertEq(fab.balanceOf(address(nodes)), active.length * 1000e18);
        assertEq(nodes.getNodesForModel(model).length, active.length);
        for (uint256 i = 0; i < active.length; ++i) {
            assertTrue(nodes.isActiveNode(active[i]));
            assertEq(nodes.activeNodesIndex(active[i]), i);
        }
    }

    function addModel() private returns (bytes32) {
        models.addTrustedModel("org/other", "other.gguf", keccak256("other"));
        return models.getModelId("org/other", "other.gguf");
    }
}
