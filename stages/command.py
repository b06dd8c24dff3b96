"""Stages as commands: their options follow from what they declare."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from capt_core.advice import advising
from capt_core.artifacts.layout import Layout
from capt_core.backbone.identity import EMBEDDED
from capt_core.confusion.imported import refuse_imported
from capt_core.errors import CaptError
from capt_core.methods.registry import (
    check_methods,
    configured_method,
    configured_methods,
    method_class,
)
from capt_core.params import Settings, changed_sections, load_settings

from . import activity, options
from .advising import CommandAdviser
from .commands import PIPELINE, module_of
from .console import say
from .invocation import invocation, recorded
from .tracing import traced
from .variation import variation


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
        shared["method"] = (options.Method, options.METHOD)
    shared |= {
        "seed": (options.Seed if "seed" in per else options.NoSeed, None),
        "params": (options.Params, None),
        "artifacts": (options.Artifacts, options.ARTIFACTS),
        "set_": (options.Set, None),
        "kept": (options.Kept, None),
    }
    if "seed" in per:
        shared["variant"] = (options.Variant, None)

    def call(**values: Any) -> None:
        given = {parameter.name: values.pop(parameter.name) for parameter in own}
        values["artifacts"] = options.kept_in(values["artifacts"], values.pop("kept"))
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
    """Run a stage; `given` are options of its own, the others are as in `invocation`.

    Raises:
        CaptError: a user's mistake.
    """
    _check_methods(method, params, dataset, overrides or (), variant)
    if name == "prepare":
        _check_backbone(params, dataset, overrides or (), variation(variant).change)
    adviser = CommandAdviser(
        dataset or "", params, artifacts, tuple(overrides or ()), variant, seed, method
    )
    module = module_of(name)
    with (
        advising(adviser),
        activity.doing(" ".join(filter(None, (name, dataset, method)))),
        recorded(
            invocation(name, dataset, seed, params, artifacts, overrides, method, variant)
        ) as run,
        traced(run, name, module.STAGE, (given or {}).get("shard")),
    ):
        if "seed" in module.STAGE.per and PIPELINE.index(name) > PIPELINE.index("build-bank"):
            refuse_imported(run.seed_layout.predictions, run.seed_layout.confusion_bank)
        module.main(run, **(given or {}))
    if name == "prepare":
        _note_unfit_data(run.layout, params, dataset, overrides or (), variation(variant).change)


def check_settings(words: Sequence[str]) -> None:
    """Refuse a mistake in the settings of a stage before its module, and with it torch, is loaded.

    Args:
        words: of the command line after the stage's name.

    Raises:
        CaptError: as `load_settings`.
    """

    def call(
        dataset: Annotated[str | None, typer.Option()] = None,
        params: Annotated[Path | None, typer.Option()] = None,
        set_: options.Set = None,
        variant: Annotated[str | None, typer.Option()] = None,
    ) -> None:
        pass

    shared = typer.Typer(add_completion=False)
    shared.command(
        context_settings={
            "resilient_parsing": True,
            "ignore_unknown_options": True,
            "allow_extra_args": True,
        }
    )(call)
    found = typer.main.get_command(shared).make_context("", list(words)).params
    params = options.params_file(found["params"])
    load_settings(params, found["dataset"], found["set_"] or (), variation(found["variant"]).change)


def _check_methods(
    method: str,
    params: Path | None,
    dataset: str | None,
    overrides: Sequence[str],
    variant: str | None,
) -> None:
    """Refuse a mistake in any method's settings before the first stage, not at the tenth.

    Only sections that differ from the packaged ones are read, because that imports the method.
    """
    change = variation(variant).change
    settings, matrix = load_settings(params, dataset, overrides, change)
    where = "packaged settings" if params is None else str(params)
    check_methods(filter(None, [method]), "--method")
    keys = [text.partition("=")[0].split(".") for text in overrides]
    check_methods([key[1] for key in keys if key[0] == "methods" and len(key) > 1], "--set methods")
    check_methods(settings.methods, f"{where}: methods")
    check_methods(matrix.compare, f"{where}: compare")
    check_methods([settings.fit_teacher.method], f"{where}: fit_teacher.method")
    for name in changed_sections(params, overrides, change):
        configured_method(name, params, dataset, overrides, change)


def _check_backbone(
    params: Path | None, dataset: str | None, overrides: Sequence[str], change: Mapping[str, Any]
) -> None:
    """Refuse a backbone that no stage could load, and name the methods that it does not suit.

    It is no part of the stage, whose results do not depend on the backbone.
    """
    settings, matrix = load_settings(params, dataset, overrides, change)
    names = list(dict.fromkeys([settings.fit_teacher.method, *matrix.compare]))
    _check_teacher(names, settings)
    from capt_core.methods.suitability import unstartable, unsuited

    methods = configured_methods(names, params, dataset, overrides, change)
    for remark in unstartable(methods, methods[0]):
        say(f"note: {remark}")
    if settings.backbone.name in EMBEDDED and settings.backbone.checkpoint is None:
        return  # nothing to check that would be worth loading open_clip
    from capt_core.backbone.architecture import check_backbone

    check_backbone(settings.backbone)
    for remark in unsuited(methods, settings.backbone):
        say(f"note: {remark}")


def _note_unfit_data(
    layout: Layout,
    params: Path | None,
    dataset: str | None,
    overrides: Sequence[str],
    change: Mapping[str, Any],
) -> None:
    """Name the methods that the data set, just prepared, does not do for."""
    from capt_core.methods.suitability import prepared_facts, unfit_data

    settings, matrix = load_settings(params, dataset, overrides, change)
    names = [settings.fit_teacher.method, *matrix.compare]
    methods = configured_methods(names, params, dataset, overrides, change)
    for remark in unfit_data(methods, prepared_facts(layout, settings.generate_prompts)):
        say(f"note: {remark}")


def _check_teacher(names: Sequence[str], settings: Settings) -> None:
    """Say which of the methods has no teacher to distil from; nothing where none needs one."""
    from capt_core.methods.method import Need

    if not any(Need.TEACHER in method_class(name).needs for name in names):
        return
    from capt_core.methods.teaching import check_teacher

    try:
        check_teacher(names, settings.teacher, settings.backbone)
    except CaptError as error:
        say(f"note: {error}")
