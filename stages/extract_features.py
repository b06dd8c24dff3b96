"""Stage extract-features: frozen features of all images and of the class prompts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import astuple
from typing import Annotated

import polars as pl
import torch
import typer

from capt_core.artifacts.feature_parts import FeatureParts, Features
from capt_core.artifacts.features import feature_column
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import IMAGE_FEATURES, TEXT_FEATURES
from capt_core.artifacts.table_blocks import write_groups
from capt_core.artifacts.tables import write_table
from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.extraction import Effort, Images, Share, encode_parts, images_of
from capt_core.backbone.loading import Backbone, load_backbone
from capt_core.data.dataset import Dataset, image_root, load_dataset
from capt_core.data.loading import all_touched
from capt_core.errors import CaptError
from capt_core.params import Settings, settings_hash

from .activity import doing
from .console import first_process, problem, progress, say
from .invocation import Run
from .shards import Shard, shard_of
from .stage import Stage

STAGE = Stage(
    per=("dataset",),
    params=("backbone", "data.root", "extract_features", "runtime"),
    reads=lambda at: (*at.dataset, at.data.images),
    writes=lambda at: (at.data.image_features, at.data.text_features),
)


def main(
    run: Run,
    shard: Annotated[
        Shard | None,
        typer.Option(
            parser=shard_of,
            metavar="I/N",
            help="Encode only this share of the images, from 1/N to N/N; the run that finds all "
            "shares there writes the tables.",
        ),
    ] = None,
) -> None:
    share = share_of(shard)
    settings, layout = run.settings, run.layout
    prepared = load_dataset(layout)
    backbone = load_backbone(settings.backbone, settings.runtime)
    texts = encode_texts(prepared.prompts, backbone)
    images = _images(prepared, run)
    kept = _kept_for(settings, backbone)
    parts = FeatureParts(
        layout.feature_parts / kept, Provenance(layout.dataset, "", backbone.identity, kept)
    )
    own = settings.extract_features
    mine = int(images_of(share, len(images.paths), own.part_images).sum())
    try:
        with progress("encoded", mine) as advance:
            effort, images = encode_parts(
                images,
                parts,
                backbone,
                own.batch_size,
                own.part_images,
                fast=own.reading == "fast",
                workers=settings.runtime.workers,
                share=share,
                advance=advance,
            )
    except CaptError as error:
        if not first_process():
            problem(str(error))
        raise
    _tell(effort, mine)
    missing = len(images.paths) - int(parts.known(images.paths, images.touched).sum())
    if missing:
        say(f"{missing} images are left to other shares; the last to finish writes the tables")
        return
    origin = prepared.provenance(backbone.identity, settings_hash(shaping(settings)))
    write_table(
        TEXT_FEATURES,
        prepared.text_table(prepared.prompts).with_columns(feature_column(texts)),
        layout.text_features,
        origin,
    )
    ids = prepared.samples["sample_id"]
    frames = _frames(ids, parts.in_order(images.paths, images.touched))
    write_groups(IMAGE_FEATURES, frames, layout.image_features, origin)
    parts.drop_unused(images.paths, images.touched)
    say(f"{len(ids)} images, {len(texts)} prompts -> {layout.image_features}")


def share_of(shard: Shard | None) -> Share:
    """The share that `--shard` names; several processes of torchrun divide it among them."""
    part = shard or Shard(1, 1)
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    return Share((part.number - 1) * processes + rank, part.count * processes)


def shaping(settings: Settings) -> dict[str, object]:
    """What of the section shapes the features; how they are kept does not."""
    own = settings.extract_features
    fast = {"reading": own.reading} if own.reading != "exact" else {}
    return {"batch_size": own.batch_size, **fast}


def _kept_for(settings: Settings, backbone: Backbone) -> str:
    """Digest of all that features depend on, beside the images."""
    precision = f"{backbone.device.type} {backbone.autocast}"
    style = list(astuple(backbone.preprocess))
    return settings_hash(backbone.identity, style, precision, shaping(settings))


def _images(prepared: Dataset, run: Run) -> Images:
    paths = prepared.samples["path"]
    files = prepared.paths(
        prepared.samples["sample_id"], image_root(run.layout, run.settings.data.root)
    )
    with doing("looking up the images"):
        times = pl.Series(all_touched(files), dtype=pl.Int64)
    return Images(paths, files, times)


def _frames(ids: pl.Series, groups: Iterator[tuple[int, Features]]) -> Iterator[pl.DataFrame]:
    for start, features in groups:
        found = feature_column(torch.from_numpy(features))
        yield pl.DataFrame([ids[start : start + len(found)], found])


def _tell(effort: Effort, images: int) -> None:
    if images and not effort.encoded:
        say(f"{images} images had been encoded")
    elif images:
        waiting = f"{effort.waited / effort.seconds:.0%} of the time waiting for images"
        rate = f"{effort.encoded / effort.seconds:.3g} a second"
        say(f"{effort.encoded} of {images} images encoded, {rate}, {waiting}")
