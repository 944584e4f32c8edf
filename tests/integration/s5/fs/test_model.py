"""Two writers of one tree against a dictionary: whatever they do, a fresh reader sees the model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import NotFound, PathRefused, WriteConflict
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.fs import FileSystem
from fabstir.s5.store import LocalBlobs, LocalRegistry, open_store

pytestmark = pytest.mark.integration

names = st.sampled_from(["a", "b", "c", "\u00e9"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
contents = st.binary(max_size=3)
writers = st.sampled_from([0, 1])


def above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


class Model:
    """What there should be."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.directories: set[str] = set()

    def below(self, path: str) -> set[str]:
        return {p for p in (*self.files, *self.directories) if p.startswith(f"{path}/")}

    def put_error(self, path: str) -> type[Exception] | None:
        if path in self.directories or any(p in self.files for p in above(path)):
            return PathRefused
        return None

    def put(self, path: str, data: bytes) -> None:
        self.files[path] = data
        self.directories.update(above(path))

    def move(self, source: str, target: str) -> None:
        for old in (source, *self.below(source)):
            new = target + old[len(source) :]
            if old in self.files:
                self.files[new] = self.files.pop(old)
            else:
                self.directories.remove(old)
                self.directories.add(new)


class TwoWriters(RuleBasedStateMachine):
    """Every rule is done by one of two file systems; the invariant looks with a third."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.model = Model()

    @initialize(is_compatible=st.booleans())
    def open(self, is_compatible: bool) -> None:
        self.is_compatible = is_compatible
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.portal: BlockingPortal = self.stack.enter_context(start_blocking_portal())
        opened: AbstractContextManager[Any] = self.portal.wrap_async_context_manager(
            self.portal.call(open_store, folder / "store", NATIVE)
        )
        self.store = self.stack.enter_context(opened)
        self.writers = [self.new_file_system() for _ in range(2)]

    def teardown(self) -> None:
        self.stack.close()

    def new_file_system(self) -> FileSystem:
        keys = Identity(b"\2" * 16, NATIVE).file_system_root()
        return FileSystem(
            LocalBlobs(self.store, "owner"),
            LocalRegistry(self.store, NATIVE),
            Capability.of_keys(keys, writable=True),
            NATIVE,
            is_compatible=self.is_compatible,
            max_versions=2,
        )

    def run(
        self, call: Callable[[], Coroutine[Any, Any, object]], error: type[Exception] | None
    ) -> bool:
        """Call it; whether it did what it should, rather than refuse as it should."""
        if error is None:
            self.portal.call(call)
            return True
        with pytest.raises(error):
            self.portal.call(call)
        return False

    @rule(writer=writers, path=paths, data=contents, encrypt=st.booleans())
    def put(self, writer: int, path: str, data: bytes, encrypt: bool) -> None:
        fs, error = self.writers[writer], self.model.put_error(path)
        if self.run(lambda: fs.put(path, data, encrypt=encrypt), error):
            self.model.put(path, data)

    @rule(writer=writers, path=paths, data=contents)
    def put_new(self, writer: int, path: str, data: bytes) -> None:
        fs = self.writers[writer]
        error = WriteConflict if path in self.model.files else self.model.put_error(path)
        if self.run(lambda: fs.put(path, data, if_none_match=True), error):
            self.model.put(path, data)

    @rule(writer=writers, path=paths)
    def make_directory(self, writer: int, path: str) -> None:
        fs = self.writers[writer]
        blocked = any(p in self.model.files for p in (*above(path), path))
        if self.run(lambda: fs.make_directory(path), PathRefused if blocked else None):
            self.model.directories.update([*above(path), path])

    @rule(writer=writers, path=paths, recursive=st.booleans())
    def delete(self, writer: int, path: str, recursive: bool) -> None:
        fs = self.writers[writer]
        error: type[Exception] | None = None
        if path not in self.model.files and path not in self.model.directories:
            error = NotFound
        elif self.model.below(path) and not recursive:
            error = PathRefused
        if self.run(lambda: fs.delete(path, recursive=recursive), error):
            for gone in (path, *self.model.below(path)):
                self.model.files.pop(gone, None)
                self.model.directories.discard(gone)

    @rule(writer=writers, source=paths, to=paths, overwrite=st.booleans())
    def move(self, writer: int, source: str, to: str, overwrite: bool) -> None:
        fs = self.writers[writer]
        error = self.move_error(source, to, overwrite)
        if self.run(lambda: fs.move(source, to, overwrite=overwrite), error):
            self.model.move(source, to)

    def move_error(self, source: str, target: str, overwrite: bool) -> type[Exception] | None:
        model = self.model
        if source not in model.files and source not in model.directories:
            return NotFound
        if source == target:
            return None
        missing = [p for p in above(target) if p not in model.directories]
        if missing:
            return NotFound
        if source in model.files:
            if target in model.directories:
                return PathRefused
            return WriteConflict if target in model.files and not overwrite else None
        if target.startswith(f"{source}/"):
            return PathRefused
        if target in model.files or target in model.directories:
            return WriteConflict
        return PathRefused if self.is_compatible else None

    @rule(changes=st.dictionaries(paths, contents, min_size=1, max_size=6), writer=writers)
    def batch(self, changes: dict[str, bytes], writer: int) -> None:
        free = {
            path: data
            for path, data in changes.items()
            if self.model.put_error(path) is None
            and not any(other in changes for other in above(path))
        }

        async def write() -> None:
            async with self.writers[writer].batch() as batch:
                for path, data in free.items():
                    await batch.put(path, data)

        self.portal.call(write)
        for path, data in free.items():
            self.model.put(path, data)

    @rule(pairs=st.lists(st.tuples(paths, paths, contents), min_size=1, max_size=4))
    def both_at_once(self, pairs: list[tuple[str, str, bytes]]) -> None:
        mine = {f"{p}.1": data for p, _, data in pairs if not self.model.put_error(f"{p}.1")}
        theirs = {f"{p}.2": data for _, p, data in pairs if not self.model.put_error(f"{p}.2")}

        async def write() -> None:
            async with anyio.create_task_group() as tasks:
                for fs, files in zip(self.writers, (mine, theirs), strict=True):
                    for path, data in files.items():
                        tasks.start_soon(fs.put, path, data)

        self.portal.call(write)
        for path, data in {**mine, **theirs}.items():
            self.model.put(path, data)

    @rule(writer=writers)
    def vacuum_and_collect(self, writer: int) -> None:
        fs = self.writers[writer]
        self.portal.call(lambda: fs.vacuum(self.store.pins("owner"), min_age=-60))
        self.portal.call(lambda: self.store.collect(grace_seconds=-60))

    @invariant()
    def a_fresh_reader_sees_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        files, directories = self.portal.call(self.look)
        assert files == self.model.files
        assert directories == self.model.directories

    async def look(self) -> tuple[dict[str, bytes], set[str]]:
        fs = self.new_file_system()
        files: dict[str, bytes] = {}
        directories: set[str] = set()
        async for info in fs.walk():
            if info.is_directory:
                directories.add(info.path)
            else:
                files[info.path] = await fs.get(info.path, 100)
        return files, directories


_CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

TestTwoWriters = TwoWriters.TestCase
TestTwoWriters.settings = settings(
    max_examples=5, stateful_step_count=15, suppress_health_check=_CHECKS
)


@pytest.mark.heavy
class TestTwoWritersForLong(TwoWriters.TestCase):  # type: ignore[misc]
    """The same for minutes."""

    settings = settings(max_examples=100, stateful_step_count=40, suppress_health_check=_CHECKS)
