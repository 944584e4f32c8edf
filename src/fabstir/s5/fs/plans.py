"""The plan of a batch: a tree of directories, each with its changes by name."""

from __future__ import annotations

from dataclasses import dataclass, field

from fabstir.primitives.cid import Multihash
from fabstir.s5.fs.changes import Change, PutFile
from fabstir.s5.fs.ownership import own_blobs
from fabstir.s5.fs.paths import Segments
from fabstir.s5.fs.together import Unstored


@dataclass(slots=True)
class Plan:
    """Changes of one directory, and of directories in it, which are made where they are missing.

    Attributes:
        unstored: files of the changes whose blobs are stored with the directory.
    """

    path: Segments = ()
    changes: dict[str, list[Change]] = field(default_factory=dict[str, list[Change]])
    below: dict[str, Plan] = field(default_factory=dict[str, "Plan"])
    unstored: list[Unstored] = field(default_factory=list[Unstored])

    def at(self, path: Segments) -> Plan:
        """The plan of a directory below this one."""
        plan = self
        for name in path:
            plan = plan.below.setdefault(name, Plan((*plan.path, name)))
        return plan

    def add(self, path: Segments, change: Change) -> None:
        """Plan a change of the last name of a path. Changes of one name follow one another."""
        self.at(path[:-1]).changes.setdefault(path[-1], []).append(change)

    def new_files(self) -> set[Multihash]:
        """The blobs that were stored for this directory's files, if nothing else can name them."""
        return {
            blob
            for changes in self.changes.values()
            for change in changes
            if isinstance(change, PutFile) and change.is_new
            for blob in own_blobs(change.file)
        }

    def blobs(self) -> set[Multihash]:
        """The blobs that were stored for this plan, as far as nothing else names them."""
        return self.new_files().union(*(plan.blobs() for plan in self.below.values()))
