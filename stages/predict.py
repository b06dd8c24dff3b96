"""Tool predict: classify images with a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from capt_core.artifacts.files import atomic_path
from capt_core.backbone.loading import UNTRAINED_WARNING, load_backbone
from capt_core.data.readers.layouts import listed
from capt_core.data.scan import find_images, is_utf8
from capt_core.errors import CaptError
from capt_core.methods.model_file import load_model
from capt_core.params import load_settings
from capt_core.user_paths import brief, naming_files

from . import options
from .console import progress, result, say, warn

_BLOCK = 256  # images between two updates of the progress


def main(
    model: Annotated[Path, typer.Argument(help="File that train or TrainedModel.save wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of images.")],
    out: Annotated[
        Path | None, typer.Option(help="Table to write, .csv or .parquet; printed if not given.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to list per image.")] = 5,
    params: options.Params = options.PARAMS,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise CaptError(f"--out {out}: expected a name that ends in .csv or .parquet")
    files = [path for given in images for path in _listed(given)]
    settings, _ = load_settings(params, None, set_ or ())
    backbone = load_backbone(settings.backbone, settings.runtime)
    loaded = load_model(model, backbone)
    tables = []
    with progress("classified", len(files)) as advance:
        for start in range(0, len(files), _BLOCK):
            block = files[start : start + _BLOCK]
            tables.append(loaded.predict(block, top=top, workers=settings.runtime.workers))
            advance(len(block))
    table = pl.concat(tables)
    if out is not None:
        _write(table, out)
        say(f"{len(table)} images -> {out}")
    if backbone.untrained:
        warn(UNTRAINED_WARNING)
    if out is None or json:
        rows = table.select("path", "prediction", "confidence").iter_rows()
        lines = [f"{path}: {name} ({confidence:.1%})" for path, name, confidence in rows]
        result(table.to_dicts(), *lines)


@naming_files("IMAGES")
def _listed(given: Path) -> list[Path]:
    """The images that an argument stands for.

    Raises:
        CaptError: it does not exist, or is a folder without images.
    """
    if not given.is_dir():
        if not given.is_file():
            kind = "neither a file nor a folder" if given.exists() else "no such file or folder"
            raise CaptError(f"{brief(given)}: {kind}")
        if not is_utf8(str(given)):
            raise CaptError(f"{given}: a file name that is not valid UTF-8; rename it")
        return [given]
    found = find_images(given)
    if found.system:
        say(f"{given}: left out: {listed(found.system)}, folders of the system or of tools")
    if not found.images:
        raise CaptError(f"{given}: no images in this folder; give image files or another folder")
    if found.problems:
        name, why = found.problems[0]
        warn(f"{len(found.problems)} left out in {given} ({brief(name)}: {why}, ...)")
    return [given / name for name in found.images]


def _write(table: pl.DataFrame, path: Path) -> None:
    """Lists become text in a CSV, separated by semicolons."""
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            table.write_parquet(temporary)
        else:
            flat = table.with_columns(
                pl.col("top_classes").list.join("; "),
                pl.col("top_confidences")
                .list.eval(pl.element().round(4).cast(pl.String))
                .list.join("; "),
            )
            flat.write_csv(temporary)
