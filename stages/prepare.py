"""Stage prepare: samples, classes and few-shot lists."""

from __future__ import annotations

import polars as pl

from capt_core.artifacts.layout import Layout
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import CLASSES, FEWSHOT, REJECTED, SAMPLES
from capt_core.artifacts.tables import read_table, write_table
from capt_core.data.preparation import (
    changes,
    draw_list,
    images_to_draw,
    prepare_dataset,
    read_source,
)
from capt_core.data.registry import dataset_spec
from capt_core.errors import CaptError
from capt_core.params import settings_hash

from .console import progress, say
from .invocation import Run
from .stage import Stage

STAGE = Stage(
    per=("dataset",),
    params=("data", "fewshot.shots", "prepare", "seeds"),
    sources=("capt_core/benchmarks.yaml",),
    writes=lambda at: (*at.dataset, at.data.rejected, at.data.fewshot_lists, at.data.images),
)


def main(run: Run) -> None:
    settings, layout = run.settings, run.layout
    to_draw = images_to_draw(run.dataset, settings.prepare)
    with progress("drawn" if to_draw else "listing the images", to_draw) as advance:
        source = read_source(layout, settings.data, settings.prepare, advance)
    with progress("checked", len(source.split.samples)) as advance:
        prepared = prepare_dataset(
            dataset_spec(run.dataset),
            source,
            settings.data,
            settings.prepare.check_images,
            advance,
        )
    before = _samples_before(layout)
    origin = prepared.dataset.provenance(settings=settings_hash(settings.prepare))
    write_table(REJECTED, prepared.rejected, layout.rejected, origin)
    for draw in run.seeds:
        write_table(
            FEWSHOT,
            draw_list(prepared.dataset, settings.fewshot.shots, draw),
            layout.fewshot(settings.fewshot.shots, draw),
            origin,
        )
    write_table(CLASSES, prepared.dataset.classes, layout.classes, origin)
    write_table(SAMPLES, prepared.dataset.samples, layout.samples, origin)
    say(
        f"{run.dataset}: {len(prepared.dataset.samples)} images, "
        f"{len(prepared.dataset.classes)} classes -> {layout.samples}"
    )
    changed = None if before is None else changes(before, prepared.dataset.samples)
    for note in [*prepared.notes, *filter(None, [changed])]:
        say(f"note: {note}")
    if len(prepared.rejected):
        say(f"{len(prepared.rejected)} images rejected -> {layout.rejected}")


def _samples_before(layout: Layout) -> pl.DataFrame | None:
    """The samples that this stage wrote the last time, if it did and they can be read."""
    try:
        return read_table(SAMPLES, layout.samples, Provenance(layout.dataset))
    except CaptError:
        return None
