"""Paths over blobs and registry entries: the file system of S5."""

from fabstir.s5.fs.batch import Batch
from fabstir.s5.fs.file_system import FileSystem
from fabstir.s5.fs.media_types import guess_media_type, is_media_type
from fabstir.s5.fs.paths import parse_path, refuse_names, refuse_twins
from fabstir.s5.fs.sharing import open_tree
from fabstir.s5.fs.snapshots import Snapshot
from fabstir.s5.fs.tree import ReadOnlyTree
from fabstir.s5.fs.vacuum import Vacuumed
from fabstir.s5.fs.values import DirectoryInfo, FileInfo, Info, Page

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
