"""Stage generate-prompts: commonality and difference prompts of the class-level pairs."""

from __future__ import annotations

from typing import Annotated

import polars as pl
import typer

from capt_core.artifacts.features import read_base_text_features
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import CLASS_DESCRIPTIONS, CLASS_PAIRS, PROMPTS
from capt_core.artifacts.tables import read_table, write_table
from capt_core.backbone.identity import backbone_identity
from capt_core.confusion.semantic_miner import predicted_pairs
from capt_core.data.dataset import Dataset, load_dataset
from capt_core.methods.method import Need
from capt_core.methods.registry import check_methods
from capt_core.params import settings_hash
from capt_core.prompts.class_texts import most_partners, prompts_of_pairs
from capt_core.prompts.generation import TEMPLATE_SOURCE, class_descriptions, pair_prompts
from capt_core.prompts.sources import available_descriptions, available_prompts, shaping_settings

from .describing import describes_names, description_forms
from .invocation import Run, progress, say, warn
from .models import chosen_method
from .stage import Stage

STAGE = Stage(
    per=("dataset", "seed"),
    params=(
        "backbone",
        "compare",
        "fit_teacher.method",
        "generate_prompts",
        "methods.capt.class_texts",
        "methods.clip_adapter_prompts.describe",
        "methods.clip_lora_prompts.describe",
        "methods.clip_prompts.describe",
        "methods.residual_adapter.describe",
        "methods.tip_adapter_f_prompts.describe",
    ),
    params_for={"teacher.method": Need.TEACHER},
    reads=lambda at: (*at.dataset, at.seed.class_pairs, at.seed.base_text_features),
    writes=lambda at: (at.seed.prompts, at.seed.class_descriptions),
)


def main(
    run: Run,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what asking a language model would take.")
    ] = False,
    for_: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            help="Method that classes are described for, if it needs that; those of `compare` if "
            "not given. Repeatable.",
        ),
    ] = None,
    names: Annotated[
        bool,
        typer.Option(
            "--names",
            help="Describe pairs of novel classes, too, predicted from names; so it is anyway for "
            "a method with `describe: all`.",
        ),
    ] = False,
) -> None:
    settings, layout = run.settings, run.layout
    prepared = load_dataset(layout)
    chosen = settings.generate_prompts
    origin = prepared.provenance(
        backbone_identity(settings.backbone), settings_hash(shaping_settings(chosen), run.seed)
    )
    paths = run.seed_layout
    class_pairs = read_table(CLASS_PAIRS, paths.class_pairs, origin)
    methods = [settings.fit_teacher.method, *(for_ or run.matrix.compare)]
    check_methods(methods, "--for")
    forms = description_forms(settings, methods)
    asked = class_pairs
    if names or describes_names(chosen_method(run, name) for name in methods):
        predicted = _predicted(run, prepared, class_pairs, origin)
        asked = pl.concat([class_pairs, predicted])
    alone = available_descriptions(
        prepared, forms, chosen, settings.backbone, progress, say, warn, dry_run
    )
    stores = available_prompts(
        prepared, asked, chosen, settings.backbone, progress, say, warn, dry_run
    )
    if dry_run:
        raise typer.Exit
    prompts = pair_prompts(
        class_pairs,
        dict(prepared.classes.select("class_name", "template").iter_rows()),
        stores,
        chosen.prompts,
        fill=chosen.provider in ("template", "store-or-template"),
    )
    write_table(PROMPTS, prompts, paths.prompts, origin)
    # The written store comes first in both.
    described = class_descriptions(prepared.classes, [*stores, *alone])
    write_table(CLASS_DESCRIPTIONS, described, paths.class_descriptions, origin)
    if len(asked) > len(class_pairs):
        found = prompts_of_pairs(predicted, described)
        count = found.select("class_id", "paired_class_id").n_unique()
        say(
            f"{count} of {len(predicted)} pairs of novel classes, predicted from their names, are "
            f"described -> {paths.class_descriptions}"
        )
    filled = prompts.filter(source=TEMPLATE_SOURCE)
    say(f"{len(prompts)} prompts for {len(class_pairs)} pairs -> {paths.prompts}")
    if len(filled):
        say(
            f"{len(filled)} of them only name the classes (source=template): "
            "nothing is written about these pairs"
        )


def _predicted(
    run: Run, prepared: Dataset, class_pairs: pl.DataFrame, origin: Provenance
) -> pl.DataFrame:
    """`predicted_pairs` of the classes that nothing is mined for, as many for each as are mined."""
    texts = read_base_text_features(run.seed_layout.base_text_features, origin)
    base = prepared.class_ids("base")
    return predicted_pairs(prepared.class_names, texts, most_partners(class_pairs), base)
