"""Every error this package raises on purpose.

FabstirError
  ConfigError                 a setting, a file or a port: the operator must change it
  KeystoreError               wrong password, unreadable or unsafe key file
  ProtocolError               a wire rule was broken
    LocalProtocolError        by us: a bug here
    RemoteProtocolError       by the peer: close the stream, lower its score
  SessionRefused              the gate said no; carries a code that clients know
  ContextLengthExceeded       carries num_prompt_tokens and max_model_len
  ConversationRefused         the model's chat template does not take these roles in this order
  RequestRefused              it asks for what this model and engine do not serve
  DepositExhausted            the session's deposit covers no further token
  ReceiptMismatch             a host's receipt is not what the renter saw: stop paying
  EngineError                 the language model's process
    EngineUnavailable         it is loading, crashed or gone
    EngineCrashed             it died while this request ran
  ModelError
    ModelMissing              no such file, and no source to fetch it from
    ModelHashMismatch         bytes are not the approved ones: never loaded
    ModelNotGguf              bytes are the approved ones, of a format that is not loaded
      GgufRefused             a header that contradicts itself, its file or our limits
    ModelDownloadFailed       a source failed; what was fetched is kept for resuming
  ChainError
    WrongChain                carries expected and actual chain ids
    ChainReplaced             another chain of the same id answers now than at the start
    NoCodeAtAddress           carries the contract's name and address
    RpcUnavailable            the node does not answer
    RpcRefused                the node answers with an error; carries method, code and text
    RpcMalformed              the node answers with something that is no such result
    InsufficientFunds         carries account, needed and available
    TransactionReverted       carries the contract's reason
    TransactionStuck          broadcast, never mined
  PeerError
    PeerUnreachable           no dialable address answered
    PeerRefused               it answers, but not this
    HostRecordInvalid         forged, expired or not registered on chain
    HostRecordMissing         nobody keeps one for this peer
    NoHostFound               carries why each candidate was dropped
  AddressRefused              a stranger's URL leads where strangers may not send this program
  SpendingCapReached          the renter's own limit
  HostUnresponsive            the host stopped answering in the middle of a session
  StorageError                bytes cannot be kept, found or believed
    NotFound                  no blob, path or registry entry of this name
    CorruptBlob               stored bytes are not what their hash says; carries blob and place
    PathRefused               a path that is not allowed: traversal, too long, look-alike
    HashMismatch              given bytes are not what their identifier says; nothing is kept
    BlobTooLarge              longer than the caller's limit; carries it
    StorageFull               the disk has no room; nothing of the write is kept
    RegistryFull              a node takes entries of no further keys; carries how many it has
    QuotaExceeded             the owner's own limit; carries owner, limit and needed
    WriteConflict             somebody else changed it meanwhile; carries what
    AccessDenied              the key, token or capability does not open this
    Busy                      too much at once; carries after how many seconds to try again
    FetchFailed               no source gave a whole blob; carries why each was dropped
    PortalError               a portal or peer of S5; carries its URL
      PortalUnavailable       it does not answer, or answers half; worth another try
      PortalRefused           it answered no; carries its HTTP status
      PortalLied              it answered with other bytes than were asked for
"""

from __future__ import annotations

from fabstir.primitives.units import format_amount


class FabstirError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(FabstirError):
    """A setting, a file or a port is wrong; the text says which and how to mend it."""


class KeystoreError(FabstirError):
    """A key file cannot be read or opened."""


class ProtocolError(FabstirError):
    """A wire rule was broken."""


class LocalProtocolError(ProtocolError):
    """We were about to break a wire rule: a bug on this side."""


class RemoteProtocolError(ProtocolError):
    """The peer broke a wire rule.

    `code` is the error code that existing clients know (docs/protocol.md, error codes).
    """

    def __init__(self, message: str, *, code: str = "INVALID_PAYLOAD") -> None:
        super().__init__(message)
        self.code = code


class SessionRefused(FabstirError):
    """The gate refuses a session or a request.

    `code` is what goes over the wire; the message names the cause and the fix.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ContextLengthExceeded(FabstirError):
    """The prompt does not fit the model's context."""

    def __init__(self, num_prompt_tokens: int, max_model_len: int) -> None:
        super().__init__(
            f"the prompt has {num_prompt_tokens} tokens and the model's context holds "
            f"{max_model_len}: shorten the conversation or choose a model with a longer context"
        )
        self.num_prompt_tokens = num_prompt_tokens
        self.max_model_len = max_model_len


class ConversationRefused(FabstirError):
    """The model's chat template does not take the conversation: its roles, their order, or none."""


class RequestRefused(FabstirError):
    """A request asks for what the model or its engine does not serve; nothing is billed.

    The text names all of it.
    """


