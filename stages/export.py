"""Tool export: a trained model as one file for another runtime or another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capt_core.backbone.loading import UNTRAINED_WARNING
from capt_core.errors import CaptError
from capt_core.export.formats import Format, export, format_of
from capt_core.params import load_settings

from . import options
from .console import result, warn
from .models import trained_model

ON_CPU = ("runtime.device=cpu", "runtime.precision=fp32")


def check_target(out: Path, *inputs: Path) -> None:
    """Refuse, before the work, a file that could not be written or is read.

    Raises:
        CaptError: a folder, or one of the inputs.
    """
    if out.is_dir():
        raise CaptError(f"--out {out}: a folder; name a file")
    if out.exists() and any(path.exists() and out.samefile(path) for path in inputs):
        raise CaptError(f"--out {out}: the file to read; name another")


def main(
    model: Annotated[Path, typer.Argument(help="File that train or TrainedModel.save wrote.")],
    out: Annotated[
        Path, typer.Option(help="File to write; .onnx, .safetensors or .pt names the format.")
    ],
    format_: Annotated[
        Format | None, typer.Option("--format", help="Format, if the name does not tell it.")
    ] = None,
    params: options.Params = options.PARAMS,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    form = format_ or format_of(out)
    check_target(out, model)
    settings, _ = load_settings(params, None, [*(set_ or ()), *ON_CPU])
    trained = trained_model(model, settings)
    difference = export(trained, out, form)
    size = out.stat().st_size
    if trained.fitted.backbone.untrained:
        warn(UNTRAINED_WARNING)
    result(
        {
            "path": str(out),
            "format": str(form),
            "bytes": size,
            "classes": list(trained.class_names),
            "largest_difference": difference,
        },
        f"{form}, {size / 1e6:.1f} MB, {len(trained.class_names)} classes, scores differ from the "
        f"model's by at most {difference:.1e} -> {out}",
    )
