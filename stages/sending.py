"""Jobs of a plan handed to an executor and followed until they have ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capt_core.advice import command
from capt_core.artifacts.locks import exclusive
from capt_core.errors import CaptError, cut

from . import activity, options
from .console import progress, result, say, warn
from .job_arrays import JobArray, needed_by, outstanding
from .local_queue import LocalJobs
from .slurm_queue import submit_to_slurm
from .submitted import Executor, Ledger, Resources, State, Submitted, states

_LOOKS = {Executor.local: (0.2, 1.0), Executor.slurm: (2.0, 30.0)}
"""Seconds between looks at the jobs, the first and the longest."""


@dataclass(frozen=True)
class Plan:
    """What a command sends: a name for its records, below a folder, and the jobs.

    Attributes:
        written: what its last job writes for people to look at, if anything.
    """

    name: str
    artifacts: Path
    arrays: Sequence[JobArray]
    written: Path | None = None


def records(artifacts: Path) -> Path:
    """Folder of what is noted of submitted jobs."""
    return artifacts / "runs" / "jobs"


def send(plan: Plan, executor: Executor, resources: Resources, wait: bool) -> None:
    """Send the jobs of a plan that must run; local ones are waited for.

    Args:
        plan: the jobs.
        executor: that they are handed to.
        resources: of each job.
        wait: for Slurm, too.

    Raises:
        CaptError: jobs failed, or the executor does not take them.
    """
    path = records(plan.artifacts) / f"{plan.name}.json"
    with exclusive(path.with_suffix(".lock"), f"capt-stage submit ({plan.name})"):
        _send(plan, Ledger(path), executor, resources, wait)


def _send(plan: Plan, ledger: Ledger, executor: Executor, resources: Resources, wait: bool) -> None:
    queued = _still_queued(plan.arrays, ledger, executor)
    with activity.doing("looking for what is out of date"):
        arrays = outstanding(plan.arrays, queued)
    total = sum(len(array.jobs) for array in plan.arrays)
    names = [job.name for array in arrays for job in array.jobs]
    written = None if plan.written is None else str(plan.written)
    document: dict[str, Any] = {
        "jobs": [],
        "up_to_date": total - len(names),
        "written": written,
    }
    there = [] if written is None else [f"-> {written}"]
    if not names:
        result(document, f"{total} jobs: all are up to date, nothing is submitted", *there)
        return
    say(
        f"{len(names)} of {total} jobs to run"
        + (f", {len(queued)} of them in the queue already" if queued else "")
    )
    if executor is Executor.local:
        ended = _run_here(arrays, ledger, queued, resources)
    else:
        new = submit_to_slurm(arrays, ledger, queued, resources)
        if not wait:
            left = None if plan.artifacts == options.ARTIFACTS else plan.artifacts
            state = command("submit status", artifacts=left)
            ids = ", ".join(dict.fromkeys(job.id.partition("_")[0] for job in new))
            document["jobs"] = [document_of(ledger.jobs[name], State.queued) for name in names]
            told = f"{len(new)} jobs submitted ({ids})" if new else "nothing new is submitted"
            result(document, f"{told}; to see their state: {state}")
            return
        running = {name: ledger.jobs[name] for name in names}
        ended = _follow(arrays, executor, lambda ended: _without(running, ended))
    document["jobs"] = [
        document_of(None if state is State.skipped else ledger.jobs[name], state) | {"name": name}
        for name, state in ended.items()
    ]
    finished = sum(state is State.finished for state in ended.values())
    last = plan.arrays[-1].jobs[-1].name
    result(
        document,
        f"{finished} of {len(names)} jobs finished",
        *(there if ended.get(last, State.finished) is State.finished else []),
    )
    if finished < len(names):
        raise CaptError(
            f"{len(names) - finished} jobs failed or were not run, see above; mend what their logs "
            "tell of, then run the same command again: what is finished is not run again"
        )


def _still_queued(
    arrays: Sequence[JobArray], ledger: Ledger, executor: Executor
) -> dict[str, Submitted]:
    """Jobs of an earlier call that have not ended.

    Raises:
        CaptError: one of them is to do something else than it would do now.
    """
    wanted = {job.name: job for array in arrays for job in array.jobs}
    known = {name: job for name, job in ledger.jobs.items() if name in wanted}
    found = states(list(known.values()))
    alive = {
        job.name: job
        for job, state in zip(known.values(), found, strict=True)
        if state is State.queued
    }
    for name, job in alive.items():
        if job.executor is not executor or job.words != wanted[name].words:
            end = "scancel" if job.executor is Executor.slurm else "kill"
            raise CaptError(
                f"{name} is queued or running with other options ({job.executor.value} {job.id}); "
                f"wait until it ends, or end it: {end} {job.id}"
            )
    return alive


def _run_here(
    arrays: Sequence[JobArray],
    ledger: Ledger,
    queued: Mapping[str, Submitted],
    resources: Resources,
) -> dict[str, State]:
    local = LocalJobs(arrays, ledger, queued, resources)
    try:
        return _follow(arrays, Executor.local, local.start)
    finally:
        local.stop()


def _follow(
    arrays: Sequence[JobArray],
    executor: Executor,
    running: Callable[[Mapping[str, State]], Mapping[str, Submitted]],
) -> dict[str, State]:
    """Wait until all jobs have ended.

    Args:
        arrays: of the jobs.
        executor: that has them.
        running: gives those that were handed to the executor and have not ended, when it is told
            which have ended or are not to be run.

    Returns:
        What has become of each, by name.
    """
    needed = needed_by(arrays)
    careful = {job.name for array in arrays if not array.at_any_rate for job in array.jobs}
    ended: dict[str, State] = {}
    lost: set[str] = set()
    pause, longest = _LOOKS[executor]
    with progress("jobs", len(needed)) as advance:

        def end(name: str, state: State, job: Submitted | None) -> None:
            ended[name] = state
            advance(1)
            if state is State.finished:
                say(f"{name}: finished")
            else:
                warn(f"{name}: {state.value}{'' if job is None else _blame(job)}")

        while len(ended) < len(needed):
            for name in needed:  # in the order of the arrays: what waits for what is skipped, too
                if name in careful - ended.keys() and any(
                    ended.get(each, State.finished) is not State.finished for each in needed[name]
                ):
                    end(name, State.skipped, None)
            now = list(running(ended).values())
            for job, state in zip(now, _looked_at(now), strict=True):
                if state is State.lost and job.name not in lost:
                    lost.add(job.name)  # its result may be seen late over a network
                elif state is not State.queued:
                    end(job.name, state, job)
            time.sleep(pause)
            pause = min(1.1 * pause, longest)
    return ended


def _looked_at(jobs: Sequence[Submitted]) -> list[State]:
    try:
        return states(jobs)
    except CaptError as error:
        warn(str(error))
        return [State.queued] * len(jobs)


def _without(jobs: Mapping[str, Submitted], ended: Mapping[str, State]) -> dict[str, Submitted]:
    return {name: job for name, job in jobs.items() if name not in ended}


def _blame(job: Submitted) -> str:
    """What a log says last of an error, and where it is."""
    try:
        lines = job.log.read_text(encoding="utf-8", errors="replace")[-20_000:].splitlines()
    except FileNotFoundError:
        return "; no log, so it was not started"
    except OSError:
        lines = []
    told = next((line for line in reversed(lines) if line.startswith("error: ")), "")
    return f"{told and f' ({cut(told, 300)})'}; log: {job.log}"


def line_of(job: Submitted, state: State) -> str:
    more = "" if state in (State.finished, State.queued) else _blame(job)
    return f"{job.name}: {state.value} ({job.executor.value} {job.id}){more}"


def document_of(job: Submitted | None, state: State) -> dict[str, Any]:
    if job is None:
        return {"state": state.name}
    return {
        "name": job.name,
        "state": state.name,
        "executor": job.executor.value,
        "id": job.id,
        "log": str(job.log),
    }
