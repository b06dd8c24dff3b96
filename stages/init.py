"""Tool init: the files of a project of one's own, in an empty folder or beside photographs."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from capt_core.addresses import absence, address_of, is_remote
from capt_core.artifacts.files import write_text
from capt_core.data.registry import check_dataset_name, dataset_spec
from capt_core.data.remote.braces import is_pattern
from capt_core.errors import CaptError, shown
from capt_core.params import Data, check_seed, load_settings
from capt_core.settings_file import PACKAGED_PARAMS
from capt_core.user_paths import user_path
from capt_core.yaml_file import load_yaml, scalar

from .console import result
from .pipeline import HEAD, PROJECT_HEAD, SPLIT, dvc_yaml, split_yaml

GITIGNORE = """\
/artifacts/**
!/artifacts/**/
!/artifacts/**/metrics.json
/cache/
/dvc_plots/
"""
DVCIGNORE = """\
# Without these, DVC would look for pipelines in environments, caches and other results.
/.venv/
/venv/
/artifacts/runs/
/artifacts/tables/
/artifacts/work/
/cache/
"""


def main(
    dataset: Annotated[
        str | None, typer.Option(help="Name for the data set, or a known one: dtd.")
    ] = None,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the project.")] = Path(),
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of the photographs (setting data.root)."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Few-shot draws: 1,2,3.")] = None,
    split: Annotated[
        bool,
        typer.Option(
            "--split",
            help="Only write the pipeline of the project in DIR anew, as a file for each of its "
            "`datasets`: with many of them, a stage that runs costs DVC several times less.",
        ),
    ] = False,
) -> None:
    if split:
        _split(folder)
        return
    if dataset is None:
        raise CaptError("name the data set: --dataset NAME")
    check_dataset_name(dataset, Data(), listed=True)
    given = None if root is None else user_path(root, "--root")
    if given is not None and not (is_remote(given) or is_pattern(str(given)) or given.exists()):
        raise CaptError(f"--root {root}: {absence(given)}; correct it")
    files = {
        "params.yaml": _params(dataset, _from(folder, root) if root else None, seeds),
        "dvc.yaml": dvc_yaml(with_code=False),
        ".dvcignore": DVCIGNORE,
        ".gitignore": GITIGNORE,
    }
    present = [name for name in files if (folder / name).exists()]
    if present:
        raise CaptError(
            f"{folder.absolute()}: already there: {', '.join(present)}; nothing was written; "
            "name another folder or move them away"
        )
    for name, text in files.items():
        write_text(folder / name, text)
    first = [] if folder == Path() else [f"  cd {shlex.quote(str(folder))}"]
    if root is None and dataset_spec(dataset).reader != "proctex":
        first.append("  # name the folder of the photographs in params.yaml: data.root")
    result(
        None,
        f"{', '.join(files)} -> {folder.absolute()}",
        "next:",
        *first,
        f"  capt-stage doctor --dataset {dataset}",
        "  git init && dvc init    # without git: dvc init --no-scm",
        "  dvc repro               # dvc comes with: pip install 'capt-stage[pipeline]'",
    )


def _split(folder: Path) -> None:
    """Write a pipeline file per data set; what `dvc.lock` knows of stages goes with them."""
    settings = folder / "params.yaml"
    if not settings.is_file():
        raise CaptError(f"{settings.absolute()}: missing; name the folder of a project")
    _, matrix = load_settings(settings, None, ())
    present = folder / "dvc.yaml"
    text = present.read_text(encoding="utf-8") if present.is_file() else PROJECT_HEAD
    if not text.startswith((HEAD, PROJECT_HEAD)):
        raise CaptError(
            f"{present.absolute()}: not written by capt-stage init; move it away, and add its own "
            "stages to the new one"
        )
    files = split_yaml(matrix.datasets, with_code=text.startswith(HEAD))
    for name, text in (files | _locks(folder / "dvc.lock", matrix.datasets)).items():
        write_text(folder / name, text)
    result(
        None,
        f"{len(files)} pipeline files -> {folder.absolute()}",
        "  dvc repro                            # all of it",
        f"  dvc repro {SPLIT}/{matrix.datasets[0]}/dvc.yaml    # one data set",
    )


def _locks(lock: Path, datasets: Sequence[str]) -> dict[str, str]:
    """What a lock file knows of the stages of each data set, as files beside their pipelines."""
    known = load_yaml(lock).value if lock.is_file() else None
    stages = known.get("stages") if isinstance(known, dict) else None
    if not isinstance(stages, dict):
        return {}
    parts: dict[str, dict[str, Any]] = {"dvc.lock": {}}
    for name, entry in stages.items():
        _, _, place = str(name).partition("@")
        fitting = [each for each in datasets if place == each or place.startswith(f"{each}-")]
        own = f"{SPLIT}/{max(fitting, key=len)}/dvc.lock" if fitting else "dvc.lock"
        parts.setdefault(own, {})[name] = entry
    return {
        name: yaml.safe_dump({"schema": "2.0", "stages": part}, sort_keys=False)
        for name, part in parts.items()
    }


def _from(folder: Path, root: Path) -> str:
    """A path seen from the project's folder; absolute if it was given so."""
    if (address := address_of(root)) is not None:
        return address
    root = root.expanduser()
    return str(root) if root.is_absolute() else Path(os.path.relpath(root, folder)).as_posix()


def _params(dataset: str, root: str | None, seeds: str | None) -> str:
    """The packaged settings, comments included, with the project's own values.

    Raises:
        CaptError: seeds that are no numbers.
    """
    changes = [
        (r"^datasets: .*$", f"datasets: [{scalar(dataset)}]"),
        (r"(?<=^per_dataset:\n)  \w+:", f"  {scalar(dataset)}:"),
    ]
    if root is not None:
        changes.append((r"^  root: null", f"  root: {scalar(root)}"))
    if seeds is not None:
        if not re.fullmatch(r"[0-9]{1,300}(,[0-9]{1,300})*", seeds):
            raise CaptError(f"--seeds: expected whole numbers, as in 1,2,3; found {shown(seeds)}")
        numbers = [check_seed(int(each), "--seeds") for each in seeds.split(",")]
        changes.append((r"^seeds: .*$", f"seeds: {numbers}"))
    text = PACKAGED_PARAMS.read_text(encoding="utf-8")
    for pattern, line in changes:
        plain = line.replace("\\", r"\\")
        text, found = re.subn(pattern, plain, text, flags=re.MULTILINE)
        assert found == 1, f"{pattern} matches {found} lines of {PACKAGED_PARAMS}"
    return text
