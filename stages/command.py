"""Stages as commands: their options follow from what they declare."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from . import options
from .run import stage_run


def module_of(name: str) -> ModuleType:
    """Module of a command, imported when it is needed."""
    return importlib.import_module(f".{name.replace('-', '_')}", __package__)


def stage_command(name: str, module: ModuleType) -> Callable[..., None]:
    """A function for Typer that runs a stage: shared options, then those of its own `main`."""
    per = module.STAGE.per
    own = list(inspect.signature(module.main, eval_str=True).parameters.values())[1:]
    shared: dict[str, tuple[Any, Any]] = {
        "dataset": (options.Dataset, inspect.Parameter.empty)
        if "dataset" in per
        else (options.OneDataset, None)
    }
    if "method" in per:
        shared["method"] = (options.Method, "capt")
    shared |= {
        "seed": (options.Seed if "seed" in per else options.NoSeed, None),
        "params": (options.Params, None),
        "artifacts": (options.Artifacts, options.ARTIFACTS),
        "set_": (options.Set, None),
    }
    if "seed" in per:
        shared["variant"] = (options.Variant, None)

    def call(**values: Any) -> None:
        given = {parameter.name: values.pop(parameter.name) for parameter in own}
        run_stage(name, overrides=values.pop("set_"), given=given, **values)

    parameters = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for key, (kind, default) in shared.items()
    ]
    parameters += [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def run_stage(
    name: str,
    dataset: str | None,
    seed: int | None,
    params: Path | None,
    artifacts: Path,
    overrides: list[str] | None = None,
    method: str = "",
    variant: str | None = None,
    given: dict[str, Any] | None = None,
) -> None:
    """Run a stage; `given` are options of its own, the others are as in `stage_run`.

    Raises:
        CaptError: a user's mistake.
    """
    with stage_run(name, dataset, seed, params, artifacts, overrides, method, variant) as run:
        module_of(name).main(run, **(given or {}))
