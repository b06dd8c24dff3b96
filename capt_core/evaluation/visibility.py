"""What a run was allowed to see, in the words that results are listed with."""

from __future__ import annotations

from typing import Protocol

BASE_ONLY = "base only"

_RETAINED = {
    "all": "novel class names (retention)",
    "generic": "generic vocabulary (retention)",
    "prompts": "generic vocabulary and the pairs' prompts (retention)",
}
"""By the names that retention is over; the training names add nothing that a run may not see."""


class Retention(Protocol):
    """Settings of knowledge retention, as several sections hold them.

    Attributes:
        retention_weight: 0 switches retention off.
        retention_names: names it is over: `training`, `all`, `generic` or `prompts`.
    """

    @property
    def retention_weight(self) -> float: ...

    @property
    def retention_names(self) -> str: ...


def sees(
    method: str,
    shots: int,
    bank_source: str,
    retention: Retention | None = None,
    described: bool = False,
) -> str:
    """What a run saw beyond few-shot images of base classes and the base classes' names.

    Class names of the half that is tested do not count: classifying needs them.

    Args:
        method: of the run.
        shots: `fewshot.shots`; 0 is the whole training split.
        bank_source: `build_bank.source`.
        retention: of the method's own section; None for a method without.
        described: whether classes are compared by their difference prompts as well.

    Returns:
        ``base only``, or what else, several things separated by semicolons.
    """
    found = []
    if shots == 0 and method not in ("clip", "clip_prompts"):
        found.append("all base training images (shots)")
    if bank_source == "full_train" and method == "capt":
        found.append("all base training images (bank)")
    if method == "linear_probe":
        found.append("novel images (linear probe)")
    if described:
        found.append("difference prompts (class texts)")
    if retention is not None and retention.retention_weight > 0:
        retained = _RETAINED.get(retention.retention_names)
        found += [retained] if retained else []
    return "; ".join(found) or BASE_ONLY
