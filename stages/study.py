"""Tool study: one variant of the settings from the bank to its results, over all seeds."""

from __future__ import annotations

from typing import Annotated

import typer

from capt_core import study
from capt_core.params import load_settings

from . import options
from .command import run_stage
from .commands import PIPELINE, module_of
from .invocation import say
from .stage import Stage


def seeded_stages() -> dict[str, Stage]:
    """The stages that a variant runs, by name: those that are run for every seed."""
    stages: dict[str, Stage] = {name: module_of(name).STAGE for name in PIPELINE}
    return {name: stage for name, stage in stages.items() if "seed" in stage.per}


def main(
    dataset: options.Dataset,
    variant: Annotated[str, typer.Option(help="Name in capt_core/ablations.yaml.")],
    method: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable; those of the study's tables if not given."),
    ] = None,
    seed: options.Seed = None,
    params: options.Params = None,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
) -> None:
    methods = method or study.variant(variant).methods
    stages = seeded_stages()
    for number in load_settings(params)[1].seeds if seed is None else [seed]:
        shared = (dataset, number, params, artifacts, set_)
        for name in (name for name, stage in stages.items() if "method" not in stage.per):
            run_stage(name, *shared, variant=variant)
        for each in methods:
            say(f"{variant}: {each}, seed {number}")
            for name in (name for name, stage in stages.items() if "method" in stage.per):
                run_stage(name, *shared, each, variant)
