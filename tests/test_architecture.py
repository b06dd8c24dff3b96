"""The shape of the code: which way dependencies point, what starts fast, what is packaged."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.commands import STAGES, TOOLS
from tests.conftest import PROJECT
from tests.processes import python

LAYERS = (
    {"advice", "errors", "lazy_import", "reporter", "text", "torchvision_ops"},
    {"addresses"},
    {"user_paths"},
    {"text_file"},
    {"yaml_file"},
    {"settings_file"},
    {"params", "study", "method_table"},
    {"artifacts", "device"},
    {"data"},
    {"backbone"},
    {"evaluation", "diagnosis"},
    {"confusion", "prompts", "learning"},
    {"methods"},
    {"explanation"},
    {"reporting", "export", "hub"},
    {"serving"},
    {"mined"},
    {"library"},
    {"classifier"},
    {"__init__", "__main__"},
)
"""Packages and modules of capt_core, lowest first: each may import those of lower layers only."""
LAYER_OF = {part: number for number, layer in enumerate(LAYERS) for part in layer}
HEAVY = ("torch", "polars", "numpy", "sklearn", "pyarrow", "matplotlib", "open_clip", "anthropic")

UNUSED = {*HEAVY, "rich", "pydantic", "yaml", "stages.invocation"}
UNUSED |= {f"stages.{name.replace('-', '_')}" for name in (*STAGES, *TOOLS)}

LIBRARY = sorted((PROJECT / "capt_core").rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def imported(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, wherever in the file it does."""
    package = list(path.relative_to(PROJECT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parent, *([node.module] if node.module else [])])
            # `from capt_core import params` imports capt_core.params.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def part_of(module: str) -> str | None:
    """The part of capt_core a module belongs to: `data` for capt_core.data.images."""
    names = module.split(".")
    return names[1] if names[0] == "capt_core" and names[1:] not in ([], ["__version__"]) else None


def place_of(path: Path) -> str:
    """The part of capt_core that a file belongs to."""
    return path.relative_to(PROJECT / "capt_core").parts[0].removesuffix(".py")


def test_only_methods_score() -> None:
    stages = sorted((PROJECT / "stages").glob("*.py"))
    scoring = {
        name_of(path)
        for path in (*LIBRARY, *stages)
        if any(module.startswith("capt_core.methods.zero_shot") for module in imported(path))
    }
    assert scoring
    assert all(name.startswith("capt_core/methods/") for name in scoring)


def test_every_part_of_the_library_has_its_layer() -> None:
    found = {place_of(path) for path in LIBRARY}
    assert found <= LAYER_OF.keys()
    assert len(found) > 10
    assert len(LAYER_OF) == sum(map(len, LAYERS))


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_the_library_knows_nothing_of_the_command_line(path: Path) -> None:
    tops = {module.split(".")[0] for module in imported(path)}
    assert not tops & {"stages", "capt_stages", "typer", "click", "dvc", "tests", "benchmarks"}


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_dependencies_point_down(path: Path) -> None:
    own = place_of(path)
    used = {part for module in imported(path) if (part := part_of(module))} - {own}
    assert [part for part in sorted(used) if LAYER_OF[part] >= LAYER_OF[own]] == []


def test_help_imports_no_stage_and_nothing_heavy() -> None:
    program = (
        "import sys; from stages.cli import app; app(['--help'], standalone_mode=False); "
        f"print(*sorted({UNUSED!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = python("-c", program)
    assert done.returncode == 0, done.stderr
    assert "prepare" in done.stdout
    assert done.stderr.strip() == ""
