"""Command study: one variant of the settings from the bank to its results, over all seeds."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Annotated

import typer

from capt_core import study

from . import options
from .commands import PIPELINE
from .run import say, stage_run


def seeded_stages() -> dict[str, ModuleType]:
    """Modules of the stages that a variant runs, by name: those that are run for every seed."""
    modules = {
        name: importlib.import_module(f".{name.replace('-', '_')}", __package__)
        for name in PIPELINE
    }
    return {name: module for name, module in modules.items() if "seed" in module.STAGE.per}


def main(
    dataset: options.Dataset,
    variant: Annotated[str, typer.Option(help="Name in capt_core/ablations.yaml.")],
    method: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable; those of the study's tables if not given."),
    ] = None,
    seed: options.Seed = None,
    params: options.Params = options.PARAMS,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
) -> None:
    """Run a named variant through every stage behind the frozen features."""
    with stage_run("study", dataset, seed, params, artifacts, set_, "", variant) as run:
        seeds = list(run.seeds)
    methods = method or study.variant(variant).methods
    stages = seeded_stages().values()
    for number in seeds:
        for stage in stages:
            if "method" not in stage.STAGE.per:
                stage.main(dataset, number, params, artifacts, set_, variant=variant)
        for name in methods:
            say(f"{variant}: {name}, seed {number}")
            for stage in stages:
                if "method" in stage.STAGE.per:
                    stage.main(dataset, name, number, params, artifacts, set_, variant=variant)
