"""Compare every method with what its reference code gave.

    python -m benchmarks.parity DIR [--known]

Every folder at or below DIR that holds `config.json`, `weights.safetensors`, `inputs.safetensors`
and `expected.safetensors` is run; its tensors tell which method it is of. A line for each expected
tensor gives the largest difference, divided by the largest expected entry; of trained tensors the
change since the start is compared. The exit code is 1 if one is beyond the tolerance or not
computed, or, without --known, if a folder is of a method that has no runner here.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch

from benchmarks.parity import (
    coop,
    dpc,
    lweib,
    maple,
    plain,
    promptkd,
    promptsrc,
    spotlighter,
    spotlighter_promptkd,
    tac,
    tap,
    twosfs,
)
from benchmarks.parity.fixture import Fixture, Tensors, fixture_folders, read_fixture
from capt_core.errors import CaptError, one_line, reason

VALUES, CHANGES, ROUNDED = 1e-9, 1e-8, 3e-7
"""Tolerances in fp64: of values, of changes of trained tensors, of what was stored in fp32.

A change is lost in the rounding of a tensor that was stored in fp32, so its value is compared.
"""

NOTHING = 1e-13
"""A gradient of less than this share of the fixture's largest one is rounding of zero.

It is compared beside the largest one: a bias in front of a normalisation has such gradients.
"""

NOISE = 1e-10
"""Absolute tolerance of what rounding alone makes, such as a gradient that cancels.

A runner names these quantities in its own `NOISE`, patterns of `fnmatch`.
"""

RUNNERS = (
    *(plain, coop, maple, promptsrc, dpc, promptkd),
    *(spotlighter, spotlighter_promptkd, tac, tap, lweib, twosfs),
)


@dataclass(frozen=True)
class Comparison:
    """One expected tensor of a fixture.

    Attributes:
        fixture: name of the folder.
        quantity: name of the tensor.
        difference: the largest, relative, or absolute where rounding alone makes the quantity;
            infinite where nothing of this shape was computed.
        tolerance: that it is held to.
    """

    fixture: str
    quantity: str
    difference: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        verdict = "" if self.agrees else f"  differs (tolerance {self.tolerance:.0e})"
        return f"{self.fixture}  {self.quantity}  {self.difference:.1e}{verdict}"


def absolute_difference(found: torch.Tensor | None, expected: torch.Tensor) -> float:
    """Largest absolute difference; infinite where one is missing, no number or of other shape."""
    if found is None or found.shape != expected.shape:
        return float("inf")
    if not (found.isfinite().all() and expected.isfinite().all()):
        return float("inf")
    differences = (found.double() - expected.double()).abs()
    return differences.max().item() if differences.numel() else 0.0


def relative_difference(
    found: torch.Tensor | None, expected: torch.Tensor, beside: float = 0.0
) -> float:
    """`absolute_difference` over the largest expected entry (over 1 if that is 0).

    It is over `beside` where the largest is less than `NOTHING` of it.
    """
    difference = absolute_difference(found, expected)
    if difference in (0.0, float("inf")):
        return difference
    largest = _largest(expected)
    return difference / ((beside if largest < NOTHING * beside else largest) or 1.0)


def compared(
    fixture: Fixture, found: Tensors, starts: Tensors, noise: Sequence[str] = ()
) -> Iterator[Comparison]:
    """Every expected tensor beside what was computed; `noise` is a runner's `NOISE`."""
    slopes = {name for name in fixture.expected if re.search(r"(^|[./])grad[./]", name)}
    steepest = max((_largest(fixture.expected[name]) for name in slopes), default=0.0)
    for name, expected in fixture.expected.items():
        value, tolerance = found.get(name), VALUES
        if any(fnmatch(name, pattern) for pattern in noise):
            yield Comparison(fixture.name, name, absolute_difference(value, expected), NOISE)
            continue
        if name in fixture.rounded:
            tolerance = ROUNDED
        elif name in starts:
            tolerance = CHANGES
            expected = expected - starts[name]
            value = None if value is None else value - starts[name]
        apart = relative_difference(value, expected, steepest if name in slopes else 0.0)
        yield Comparison(fixture.name, name, apart, tolerance)


def _largest(values: torch.Tensor) -> float:
    return values.abs().max().item() if values.numel() else 0.0


def run(fixture: Fixture) -> list[Comparison] | None:
    """Everything that a fixture expects beside what its method computes; None without a runner.

    Raises:
        CaptError: its files do not belong together.
    """
    runner = next((each for each in RUNNERS if each.known(fixture)), None)
    if runner is None:
        return None
    try:
        found, starts = runner.computed(fixture)
        return list(compared(fixture, found, starts, getattr(runner, "NOISE", ())))
    except CaptError:
        raise
    except Exception as error:
        # Files of a fixture that do not belong together may fail anywhere, in any way.
        raise CaptError(f"{fixture.name}: cannot be run ({reason(error)})") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when all agree, 1 when something does not, 2 when there is nothing to run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity")
    parser.add_argument("folder", type=Path, help="holds fixture folders, at any depth")
    parser.add_argument("--known", action="store_true", help="leave out methods without a runner")
    chosen = parser.parse_args(arguments)
    folders = list(fixture_folders(chosen.folder))
    if not folders:
        print(f"{chosen.folder}: no fixtures below it", file=sys.stderr)
        return 2
    total = apart = broken = uncovered = 0
    for folder in folders:
        try:
            fixture = read_fixture(folder, chosen.folder)
            comparisons = run(fixture)
        except CaptError as error:
            print(one_line(str(error)))
            broken += 1
            continue
        if comparisons is None:
            print(f"{fixture.name}  not covered: no runner for this method")
            uncovered += 1
            continue
        for comparison in comparisons:
            print(comparison)
        total += len(comparisons)
        apart += sum(not comparison.agrees for comparison in comparisons)
    print(
        f"{total} quantities, {apart} beyond tolerance; "
        f"{broken} folders not readable, {uncovered} not covered"
    )
    return 1 if apart or broken or (uncovered and not chosen.known) else 0


if __name__ == "__main__":
    sys.exit(main())
