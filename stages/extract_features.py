"""Stage extract-features: frozen features of all images and of the class prompts."""

from __future__ import annotations

import polars as pl

from capt_core.artifacts.features import feature_column
from capt_core.artifacts.schemas import IMAGE_FEATURES, TEXT_FEATURES
from capt_core.artifacts.tables import write_table
from capt_core.backbone.encoding import encode_images, encode_texts
from capt_core.backbone.loading import load_backbone
from capt_core.data.dataset import image_root, load_dataset
from capt_core.data.images import image_batches, test_transform
from capt_core.params import settings_hash

from .console import progress, say
from .invocation import Run
from .stage import Stage

STAGE = Stage(
    per=("dataset",),
    params=("backbone", "data.root", "extract_features", "runtime"),
    reads=lambda at: (*at.dataset, at.data.images),
    writes=lambda at: (at.data.image_features, at.data.text_features),
)


def main(run: Run) -> None:
    settings, layout = run.settings, run.layout
    prepared = load_dataset(layout)
    backbone = load_backbone(settings.backbone, settings.runtime)
    origin = prepared.provenance(backbone.identity, settings_hash(settings.extract_features))
    ids = prepared.samples["sample_id"]
    batches = image_batches(
        prepared.paths(ids, image_root(layout, settings.data.root)),
        test_transform(backbone.preprocess),
        settings.extract_features.batch_size,
        settings.runtime.workers,
    )
    texts = encode_texts(prepared.prompts, backbone)
    with progress("encoded", len(ids)) as advance:
        images = encode_images(batches, backbone, advance=advance)
    write_table(
        TEXT_FEATURES,
        prepared.text_table(prepared.prompts).with_columns(feature_column(texts)),
        layout.text_features,
        origin,
    )
    write_table(
        IMAGE_FEATURES,
        pl.DataFrame([ids, feature_column(images)]),
        layout.image_features,
        origin,
    )
    say(f"{len(ids)} images, {len(texts)} prompts -> {layout.image_features}")
