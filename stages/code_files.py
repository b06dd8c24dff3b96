"""Lists of the source files that each command imports, with digests of their contents.

The stage ``code`` of the pipeline writes them (``python -m stages.code_files``), and the others
depend on their own: DVC looks at every source file once, not once for every run of every stage,
and a stage runs again only where what it imports was changed. ``sha256sum -c`` reads them.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from capt_core.artifacts.files import write_text

from .commands import PIPELINE

ROOT = Path(__file__).resolve().parents[1]
STAGES = Path(__file__).resolve().parent.name
LISTS = Path("artifacts/code")
"""Folder of the lists in the project."""
LISTED = (*PIPELINE, "study", "study-report")
"""Commands that have one."""


def code_list(name: str) -> Path:
    """Path of a command's list in the project."""
    return LISTS / f"{name}.txt"


def listed(name: str) -> str:
    """A command's list: SHA-256 and path of each file."""
    return "".join(f"{digest(ROOT / path)}  {path}\n" for path in _files(code_paths([name])))


def _files(paths: Iterable[str]) -> Iterator[str]:
    """Files and those in folders; editors' and Python's own left out."""
    for path in paths:
        if (ROOT / path).is_dir():
            yield from _files(
                f"{path}/{each.name}"
                for each in sorted((ROOT / path).iterdir())
                if not each.name.startswith(".") and each.name != "__pycache__"
            )
        elif not path.endswith(".pyc"):
            yield path


@cache
def digest(path: Path) -> str:
    """SHA-256 of a file, as hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def code_paths(names: Iterable[str]) -> list[str]:
    """What commands import, at any depth: packages of capt_core as folders, other files singly.

    Files that hold nothing but a docstring are left out.
    """
    found = set()
    for path in _imported(ROOT / STAGES / f"{name.replace('-', '_')}.py" for name in names):
        parts = path.relative_to(ROOT).parts
        if parts[0] == "capt_core" and len(parts) > 2:
            found.add("/".join(parts[:2]))
        elif _holds_code(path):
            found.add("/".join(parts))
    return sorted(found)


def _imported(start: Iterable[Path]) -> set[Path]:
    found: set[Path] = set()
    waiting = list(start)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += (file for name in _modules(path) for file in _files_of(name))
    return found


_BY_NAME = re.compile(r"(capt_core(?:\.\w+)+):\w+")


@cache
def _modules(path: Path) -> tuple[str, ...]:
    return tuple(_named_in(path))


def _named_in(path: Path) -> Iterator[str]:
    """Full names of what a file imports anywhere in it, type checking aside.

    Names as ``package.module:member``, which are imported when they are asked for, count too.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*parent, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named = _BY_NAME.fullmatch(node.value)
            # The package itself names everything that it offers; importing it loads none of that.
            if named and path != ROOT / "capt_core" / "__init__.py":
                yield named[1]


def _files_of(module: str) -> Iterator[Path]:
    """Files of the project that an import of a module, or of a name in one, runs."""
    parts = module.split(".")
    if parts[0] not in ("capt_core", STAGES):
        return
    for count in range(1, len(parts) + 1):
        base = ROOT.joinpath(*parts[:count])
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.is_file():
                yield candidate


def _holds_code(path: Path) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(not isinstance(node, ast.Expr) for node in body)


def main() -> None:
    """Write all lists."""
    for name in LISTED:
        write_text(ROOT / code_list(name), listed(name))


if __name__ == "__main__":
    main()
