"""The base model whose errors are studied."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from capt_core.artifacts.files import write_json
from capt_core.artifacts.provenance import Provenance
from capt_core.errors import CaptError


@dataclass(frozen=True)
class Teacher:
    """What later stages must know of the base model without loading it.

    Attributes:
        method: `clip` for zero-shot CLIP, which has nothing to fit, or `coop`.
        logit_scale: inverse temperature of eq. 1.
        untrained: the backbone's weights are a random initialisation.
    """

    method: str
    logit_scale: float
    untrained: bool


def write_teacher(path: Path, teacher: Teacher, provenance: Provenance) -> None:
    write_json(path, {"teacher": asdict(teacher), "provenance": provenance.as_dict()})


def read_teacher(path: Path, expected: Provenance) -> Teacher:
    """Read a teacher and refuse one of another data set or backbone.

    Raises:
        CaptError: missing, damaged or foreign file.
    """
    remedy = f"run: capt-stage fit-teacher --dataset {expected.dataset}"
    if not path.is_file():
        raise CaptError(f"{path}: missing; {remedy}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        teacher = Teacher(**record["teacher"])
        foreign = Provenance.from_dict(record["provenance"]).mismatch(expected)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaptError(f"{path}: damaged; {remedy}") from error
    if foreign:
        raise CaptError(f"{path}: {foreign}; {remedy}")
    return teacher


UNTRAINED_WARNING = "The backbone's weights are untrained: these numbers mean nothing."
