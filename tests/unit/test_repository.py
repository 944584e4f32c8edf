"""Rules about the tree itself that no linter holds."""

import ast
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

import pytest

from fabstir.cli.app import COMMANDS
from fabstir.telemetry.logs import is_secret

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
GENERATED = {".git", ".venv", "node_modules", "out", "cache", "dist", "artifacts", "__pycache__"}
LOCKS = {"uv.lock", "package-lock.json"}
WORKTREE = ".git"
"""A file in another working tree of the repository: it says where that is."""
TEXT = {".py", ".md", ".toml", ".json", ".sol", ".yml", ".yaml", ".sh", ""}
MAX_LINES = 600


def is_cache(folder: str) -> bool:
    return folder == ".hypothesis" or folder.endswith("_cache")


@cache
def tree() -> tuple[Path, ...]:
    """Every text file that people wrote."""
    found: list[Path] = []
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = [s for s in subfolders if s not in GENERATED and not is_cache(s)]
        found += [Path(folder, name) for name in names if name not in {*LOCKS, WORKTREE}]
    return tuple(path for path in sorted(found) if path.suffix in TEXT)


def python_files(folder: Path) -> list[Path]:
    return [path for path in tree() if path.suffix == ".py" and path.is_relative_to(folder)]


@cache
def parsed(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file, the file itself first."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.fixture(scope="module", autouse=True)
def parsed_for_these_tests_alone() -> Iterator[None]:
    """A million objects, which the collector would visit again and again for the tests after."""
    yield
    parsed.cache_clear()


def top_level(path: Path) -> list[ast.stmt]:
    module = parsed(path)[0]
    assert isinstance(module, ast.Module)
    return module.body


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, and every name it imports from one, dotted."""
    for node in parsed(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def at(path: Path, text: str, offset: int) -> str:
    return f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, offset) + 1}"


def test_no_mocks() -> None:
    mocks = re.compile(r"(unittest\.)?mock(\.|$)|pytest_mock")

    users = [
        f"{path}: {name}"
        for path in python_files(ROOT)
        if "mock" in path.read_text(encoding="utf-8")  # parsing all files takes ten seconds
        for name in imports(path)
        if mocks.match(name)
    ]

    assert users == []


def test_no_file_is_too_long() -> None:
    code = [path for path in tree() if path.suffix in {".py", ".sol", ".js", ".ts"}]

    long = {str(p): n for p in code if (n := len(p.read_text().splitlines())) > MAX_LINES}

    assert long == {}


def test_nothing_names_a_machine_or_a_registry() -> None:
    # In pieces, so that this file does not name them.
    folders = "|".join(("wo" + "rk", "ro" + "ot", "op" + "t"))
    hosts = "|".join(("py" + r"pi\.org", "python" + r"hosted\.org", "npm" + r"js\.(org|com)"))
    forbidden = re.compile(rf"(?<![\w./}}\)-])/({folders})/|{hosts}")

    named = [
        at(path, text, match.start())
        for path in tree()
        for text in [path.read_text(encoding="utf-8", errors="replace")]
        for match in forbidden.finditer(text)
    ]

    assert named == []


def test_only_config_reads_the_environment() -> None:
    readers = [
        f"{module_name(path)}:{node.lineno}"
        for path in python_files(SOURCE)
        if not module_name(path).startswith("fabstir.config")
        for node in parsed(path)
        if reads_a_variable(node)
    ]

    assert readers == []


def reads_a_variable(node: ast.AST) -> TypeGuard[ast.expr]:
    """`os.environ[...]`, `os.environ.get(...)`, `os.getenv`; handing it on to a child is none."""
    match node:
        case ast.Attribute(attr="getenv" | "environb"):
            return True
        case ast.Subscript(value=ast.Attribute(attr="environ")):
            return True
        case ast.Attribute(value=ast.Attribute(attr="environ"), attr=method):
            return method not in {"items", "copy"}
        case _:
            return False


def test_every_module_is_imported() -> None:
    entry_points = {f"fabstir.cli.{entry.module}" for entry in COMMANDS.values()}
    modules = {
        module_name(path): path
        for path in python_files(SOURCE)
        if path.stem not in {"__init__", "__main__"}
    }
    texts = [path.read_text() for path in python_files(SOURCE)]
    started = {m for m in modules if ".migrations." in m} | entry_points
    started |= {
        module
        for module, path in modules.items()
        if any(f'"{module}"' in text or f'"{path.name}"' in text for text in texts)
    }

    imported = {name for path in python_files(SOURCE) for name in imports(path)}

    assert modules.keys() - imported - started == set()


def type_name(node: ast.stmt) -> str | None:
    """The name of a public class, or of a type that a module gives a name to."""
    match node:
        case ast.ClassDef(name):
            pass
        case ast.Assign(targets=[ast.Name(name)]) if re.search(r"^[A-Z]\w*[a-z]", name):
            pass
        case _:
            return None
    return None if name.startswith("_") else name


def test_a_public_type_has_a_name_of_its_own() -> None:
    """A name that stands twice has to be read with its module, by people and by searches."""
    places: dict[str, list[str]] = {}
    for path in python_files(SOURCE):
        for node in top_level(path):
            if name := type_name(node):
                places.setdefault(name, []).append(module_name(path))

    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_log_line_is_given_a_secret() -> None:
    given = [
        f"{path}:{key.lineno}"
        for path in python_files(SOURCE)
        for node in parsed(path)
        if isinstance(node, ast.keyword)
        and node.arg == "extra"
        and isinstance(node.value, ast.Dict)
        for key in node.value.keys
        if isinstance(key, ast.Constant) and is_secret(str(key.value))
    ]

    assert given == []


def test_links_of_the_documents_lead_somewhere() -> None:
    link = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)")

    dead = [
        f"{at(path, text, match.start())}: {match[1]}"
        for path in tree()
        if path.suffix == ".md"
        for text in [path.read_text(encoding="utf-8")]
        for match in link.finditer(text)
        if not (path.parent / match[1]).exists()
    ]

    assert dead == []


@pytest.mark.parametrize("document", ["architecture.md"])
def test_paths_in_the_documents_exist(document: str) -> None:
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    paths = re.findall(r"`([\w./-]+(?:\.py|\.sol|\.md|\.json|\.toml|/))`", text)

    missing = [p for p in paths if not ((SOURCE / "fabstir" / p).exists() or (ROOT / p).exists())]

    assert len(paths) > 20
    assert missing == []


def test_every_package_has_its_line_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    packages = [p.name for p in (SOURCE / "fabstir").iterdir() if any(p.glob("*.py"))]

    assert [name for name in packages if f"\n| `{name}/` |" not in text] == []


def test_the_changelog_says_what_comes_next() -> None:
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_platform_of_the_node_tools_is_locked() -> None:
    # `npm install` leaves out platforms that its registry does not offer at the time, and
    # `npm ci` then refuses the lock.
    packages = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))["packages"]

    optional = {n for p in packages.values() for n in p.get("optionalDependencies", {})}

    assert [name for name in optional if f"node_modules/{name}" not in packages] == []


WRITERS = re.compile(
    r"print|.*\.from_(markup|ansi)|(typer|click)\.(echo|secho|confirm|prompt|style)"
)
"""Ways to the terminal, and into rich's own language, that take a text as it stands."""

DRAWING = re.compile(
    r"rich\.(console\.Console|console\.Group|text|markup|print|status|prompt|panel)"
)
"""Of rich, what makes something of texts; `cli/output.py` wraps it."""


def called_name(node: ast.Call) -> str:
    """`print`, `typer.echo`; of longer ones the last two names."""
    match node.func:
        case ast.Attribute(value=ast.Name(id=owner) | ast.Attribute(attr=owner), attr=name):
            return f"{owner}.{name}"
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def test_only_the_output_layer_writes_to_the_terminal() -> None:
    others = [path for path in python_files(SOURCE) if not path.match("fabstir/cli/output.py")]

    drawing = [
        f"{path}: {name}" for path in others for name in imports(path) if DRAWING.match(name)
    ]
    writing = [
        f"{module_name(path)}:{node.lineno}"
        for path in others
        for node in parsed(path)
        if isinstance(node, ast.Call) and WRITERS.fullmatch(called_name(node))
    ]

    assert (drawing, writing) == ([], [])


def test_no_widget_reads_markup() -> None:
    columns = [
        f"{module_name(path)}:{node.lineno}"
        for path in python_files(SOURCE)
        for node in parsed(path)
        if isinstance(node, ast.Call)
        and (
            (called_name(node) == "TextColumn" and not is_without_markup(node))
            or any(k.arg in {"markup", "emoji"} and not is_false(k.value) for k in node.keywords)
        )
    ]

    assert columns == []


def is_without_markup(node: ast.Call) -> bool:
    return any(k.arg == "markup" and is_false(k.value) for k in node.keywords)


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False
