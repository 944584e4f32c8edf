// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {IModelRegistry, INodeRegistry} from "./Interfaces.sol";

/// @title The hosts: their stake, address, models and prices
/// @notice A stake is only ever returned to the host that put it in. Nobody can slash or hold it.
contract NodeRegistryWithModels is INodeRegistry, Ownable, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    struct Node {
        address operator;
        uint256 stakedAmount;
        bool active;
        string metadata;
        string apiUrl;
        bytes32[] supportedModels;
        uint256 minPricePerTokenNative;
        uint256 minPricePerTokenStable;
    }

    uint256 public constant MIN_STAKE = 1000e18;

    /// Prices are per PRICE_PRECISION tokens, in the payment token's smallest unit.
    uint256 public constant PRICE_PRECISION = 1000;
    uint256 public constant MIN_PRICE_PER_TOKEN_NATIVE = 227_273;
    uint256 public constant MAX_PRICE_PER_TOKEN_NATIVE = 22_727_272_727_273_000;
    uint256 public constant MIN_PRICE_PER_TOKEN_STABLE = 1;
    uint256 public constant MAX_PRICE_PER_TOKEN_STABLE = 100_000_000;

    /// Keeps `unregisterNode`, which walks a host's models, far below a block's gas.
    uint256 private constant MAX_MODELS_PER_NODE = 100;

    address private constant NATIVE = address(0);

    IERC20 public immutable fabToken;
    IModelRegistry public modelRegistry;

    mapping(address => Node) public nodes;
    address[] public activeNodesList;
    mapping(address => uint256) public activeNodesIndex;
    mapping(bytes32 => address[]) public modelToNodes;
    mapping(address => mapping(bytes32 => mapping(address => uint256))) public modelTokenPricing;

    /// A host's place in `modelToNodes`, from 1; 0 where it does not serve the model.
    mapping(bytes32 modelId => mapping(address operator => uint256)) private _modelSlot;

    event NodeRegistered(
        address indexed operator, uint256 stakedAmount, string metadata, bytes32[] models
    );
    event NodeUnregistered(address indexed operator, uint256 returnedAmount);
    event MetadataUpdated(address indexed operator, string newMetadata);
    event ApiUrlUpdated(address indexed operator, string newApiUrl);
    event ModelsUpdated(address indexed operator, bytes32[] newModels);
    event ModelTokenPricingUpdated(
        address indexed operator, bytes32 indexed modelId, address indexed token, uint256 price
    );
    event ModelRegistryUpdated(address indexed newRegistry);

    modifier onlyRegistered() {
        require(nodes[msg.sender].active, "Not registered");
        _;
    }

    constructor(address fabToken_, address modelRegistry_) Ownable(msg.sender) {
        require(fabToken_ != address(0), "Invalid FAB token");
        require(modelRegistry_ != address(0), "Invalid model registry");
        fabToken = IERC20(fabToken_);
        modelRegistry = IModelRegistry(modelRegistry_);
    }

    function registerNode(
        string calldata metadata,
        string calldata apiUrl,
        bytes32[] calldata modelIds,
        uint256 minPricePerTokenNative,
        uint256 minPricePerTokenStable
    ) external nonReentrant {
        require(!nodes[msg.sender].active, "Already registered");
        require(bytes(metadata).length > 0, "Empty metadata");
        require(bytes(apiUrl).length > 0, "Empty API URL");
        _requirePriceInRange(NATIVE, minPricePerTokenNative);
        _requirePriceInRange(address(fabToken), minPricePerTokenStable);

        nodes[msg.sender] = Node({
            operator: msg.sender,
            stakedAmount: MIN_STAKE,
            active: true,
            metadata: metadata,
            apiUrl: apiUrl,
            supportedModels: new bytes32[](0),
            minPricePerTokenNative: minPricePerTokenNative,
            minPricePerTokenStable: minPricePerTokenStable
        });
        activeNodesIndex[msg.sender] = activeNodesList.length;
        activeNodesList.push(msg.sender);
        _addModels(modelIds);
        emit NodeRegistered(msg.sender, MIN_STAKE, metadata, modelIds);
        fabToken.safeTransferFrom(msg.sender, address(this), MIN_STAKE);
    }

    /// @notice Leave, and get the whole stake back at once. Open sessions go on to their end.
    function unregisterNode() external onlyRegistered nonReentrant {
        uint256 returned = nodes[msg.sender].stakedAmount;
        _removeModels();
        delete nodes[msg.sender];

        uint256 index = activeNodesIndex[msg.sender];
        address last = activeNodesList[activeNodesList.length - 1];
        activeNodesList[index] = last;
        activeNodesIndex[last] = index;
        activeNodesList.pop();
        delete activeNodesIndex[msg.sender];

        emit NodeUnregistered(msg.sender, returned);
        fabToken.safeTransfer(msg.sender, returned);
    }

    /// @notice Add to the stake; it comes back with the rest.
    function stake(uint256 amount) external onlyRegistered nonReentrant {
        require(amount > 0, "Invalid amount");
        nodes[msg.sender].stakedAmount += amount;
        fabToken.safeTransferFrom(msg.sender, address(this), amount);
    }

    function updateMetadata(string calldata newMetadata) external onlyRegistered {
        require(bytes(newMetadata).length > 0, "Empty metadata");
        nodes[msg.sender].metadata = newMetadata;
        emit MetadataUpdated(msg.sender, newMetadata);
    }

    function updateApiUrl(string calldata newApiUrl) external onlyRegistered {
        require(bytes(newApiUrl).length > 0, "Empty API URL");
        nodes[msg.sender].apiUrl = newApiUrl;
        emit ApiUrlUpdated(msg.sender, newApiUrl);
    }

    /// @notice Replace the list of models. Prices are kept, also those of models left out, so a
    /// host that takes a model up again sets its price or finds the old one.
    function updateSupportedModels(bytes32[] calldata newModelIds) external onlyRegistered {
        _removeModels();
        delete nodes[msg.sender].supportedModels;
        _addModels(newModelIds);
        emit ModelsUpdated(msg.sender, newModelIds);
    }

    function setModelTokenPricing(bytes32 modelId, address token, uint256 price)
        external
        onlyRegistered
    {
        require(nodeSupportsModel(msg.sender, modelId), "Model not supported");
        _requirePriceInRange(token, price);
        modelTokenPricing[msg.sender][modelId][token] = price;
        emit ModelTokenPricingUpdated(msg.sender, modelId, token, price);
    }

    function clearModelTokenPricing(bytes32 modelId, address token) external onlyRegistered {
        delete modelTokenPricing[msg.sender][modelId][token];
        emit ModelTokenPricingUpdated(msg.sender, modelId, token, 0);
    }

    /// @notice Point new registrations and new sessions at another list of models.
    function updateModelRegistry(address newRegistry) external onlyOwner {
        require(newRegistry != address(0), "Invalid model registry");
        modelRegistry = IModelRegistry(newRegistry);
        emit ModelRegistryUpdated(newRegistry);
    }

    function getNodeFullInfo(address operator)
        external
        view
        returns (
            address,
            uint256,
            bool,
            string memory,
            string memory,
            bytes32[] memory,
            uint256,
            uint256
        )
    {
        Node storage node = nodes[operator];
        return (
            node.operator,
            node.stakedAmount,
            node.active,
            node.metadata,
            node.apiUrl,
            node.supportedModels,
            node.minPricePerTokenNative,
            node.minPricePerTokenStable
        );
    }

    function getAllActiveNodes() external view returns (address[] memory) {
        return activeNodesList;
    }

    function getNodesForModel(bytes32 modelId) external view returns (address[] memory) {
        return modelToNodes[modelId];
    }

    function getNodeModels(address nodeAddress) external view returns (bytes32[] memory) {
        return nodes[nodeAddress].supportedModels;
    }

    function getNodeApiUrl(address operator) external view returns (string memory) {
        return nodes[operator].apiUrl;
    }

    function isActiveNode(address operator) external view returns (bool) {
        return nodes[operator].active;
    }

    function nodeSupportsModel(address nodeAddress, bytes32 modelId) public view returns (bool) {
        return _modelSlot[modelId][nodeAddress] != 0;
    }

    function getModelPricing(address operator, bytes32 modelId, address token)
        external
        view
        returns (uint256)
    {
        uint256 price = modelTokenPricing[operator][modelId][token];
        require(price != 0, "No model pricing");
        return price;
    }

    /// @notice The host's price for each of its models; 0 where it has set none.
    function getHostModelPrices(address operator, address token)
        external
        view
        returns (bytes32[] memory modelIds, uint256[] memory prices)
    {
        modelIds = nodes[operator].supportedModels;
        prices = new uint256[](modelIds.length);
        for (uint256 i = 0; i < modelIds.length; ++i) {
            prices[i] = modelTokenPricing[operator][modelIds[i]][token];
        }
    }

    function _addModels(bytes32[] calldata modelIds) private {
        require(modelIds.length > 0, "No models");
        require(modelIds.length <= MAX_MODELS_PER_NODE, "Too many models");
        for (uint256 i = 0; i < modelIds.length; ++i) {
            bytes32 modelId = modelIds[i];
            require(modelRegistry.isModelApproved(modelId), "Model not approved");
            require(!nodeSupportsModel(msg.sender, modelId), "Duplicate model");
            modelToNodes[modelId].push(msg.sender);
            _modelSlot[modelId][msg.sender] = modelToNodes[modelId].length;
        }
        nodes[msg.sender].supportedModels = modelIds;
    }

    /// Takes the sender out of every model's list: the last host of a list fills the gap.
    function _removeModels() private {
        bytes32[] storage modelIds = nodes[msg.sender].supportedModels;
        for (uint256 i = 0; i < modelIds.length; ++i) {
            bytes32 modelId = modelIds[i];
            address[] storage hosts = modelToNodes[modelId];
            uint256 slot = _modelSlot[modelId][msg.sender];
            address last = hosts[hosts.length - 1];
            hosts[slot - 1] = last;
            _modelSlot[modelId][last] = slot;
            hosts.pop();
            delete _modelSlot[modelId][msg.sender];
        }
    }

    function _requirePriceInRange(address token, uint256 price) private pure {
        if (token == NATIVE) {
            require(
                price >= MIN_PRICE_PER_TOKEN_NATIVE && price <= MAX_PRICE_PER_TOKEN_NATIVE,
                "Native price out of range"
            );
        } else {
            require(
                price >= MIN_PRICE_PER_TOKEN_STABLE && price <= MAX_PRICE_PER_TOKEN_STABLE,
                "Stable price out of range"
            );
        }
    }
}
