"""typer's help, without what it imports for other apps."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Final

_UNUSED: Final = {"rich.markdown": "Markdown", "rich.traceback": "Traceback"}
"""Help in Markdown and typer's own tracebacks: we have neither. Both bring parsers (markdown-it,
pygments), which cost a third of the processor time of `fabstir --help`: 0.12 of 0.43 s."""


def load_help_renderer() -> None:
    """Import what `--help` prints with, so that typer finds it imported."""
    stand_ins = {name: _stand_in(name) for name in _UNUSED if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        importlib.import_module("typer.rich_utils")
    finally:
        for name in stand_ins:
            del sys.modules[name]  # whoever else asks for it gets the real one


def _stand_in(name: str) -> ModuleType:
    module = ModuleType(name)
    setattr(module, _UNUSED[name], type(_UNUSED[name], (), {}))
    return module
