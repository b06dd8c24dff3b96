"""Options that commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from .console import note, output


def _settings_file(context: typer.Context, given: Path | None) -> Path | None:
    """The file given, or params.yaml of the current folder; None for the packaged settings."""
    if context.resilient_parsing:
        return given
    found = params_file(given)
    if found is None:
        note("no params.yaml here: using the packaged settings")
        return None
    if output.verbose:
        note(f"settings: {found.absolute()}")
    return found


def params_file(given: Path | None) -> Path | None:
    """The file given, or params.yaml of the current folder, if it is there."""
    if given is not None:
        return _path(given, "--params")
    return PARAMS_HERE if PARAMS_HERE.exists() else None


def _folder(given: Path) -> Path:
    return _path(given, "--artifacts")


def _path(given: Path, option: str) -> Path:
    # Shells leave the ~ of --artifacts=~/x to the program.
    from capt_core.user_paths import user_path  # its libraries would slow --help down

    return user_path(given, option)


def _set_quiet(given: bool) -> None:
    output.quiet |= given


def _set_verbose(given: bool) -> None:
    output.verbose |= given


def _set_json(given: bool) -> bool:
    output.json = given
    return given


def _seed(text: str | int) -> int:
    from capt_core.params import check_seed  # its libraries would slow --help down

    number = re.fullmatch(r"[-+]?[0-9]{1,300}", str(text))
    return check_seed(int(text) if number else text, "--seed")


Dataset = Annotated[str, typer.Option(help="Data set, e.g. proctex or dtd.")]
OneDataset = Annotated[
    str | None, typer.Option(help="Only this data set; all that were evaluated if not given.")
]
Seed = Annotated[
    int | None,
    typer.Option(
        parser=_seed,
        metavar="INTEGER",
        help="Few-shot draw; the first of `seeds` in the settings if not given.",
    ),
]
Seeds = Annotated[
    list[int] | None,
    typer.Option(
        "--seed", help="Few-shot draw; all `seeds` of the settings if not given. Repeatable."
    ),
]
RowMethods = Annotated[
    list[str] | None,
    typer.Option("--method", help="Only the rows of this method. Repeatable; all if not given."),
]
Rows = Annotated[
    list[str] | None,
    typer.Option("--row", help="Only this row of capt_core/tables.yaml. Repeatable."),
]
NoSeed = Annotated[
    int | None,
    typer.Option(parser=_seed, metavar="INTEGER", help="Accepted, not used: no draw matters here."),
]
Params = Annotated[
    Path | None,
    typer.Option(
        callback=_settings_file,
        help="Settings file; params.yaml, or without one the packaged settings, if not given.",
    ),
]
Artifacts = Annotated[Path, typer.Option(callback=_folder, help="Folder of the artifacts.")]
Kept = Annotated[
    str | None,
    typer.Option(
        "--run", help="Name of a run of your own: its artifacts are in kept/<name>/, for --compare."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting: section.key=value. Repeatable."),
]
Variant = Annotated[
    str | None,
    typer.Option(
        help="Entry of capt_core/ablations.yaml, whose artifacts are in study/<variant>/, or row "
        "of capt_core/tables.yaml, in tables/."
    ),
]
Method = Annotated[str, typer.Option(help="Method, e.g. clip or capt.")]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=_set_json,
        is_eager=True,
        help="Print one JSON document on standard output, all else on standard error.",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        callback=_set_quiet,
        is_eager=True,
        expose_value=False,
        help="Print only errors and results.",
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        callback=_set_verbose,
        is_eager=True,
        expose_value=False,
        help="Print settings file, device and versions, and tracebacks of errors.",
    ),
]

_KEPT = "kept"


def kept_in(artifacts: Path, run: str | None) -> Path:
    """The folder of the artifacts of a run kept under a name.

    Raises:
        CaptError: no name for a folder.
    """
    if run is None:
        return artifacts
    from capt_core.errors import CaptError, shown  # see `_path`

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", run):
        raise CaptError(
            f"--run {shown(run)}: a name is made of letters, digits, ., _ and -; choose another"
        )
    return artifacts / _KEPT / run


def kept_run(artifacts: Path, name: str) -> Path:
    """The artifacts of another run, kept under a name or in a folder of their own.

    Args:
        artifacts: of the running command; perhaps those of a kept run.
        name: of the other run, or its folder.

    Raises:
        CaptError: there is neither.
    """
    from capt_core.errors import CaptError, shown  # see `_path`

    root = artifacts.parent.parent if artifacts.parent.name == _KEPT else artifacts
    kept = root / _KEPT
    names = sorted(path.name for path in kept.iterdir()) if kept.is_dir() else []
    if name in names:
        return kept / name
    if Path(name).is_dir():
        return Path(name)
    known = f"kept: {', '.join(names)}" if names else f"none is kept; {root} is a folder"
    raise CaptError(f"--compare {shown(name)}: no run of this name, and no folder; {known}")


PARAMS: Path | None = None
PARAMS_HERE = Path("params.yaml")
ARTIFACTS = Path("artifacts")
METHOD = "capt"
