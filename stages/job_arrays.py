"""Work as arrays of jobs: which command lines there are, and which must end before which."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Job:
    """One command line.

    Attributes:
        name: unique in its plan.
        words: after the program's name.
        is_done: whether what it writes is there and up to date, so that it need not run.
    """

    name: str
    words: tuple[str, ...]
    is_done: Callable[[], bool]


@dataclass(frozen=True)
class JobArray:
    """Jobs that may run side by side.

    Attributes:
        name: unique in its plan.
        jobs: of the array.
        after: names of earlier arrays that must have ended.
        at_any_rate: whether it runs even where jobs of those have failed.
    """

    name: str
    jobs: tuple[Job, ...]
    after: tuple[str, ...] = ()
    at_any_rate: bool = False


def outstanding(arrays: Sequence[JobArray], queued: Collection[str] = ()) -> list[JobArray]:
    """Arrays with the jobs that must run: those not done, and all that come after such.

    Args:
        arrays: in an order in which none comes before one that it is `after`.
        queued: names of jobs that are being run already, whatever they have written so far.
    """
    found: dict[str, JobArray] = {}
    for array in arrays:
        renewed = not found.keys().isdisjoint(array.after)
        jobs = tuple(
            job for job in array.jobs if renewed or job.name in queued or not job.is_done()
        )
        if jobs:
            found[array.name] = replace(array, jobs=jobs)
    return list(found.values())


def needed_by(arrays: Iterable[JobArray]) -> dict[str, list[str]]:
    """Names of the jobs that each job waits for, by its name."""
    known = {array.name: array for array in arrays}
    return {
        job.name: [each.name for name in array.after if name in known for each in known[name].jobs]
        for array in known.values()
        for job in array.jobs
    }
