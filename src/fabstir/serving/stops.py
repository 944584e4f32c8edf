"""Stop strings, found across the requests of which one answer is made.

The engine's own search is lost with each request that is cancelled to wait for the renter: what it
had kept back would never come, and a stop string that had begun would not be seen to end.
"""

from __future__ import annotations

from collections.abc import Iterable


class StopStrings:
    """Lets text through until one of the strings is complete; what may begin one waits."""

    def __init__(self, strings: Iterable[str]) -> None:
        self._strings: list[str] = [string for string in strings if string]
        self._held: str = ""
        self.is_found = False

    def feed(self, text: str) -> str:
        """What may be shown now that `text` has come. After a stop string: nothing more."""
        if self.is_found:
            return ""
        text = self._held + text
        found = [(at + len(each), at) for each in self._strings if (at := text.find(each)) >= 0]
        if found:
            # The one that is complete first, wherever the others begin: else what is shown would
            # depend on how the text is cut into pieces.
            _end, begin = min(found)
            self.is_found = True
            self._held = ""
            return text[:begin]
        num_held = max((_num_begun(text, string) for string in self._strings), default=0)
        shown, self._held = text[: len(text) - num_held], text[len(text) - num_held :]
        return shown

    def rest(self) -> str:
        """What still waits, when nothing more comes: it was no stop string's beginning."""
        held, self._held = self._held, ""
        return held


def _num_begun(text: str, string: str) -> int:
    """How many of the last characters are the first ones of `string`, but not all of it."""
    most = min(len(text), len(string) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(string[:n])), 0)
