"""The known answers of docs/s5-formats.md, sections 5 to 9, recomputed from their inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from mnemonic import Mnemonic
from tests.s5_streams import sign_stream_message

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import Multihash
from fabstir.s5.formats.account import ChallengeKind, sign_challenge
from fabstir.s5.formats.derivation import Identity, Purpose, child_directory
from fabstir.s5.formats.directory import LinkKind
from fabstir.s5.formats.directory_cid import Capability, DirectoryCid
from fabstir.s5.formats.encryption import (
    padded_size,
    seal_chunk,
    seal_mutable,
    sealed_size,
)
from fabstir.s5.formats.hidden_db import hidden_db_keys
from fabstir.s5.formats.multikey import encode_multikey
from fabstir.s5.formats.registry import sign_entry
from fabstir.s5.formats.seed_phrase import encode_bip39_phrase, encode_s5_phrase
from fabstir.s5.formats.wire import (
    Absent,
    AnnouncePeers,
    HandshakeDone,
    HashQuery,
    LocationType,
    PeerHandshake,
    PeerInfo,
    RegistryQuery,
    StreamQuery,
    Trace,
    sign_location,
    sign_message,
)

Inputs = Mapping[str, Any]

NUMBERS: Final = [f"{i:04}" for i in range(1024)]
"""A word list whose words are their own positions: S5's is not ours to print."""


def _hex(value: str) -> bytes:
    return bytes.fromhex(value)


def s5_phrase(given: Inputs) -> list[int]:
    phrase = encode_s5_phrase(_hex(given["entropy"]), NUMBERS, NATIVE)
    return [int(word) for word in phrase.split()]


def bip39_phrase(given: Inputs) -> str:
    return encode_bip39_phrase(_hex(given["entropy"]), Mnemonic("english").wordlist)


def keys(given: Inputs) -> dict[str, str]:
    identity = Identity(_hex(given["entropy"]), NATIVE)
    return {f"{purpose:d}": identity.seed(purpose).hex() for purpose in Purpose}


def directories(given: Inputs) -> dict[str, str]:
    root = Identity(_hex(given["entropy"]), NATIVE).file_system_root()
    child = child_directory(root.write_key, given["name"], NATIVE)
    return {
        "rootWriteKey": root.write_key.hex(),
        "rootEncryptionKey": root.encryption_key.hex(),
        "rootPublicKey": root.public_key.hex(),
        "childWriteKey": child.write_key.hex(),
        "childEncryptionKey": child.encryption_key.hex(),
        "childPublicKey": child.public_key.hex(),
    }


def hidden_path(given: Inputs) -> dict[str, str]:
    root = Identity(_hex(given["entropy"]), NATIVE).hidden_db_root()
    found = hidden_db_keys(root, given["path"], NATIVE)
    return {"writeKey": found.write_key.hex(), "encryptionKey": found.encryption_key.hex()}


def account(given: Inputs) -> dict[str, str]:
    identity = Identity(_hex(given["entropy"]), NATIVE)
    seed = identity.portal_account_key(_hex(given["accountSeed"]))
    kind = ChallengeKind(given["kind"])
    answer = sign_challenge(seed, kind, _hex(given["challenge"]), given["authority"], NATIVE)
    return {
        "pubKey": encode_multikey(NATIVE.ed25519_public_key(seed)).hex(),
        "response": answer.response.hex(),
        "signature": answer.signature.hex(),
    }


def directory_cid(given: Inputs) -> str:
    key = given.get("encryptionKey")
    cid = DirectoryCid(
        kind=LinkKind[given["kind"]],
        link=_hex(given["link"]),
        encryption_key=None if key is None else _hex(key),
    )
    return cid.to_bytes().hex()


def capability(given: Inputs) -> dict[str, str]:
    root = Identity(_hex(given["entropy"]), NATIVE).file_system_root()
    return {
        "read": Capability.of_keys(root, writable=False).encode(),
        "write": Capability.of_keys(root, writable=True).encode(),
    }


