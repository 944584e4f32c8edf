"""The renter's side: find a host, lock a deposit, talk, check receipts, get the rest back."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fabstir.sdk.answer import Answer
    from fabstir.sdk.checkpoints import Conversation, MissingPart
    from fabstir.sdk.client import open_client, open_holdings
    from fabstir.sdk.events import AnswerEvent, Finished, ReceiptVerified, Text
    from fabstir.sdk.holdings import Balance, Holdings
    from fabstir.sdk.money import PaymentToken, Settlement
    from fabstir.sdk.offers import HostOffer, Model, Quote
    from fabstir.sdk.renter import FabstirClient
    from fabstir.sdk.session import Session
else:
    from fabstir.primitives.lazy import lazy_names

    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "answer": ["Answer"],
            "checkpoints": ["Conversation", "MissingPart"],
            "client": ["open_client", "open_holdings"],
            "events": ["AnswerEvent", "Finished", "ReceiptVerified", "Text"],
            "holdings": ["Balance", "Holdings"],
            "money": ["PaymentToken", "Settlement"],
            "offers": ["HostOffer", "Model", "Quote"],
            "renter": ["FabstirClient"],
            "session": ["Session"],
        },
    )

__all__ = [
    "Answer",
    "AnswerEvent",
    "Balance",
    "Conversation",
    "FabstirClient",
    "Finished",
    "Holdings",
    "HostOffer",
    "MissingPart",
    "Model",
    "PaymentToken",
    "Quote",
    "ReceiptVerified",
    "Session",
    "Settlement",
    "Text",
    "open_client",
    "open_holdings",
]