class DepositExhausted(FabstirError):
    """The session's deposit covers no further token."""


class ReceiptMismatch(FabstirError):
    """A receipt does not match what was delivered; the renter does not acknowledge it."""


class EngineError(FabstirError):
    """The language model's process failed."""


class EngineUnavailable(EngineError):
    """The engine is loading, was stopped, or cannot be reached."""


class EngineCrashed(EngineError):
    """The engine died while this request ran; the request may be sent again."""


class ModelError(FabstirError):
    """A model file cannot be used."""


class ModelMissing(ModelError):
    """The model's file is not there and has no source."""


class ModelHashMismatch(ModelError):
    """The file's bytes are not the approved ones, so it is never loaded."""

    def __init__(self, path: str, expected: str, actual: str) -> None:
        super().__init__(
            f"{path} has sha256 {actual}, but {expected} is expected: "
            "delete it and fetch the model again, or correct the expected hash"
        )
        self.path = path
        self.expected = expected
        self.actual = actual


class ModelNotGguf(ModelError):
    """The file is no GGUF of a version that llama.cpp loads."""


class GgufRefused(ModelNotGguf):
    """A GGUF header is damaged or hostile: no native code is to see the file."""


class ModelDownloadFailed(ModelError):
    """A source failed; the part that was fetched is kept and the next try resumes it."""


class ChainError(FabstirError):
    """The chain refused or cannot be used."""


class WrongChain(ChainError):
    """The RPC endpoint serves another chain than the configured one."""

    def __init__(self, rpc_url: str, expected: int, actual: int) -> None:
        super().__init__(
            f"{rpc_url} serves chain id {actual}, but the configuration expects {expected}: "
            "correct chain.rpc_url or chain.chain_id"
        )
        self.rpc_url = rpc_url
        self.expected = expected
        self.actual = actual


class ChainReplaced(ChainError):
    """Another chain of the same id answers now: nothing of the journal holds on it."""


class NoCodeAtAddress(ChainError):
    """A configured contract address holds no code."""

    def __init__(self, contract: str, address: str, chain_id: int) -> None:
        super().__init__(
            f"no code at {address} on chain {chain_id}, where the deployment file has "
            f"{contract}: use the deployment file of this chain, or deploy first"
        )
        self.contract = contract
        self.address = address
        self.chain_id = chain_id


class RpcUnavailable(ChainError):
    """The chain's RPC endpoint does not answer."""


class RpcRefused(ChainError):
    """The chain's node answered a request with an error; `reason` is its own text."""

    def __init__(
        self, method: str, code: int, reason: str, data: str = "", *, endpoint: str = ""
    ) -> None:
        who = f"RPC at {endpoint}" if endpoint else "node"
        super().__init__(f"the chain's {who} refused {method}: {reason} (code {code})")
        self.method = method
        self.code = code
        self.reason = reason
        self.data = data


class RpcMalformed(ChainError):
    """The chain's node answered a request with something that is no result of it."""

    def __init__(self, endpoint: str, method: str, reason: str) -> None:
        super().__init__(
            f"the chain's RPC at {endpoint} answered {method} with what is no such answer: "
            f"{reason}. If it does so again, set chain.rpc_url to another endpoint"
        )
        self.method = method
        self.reason = reason


class InsufficientFunds(ChainError):
    """An account cannot pay for what was asked."""

    def __init__(
        self, account: str, needed: int, available: int, unit: str, *, decimals: int = 0
    ) -> None:
        """
        Args:
            needed, available: in the smallest unit; `needed` includes what gas may cost at most.
            unit: how people call 10^decimals of it.
        """

        def shown(amount: int) -> str:
            return f"{format_amount(amount, decimals)} {unit}"

        super().__init__(
            f"{account} has {shown(available)} and needs {shown(needed)}: "
            f"send it at least {shown(needed - available)}"
        )
        self.account = account
        self.needed = needed
        self.available = available


class TransactionReverted(ChainError):
    """The contract refused a call; `reason` is its own text."""

    def __init__(self, action: str, reason: str, tx_hash: str | None = None) -> None:
        where = f" (transaction {tx_hash})" if tx_hash else ""
        super().__init__(f"{action} was refused by the contract: {reason}{where}")
        self.action = action
        self.reason = reason
        self.tx_hash = tx_hash


class TransactionStuck(ChainError):
    """A transaction was broadcast and has not been mined in time; it stays in the outbox."""


class PeerError(FabstirError):
    """A libp2p peer or its record cannot be used."""


class PeerUnreachable(PeerError):
    """No address of the peer answered."""


class PeerRefused(PeerError):
    """A peer is there, but refuses what it was asked."""


