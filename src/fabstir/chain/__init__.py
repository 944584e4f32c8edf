"""The chain: RPC, contracts, events, transactions, keys, and a local devnet."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fabstir.chain.contracts import Contracts
    from fabstir.chain.deployment import Deployment, load_deployment, save_deployment
    from fabstir.chain.events import ChainEvent, decode_event, event_filter
    from fabstir.chain.follower import LogBatch, LogFollower, Rollback, follow_logs
    from fabstir.chain.keystore import (
        Signer,
        create_keystore,
        import_keystore,
        load_keystore,
        read_secret_file,
        write_secret_file,
    )
    from fabstir.chain.records import Block, ContractCall, Fees, Log, LogFilter, TransactionReceipt
    from fabstir.chain.rpc import Chain, open_chain
    from fabstir.chain.transactions import (
        MinedTransaction,
        TransactionOptions,
        TransactionQueue,
        open_transaction_queue,
    )
else:
    from fabstir.primitives.lazy import lazy_names

    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "contracts": ["Contracts"],
            "deployment": ["Deployment", "load_deployment", "save_deployment"],
            "events": ["ChainEvent", "decode_event", "event_filter"],
            "follower": ["LogBatch", "LogFollower", "Rollback", "follow_logs"],
            "keystore": [
                "Signer",
                "create_keystore",
                "import_keystore",
                "load_keystore",
                "read_secret_file",
                "write_secret_file",
            ],
            "records": ["Block", "ContractCall", "Fees", "Log", "LogFilter", "TransactionReceipt"],
            "rpc": ["Chain", "open_chain"],
            "transactions": [
                "MinedTransaction",
                "TransactionOptions",
                "TransactionQueue",
                "open_transaction_queue",
            ],
        },
    )

__all__ = [
    "Block",
    "Chain",
    "ChainEvent",
    "ContractCall",
    "Contracts",
    "Deployment",
    "Fees",
    "Log",
    "LogBatch",
    "LogFilter",
    "LogFollower",
    "MinedTransaction",
    "Rollback",
    "Signer",
    "TransactionOptions",
    "TransactionQueue",
    "TransactionReceipt",
    "create_keystore",
    "decode_event",
    "event_filter",
    "follow_logs",
    "import_keystore",
    "load_deployment",
    "load_keystore",
    "open_chain",
    "open_transaction_queue",
    "read_secret_file",
    "save_deployment",
    "write_secret_file",
]
