"""Paths over blobs and registry entries: the file system of S5."""

from fabstir.storage.fs.batch import Batch
from fabstir.storage.fs.file_system import FileSystem
from fabstir.storage.fs.media_types import guess_media_type, is_media_type
from fabstir.storage.fs.paths import parse_path, refuse_names, refuse_twins
from fabstir.storage.fs.sharing import open_tree
from fabstir.storage.fs.snapshots import Snapshot
from fabstir.storage.fs.tree import ReadOnlyTree
from fabstir.storage.fs.vacuum import Vacuumed
from fabstir.storage.fs.values import DirectoryInfo, FileInfo, Info, Page

__all__ = [
    "Batch",
    "DirectoryInfo",
    "FileInfo",
    "FileSystem",
    "Info",
    "Page",
    "ReadOnlyTree",
    "Snapshot",
    "Vacuumed",
    "guess_media_type",
    "is_media_type",
    "open_tree",
    "parse_path",
    "refuse_names",
    "refuse_twins",
]
