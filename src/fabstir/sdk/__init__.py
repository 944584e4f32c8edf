"""All that an app of a renter needs: find a host, lock a deposit, talk, check receipts, close.

`open_client` gives a `Client` that waits, `open_async_client` an `AsyncClient`; both have the same
methods. docs/sdk.md says how they are used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fabstir.config import Settings, load_settings
    from fabstir.db.renter import RenterState
    from fabstir.primitives.errors import (
        AddressRefused,
        ChainError,
        ConfigError,
        ContextLengthExceeded,
        ConversationRefused,
        DepositExhausted,
        EngineError,
        FabstirError,
        HostUnresponsive,
        InsufficientFunds,
        KeystoreError,
        LocalProtocolError,
        ModelMissing,
        NoHostFound,
        NotFound,
        PeerError,
        ProtocolError,
        ReceiptMismatch,
        RemoteProtocolError,
        RequestRefused,
        RpcUnavailable,
        SessionRefused,
        SpendingCapReached,
        StorageError,
        TransactionReverted,
        TransactionStuck,
        WrongChain,
    )
    from fabstir.primitives.ids import Address
    from fabstir.primitives.units import TokenCount, Wei
    from fabstir.protocol.additions import Addition
    from fabstir.protocol.answers import AnswerContent, TokenLogprob, ToolCallPiece
    from fabstir.protocol.checkpoint import TimedMessage
    from fabstir.protocol.content import (
        AudioPart,
        FilePart,
        ImagePart,
        Message,
        TextPart,
        Tool,
        ToolCall,
    )
    from fabstir.protocol.payloads import EndPlaintext
    from fabstir.protocol.receipts import Receipt
    from fabstir.protocol.request import Reasoning, ResponseFormat, ToolChoice
    from fabstir.protocol.sampling import SamplingParams
    from fabstir.sdk.answer import AsyncAnswerStream
    from fabstir.sdk.blocking import AnswerStream, Client, Session, open_client
    from fabstir.sdk.client import open_async_client
    from fabstir.sdk.events import AnswerEvent, Finished, ReceiptVerified, Text
    from fabstir.sdk.holdings import Holdings, WalletBalance
    from fabstir.sdk.money import NATIVE_COIN, PaymentToken, SessionSettlement
    from fabstir.sdk.offers import HostOffer, Model, Quote
    from fabstir.sdk.read_only import open_holdings
    from fabstir.sdk.recovered import MissingPart, RecoveredConversation
    from fabstir.sdk.renter import AsyncClient
    from fabstir.sdk.session import AsyncSession
    from fabstir.sdk.session_info import SessionInfo
else:
    from fabstir.primitives.lazy import lazy_names

    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "fabstir.config": ["Settings", "load_settings"],
            "fabstir.primitives.errors": [
                "FabstirError",
                "ConfigError",
                "KeystoreError",
                "ProtocolError",
                "LocalProtocolError",
                "RemoteProtocolError",
                "SessionRefused",
                "ContextLengthExceeded",
                "ConversationRefused",
                "RequestRefused",
                "DepositExhausted",
                "ReceiptMismatch",
                "EngineError",
                "ModelMissing",
                "ChainError",
                "WrongChain",
                "RpcUnavailable",
                "InsufficientFunds",
                "TransactionReverted",
                "TransactionStuck",
                "PeerError",
                "NoHostFound",
                "AddressRefused",
                "SpendingCapReached",
                "HostUnresponsive",
                "StorageError",
                "NotFound",
            ],
            "fabstir.primitives.ids": ["Address"],
            "fabstir.primitives.units": ["TokenCount", "Wei"],
            "fabstir.db.renter": ["RenterState"],
            "fabstir.protocol.additions": ["Addition"],
            "fabstir.protocol.answers": ["AnswerContent", "TokenLogprob", "ToolCallPiece"],
            "fabstir.protocol.checkpoint": ["TimedMessage"],
            "fabstir.protocol.content": [
                "AudioPart",
                "FilePart",
                "ImagePart",
                "Message",
                "TextPart",
                "Tool",
                "ToolCall",
            ],
            "fabstir.protocol.payloads": ["EndPlaintext"],
            "fabstir.protocol.receipts": ["Receipt"],
            "fabstir.protocol.request": ["Reasoning", "ResponseFormat", "ToolChoice"],
            "fabstir.protocol.sampling": ["SamplingParams"],
            "answer": ["AsyncAnswerStream"],
            "blocking": ["AnswerStream", "Client", "Session", "open_client"],
            "client": ["open_async_client"],
            "events": ["AnswerEvent", "Finished", "ReceiptVerified", "Text"],
            "holdings": ["Holdings", "WalletBalance"],
            "money": ["NATIVE_COIN", "PaymentToken", "SessionSettlement"],
            "offers": ["HostOffer", "Model", "Quote"],
            "read_only": ["open_holdings"],
            "recovered": ["MissingPart", "RecoveredConversation"],
            "renter": ["AsyncClient"],
            "session": ["AsyncSession"],
            "session_info": ["SessionInfo"],
        },
    )

__all__ = [
    "NATIVE_COIN",
    "Addition",
    "Address",
    "AddressRefused",
    "AnswerContent",
    "AnswerEvent",
    "AnswerStream",
    "AsyncAnswerStream",
    "AsyncClient",
    "AsyncSession",
    "AudioPart",
    "ChainError",
    "Client",
    "ConfigError",
    "ContextLengthExceeded",
    "ConversationRefused",
    "DepositExhausted",
    "EndPlaintext",
    "EngineError",
    "FabstirError",
    "FilePart",
    "Finished",
    "Holdings",
    "HostOffer",
    "HostUnresponsive",
    "ImagePart",
    "InsufficientFunds",
    "KeystoreError",
    "LocalProtocolError",
    "Message",
    "MissingPart",
    "Model",
    "ModelMissing",
    "NoHostFound",
    "NotFound",
    "PaymentToken",
    "PeerError",
    "ProtocolError",
    "Quote",
    "Reasoning",
    "Receipt",
    "ReceiptMismatch",
    "ReceiptVerified",
    "RecoveredConversation",
    "RemoteProtocolError",
    "RenterState",
    "RequestRefused",
    "ResponseFormat",
    "RpcUnavailable",
    "SamplingParams",
    "Session",
    "SessionInfo",
    "SessionRefused",
    "SessionSettlement",
    "Settings",
    "SpendingCapReached",
    "StorageError",
    "Text",
    "TextPart",
    "TimedMessage",
    "TokenCount",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolCallPiece",
    "ToolChoice",
    "TransactionReverted",
    "TransactionStuck",
    "WalletBalance",
    "Wei",
    "WrongChain",
    "load_settings",
    "open_async_client",
    "open_client",
    "open_holdings",
]
