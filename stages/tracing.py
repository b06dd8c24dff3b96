"""What a run leaves in its artifacts about itself, and what keeps another run of it away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from capt_core.artifacts.lineage import Lineage, file_setting, tracing
from capt_core.artifacts.locks import exclusive
from capt_core.methods.registry import configured_method, method_class

from .console import first_process
from .invocation import Run
from .shards import Shard
from .stage import Stage

_ELSEWHERE = (
    # In the fingerprint of the data set or the identity of the backbone.
    "backbone",
    "data",
    "prepare",
    # How something is computed or fetched, not what it is.
    "build_bank.batch_size",
    "evaluate",
    "extract_features",
    "generate_prompts",
    "runtime",
    "train",
)
"""Settings that artifacts of other stages are not compared by."""

_STILL = ("generate_prompts.prompts",)


@contextlib.contextmanager
def traced(run: Run, name: str, stage: Stage, share: Shard | None = None) -> Iterator[None]:
    """Run a stage alone, record its settings in what it writes, and compare what it reads.

    Args:
        run: of the stage.
        name: of the stage.
        stage: its declaration.
        share: of the stage's work, where others may be done at the same time.

    Raises:
        CaptError: the same stage is running already.
    """
    words = [name]
    for axis, option, value in (
        ("dataset", "--dataset", run.dataset),
        ("method", "--method", run.method),
        ("seed", "--seed", str(run.seed)),
    ):
        if axis in stage.per:
            words += [option, value]
    if run.variant:
        words += ["--variant", run.variant]
    settings = shaping_settings(run)
    names = declared(run, stage, settings)
    used = {key: value for key, value in settings.items() if below(key, names)}
    told = "" if share is None else f"-{share.number}-{share.count}"
    lock = run.artifacts / "runs" / f"{'-'.join(words).replace('--', '')}{told}.lock"
    with contextlib.ExitStack() as stack:
        if first_process():
            stack.enter_context(exclusive(lock, f"capt-stage {' '.join(words)}"))
        stack.enter_context(
            tracing(
                Lineage(
                    run.layout.root,
                    " ".join(words),
                    used,
                    settings if "dataset" in stage.per else {},
                )
            )
        )
        yield


def shaping_settings(run: Run) -> dict[str, Any]:
    """Settings of a run that make artifacts what they are, by dotted name."""
    return {
        key: value
        for key, value in all_settings(run).items()
        if key in _STILL or not below(key, _ELSEWHERE)
    }


def declared(run: Run, stage: Stage, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the settings that a stage declares, with the run's methods filled in."""
    base = settings["fit_teacher.method"]
    needs = method_class(run.method or base).needs
    special = (key for key, need in stage.params_for.items() if need in needs)
    return tuple(
        each.replace("${item.method}", run.method).replace("${fit_teacher.method}", base)
        for each in (*stage.params, *special)
    )


def all_settings(run: Run) -> dict[str, Any]:
    """Settings of a run by dotted name: of the methods, its own and the base model's; of a
    checkpoint, its digest.

    Raises:
        CaptError: the checkpoint cannot be read.
    """
    # Here, because with it comes torch, which not every command needs.
    from capt_core.methods.method import Need

    values = run.settings.model_dump(mode="json", exclude={"methods"})
    if (checkpoint := values["fit_teacher"]["checkpoint"]) is not None:
        values["fit_teacher"]["checkpoint"] = file_setting(checkpoint, "fit_teacher.checkpoint")
    sources = run.sources
    methods = dict.fromkeys(filter(None, (run.method, values["fit_teacher"]["method"])))
    if any(Need.TEACHER in method_class(method).needs for method in methods):
        for part, place in (
            (teacher := values["teacher"], "teacher"),
            (teacher["backbone"], "teacher.backbone"),
        ):
            if part["checkpoint"] is not None:
                part["checkpoint"] = file_setting(part["checkpoint"], f"{place}.checkpoint")
    for method in methods:
        chosen = configured_method(
            method, sources.path, sources.dataset, sources.overrides, sources.change
        )
        values.setdefault("methods", {})[method] = chosen.settings.model_dump(mode="json")
    return dict(_flat(values))


def below(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
