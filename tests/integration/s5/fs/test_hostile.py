"""Trees that somebody else wrote, or a registry and a store that do not tell the truth."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from tests.integration.s5.fs.conftest import OWNER

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.errors import (
    AccessDenied,
    CorruptBlob,
    FabstirError,
    NotFound,
    PathRefused,
    PortalLied,
    RemoteProtocolError,
    WriteConflict,
)
from fabstir.s5.formats.derivation import child_directory
from fabstir.s5.formats.dialects import encode_directory
from fabstir.s5.formats.directory import (
    Directory,
    DirectoryDialect,
    DirRef,
    FileEncryption,
    FileRef,
    LinkKind,
    Sharding,
)
from fabstir.s5.formats.directory_cid import Capability, DirectoryCid
from fabstir.s5.formats.encryption import is_sealed_mutable, seal_mutable
from fabstir.s5.formats.registry import SignedEntry, blob_pointer, read_blob_pointer, sign_entry
from fabstir.s5.fs import FileSystem, open_tree
from fabstir.s5.store import BlobStore, LocalBlobs, LocalRegistry

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SEED = b"\3" * 32


class Writer:
    """Writes a directory in clear, byte for byte, under a key of its own."""

    def __init__(self, blobs: LocalBlobs, registry: LocalRegistry) -> None:
        self.blobs = blobs
        self.registry = registry
        self.revision = 0
        link = NATIVE.ed25519_public_key(SEED)
        self.cid = DirectoryCid(kind=LinkKind.MUTABLE, link=link)

    async def publish(self, data: bytes) -> None:
        blob = await self.blobs.put(data, reason="test")
        await self.point(blob.multihash)

    async def point(self, blob: Multihash) -> None:
        self.revision += 1
        await self.registry.set(sign_entry(SEED, self.revision, blob_pointer(blob), NATIVE))

    async def write(
        self,
        files: Mapping[str, FileRef] | None = None,
        dirs: Mapping[str, DirRef] | None = None,
        sharding: Sharding | None = None,
    ) -> None:
        directory = Directory(files=files or {}, dirs=dirs or {}, sharding=sharding)
        await self.publish(encode_directory(directory, DirectoryDialect.S5JS))

    def file_system(self) -> FileSystem:
        return FileSystem(self.blobs, self.registry, Capability(self.cid, SEED), NATIVE)


class Replayed:
    """The real registry as it was: answers what it is told to, where it is told to."""

    def __init__(self, registry: LocalRegistry) -> None:
        self._registry = registry
        self.answers: dict[bytes, SignedEntry | None] = {}

    async def get(self, public_key: bytes) -> SignedEntry | None:
        if public_key in self.answers:
            return self.answers[public_key]
        return await self._registry.get(public_key)

    async def set(self, entry: SignedEntry) -> None:
        await self._registry.set(entry)


@pytest.fixture
def writer(blobs: LocalBlobs, registry: LocalRegistry) -> Writer:
    return Writer(blobs, registry)


async def test_a_directory_that_is_in_itself(
    fs: FileSystem, store: BlobStore, other: FileSystem
) -> None:
    await fs.put("d/f", b"1")
    await fs.mount("d/self", await fs.share("d", is_writable=True))
    await fs.mount("root", await fs.share("", is_writable=True))

    assert len([info async for info in other.walk()]) <= 12
    assert await other.get("/".join(["root"] * 30 + ["d"] + ["self"] * 30 + ["f"]), 1) == b"1"
    with pytest.raises(PathRefused):
        await other.get("/".join(["root"] * 64 + ["d"]), 1)
    await fs.vacuum(store.pins(OWNER), min_age=-60)
    await fs.delete("d", recursive=True)
    assert not await other.exists("d")
    assert await other.exists("root/root")


async def test_the_wrong_key_and_none(
    fs: FileSystem, blobs: LocalBlobs, registry: LocalRegistry
) -> None:
    await fs.put("d/f", b"1")
    cid = Capability.decode(await fs.share("d"), NATIVE).cid

    for key in (None, bytes(32)):
        wrong = DirectoryCid(kind=cid.kind, link=cid.link, encryption_key=key)
        with pytest.raises(AccessDenied):
            await open_tree(wrong.encode(), blobs, registry, NATIVE).get("f", 1)


async def test_a_capability_that_leads_nowhere(blobs: LocalBlobs, registry: LocalRegistry) -> None:
    for kind in LinkKind:
        tree = open_tree(DirectoryCid(kind=kind, link=b"\1" * 32).encode(), blobs, registry, NATIVE)
        with pytest.raises((NotFound, CorruptBlob)):
            await tree.list()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no directory",
        b"\x5f\x5d",
        encode_directory(Directory(files={}, dirs={}), DirectoryDialect.CANONICAL)[:-1],
        b"\x5f\x5d\x9f" * 5000,
        bytes(100_000),
    ],
)
async def test_blobs_that_are_no_directories(writer: Writer, data: bytes) -> None:
    await writer.publish(data)

    with pytest.raises(RemoteProtocolError):
        await writer.file_system().list()
    with pytest.raises(RemoteProtocolError):
        await writer.file_system().put("f", b"")


async def test_a_blob_that_is_too_long_for_a_directory(writer: Writer) -> None:
    await writer.publish(bytes(3 << 20))

    with pytest.raises(FabstirError):
        await writer.file_system().list()


async def test_a_directory_whose_blob_is_gone_is_not_taken_for_an_empty_one(
    writer: Writer,
) -> None:
    await writer.point(Multihash(b"\1" * 32))

    fs = writer.file_system()
    for call in (fs.exists("f"), fs.put("f", b""), fs.list(), fs.vacuum(writer.blobs.store.pins())):
        with pytest.raises(CorruptBlob):
            await call


async def test_files_that_lie(writer: Writer) -> None:
    blob = await writer.blobs.put(b"12345", reason="test")
    key = FileEncryption(key=b"\1" * 32)
    await writer.write(
        files={
            "long": FileRef(hash=blob.digest, size=7),
            "huge": FileRef(hash=blob.digest, size=(1 << 64) - 1),
            "sealed": FileRef(hash=blob.digest, size=5, encryption=key),
            "overflow": FileRef(
                hash=blob.digest,
                size=(1 << 64) - 1,
                encryption=FileEncryption(key=b"\1" * 32, padding=(1 << 64) - 1),
            ),
            "odd key": FileRef(hash=blob.digest, size=5, encryption=FileEncryption(key=b"\1")),
            "gone": FileRef(hash=b"\1" * 32, size=5),
            "good": FileRef(hash=blob.digest, size=5),
        }
    )
    fs = writer.file_system()

    for name in ("long", "huge", "sealed", "overflow", "odd key", "gone"):
        with pytest.raises(FabstirError):
            assert await fs.get(name, 1 << 70)
    assert await fs.get("good", 5) == b"12345"


async def test_another_content_than_was_hashed(fs: FileSystem, writer: Writer) -> None:
    await fs.put("f", b"right")
    found = await fs._file("f", None)  # pyright: ignore[reportPrivateUsage] - to forge a reference
    assert found.encryption is not None
    forged = FileEncryption(key=found.encryption.key, plaintext_hash=bytes(32))
    await writer.write(files={"f": FileRef(hash=found.hash, size=5, encryption=forged)})

    with pytest.raises(RemoteProtocolError):
        await writer.file_system().get("f", 10)


async def test_names_that_are_not_allowed_here(writer: Writer) -> None:
    file = FileRef(hash=b"\1" * 32, size=5)
    await writer.write(files={"\u202egnp.exe": file, "new\nline": file, "good": file})

    fs = writer.file_system()
    page = await fs.list()

    assert ([info.path for info in page.entries], page.num_refused) == (["good"], 2)
    assert [info.path async for info in fs.walk()] == ["good"]


LEADING_ELSEWHERE = ["..", ".", "", "a/b", "x" * 1500, "a\0b"]


@pytest.mark.parametrize("name", LEADING_ELSEWHERE)
async def test_one_name_does_not_take_its_directory_along(writer: Writer, name: str) -> None:
    blob = await writer.blobs.put(b"12345", reason="test")
    file = FileRef(hash=blob.digest, size=5)
    inside = child_directory(SEED, "dir", NATIVE)
    child = DirRef(kind=LinkKind.MUTABLE, link=inside.public_key)
    await writer.write(files={name: file, "good": file}, dirs={"dir": child})
    below = encode_directory(Directory(files={name: file}, dirs={}), DirectoryDialect.S5JS)
    pointer = blob_pointer((await writer.blobs.put(below, reason="test")).multihash)
    await writer.registry.set(sign_entry(inside.write_key, 1, pointer, NATIVE))
    fs = writer.file_system()

    page = await fs.list()
    assert (sorted(info.path for info in page.entries), page.num_refused) == (["dir", "good"], 1)
    assert await fs.get("good", 5) == b"12345"
    await fs.put("new", b"1")  # and what others named stays
    assert (await fs.list()).num_refused == 1
    assert ((await fs.list("dir")).entries, (await fs.list("dir")).num_refused) == ((), 1)
    await fs.delete("dir", recursive=True)
    assert not await fs.exists("dir")


@pytest.mark.parametrize(
    "name", ["a\u200db", "tab\there", "soft\u00adhyphen", "\ufeffmark", "a\u3164"]
)
async def test_invisible_characters_that_others_wrote_can_be_read(
    writer: Writer, name: str
) -> None:
    blob = await writer.blobs.put(b"12345", reason="test")
    await writer.write(files={name: FileRef(hash=blob.digest, size=5)})
    fs = writer.file_system()

    (info,) = (await fs.list()).entries
    assert info.path == name
    assert await fs.get(name, 5) == b"12345"
    assert [info.path async for info in fs.walk()] == [name]
    with pytest.raises(PathRefused):
        await fs.put(name, b"as a new name")
    await fs.move(name, "plain")
    assert await fs.get("plain", 5) == b"12345"


async def test_what_s5js_writes_beside_a_hamt_is_read_and_goes_into_it(
    writer: Writer, fs: FileSystem
) -> None:
    """From the thousandth file on it puts entries into the directory itself."""
    async with fs.batch() as batch:
        for number in range(1000):
            await batch.put(f"big/{number}", b"old")
    big = await fs._directory(("big",))  # pyright: ignore[reportPrivateUsage] - for its HAMT
    assert big.directory.sharding is not None
    await writer.write(dirs={"big": DirRef(kind=LinkKind.FIXED, link=bytes(32))})
    blob = await writer.blobs.put(b"12345", reason="test")
    newer = FileRef(hash=blob.digest, size=5)
    nested = DirRef(kind=LinkKind.FIXED, link=b"\1" * 32)
    theirs = Directory(
        files={"7": newer, "new": newer}, dirs={"nested": nested}, sharding=big.directory.sharding
    )
    key = big.capability.cid.encryption_key
    assert key is not None
    sealed = seal_mutable(encode_directory(theirs, DirectoryDialect.S5JS), key, bytes(24), NATIVE)
    stored = await writer.blobs.put(sealed, reason="test")
    assert big.capability.write_key is not None
    pointer = blob_pointer(stored.multihash)
    await writer.registry.set(
        sign_entry(big.capability.write_key, big.revision + 1, pointer, NATIVE)
    )

    assert await names(fs, "big") == sorted([*map(str, range(1000)), "nested", "new"])
    assert await fs.get("big/7", 5) == await fs.get("big/new", 5) == b"12345"
    await fs.put("big/another", b"1")
    await fs.delete("big/new")
    again = await fs._directory(("big",))  # pyright: ignore[reportPrivateUsage] - as above
    assert (again.directory.files, again.directory.dirs) == ({}, {})
    assert await names(fs, "big") == sorted([*map(str, range(1000)), "nested", "another"])
    assert await fs.get("big/7", 5) == b"12345"


async def names(fs: FileSystem, path: str) -> list[str]:
    """All names of a directory, page by page."""
    found: list[str] = []
    cursor = None
    while True:
        page = await fs.list(path, cursor=cursor, limit=300)
        found += [info.path.rpartition("/")[2] for info in page.entries]
        cursor = page.cursor
        if cursor is None:
            return sorted(found)


async def test_a_childs_key_that_s5js_dropped_is_derived(
    fs: FileSystem, other: FileSystem, blobs: LocalBlobs, registry: LocalRegistry, root: Capability
) -> None:
    await fs.put("home/notes/a", b"kept")
    top = await fs._directory(())  # pyright: ignore[reportPrivateUsage] - to write as S5.js does
    home = top.directory.dirs["home"]
    assert home.encryption_key is not None
    theirs = Directory(
        files={}, dirs={"home": DirRef(kind=home.kind, link=home.link, timestamp=home.timestamp)}
    )
    assert root.cid.encryption_key is not None
    assert root.write_key is not None
    data = encode_directory(theirs, DirectoryDialect.S5JS)
    stored = await blobs.put(
        seal_mutable(data, root.cid.encryption_key, bytes(24), NATIVE), reason="t"
    )
    await registry.set(
        sign_entry(root.write_key, top.revision + 1, blob_pointer(stored.multihash), NATIVE)
    )

    assert await other.get("home/notes/a", 9) == b"kept"
    await other.put("home/b", b"1")
    blob = (await other._directory(("home",))).blob  # pyright: ignore[reportPrivateUsage] - as above
    assert blob is not None
    assert is_sealed_mutable(await blobs.get(blob, max_bytes=1 << 20))
    shared = open_tree(await other.share("home"), blobs, registry, NATIVE)
    assert await shared.get("b", 1) == b"1"


async def test_s5js_is_not_given_ciphertext_for_files(
    blobs: LocalBlobs, registry: LocalRegistry, root: Capability
) -> None:
    fs = FileSystem(blobs, registry, root, NATIVE, is_compatible=True)
    async with fs.batch() as batch:
        for number in range(1000):
            await batch.put(f"big/{number}", b"clear", encrypt=False)

    with pytest.raises(PathRefused, match="ciphertext"):
        await fs.put("big/secret", b"secret")
    await fs.put("big/open", b"open", encrypt=False)
    await fs.put("small/secret", b"secret")
    assert await fs.get("big/open", 9) == b"open"


async def test_names_as_macos_spells_them(writer: Writer) -> None:
    blob = await writer.blobs.put(b"12345", reason="test")
    await writer.write(files={"cafe\u0301": FileRef(hash=blob.digest, size=5)})
    fs = writer.file_system()

    assert await fs.get("caf\u00e9", 5) == b"12345"
    await fs.put("caf\u00e9", b"new")
    assert len((await fs.list()).entries) == 1
    assert await fs.get("cafe\u0301", 5) == b"new"
    await fs.delete("caf\u00e9")
    assert (await fs.list()).entries == ()


async def test_a_hamt_without_its_nodes(writer: Writer) -> None:
    blob = await writer.blobs.put(b"no node", reason="test")
    for root, error in ((b"\1" * 32, CorruptBlob), (blob.digest, RemoteProtocolError)):
        await writer.write(
            sharding=Sharding(
                bits_per_level=5,
                max_leaf_entries=16,
                hash_function=0,
                root=root,
                num_entries=1 << 40,
                depth=3,
            )
        )
        fs = writer.file_system()
        for call in (fs.get("f", 1), fs.list(), fs.put("f", b"")):
            with pytest.raises(error):
                await call


async def test_a_registry_that_goes_back_in_time(
    blobs: LocalBlobs, registry: LocalRegistry, root: Capability
) -> None:
    replayed = Replayed(registry)
    fs = FileSystem(blobs, replayed, root, NATIVE)
    await fs.put("f", b"1")
    old = await registry.get(root.cid.link)
    await fs.put("f", b"2")

    for answer in (old, None):
        replayed.answers = {root.cid.link: answer}
        with pytest.raises(PortalLied):
            await fs.get("f", 1)
        with pytest.raises(PortalLied):
            await fs.put("f", b"3")
    replayed.answers = {}
    assert await fs.get("f", 1) == b"2"


async def test_a_registry_with_two_entries_of_one_revision(
    blobs: LocalBlobs, registry: LocalRegistry, root: Capability
) -> None:
    replayed = Replayed(registry)
    fs = FileSystem(blobs, replayed, root, NATIVE)
    await fs.put("f", b"1")
    old = await registry.get(root.cid.link)
    assert old is not None
    assert root.write_key is not None
    await fs.put("f", b"2")
    fork = sign_entry(root.write_key, old.revision + 1, old.data, NATIVE)

    replayed.answers = {root.cid.link: fork}
    with pytest.raises(WriteConflict, match="two entries of revision 2"):
        await fs.get("f", 1)
    assert await fs.get("f", 1) == b"1"


async def test_what_portals_see(
    fs: FileSystem, store: BlobStore, registry: LocalRegistry, root: Capability
) -> None:
    """Nothing but sealed blobs; of directories not even the size."""
    async with fs.batch() as batch:
        for n in range(1001):
            await batch.put(f"private/secret-{n}", b"the secret itself")

    for pin in [pin async for pin in store.pins()]:
        data = await store.get(pin.blob.multihash, max_bytes=1 << 20)
        assert b"secret" not in data
        if not pin.reason.endswith("file"):
            assert is_sealed_mutable(data)
            assert len(data) % 4096 == 0


async def test_what_s5js_reads(
    blobs: LocalBlobs, registry: LocalRegistry, root: Capability, other: FileSystem
) -> None:
    """The root sealed with its derived key, children in clear under keys derived by name."""
    fs = FileSystem(blobs, registry, root, NATIVE, is_compatible=True)
    info = await fs.put("home/notes/f.txt", b"hello")
    assert root.write_key is not None

    home = child_directory(root.write_key, "home", NATIVE)
    notes = child_directory(home.write_key, "notes", NATIVE)
    entry = await registry.get(notes.public_key)
    assert entry is not None
    data = await blobs.get(read_blob_pointer(entry.data), max_bytes=1 << 20)
    assert data.startswith(b"\x5f\x5d\x84fS5.pro")
    assert b"f.txt" in data
    assert b"xchacha20-poly1305" in data
    cid = DirectoryCid(kind=LinkKind.MUTABLE, link=notes.public_key).encode()
    assert await open_tree(cid, blobs, registry, NATIVE).get("f.txt", 10) == b"hello"
    assert await fs.share("home/notes") == cid

    # Our own writer goes on with such a tree, and leaves in clear what is in clear.
    await other.put("home/notes/deeper/g", b"1")
    assert await fs.get("home/notes/deeper/g", 1) == b"1"
    assert await open_tree(cid, blobs, registry, NATIVE).get("deeper/g", 1) == b"1"
    await other.put("sealed/h", b"2")
    assert await fs.get("sealed/h", 1) == b"2"
    await fs.delete("home/notes", recursive=True)
    await fs.put("home/notes/again", b"3")
    assert [found.path async for found in other.walk("home")] == ["home/notes", "home/notes/again"]
    assert BlobId.decode(info.cid).size == 5 + 16
