"""Tool push: a trained model to the Hugging Face Hub, with a card that says what it is."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from capt_core.backbone.loading import UNTRAINED_WARNING
from capt_core.errors import CaptError
from capt_core.hub.client import push, token_for
from capt_core.hub.layout import (
    CARD,
    CONFIG,
    MODEL,
    check_repository,
    errors_beside,
    made_with,
    write_repository,
)
from capt_core.params import load_settings
from capt_core.user_paths import user_path

from . import activity, options
from .console import result, say, warn
from .export import ON_CPU
from .models import trained_model


def main(
    model: Annotated[Path, typer.Argument(help="File that train or TrainedModel.save wrote.")],
    repository: Annotated[str, typer.Argument(help="owner/name on the Hub.")],
    folder: Annotated[
        Path | None, typer.Option(help="Write the files into this folder and send nothing.")
    ] = None,
    license_: Annotated[
        str | None, typer.Option("--license", help="Identifier of the licence, such as apache-2.0.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = (
        False
    ),
    params: options.Params = options.PARAMS,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    check_repository(repository)
    if folder is None:
        token_for(repository)
    settings, _ = load_settings(params, None, [*(set_ or ()), *ON_CPU])
    trained = trained_model(model, settings)
    errors = None
    try:
        errors = errors_beside(model, trained)
        if errors is None:
            say("the card does not say what is confused: no predictions of evaluate lie beside it")
    except CaptError as error:
        warn(f"the card does not say what is confused: {error}")
    with tempfile.TemporaryDirectory(prefix="capt-") as scratch:
        place = Path(scratch) if folder is None else user_path(folder, "--folder")
        write_repository(
            trained,
            place,
            repository,
            errors=errors,
            made_with=made_with(model),
            license_=license_,
        )
        size = sum((place / name).stat().st_size for name in (MODEL, CONFIG, CARD))
        if trained.fitted.backbone.untrained:
            warn(UNTRAINED_WARNING)
        if folder is None:
            say(f"sending {size / 1e6:.1f} MB to {repository}")
            with activity.doing(lambda: f"sending to {repository} ..."):
                where = push(place, repository, private=private)
        else:
            where = str(place)
    result(
        {"repository": repository, "written": where, "bytes": size},
        f"{MODEL}, {CONFIG} and {CARD}, {size / 1e6:.1f} MB -> {where}",
    )
