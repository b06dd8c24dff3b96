"""Work files: caches and checkpoints, which a run may find and could make anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from capt_core.artifacts.tensors import SavedTensors, load_sealed, save_sealed
from capt_core.errors import reason

Warn = Callable[[str], None]
"""Takes a line that needs the user's attention."""

_DAMAGED = ".damaged"


def write_work_file(
    path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any] | None = None
) -> None:
    """Write tensors and plain facts atomically, with a digest; equal values give equal bytes.

    Raises:
        CaptError: the file cannot be written.
    """
    save_sealed(path, tensors, {"facts": dict(facts or {})})


def read_work_file(
    path: Path, problem_of: Callable[[SavedTensors], str | None], warn: Warn
) -> SavedTensors | None:
    """Read a work file; None if there is none that can be used.

    A file that is there and cannot be used is named in a warning and set aside: renamed to
    ``NAME.damaged``, in the place of an earlier one.

    Args:
        path: of the file, whose content is read once to compare it with its digest.
        problem_of: what is wrong with its content for its reader, as words; None if nothing is.
        warn: takes the warning.
    """
    try:
        found = load_sealed(path)
        problem = (
            problem_of(found)
            if isinstance(found.record.get("facts"), dict)
            else "not a work file of this project"
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = f"cannot be read ({error.strerror or reason(error)})"
    except ValueError as error:
        problem = str(error)
    if problem is None:
        return found
    warn(f"{path}: {problem}; {_set_aside(path)}, what it held is made anew")
    return None


def shapes_problem(
    found: SavedTensors, expected: Mapping[str, tuple[tuple[int | None, ...], torch.dtype | None]]
) -> str | None:
    """How tensors differ from what is expected, as words; None if they do not.

    Args:
        found: the tensors.
        expected: shape and type by name; None stands for any size and any type.
    """
    if found.tensors.keys() != expected.keys():
        return f"holds other tensors than {', '.join(sorted(expected))}"
    for name, (shape, dtype) in expected.items():
        value = found.tensors[name]
        same = len(value.shape) == len(shape) and all(
            wanted in (None, size) for size, wanted in zip(value.shape, shape, strict=True)
        )
        if not same or dtype not in (None, value.dtype):
            return f"{name} has another shape or type than expected"
    return None


def _set_aside(path: Path) -> str:
    aside = path.with_name(path.name + _DAMAGED)
    try:
        path.replace(aside)
    except OSError as error:
        return f"it could not be set aside ({error.strerror})"
    return f"set aside as {aside.name}"
