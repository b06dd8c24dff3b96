"""Tool study: one variant of the settings from the bank to its results, where it is out of date."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from capt_core import study
from capt_core.params import load_settings

from . import options
from .commands import PIPELINE, module_of
from .stage import Stage
from .steps import Step
from .updating import bring_up_to_date


def seeded_stages() -> dict[str, Stage]:
    """The stages that a variant runs, by name: those that are run for every seed."""
    stages: dict[str, Stage] = {name: module_of(name).STAGE for name in PIPELINE}
    return {name: stage for name, stage in stages.items() if "seed" in stage.per}


def steps_of(seed: int, methods: Sequence[str]) -> list[Step]:
    """The steps of a variant for one draw: those that methods share, then each method's own."""
    stages = seeded_stages()
    shared = [name for name, stage in stages.items() if "method" not in stage.per]
    own = [name for name, stage in stages.items() if "method" in stage.per]
    return [Step(name, seed=seed) for name in shared] + [
        Step(name, method, seed) for method in methods for name in own
    ]


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
    overrides = list(set_ or ())
    for number in load_settings(params)[1].seeds if seed is None else [seed]:
        for step in steps_of(number, methods):
            place = f"{variant}, seed {number}: {' '.join(filter(None, (step.stage, step.method)))}"
            bring_up_to_date(step, place, dataset, params, artifacts, overrides, variant)
