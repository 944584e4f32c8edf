"""The decoders of S5's keys, entries, encryption and peers (see `targets`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

import httpx

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import ConfigError, RemoteProtocolError
from fabstir.s5.formats.directory_cid import Capability, DirectoryCid
from fabstir.s5.formats.encryption import open_chunk, open_mutable, seal_mutable
from fabstir.s5.formats.registry import SignedEntry, StreamMessage, read_blob_pointer
from fabstir.s5.formats.seed_phrase import (
    SeedPhraseError,
    decode_bip39_phrase,
    decode_entropy_hex,
    decode_s5_phrase,
    encode_bip39_phrase,
    encode_s5_phrase,
)
from fabstir.s5.formats.wire import Signed, UnknownPeerMessage, decode_message
from fabstir.s5.peers.urls import http_origin, is_http_url, parse_peer_url

KEY: Final = b"\1" * 32


def _believe(_key: bytes, _message: bytes, _signature: bytes) -> bool:
    return True


def _open_clear(_key: bytes, _nonce: bytes, _data: bytes, ciphertext: bytes) -> bytes:
    return ciphertext


TRANSPARENT: Final = replace(NATIVE, open=_open_clear)
CREDULOUS: Final = replace(NATIVE, ed25519_verify=_believe)
"""Believes every signature, so that mutations reach what stands behind one."""

WORDS: Final = [f"{a}{b}{c}" for a in "abcdefghijk" for b in "abcdefghij" for c in "abcdefghijkl"]
"""Words whose first three letters differ, for both kinds of phrases."""


def s5_registry_entry(data: bytes) -> None:
    """An entry, and the blob that it points at."""
    for crypto in (NATIVE, CREDULOUS):
        with suppress(RemoteProtocolError):
            entry = SignedEntry.decode(data, crypto)
            assert entry.encode() == data
            read_blob_pointer(entry.data)


def s5_stream_message(data: bytes) -> None:
    """A stream message: one spelling each."""
    with suppress(RemoteProtocolError):
        assert StreamMessage.decode(data, CREDULOUS).encode() == data


def s5_peer_message(data: bytes) -> None:
    """A frame of a peer; what is read is written so that it is read the same."""
    for crypto in (NATIVE, CREDULOUS):
        with suppress(RemoteProtocolError):
            message = decode_message(data, crypto)
            if isinstance(message, UnknownPeerMessage):
                continue
            again = decode_message(message.encode(), crypto)
            assert again == message
            if isinstance(message, Signed) and isinstance(again, Signed):
                assert again.message == message.message


def s5_sealed(data: bytes) -> None:
    """Encrypted blobs, in which the plaintext is the stranger's too."""
    with suppress(RemoteProtocolError):
        open_mutable(data, KEY, NATIVE)
    with suppress(RemoteProtocolError):
        open_chunk(KEY, 0, data, NATIVE)
    with suppress(RemoteProtocolError):
        inner = open_mutable(data, KEY, TRANSPARENT)
        assert open_mutable(seal_mutable(inner, KEY, bytes(24), NATIVE), KEY, NATIVE) == inner


def s5_directory_cid(data: bytes) -> None:
    """CIDs in binary, and capabilities as text."""
    with suppress(RemoteProtocolError):
        cid = DirectoryCid.from_bytes(data)
        assert DirectoryCid.from_bytes(cid.to_bytes()) == cid
    text = data.decode("utf-8", "replace")
    with suppress(RemoteProtocolError):
        capability = Capability.decode(text, NATIVE)
        assert Capability.decode(capability.encode(), NATIVE) == capability


def s5_phrase(data: bytes) -> None:
    """What people type to bring an identity in."""
    text = data.decode("utf-8", "replace")
    with suppress(SeedPhraseError):
        entropy = decode_s5_phrase(text, WORDS[:1024], NATIVE)
        assert (
            decode_s5_phrase(encode_s5_phrase(entropy, WORDS[:1024], NATIVE), WORDS[:1024], NATIVE)
            == entropy
        )
    with suppress(SeedPhraseError):
        entropy = decode_bip39_phrase(text, BIP39_WORDS)
        assert encode_bip39_phrase(entropy, BIP39_WORDS).split() == text.lower().split()
    with suppress(SeedPhraseError):
        assert decode_entropy_hex(text).hex() in text.lower()


BIP39_WORDS: Final = [*WORDS, *(f"{word}z" for word in WORDS)][:2048]


def s5_peer_url(data: bytes) -> None:
    """URLs that peers name: of nodes and of blobs."""
    text = data.decode("utf-8", "replace")
    with suppress(ConfigError):
        peer = parse_peer_url(text)
        assert "@" not in urlsplit(peer.url).netloc
    if is_http_url(text):
        assert httpx.URL(text).host
    http_origin(text)


S5_KEY_TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "s5_directory_cid": s5_directory_cid,
    "s5_peer_message": s5_peer_message,
    "s5_peer_url": s5_peer_url,
    "s5_phrase": s5_phrase,
    "s5_registry_entry": s5_registry_entry,
    "s5_sealed": s5_sealed,
    "s5_stream_message": s5_stream_message,
}