class HostRecordInvalid(PeerError):
    """A host's signed record is forged, expired, or contradicts the registry on chain."""


class HostRecordMissing(PeerError):
    """Neither the host nor any peer near its key has a record of it."""


class NoHostFound(PeerError):
    """No host is fit to serve; `rejected` says why, per candidate."""

    def __init__(self, message: str, rejected: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.rejected = rejected or {}


class AddressRefused(FabstirError):
    """A URL or address that somebody else named is no such thing, or leads where strangers may not
    send this program; the text says where, and which setting would allow it."""


class SpendingCapReached(FabstirError):
    """The renter's own spending cap forbids another deposit."""


class HostUnresponsive(FabstirError):
    """The host stopped answering; what was acknowledged stays acknowledged."""


class StorageError(FabstirError):
    """Bytes cannot be kept, found or believed."""


class NotFound(StorageError):
    """There is no blob, path or registry entry of this name."""


class CorruptBlob(StorageError):
    """Stored bytes are not what their hash says, so they are never returned."""

    def __init__(self, blob: str, place: str) -> None:
        super().__init__(
            f"the bytes of blob {blob} in {place} are not what was stored: the disk or somebody "
            "changed them; restore them from a peer, a portal or a backup"
        )
        self.blob = blob
        self.place = place


class PathRefused(StorageError):
    """A path that is not allowed; the text says which part and why."""


class HashMismatch(StorageError):
    """Bytes that were given do not hash to what they were said to be; nothing of them is kept."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(
            f"the bytes hash to {actual}, but {expected} was announced: they were damaged on the "
            "way, or the identifier is another's; send them again"
        )
        self.expected = expected
        self.actual = actual


class BlobTooLarge(StorageError):
    """A blob is longer than the caller's limit; nothing of it is kept or returned."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"the blob is longer than the limit of {limit_bytes} bytes: read or send it in parts, "
            "or raise the limit"
        )
        self.limit_bytes = limit_bytes


class StorageFull(StorageError):
    """The disk has no room; nothing of the write is kept."""


class RegistryFull(StorageError):
    """A node has as many registry entries as it is set to take from whoever comes."""

    def __init__(self, max_entries: int) -> None:
        super().__init__(
            f"this node has registry entries of {max_entries} keys and takes those of no further "
            "ones: use another node, or have its owner raise s5.max_registry_entries"
        )
        self.max_entries = max_entries


class QuotaExceeded(StorageError):
    """An owner may store no more; nothing of the write is kept."""

    def __init__(self, owner: str, limit_bytes: int, needed_bytes: int) -> None:
        super().__init__(
            f"{owner} may store {limit_bytes} bytes and would have {needed_bytes}: unpin what is "
            "no longer needed, or raise the quota"
        )
        self.owner = owner
        self.limit_bytes = limit_bytes
        self.needed_bytes = needed_bytes


class WriteConflict(StorageError):
    """What is there is not what the write goes on from, or there may be nothing and is something.

    Often because somebody else changed it meanwhile. Nothing of this write is visible.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} is not as this write expects: {reason}")
        self.what = what


class AccessDenied(StorageError):
    """The key, token or capability that was given does not open this."""


class Busy(StorageError):
    """Too much at once; nothing was done, and trying again after `retry_after` seconds may do."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class FetchFailed(StorageError):
    """No source gave the whole blob; what is verified is kept, and the next try resumes it.

    `dropped` says why each source was given up, by its name.
    """

    def __init__(self, blob: str, dropped: dict[str, StorageError], kept_bytes: int) -> None:
        reasons = "; ".join(str(error) for error in dropped.values()) or "no source is named"
        super().__init__(
            f"blob {blob} could not be fetched, {kept_bytes} bytes of it are kept for the next "
            f"try: {reasons}"
        )
        self.dropped = dropped
        self.kept_bytes = kept_bytes


class PortalError(StorageError):
    """A portal or peer of S5 cannot be used; `url` says which, without its secrets."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self.reason = reason


class PortalUnavailable(PortalError):
    """It does not answer, or broke off: worth another try, there or elsewhere.

    `retry_after` is how many seconds it asked to be left alone, 0 if it said nothing.
    """

    def __init__(self, url: str, reason: str, *, retry_after: float = 0.0) -> None:
        super().__init__(url, reason)
        self.retry_after = retry_after


class PortalRefused(PortalError):
    """It answered no, or is not even asked (status 0); trying again changes nothing."""

    def __init__(self, url: str, status: int, reason: str) -> None:
        super().__init__(url, f"{reason} (HTTP {status})" if status else reason)
        self.status = status


class PortalLied(PortalError):
    """It answered with other bytes, another size or a bad signature: nothing of it is used."""
