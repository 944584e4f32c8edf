"""Directories: byte for byte those of S5.js, deterministic in our form, read in every dialect."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies_s5 import directories

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.formats.cbor import PlainObject, decode_cbor, encode_canonical, encode_s5js
from fabstir.s5.formats.dialects import MAGIC, decode_directory, encode_directory
from fabstir.s5.formats.directory import (
    Cbor,
    Directory,
    DirectoryDialect,
    DirRef,
    FileEncryption,
    FileRef,
    LinkKind,
    Sharding,
)
from fabstir.s5.formats.limits import MAX_MUTABLE_BYTES, MAX_NAME_BYTES

K = TypeVar("K")
V = TypeVar("V")

GOLDEN = Path(__file__).resolve().parents[5] / "shared" / "data" / "s5-golden.json"


def content(number: int) -> bytes:
    return NATIVE.blake3(f"c{number}".encode())


def directory(
    files: dict[str, FileRef] | None = None, dirs: dict[str, DirRef] | None = None
) -> Directory:
    return Directory(files=files or {}, dirs=dirs or {})


# The inputs that shared/data/README.md states.
OF_S5JS = {
    "empty": directory(),
    "one": directory(
        {
            "a.txt": FileRef(
                hash=content(1), size=13, media_type="text/plain", timestamp=1_700_000_000
            )
        }
    ),
    "many30": directory({f"f{n}": FileRef(hash=content(n), size=n) for n in range(30)}),
    "size5Gbig": directory({"g": FileRef(hash=content(1), size=5 << 30)}),
    "subdir": directory(
        dirs={
            "sub": DirRef(kind=LinkKind.MUTABLE, link=b"\5" * 32, timestamp=1_700_000_000),
        }
    ),
    "enc": directory(
        {
            "e": FileRef(
                hash=content(1),
                size=9,
                encryption=FileEncryption(key=b"\x01\x02\xff", plaintext_hash=b"\x03\x04"),
            )
        }
    ),
}

A_FILE = FileRef(hash=content(1), size=5)
A_DIR = DirRef(kind=LinkKind.FIXED, link=content(2))


@pytest.mark.skipif(not GOLDEN.exists(), reason="shared/data/s5-golden.json is not here")
@pytest.mark.parametrize("name", OF_S5JS)
def test_golden_directories(name: str) -> None:
    golden = bytes.fromhex(json.loads(GOLDEN.read_text(encoding="utf-8"))["dir"][name])

    assert encode_directory(OF_S5JS[name], DirectoryDialect.S5JS) == golden
    assert decode_directory(golden) == OF_S5JS[name]


@pytest.mark.skipif(not GOLDEN.exists(), reason="shared/data/s5-golden.json is not here")
def test_every_golden_directory_is_tested() -> None:
    assert set(json.loads(GOLDEN.read_text(encoding="utf-8"))["dir"]) == set(OF_S5JS)


@settings(max_examples=25)
@given(directories, st.sampled_from(DirectoryDialect))
def test_nothing_is_lost(value: Directory, dialect: DirectoryDialect) -> None:
    assert decode_directory(encode_directory(value, dialect)) == value


def backwards(values: Mapping[K, V]) -> dict[K, V]:
    return {key: values[key] for key in list(values)[::-1]}


@settings(max_examples=25)
@given(directories)
def test_the_canonical_form_does_not_depend_on_order(value: Directory) -> None:
    other = Directory(
        files=backwards(value.files),
        dirs=backwards(value.dirs),
        sharding=value.sharding,
        header=backwards(value.header),
    )

    assert encode_directory(other, DirectoryDialect.CANONICAL) == encode_directory(
        value, DirectoryDialect.CANONICAL
    )


@settings(max_examples=25)
@given(directories, st.integers(0, 2000), st.binary(max_size=3))
def test_altered_bytes_give_a_directory_or_one_error(
    value: Directory, place: int, noise: bytes
) -> None:
    written = encode_directory(value, DirectoryDialect.CANONICAL)
    place %= len(written)
    for data in (written[:place], written[:place] + noise + written[place + len(noise) :]):
        try:
            read = decode_directory(data)
        except RemoteProtocolError:
            continue
        encode_directory(read, DirectoryDialect.S5JS)


def test_names_are_in_the_order_of_s5js() -> None:
    names = ["_x", "10", "2", "a", "ä", "b", "B", "é", "z", "Z"]
    written = encode_directory(
        directory(dict.fromkeys(sorted(names), A_FILE), dict.fromkeys(sorted(names), A_DIR)),
        DirectoryDialect.S5JS,
    )

    read = decode_directory(written)
    assert list(read.files) == names
    assert list(read.dirs) == names


def test_sharding_is_an_object_for_s5js() -> None:
    sharding = Sharding(
        bits_per_level=5,
        max_leaf_entries=1000,
        hash_function=0,
        root=content(1),
        num_entries=1000,
        depth=0,
    )

    written = encode_directory(
        Directory(files={}, dirs={}, sharding=sharding, header={"title": "x"}),
        DirectoryDialect.S5JS,
    )

    config: dict[Cbor, Cbor] = {
        "bitsPerLevel": 5,
        "maxInlineEntries": 1000,
        "hashFunction": 0,
    }
    root: dict[Cbor, Cbor] = {"cid": b"\x1e" + content(1), "totalEntries": 1000, "depth": 0}
    objects = PlainObject(
        {"type": "hamt", "config": PlainObject(config), "root": PlainObject(root)}
    )
    assert written == MAGIC + encode_s5js(["S5.pro", {"title": "x", "sharding": objects}, {}, {}])
    # Once S5.js has read and written it, the objects are maps.
    maps: Cbor = {"type": "hamt", "config": config, "root": root}
    assert (
        decode_directory(encode_s5js(["S5.pro", {"sharding": maps}, {}, {}])).sharding == sharding
    )


def test_a_root_of_32_bytes_is_read() -> None:
    config: Cbor = {"bitsPerLevel": 5, "maxInlineEntries": 16, "hashFunction": 1}
    root: Cbor = {"cid": content(1), "totalEntries": 5.0, "depth": 0}
    sharding: Cbor = {"type": "hamt", "config": config, "root": root}

    read = decode_directory(encode_canonical(["S5.pro", {"sharding": sharding}, {}, {}]))

    assert read.sharding is not None
    assert (read.sharding.root, read.sharding.num_entries) == (content(1), 5)


def test_sharding_that_never_happened_is_kept_as_it_is() -> None:
    data = encode_canonical(["S5.pro", {"sharding": {"type": "hamt"}}, {}, {}])

    read = decode_directory(data)

    assert read.sharding is None
    assert encode_directory(read, DirectoryDialect.CANONICAL) == MAGIC + data


def test_the_keys_of_our_own_are_where_s5js_does_not_look() -> None:
    key = bytes(range(32))
    sub = DirRef(kind=LinkKind.MUTABLE, link=content(1), encryption_key=key)
    encryption = FileEncryption(key=key, padding=7)

    body = encode_directory(
        directory({"f": FileRef(hash=content(2), size=1, encryption=encryption)}, {"d": sub}),
        DirectoryDialect.CANONICAL,
    )[2:]

    cipher = {"algorithm": "xchacha20-poly1305", "key": key}
    assert decode_cbor(body, max_bytes=1000) == [
        "S5.pro",
        {},
        {"d": {2: b"\xed" + content(1), 22: {"encryption": cipher}}},
        {"f": {3: content(2), 4: 1, 22: {"encryption": {**cipher, "padding": 7}}}},
    ]


def test_what_older_writers_put_elsewhere_is_read_and_kept() -> None:
    """A hash type in field 22, fields that nobody knows, and BLAKE3 as 1f."""
    data = encode_canonical(
        [
            "S5.pro",
            {},
            {"d": {2: b"\x1f" + content(2)}},
            {"f": {3: content(1), 4: 5, 22: 31, 40: ["x"]}},
        ]
    )

    read = decode_directory(data)

    assert read.dirs["d"] == DirRef(kind=LinkKind.FIXED, link=content(2))
    assert read.files["f"] == FileRef(hash=content(1), size=5, extra={22: 31, 40: ["x"]})
    assert decode_directory(encode_directory(read, DirectoryDialect.S5JS)) == read


# -- foreign dialects -----------------------------------------------------------------------------


def rust(dirs: Cbor, files: Cbor, header: Cbor | None = None, magic: str = "S5.pro") -> bytes:
    return encode_canonical([magic, header or {}, dirs, files])


def test_the_dialect_of_s5_rs() -> None:
    old: dict[Cbor, Cbor] = {1: content(1), 2: 3}
    new: dict[Cbor, Cbor] = {1: content(2), 2: 4, 3: 1_700_000_000, 4: 5, 6: "text/plain"}
    data = rust(
        {
            "fixed": {1: content(3)},
            "mutable": {0: 0x11, 1: content(4), 3: 7, 4: 8, 12: {14: list(content(5))}, 14: 2},
        },
        {"f": {**new, 5: [[1, "https://example.org"]], 22: {"a": None}, 23: old, 25: 2}},
    )

    assert decode_directory(data) == Directory(
        files={
            "f": FileRef(
                hash=content(2),
                size=4,
                media_type="text/plain",
                timestamp=1_700_000_000,
                timestamp_nanos=5,
                locations=((1, "https://example.org"),),
                extra={"a": None, 25: 2},
                prev=FileRef(hash=content(1), size=3),
            )
        },
        dirs={
            "fixed": DirRef(kind=LinkKind.FIXED, link=content(3)),
            "mutable": DirRef(
                kind=LinkKind.MUTABLE,
                link=content(4),
                encryption_key=content(5),
                timestamp=7,
                timestamp_nanos=8,
                extra={14: 2},
            ),
        },
    )


def test_an_encrypted_file_of_s5_rs_is_named_by_its_blob() -> None:
    location: Cbor = [0xE2, [[0x1E, content(2)], content(3), 262_144]]
    compressed: Cbor = [0xC2, [1, "https://example.org"]]

    read = decode_directory(rust({}, {"f": {1: content(1), 2: 9, 5: [compressed, location]}}))

    assert read.files["f"] == FileRef(
        hash=content(2),
        size=9,
        encryption=FileEncryption(key=content(3), plaintext_hash=content(1)),
    )


def test_a_deleted_file_of_s5_rs_is_not_there() -> None:
    files: Cbor = {"gone": {0: 0x20, 1: content(1), 2: 9}, "here": {1: content(2), 2: 1}}

    assert list(decode_directory(rust({}, files)).files) == ["here"]


def test_a_web_application_of_s5_rs_is_a_directory() -> None:
    data = rust({}, {"index.html": {1: content(1), 2: 9}}, {6: ["index.html"]}, "S5.pro/web")

    assert decode_directory(data).header == {6: ["index.html"]}


def docs(dirs: object, files: object) -> bytes:
    written = msgpack.packb(["FS5.io", {4: b"before"}, dirs, files])  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - not typed
    assert isinstance(written, bytes)
    return written


def test_the_dialect_of_the_documents() -> None:
    version = {1: 5, 3: 1_700_000_000_123, 0x1E: content(1)}
    data = docs(
        {"key": {1: content(2), 3: 7}, "fixed": {1: b"\x1e" + content(3), 14: {"a": [1]}}},
        {"f": {1: version, 3: 1, 14: {"note": "x"}}},
    )

    read = decode_directory(data)

    assert read == decode_directory(MAGIC + data)
    assert read == Directory(
        files={
            "f": FileRef(
                hash=content(1),
                size=5,
                timestamp=1_700_000_000,
                timestamp_nanos=123_000_000,
                extra={"note": "x"},
            )
        },
        dirs={
            "key": DirRef(kind=LinkKind.MUTABLE, link=content(2), timestamp=7),
            "fixed": DirRef(kind=LinkKind.FIXED, link=content(3), extra={"a": [1]}),
        },
        header={"FS5.io": {4: b"before"}},
    )


# -- what is refused ------------------------------------------------------------------------------

BAD_NAMES = ["", ".", "..", "a/b", "/", "a\0b", "x" * (MAX_NAME_BYTES + 1), "é" * 513]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_elsewhere_take_nothing_along(name: str) -> None:
    """One of them made its whole directory unreadable; whoever shows names checks them."""
    both = directory({name: A_FILE, "good": A_FILE}, dirs={name: A_DIR})

    for dialect in DirectoryDialect:
        assert decode_directory(encode_directory(both, dialect)) == both


def test_names_that_are_no_text_are_counted() -> None:
    reference: Cbor = {3: content(1), 4: 0}
    raw = encode_canonical(["S5.pro", {}, {}, {"good": reference, 7: reference, b"x": reference}])

    read = decode_directory(raw)

    assert (list(read.files), read.num_nameless) == (["good"], 2)


def test_the_longest_name() -> None:
    longest = directory({"é" * (MAX_NAME_BYTES // 2): A_FILE})

    assert decode_directory(encode_directory(longest, DirectoryDialect.CANONICAL)) == longest


def test_a_directory_that_is_too_long() -> None:
    with pytest.raises(RemoteProtocolError, match=str(MAX_MUTABLE_BYTES)):
        decode_directory(MAGIC + bytes(MAX_MUTABLE_BYTES))


FILE: dict[Cbor, Cbor] = {3: content(1), 4: 5}
LINK: dict[Cbor, Cbor] = {2: b"\xed" + content(1)}
RUST: dict[Cbor, Cbor] = {1: content(1), 2: 5}
CIPHER = "xchacha20-poly1305"
HAMT_ROOT: Cbor = {"cid": content(1), "totalEntries": 1, "depth": 0}
HAMT_CONFIG: Cbor = {"bitsPerLevel": 5, "maxInlineEntries": 16, "hashFunction": 0}


OTHER_DIRECTORIES: list[tuple[Cbor, str]] = [
    (["S5.pro", {}, {}, {"f": {**FILE, 3: content(1)[1:]}}], "hash"),
    (["S5.pro", {}, {}, {"f": {4: 5}}], "hash"),
    (["S5.pro", {}, {}, {"f": {**FILE, 4: -1}}], "size"),
    (["S5.pro", {}, {}, {"f": {**FILE, 4: 1.5}}], "size"),
    (["S5.pro", {}, {}, {"f": {**FILE, 4: True}}], "size"),
    (["S5.pro", {}, {}, {"f": {**FILE, 4: None}}], "size"),
    (["S5.pro", {}, {}, {"f": {**FILE, 6: 1}}], "media type"),
    (["S5.pro", {}, {}, {"f": {**FILE, 7: "x"}}], "time"),
    (["S5.pro", {}, {}, {"f": {**FILE, 8: -1}}], "nanoseconds"),
    (["S5.pro", {}, {}, {"f": {**FILE, 9: {}}}], "locations"),
    (["S5.pro", {}, {}, {"f": {**FILE, 9: [[1]]}}], "location"),
    (["S5.pro", {}, {}, {"f": {**FILE, 9: [[1, 2]]}}], "location"),
    (["S5.pro", {}, {}, {"f": {**FILE, 9: [["x", "y"]]}}], "tag"),
    (["S5.pro", {}, {}, {"f": {**FILE, 22: {1: 2}}}], "extra"),
    (["S5.pro", {}, {}, {"f": {**FILE, 22: {"encryption": 1}}}], "encryption"),
    (["S5.pro", {}, {}, {"f": {**FILE, 22: {"encryption": {"algorithm": "rot13"}}}}], CIPHER),
    (
        ["S5.pro", {}, {}, {"f": {**FILE, 22: {"encryption": {"algorithm": CIPHER}}}}],
        "key of a file",
    ),
    (
        [
            "S5.pro",
            {},
            {},
            {"f": {**FILE, 22: {"encryption": {"algorithm": CIPHER, "key": [256]}}}},
        ],
        "key of a file",
    ),
    (
        [
            "S5.pro",
            {},
            {},
            {"f": {**FILE, 22: {"encryption": {"algorithm": CIPHER, "key": bytes(65)}}}},
        ],
        "key of a file",
    ),
    (["S5.pro", {}, {}, {"f": {**FILE, 23: 1}}], "file reference"),
    (["S5.pro", {}, {}, {"f": 1}], "file reference"),
    (["S5.pro", {}, {"d": {2: b"\x12" + content(1)}}, {}], "unknown type"),
    (["S5.pro", {}, {"d": {**LINK, 22: {"encryption": {"algorithm": 1}}}}, {}], CIPHER),
    (
        [
            "S5.pro",
            {},
            {"d": {**LINK, 22: {"encryption": {"algorithm": CIPHER, "key": b""}}}},
            {},
        ],
        "key of a directory",
    ),
    (["S5.pro", {}, {"d": []}, {}], "directory reference"),
    (["S5.pro", [], {}, {}], "header"),
    (["S5.pro", {}, [], {}], "directories"),
    (["S5.pro", {}, {}, []], "files"),
    (["S5.pro", {}, {}], "not a directory"),
    (["S4.pro", {}, {}, {}], "not a directory"),
    ([{}, {}, {}, {}], "not a directory"),
    ({}, "not a directory"),
    (["S5.pro", {"sharding": 1}, {}, {}], "sharding"),
    (["S5.pro", {"sharding": {"type": "b-tree", "root": HAMT_ROOT}}, {}, {}], "HAMT"),
    (["S5.pro", {"sharding": {"type": "hamt", "root": HAMT_ROOT}}, {}, {}], "config"),
    (
        [
            "S5.pro",
            {"sharding": {"type": "hamt", "root": {"cid": b""}, "config": HAMT_CONFIG}},
            {},
            {},
        ],
        "root",
    ),
    (["S5.pro", {5: {0: {1: content(1)}}}, {}, {}], "s5-rs"),
    (["S5.pro", {}, {}, {"f": {**RUST, 0: 0x11}}], "registry"),
    (["S5.pro", {}, {}, {"f": {**RUST, 5: 1}}], "locations"),
    (["S5.pro", {}, {}, {"f": {**RUST, 5: [1]}}], "location"),
    (["S5.pro", {}, {}, {"f": {**RUST, 5: [[0xE2, 1]]}}], "encrypted location"),
    (
        ["S5.pro", {}, {}, {"f": {**RUST, 5: [[0xE2, [[0x1E, content(1)], b"", 1]]]}}],
        "not read",
    ),
    (["S5.pro", {}, {"d": {0: 0x20, 1: content(1)}}, {}], "unknown type"),
    (["S5.pro", {}, {"d": {1: content(1), 12: 1}}, {}], "keys"),
]


@pytest.mark.parametrize(("value", "reason"), OTHER_DIRECTORIES)
def test_other_directories_are_refused(value: Cbor, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        decode_directory(MAGIC + encode_canonical(value))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (docs({}, {})[:-1], "not msgpack"),
        (docs({}, {}) + b"\0", "not msgpack"),
        (docs({}, {})[:-2] + b"\xdf\xff\xff\xff\xff", "not msgpack"),
        (docs({}, {})[:-1] + b"\x82\xa1a\x01\xa1a\x02", "twice"),
        (docs({}, {})[:-1] + b"\x81\x90\x01", "keys"),
        (docs({}, {})[:-1] + b"\x81\xc3\x01", "keys"),
        (docs({}, {})[:-1] + b"\x91" * 40 + b"\xc0", "nested"),
        (docs({}, {})[:-1] + b"\x91" * 5000 + b"\xc0", "not msgpack"),
        (docs({}, {})[:-1] + b"\xdc\x40\x00" + b"\x90" * 0x4000, "more lists"),
        (docs({}, {})[:-1] + b"\xd6\xff\0\0\0\0", "not msgpack"),
        (docs([], {}), "directories"),
        (docs({}, {"a": {1: 1}}), "version"),
        (docs({}, {"a": {1: {1: 1}}}), "hash"),
        (docs({"a": {1: b""}}, {}), "link"),
        (docs({"a": {1: content(1), 3: "x"}}, {}), "time"),
        (docs({"a": {1: content(1), 14: 1}}, {}), "extra"),
    ],
)
def test_other_directories_of_the_documents_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        decode_directory(data)


def test_directories_of_a_newer_s5_rs_are_refused_by_name() -> None:
    with pytest.raises(RemoteProtocolError, match="newer s5-rs"):
        decode_directory(encode_canonical(["s5_fs_v2", {}, {}]))
