"""References to files and directories in CBOR, with the integer keys of S5.js.

File: 3 hash, 4 size, 6 media type, 7 seconds, 8 nanoseconds, 9 locations, 22 extra, 23 previous.
Directory: 2 link (type byte and 32 bytes), 7 seconds, 8 nanoseconds, and 22 extra, which is ours:
S5.js reads no key of it and drops it when it writes the directory anew.

What stands in `extra` of a value that was read: the text keys of field 22, and as integer keys the
fields that are not ours to know. So nothing is lost between reading and writing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.formats.cbor import BigInt, PlainObject
from fabstir.s5.formats.directory import (
    Cbor,
    DirectoryDialect,
    DirRef,
    FileEncryption,
    FileRef,
    LinkKind,
)

CborMap = Mapping[Cbor, Cbor]

HASH, SIZE, MEDIA_TYPE, TIMESTAMP, NANOS, LOCATIONS, EXTRA, PREV = 3, 4, 6, 7, 8, 9, 22, 23
LINK = 2

ALGORITHM: Final = "xchacha20-poly1305"
"""The only cipher that S5.js knows."""

FILE_FIELDS: Final = frozenset({HASH, SIZE, MEDIA_TYPE, TIMESTAMP, NANOS, LOCATIONS, EXTRA, PREV})
DIR_FIELDS: Final = frozenset({LINK, TIMESTAMP, NANOS, EXTRA})

_MAX_KEY_BYTES: Final = 64
"""Keys and hashes have 32 bytes; a longer one is not carried around."""


# -- reading --------------------------------------------------------------------------------------


def read_map(value: Cbor, what: str) -> CborMap:
    """Raises RemoteProtocolError: not a map."""
    if not isinstance(value, Mapping):
        raise RemoteProtocolError(f"{what} is not a map")
    return value


def read_bytes(value: Cbor, what: str, *sizes: int) -> bytes:
    """Raises RemoteProtocolError: not a byte string, or of none of the `sizes`."""
    if not isinstance(value, bytes) or len(value) not in sizes:
        raise RemoteProtocolError(f"{what} does not have {' or '.join(map(str, sizes))} bytes")
    return value


def read_uint(value: Cbor, what: str, *, limit: int = 1 << 64) -> int:
    """A number that is not negative, also one that JavaScript wrote as a float.

    Raises:
        RemoteProtocolError: another type, negative, with a fraction, or not below `limit`.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
        raise RemoteProtocolError(f"{what} is not an integer from 0 to {limit - 1}")
    return value


def read_text(value: Cbor, what: str) -> str:
    """Raises RemoteProtocolError: not text."""
    if not isinstance(value, str):
        raise RemoteProtocolError(f"{what} is not text")
    return value


def read_optional_uint(value: Cbor, what: str) -> int | None:
    """As `read_uint`, and None for null and for what is not there."""
    return None if value is None else read_uint(value, what)


def read_optional_text(value: Cbor, what: str) -> str | None:
    """As `read_text`, and None for null and for what is not there."""
    return None if value is None else read_text(value, what)


def read_octets(value: Cbor, what: str) -> bytes:
    """Bytes, also those that S5.js writes as a list of numbers; at most 64."""
    if isinstance(value, (list, tuple)) and len(value) <= _MAX_KEY_BYTES:
        return bytes(read_uint(octet, what, limit=256) for octet in value)
    if isinstance(value, bytes) and len(value) <= _MAX_KEY_BYTES:
        return value
    raise RemoteProtocolError(f"{what} is not bytes, or more than {_MAX_KEY_BYTES} of them")


def read_file_ref(value: Cbor) -> FileRef:
    """Raises RemoteProtocolError: not a file reference of S5.js, or one that we cannot open."""
    fields = read_map(value, "a file reference")
    inner, extra = split_extra(fields, FILE_FIELDS)
    prev = fields.get(PREV)
    return FileRef(
        hash=read_bytes(fields.get(HASH), "the hash of a file", 32),
        size=read_uint(fields.get(SIZE), "the size of a file"),
        media_type=read_optional_text(fields.get(MEDIA_TYPE), "the media type of a file"),
        timestamp=read_optional_uint(fields.get(TIMESTAMP), "the time of a file"),
        timestamp_nanos=read_optional_uint(fields.get(NANOS), "the nanoseconds of a file"),
        locations=read_locations(fields.get(LOCATIONS)),
        encryption=read_file_encryption(inner),
        extra=extra,
        prev=None if prev is None else read_file_ref(prev),
    )


def split_extra(fields: CborMap, known: frozenset[int]) -> tuple[CborMap, CborMap]:
    """The map in field 22, and what is to be kept: all of it but the encryption, and the fields
    beside it that are not `known`."""
    inner = fields.get(EXTRA)
    unknown: dict[Cbor, Cbor] = {
        key: item for key, item in fields.items() if key not in known and isinstance(key, int)
    }
    if inner is None:
        return {}, unknown
    if not isinstance(inner, Mapping):
        # S5.js may put a hash type here, a number.
        return {}, {**unknown, EXTRA: inner}
    if not all(isinstance(key, str) for key in inner):
        raise RemoteProtocolError("the keys of a reference's extra fields are not text")
    kept = {key: item for key, item in inner.items() if key != "encryption"}
    return inner, {**unknown, **kept}


