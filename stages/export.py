"""Tool export: a trained model as an ONNX file that runs without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capt_core.export import export_onnx
from capt_core.params import load_settings

from . import options
from .console import result
from .models import trained_model


def main(
    model: Annotated[Path, typer.Argument(help="File that train or TrainedModel.save wrote.")],
    out: Annotated[Path, typer.Option(help="ONNX file to write.")],
    params: options.Params = options.PARAMS,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    settings, _ = load_settings(params, None, set_ or ())
    difference = export_onnx(trained_model(model, settings), out)
    result(
        {"path": str(out), "largest_difference": difference},
        f"scores differ from the model's by at most {difference:.1e} -> {out}",
    )
