"""Command study: one variant of the settings from the bank to its results, over all seeds."""

from __future__ import annotations

from typing import Annotated

import typer

from capt_core.params import load_study

from . import (
    build_bank,
    cluster_prompts,
    evaluate,
    fit_teacher,
    generate_prompts,
    infer_teacher,
    mine_pairs,
    mine_samples,
    options,
    train,
)
from .run import say, stage_run


def main(
    dataset: options.Dataset,
    variant: Annotated[str, typer.Option(help="Entry of `variants` in the settings.")],
    method: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable; what `study.methods` lists for the variant if not given."),
    ] = None,
    seed: options.Seed = None,
    params: options.Params = options.PARAMS,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
) -> None:
    """Run a named variant through every stage behind the frozen features."""
    with stage_run("study", dataset, seed, params, artifacts, set_, "", variant) as run:
        seeds = list(run.seeds)
        methods = method or load_study(params).methods_of(variant)
    mining = (
        fit_teacher,
        infer_teacher,
        build_bank,
        mine_pairs,
        generate_prompts,
        cluster_prompts,
        mine_samples,
    )
    for number in seeds:
        for stage in mining:
            stage.main(dataset, number, params, artifacts, set_, variant=variant)
        for name in methods:
            say(f"{variant}: {name}, seed {number}")
            train.main(dataset, name, number, params, artifacts, set_, variant=variant)
            evaluate.main(dataset, name, number, params, artifacts, set_, variant=variant)