def read_file_encryption(extra: CborMap) -> FileEncryption | None:
    """The field `encryption` of a file's extra fields.

    Raises:
        RemoteProtocolError: another algorithm: its ciphertext must not be taken for the file.
    """
    if extra.get("encryption") is None:
        return None
    fields = read_map(extra["encryption"], "the encryption of a file")
    if fields.get("algorithm") != ALGORITHM:
        raise RemoteProtocolError(f"a file is encrypted with something else than {ALGORITHM}")
    plaintext_hash = fields.get("plaintextHash")
    return FileEncryption(
        key=read_octets(fields.get("key"), "the key of a file"),
        plaintext_hash=None
        if plaintext_hash is None
        else read_octets(plaintext_hash, "the plaintext hash of a file"),
        padding=read_optional_uint(fields.get("padding"), "the padding of a file") or 0,
    )


def read_locations(value: Cbor) -> tuple[tuple[int, bytes | str], ...]:
    """Where a blob may be found: pairs of a tag, and bytes or an address."""
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise RemoteProtocolError("the locations of a file are not a list")
    return tuple(_location(pair) for pair in value)


def _location(pair: Cbor) -> tuple[int, bytes | str]:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise RemoteProtocolError("a location of a file is not a pair")
    tag, place = pair
    if not isinstance(place, (bytes, str)):
        raise RemoteProtocolError("a location of a file is neither bytes nor text")
    return read_uint(tag, "the tag of a location"), place


def read_dir_ref(value: Cbor) -> DirRef:
    """Raises RemoteProtocolError: not a reference to a directory as S5.js writes it."""
    fields = read_map(value, "a directory reference")
    inner, extra = split_extra(fields, DIR_FIELDS)
    link = read_bytes(fields.get(LINK), "the link of a directory", 33)
    return DirRef(
        kind=read_link_kind(link[0]),
        link=link[1:],
        encryption_key=_dir_key(inner),
        timestamp=read_optional_uint(fields.get(TIMESTAMP), "the time of a directory"),
        timestamp_nanos=read_optional_uint(fields.get(NANOS), "the nanoseconds of a directory"),
        extra=extra,
    )


def read_link_kind(byte: int) -> LinkKind:
    """Raises RemoteProtocolError: an unknown type byte."""
    if byte == 0x1F:  # BLAKE3, as older writers spell it
        return LinkKind.FIXED
    try:
        return LinkKind(byte)
    except ValueError:
        raise RemoteProtocolError(f"a directory has a link of unknown type {byte:#x}") from None


def _dir_key(extra: CborMap) -> bytes | None:
    if extra.get("encryption") is None:
        return None
    fields = read_map(extra["encryption"], "the encryption of a directory")
    if fields.get("algorithm") != ALGORITHM:
        raise RemoteProtocolError(f"a directory is encrypted with something else than {ALGORITHM}")
    return read_bytes(fields.get("key"), "the key of a directory", 32)


# -- writing --------------------------------------------------------------------------------------


def write_file_ref(file: FileRef, dialect: DirectoryDialect) -> CborMap:
    """The map of one file, its keys in the order of S5.js."""
    fields: dict[Cbor, Cbor] = {HASH: file.hash, SIZE: write_size(file.size)}
    put_optional(fields, MEDIA_TYPE, file.media_type)
    put_optional(fields, TIMESTAMP, file.timestamp)
    put_optional(fields, NANOS, file.timestamp_nanos)
    if file.locations:
        fields[LOCATIONS] = file.locations
    put_extra(fields, file.extra, write_encryption(file.encryption, dialect))
    if file.prev is not None:
        fields[PREV] = write_file_ref(file.prev, dialect)
    return fields


def write_dir_ref(directory: DirRef) -> CborMap:
    """The map of one directory, its keys in the order of S5.js."""
    fields: dict[Cbor, Cbor] = {LINK: bytes((directory.kind.value,)) + directory.link}
    put_optional(fields, TIMESTAMP, directory.timestamp)
    put_optional(fields, NANOS, directory.timestamp_nanos)
    key = directory.encryption_key
    encryption: Cbor = None if key is None else {"algorithm": ALGORITHM, "key": key}
    put_extra(fields, directory.extra, encryption)
    return fields


def write_size(size: int) -> int:
    """S5.js holds a size from 2^32 on as a BigInt, because its numbers would become floats."""
    return BigInt(size) if size >= 1 << 32 else size


def write_encryption(encryption: FileEncryption | None, dialect: DirectoryDialect) -> Cbor:
    """S5.js writes an object with lists of numbers; `new Uint8Array` there takes bytes as well."""
    if encryption is None:
        return None
    octets: Callable[[bytes], Cbor] = list[Cbor] if dialect is DirectoryDialect.S5JS else bytes
    fields = PlainObject({"algorithm": ALGORITHM, "key": octets(encryption.key)})
    if encryption.plaintext_hash is not None:
        fields["plaintextHash"] = octets(encryption.plaintext_hash)
    if encryption.padding:
        fields["padding"] = encryption.padding
    return fields


def put_optional(fields: dict[Cbor, Cbor], key: Cbor, value: Cbor) -> None:
    """Set a field that has a value."""
    if value is not None:
        fields[key] = value


def put_extra(fields: dict[Cbor, Cbor], extra: CborMap, encryption: Cbor) -> None:
    """Write back what `split_extra` kept, and the encryption."""
    inner: dict[Cbor, Cbor] = {} if encryption is None else {"encryption": encryption}
    inner.update((key, item) for key, item in extra.items() if isinstance(key, str))
    fields.update((key, item) for key, item in extra.items() if not isinstance(key, str))
    if inner:
        fields[EXTRA] = inner


def read_names(names: Iterable[Cbor]) -> list[str]:
    """The names that are text, whatever they say: one that leads elsewhere, or is too long, must
    not take its whole directory along. Who shows or follows names checks them."""
    return [name for name in names if isinstance(name, str)]
