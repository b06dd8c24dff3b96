"""Tool explain: a picture of where a model looks for two classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from capt_core.artifacts.files import atomic_path
from capt_core.backbone.loading import UNTRAINED_WARNING
from capt_core.errors import CaptError
from capt_core.explanation import View, explain
from capt_core.params import load_settings
from capt_core.reporting.explanation_figure import FORMATS, draw_explanation
from capt_core.user_paths import user_path

from . import options
from .console import result, warn
from .models import trained_model


def main(
    model: Annotated[Path, typer.Argument(help="File that train or TrainedModel.save wrote.")],
    image: Annotated[Path, typer.Argument(help="Image file.")],
    classes: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Two classes; the model's answer and the base model's, or, where they agree, "
            "the second guess, if not given.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Picture to write, .png or .svg.")] = Path(
        "explanation.png"
    ),
    parts: Annotated[
        bool, typer.Option("--parts", help="Also show what CAPT added part by part.")
    ] = False,
    params: options.Params = options.PARAMS,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    out = user_path(out, "--out")
    form = out.suffix.lower().removeprefix(".")
    if form not in FORMATS or out.is_dir():
        raise CaptError(f"--out {out}: expected a file whose name ends in .png or .svg")
    settings, _ = load_settings(params, None, set_ or ())
    loaded = trained_model(model, settings)
    found = explain(loaded, image, classes, parts=parts)
    picture = draw_explanation(found, cast(Literal["png", "svg"], form))
    with atomic_path(out) as temporary:
        temporary.write_bytes(picture)
    if loaded.fitted.backbone.untrained:
        warn(UNTRAINED_WARNING)
    views = {"before": found.before, "after": found.after}
    document = {name: _facts(view, found.classes) for name, view in views.items() if view}
    told = [(view.name, view) for view in (found.before, found.after, *found.parts) if view]
    result(
        {
            "classes": list(found.classes),
            **document,
            "parts": [_facts(view, found.classes) for view in found.parts],
            "path": str(out),
        },
        *(
            f"{name}: {view.prediction} ({view.confidence:.1%}); "
            + ", ".join(
                f"{each} {share:.1%}"
                for each, share in zip(found.classes, view.probabilities, strict=True)
            )
            for name, view in told
        ),
        f"-> {out}",
    )


def _facts(view: View, classes: tuple[str, str]) -> dict[str, object]:
    return {
        "model": view.name,
        "prediction": view.prediction,
        "confidence": view.confidence,
        "probabilities": dict(zip(classes, view.probabilities, strict=True)),
    }
