"""Options that stages share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Dataset = Annotated[str, typer.Option(help="Data set, e.g. proctex or dtd.")]
Seed = Annotated[
    int | None,
    typer.Option(min=0, help="Few-shot draw; the first of `seeds` in the settings if not given."),
]
NoSeed = Annotated[int | None, typer.Option(help="Accepted, not used: no draw matters here.")]
Params = Annotated[Path, typer.Option(help="Settings file.")]
Artifacts = Annotated[Path, typer.Option(help="Folder of the artifacts.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting: section.key=value. Repeatable."),
]
Variant = Annotated[
    str | None,
    typer.Option(help="Variant in the settings; its artifacts lie in study/<variant>/."),
]
Method = Annotated[
    str, typer.Option(help="Method: clip, clip_prompts, linear_probe, coop, residual or capt.")
]

PARAMS = Path("params.yaml")
ARTIFACTS = Path("artifacts")
