"""Tool export: a trained model as an ONNX file that runs without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capt_core.backbone.loading import load_backbone
from capt_core.export import export_onnx
from capt_core.methods.model_file import load_model
from capt_core.params import load_settings

from . import options
from .console import result


def main(
    model: Annotated[Path, typer.Argument(help="File that train or TrainedModel.save wrote.")],
    out: Annotated[Path, typer.Option(help="ONNX file to write.")],
    params: options.Params = options.PARAMS,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    settings, _ = load_settings(params, None, set_ or ())
    backbone = load_backbone(settings.backbone, settings.runtime)
    difference = export_onnx(load_model(model, backbone), out)
    result(
        {"path": str(out), "largest_difference": difference},
        f"scores differ from the model's by at most {difference:.1e} -> {out}",
    )
