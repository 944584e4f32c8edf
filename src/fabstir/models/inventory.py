"""Which models are on this machine: those that were pulled, and those that their owner added.

A pulled file lies in the folder of models at `repo/file`, where a host that serves it looks. An
added one stays where its owner has it; a note in the folder says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, cast

from fabstir.db.files import replace_private
from fabstir.models.catalogue import ModelSpec
from fabstir.models.files import remembered_digest
from fabstir.primitives.errors import ModelMissing
from fabstir.primitives.ids import Hash32, parse_hash32

_NOTES: Final = "added.json"
SUFFIX: Final = ".gguf"
_PART: Final = ".part"


class FileState(StrEnum):
    """What is known of a file without hashing it."""

    VERIFIED = "verified"
    """Hashed, and not written to since."""
    CHANGED = "changed"
    """Written to, or replaced, since it was hashed."""
    UNVERIFIED = "unverified"
    """Never hashed, or nobody could note it."""
    PARTIAL = "partial"
    """A download that can be gone on with."""
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A model on this machine.

    Attributes:
        size_bytes: on the disk; 0 where it is missing.
        sha256: of its bytes when they were last hashed.
        is_added: whether it is its owner's own, and only noted here.
    """

    repo: str
    file: str
    path: Path
    size_bytes: int
    sha256: Hash32 | None
    state: FileState
    is_added: bool

    @property
    def name(self) -> str:
        """repo:file, as models are called everywhere."""
        return f"{self.repo}:{self.file}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Note:
    repo: str
    file: str
    path: str
    sha256: str


class Inventory:
    """The folder of models. All of it blocks, for as long as a disk takes to list a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self) -> list[ModelFile]:
        """Every model, by name."""
        found = [*self._pulled(), *map(_noted_file, self._notes())]
        return sorted(found, key=lambda model: model.name)

    def find(self, name: str) -> ModelFile:
        """The one that is called so: repo:file, its file's name, or the path of either.

        Raises:
            ModelMissing: there is none, or several.
        """
        found = [model for model in self.files() if _is_called(model, name)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(model.name for model in found)
        raise ModelMissing(
            f"{name} is {names}: say which, as repo:file"
            if found
            else f"there is no model {name} in {self.folder}: `fabstir models list` shows which "
            "there are, `fabstir models pull` fetches one"
        )

    def note(self, spec: ModelSpec, path: Path) -> None:
        """Remember a file of its owner's, in the place of what had this name."""
        kept = [note for note in self._notes() if (note.repo, note.file) != (spec.repo, spec.file)]
        added = _Note(repo=spec.repo, file=spec.file, path=str(path), sha256=spec.sha256)
        self._write([*kept, added])

    def forget(self, model: ModelFile) -> None:
        """Remove a pulled file with all that is beside it; of an added one only the note."""
        if model.is_added:
            kept = [note for note in self._notes() if note.path != str(model.path)]
            self._write(kept)
            return
        model.path.unlink(missing_ok=True)
        for beside in model.path.parent.glob(f".{_escaped(model.path.name)}.*"):
            beside.unlink(missing_ok=True)
        for folder in model.path.parents:
            if folder == self.folder or any(folder.iterdir()):
                break
            folder.rmdir()

    def _pulled(self) -> Iterator[ModelFile]:
        for path in sorted(self.folder.rglob(f"*{SUFFIX}")):
            if path.is_file() and not path.name.startswith("."):
                yield self._file(path, *_state_of(path))
        for part in sorted(self.folder.rglob(f".*{SUFFIX}{_PART}")):
            target = part.with_name(part.name.removeprefix(".").removesuffix(_PART))
            if part.is_file() and not target.exists():
                yield self._file(target, FileState.PARTIAL, None, part.stat().st_size)

    def _file(
        self, path: Path, state: FileState, sha256: Hash32 | None, size_bytes: int | None = None
    ) -> ModelFile:
        *repo, file = path.relative_to(self.folder).parts
        return ModelFile(
            repo="/".join(repo),
            file=file,
            path=path,
            size_bytes=path.stat().st_size if size_bytes is None else size_bytes,
            sha256=sha256,
            state=state,
            is_added=False,
        )

    def _notes(self) -> Sequence[_Note]:
        try:
            raw: Any = json.loads((self.folder / _NOTES).read_bytes())
            return [_Note(**cast("dict[str, str]", each)) for each in raw]
        except (OSError, ValueError, TypeError):
            return []

    def _write(self, notes: Sequence[_Note]) -> None:
        replace_private(self.folder / _NOTES, json.dumps([asdict(note) for note in notes]).encode())


def _noted_file(note: _Note) -> ModelFile:
    path = Path(note.path)
    is_there = path.is_file()
    state, sha256 = _state_of(path) if is_there else (FileState.MISSING, None)
    return ModelFile(
        repo=note.repo,
        file=note.file,
        path=path,
        size_bytes=path.stat().st_size if is_there else 0,
        sha256=sha256 or parse_hash32(note.sha256),
        state=state,
        is_added=True,
    )


def _state_of(path: Path) -> tuple[FileState, Hash32 | None]:
    sha256, is_unchanged = remembered_digest(path)
    if sha256 is None:
        return FileState.UNVERIFIED, None
    return (FileState.VERIFIED if is_unchanged else FileState.CHANGED), sha256


def _is_called(model: ModelFile, name: str) -> bool:
    return name in {model.name, f"{model.repo}/{model.file}", model.file, str(model.path)}


def _escaped(name: str) -> str:
    """A name for `glob`, meant as it stands."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