def registry_entry(given: Inputs) -> str:
    seed, data = _hex(given["seed"]), _hex(given["data"])
    return sign_entry(seed, given["revision"], data, NATIVE).encode().hex()


def stream_message(given: Inputs) -> str:
    seed, payload = _hex(given["seed"]), given["payload"].encode()
    return sign_stream_message(seed, given["revision"], payload).encode().hex()


def padding(given: Inputs) -> dict[str, list[int]]:
    sizes = given["sizes"]
    return {
        "padded": [padded_size(size) for size in sizes],
        "filePadding": [padded_size(max(size, 1)) - size for size in sizes],
    }


def mutable(given: Inputs) -> dict[str, Any]:
    data = given["data"].encode()
    sealed = seal_mutable(data, _hex(given["key"]), _hex(given["nonce"]), NATIVE)
    return {"size": len(sealed), "head": sealed[:58].hex(), "blake3": NATIVE.blake3(sealed).hex()}


def chunk(given: Inputs) -> str:
    key, plaintext = _hex(given["key"]), given["plaintext"].encode()
    return seal_chunk(key, given["index"], plaintext, NATIVE).hex()


def chunk_sizes(given: Inputs) -> list[int]:
    return [sealed_size(size) for size in given["plaintext"]]


def _query(given: Inputs) -> HashQuery:
    trace = given.get("trace")
    return HashQuery(
        hash=Multihash(_hex(given["hash"])),
        types=tuple(given["types"]) if "types" in given else (),
        legacy=given["legacy"],
        trace=None if trace is None else Trace(id=_hex(trace), hops=given["hops"]),
    )


def handshake(given: Inputs) -> str:
    challenge = _hex(given["challenge"])
    return PeerHandshake(challenge=challenge, network=given["network"]).encode().hex()


def handshake_done(given: Inputs) -> str:
    done = HandshakeDone(
        challenge=_hex(given["challenge"]),
        uris=tuple(given["uris"]),
        extensions=given["extensions"],
    )
    return sign_message(_hex(given["seed"]), done, NATIVE).encode().hex()


def hash_query(given: Inputs) -> str:
    return _query(given).encode().hex()


def storage_location(given: Inputs) -> str:
    location = sign_location(
        _hex(given["seed"]),
        _query(given),
        location_type=LocationType(given["type"]),
        expiry=given["expiry"],
        parts=tuple(given["parts"]),
        crypto=NATIVE,
    )
    return location.encode().hex()


def announce_peers(given: Inputs) -> str:
    peer = PeerInfo(public_key=_hex(given["peer"]), is_connected=True, uris=tuple(given["uris"]))
    announcement = AnnouncePeers(peers=(peer,))
    return sign_message(_hex(given["seed"]), announcement, NATIVE).encode().hex()


def registry_query(given: Inputs) -> str:
    return RegistryQuery(public_key=_hex(given["key"])).encode().hex()


def stream_query(given: Inputs) -> str:
    return StreamQuery(public_key=_hex(given["key"]), after=given["after"]).encode().hex()


def absent(given: Inputs) -> str:
    return Absent(subject=_hex(given["subject"])).encode().hex()


VECTORS: Final[Mapping[str, Callable[[Inputs], Any]]] = {
    "s5-phrase": s5_phrase,
    "bip39-phrase": bip39_phrase,
    "keys": keys,
    "directory-keys": directories,
    "hidden-path": hidden_path,
    "portal-account": account,
    "directory-cid": directory_cid,
    "capability": capability,
    "registry-entry": registry_entry,
    "stream-message": stream_message,
    "padding": padding,
    "mutable": mutable,
    "chunk": chunk,
    "chunk-sizes": chunk_sizes,
    "handshake": handshake,
    "handshake-done": handshake_done,
    "hash-query": hash_query,
    "storage-location": storage_location,
    "announce-peers": announce_peers,
    "registry-query": registry_query,
    "stream-query": stream_query,
    "absent": absent,
}
