"""No two names of one directory may look the same."""

from __future__ import annotations

from fabstir.primitives.errors import PathRefused
from fabstir.s5.fs.directories import Directories, Loaded
from fabstir.s5.fs.paths import look_of


class Looks:
    """What the names of a directory look like, those that one revision adds included.

    In a HAMT only the plain form of a new name is looked for: there is no going through a million
    names for every file. So a look-alike of a plain name is refused, and a plain name that comes
    after its look-alike is not.
    """

    def __init__(self, directories: Directories, loaded: Loaded) -> None:
        self._directories = directories
        self._loaded = loaded
        self._names: dict[str, str] | None = None

    async def claim(self, path: str, name: str) -> None:
        """Take a new name.

        Raises:
            PathRefused: another one looks the same.
        """
        if self._names is None:
            directory = self._loaded.directory
            self._names = {look_of(other): other for other in (*directory.files, *directory.dirs)}
        look = look_of(name)
        twin = self._names.setdefault(look, name)
        if twin == name and look != name and self._loaded.directory.sharding is not None:
            stored, slot = await self._directories.slot(self._loaded, look)
            twin = name if slot.is_empty else stored
        if twin != name:
            raise PathRefused(
                f"{path!a} would look like {twin!a}, which is there: choose another name"
            )
