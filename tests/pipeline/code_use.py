"""What a stage really imports and which settings it really reads, found in its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("capt_core", "stages")


def imported_files(stage: str) -> set[str]:
    """Project files that a stage imports, itself included, at any depth.

    Imports that only serve type checking and files that hold nothing but a docstring are left out.
    """
    found: set[Path] = set()
    waiting = [ROOT / "stages" / f"{stage}.py"]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imports(path)
    return {path.relative_to(ROOT).as_posix() for path in found if _holds_code(path)}


def settings_read(stage: str) -> set[str]:
    """Settings a stage's file reads: `section.key`, or `section` where it is passed on whole."""
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text())
    chains = {chain for node in ast.walk(tree) if (chain := _settings_chain(node))}
    whole = {chain for chain in chains if "." not in chain}
    parents = {chain.partition(".")[0] for chain in chains if "." in chain}
    passed_on = whole - parents | {chain for chain in whole if _is_argument(tree, chain)}
    return {c for c in chains if "." in c and c.partition(".")[0] not in passed_on} | passed_on


def _imports(path: Path) -> Iterator[Path]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.split(".")[0] in PACKAGES:
                yield from _files_of(name)


def _files_of(module: str) -> Iterator[Path]:
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        base = ROOT.joinpath(*parts[:count])
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.is_file():
                yield candidate


def _holds_code(path: Path) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(not isinstance(node, ast.Expr) for node in body)


def _settings_chain(node: ast.AST) -> str | None:
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name) and node.id == "settings" and names:
        return ".".join(reversed(names))
    return None


def _is_argument(tree: ast.AST, section: str) -> bool:
    """Whether `settings.<section>` itself is an argument of some call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
            if any(_settings_chain(value) == section for value in values):
                return True
    return False
