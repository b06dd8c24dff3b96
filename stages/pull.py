"""Tool pull: a trained model from the Hugging Face Hub, or from a folder of its layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capt_core.hub.client import pull
from capt_core.methods.model_file import open_model

from . import activity, options
from .console import result
from .export import check_target


def main(
    source: Annotated[
        str, typer.Argument(help="owner/name on the Hub, or a folder that push --folder wrote.")
    ],
    out: Annotated[Path, typer.Option(help="File to write the model to.")],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; the main branch if not given.")
    ] = None,
    json: options.Json = False,
) -> None:
    check_target(out)
    with activity.doing(lambda: f"fetching {source} ..."):
        pull(source, out, revision=revision)
    found = open_model(out)
    names = found.class_names
    result(
        {
            "path": str(out),
            "method": found.method,
            "backbone": found.identity,
            "classes": list(names),
        },
        f"{found.method} on {found.identity}, {len(names)} classes -> {out}",
    )
