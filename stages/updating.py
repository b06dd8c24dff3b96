"""Running a stage where it is out of date."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .command import run_stage
from .console import say
from .invocation import invocation
from .steps import Step, files_outside, is_current, remember


def up_to_date(
    step: Step,
    dataset: str,
    params: Path | None,
    artifacts: Path,
    overrides: list[str],
    variant: str | None = None,
) -> bool:
    """Whether a step has run with these settings and inputs; all are as in `bring_up_to_date`."""
    call = (step.stage, dataset, step.seed, params, artifacts, overrides, step.method, variant)
    return is_current(invocation(*call), step.stage)


def bring_up_to_date(
    step: Step,
    place: str,
    dataset: str,
    params: Path | None,
    artifacts: Path,
    overrides: list[str],
    variant: str | None = None,
    given: Mapping[str, Any] | None = None,
    at_once: bool = False,
) -> bool:
    """Run a step unless it has run with these settings and inputs; others are as in `run_stage`.

    Args:
        step: the stage with its method and seed.
        place: what is printed of it.
        dataset: name of the data set.
        params: settings file; None takes the packaged settings.
        artifacts: folder of the artifacts.
        overrides: ``section.key=value`` strings.
        variant: of the study or the table of all methods.
        given: options of the stage's own.
        at_once: run it in any case.

    Returns:
        Whether it was run.

    Raises:
        CaptError: a user's mistake.
    """
    call = (step.stage, dataset, step.seed, params, artifacts, overrides, step.method, variant)
    if not at_once and up_to_date(step, dataset, params, artifacts, overrides, variant):
        say(f"{place}: up to date")
        return False
    say(place)
    outside = files_outside(invocation(*call), step.stage)
    run_stage(*call, given=dict(given or {}))
    remember(invocation(*call), step.stage, outside)
    return True
