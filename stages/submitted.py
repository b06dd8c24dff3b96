"""Jobs that were handed to an executor, and what has become of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from capt_core.artifacts.files import write_json
from capt_core.errors import CaptError, one_line, reason

_PATIENCE: float | None = 60.0  # seconds that Slurm gets to say which jobs there are


class Executor(StrEnum):
    """Who runs the jobs."""

    local = "local"
    slurm = "slurm"


class State(StrEnum):
    """What has become of a job."""

    queued = "queued or running"
    finished = "finished"
    failed = "failed"
    lost = "ended without a result"
    skipped = "not run, because of what it waits for"


@dataclass(frozen=True)
class Resources:
    """What each job gets; None leaves it to the executor.

    Attributes:
        at_once: jobs of an array that run at once.
        minutes: time limit.
        cpus: cores, which is also the number of threads.
        gpus: GPUs.
        memory: in GB.
        partition: of the cluster.
        slurm: further options of sbatch, without the dashes.
        setup: lines of shell before the job.
    """

    at_once: int | None = None
    minutes: int | None = None
    cpus: int | None = None
    gpus: int | None = None
    memory: float | None = None
    partition: str | None = None
    slurm: Mapping[str, str | bool] | None = None
    setup: Sequence[str] = ()

    @property
    def threads(self) -> dict[str, str | None]:
        return {} if self.cpus is None else {"OMP_NUM_THREADS": str(self.cpus)}


@dataclass(frozen=True)
class Submitted:
    """A job that was handed to an executor.

    Attributes:
        name: of the job.
        words: its command line after the program's name.
        executor: that has it.
        folder: of submitit's files.
        id: that the executor gave it; a process id on this machine.
    """

    name: str
    words: tuple[str, ...]
    executor: Executor
    folder: str
    id: str

    @property
    def log(self) -> Path:
        return Path(self._job().paths.stdout)

    def result(self) -> State | None:
        """How it ended, by the file that it leaves; None without one."""
        job = self._job()
        if not job.paths.result_pickle.exists():
            return None
        try:
            return State.finished if job.exception() is None else State.failed
        except Exception:  # whatever a damaged pickle is answered with
            return State.lost

    def _job(self) -> Any:
        from submitit.local.local import LocalJob
        from submitit.slurm.slurm import SlurmJob

        kind = {Executor.local: LocalJob, Executor.slurm: SlurmJob}[self.executor]
        return kind(folder=self.folder, job_id=self.id)


class Ledger:
    """The jobs of a plan as they were submitted last, in a file.

    Args:
        path: of the file; submitit's files are in the folder beside it.

    Raises:
        CaptError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.jobs: dict[str, Submitted] = {}
        if path.is_file():
            try:
                for each in json.loads(path.read_text(encoding="utf-8")):
                    values = {**each, "words": tuple(each["words"])}
                    values["executor"] = Executor(each["executor"])
                    self.jobs[each["name"]] = Submitted(**values)
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise CaptError(
                    f"{path}: no list of submitted jobs ({reason(error)}); see that none of them "
                    "is queued, then remove it"
                ) from error

    def add(self, jobs: Iterable[Submitted]) -> None:
        self.jobs |= {job.name: job for job in jobs}
        write_json(self.path, [asdict(job) for job in self.jobs.values()])

    def new_folder(self) -> Path:
        """A folder for the files of one submission: process ids come again, and with them names."""
        beside = self.path.with_suffix("").absolute()
        if "%" in str(beside):
            raise CaptError(
                f"{beside}: queues read % as the number of a job; choose another folder"
            )
        taken = [int(path.name) for path in beside.glob("[0-9]*") if path.name.isdecimal()]
        folder = beside / str(max(taken, default=0) + 1)
        folder.mkdir(parents=True)
        return folder


def states(jobs: Sequence[Submitted]) -> list[State]:
    """What has become of jobs.

    Raises:
        CaptError: Slurm does not say.
    """
    # Those with a result have ended, whether or not Slurm can be asked here.
    asked = [job for job in jobs if job.executor is Executor.slurm and job.result() is None]
    queued = _queued(asked)

    def state(job: Submitted) -> State:
        alive = is_alive(job) if job.executor is Executor.local else job.id in queued
        return State.queued if alive else job.result() or State.lost

    return [state(job) for job in jobs]


def is_alive(job: Submitted) -> bool:
    """Whether the process of a local job is there; its id may be another one's by this time."""
    try:
        return job.folder.encode() in Path(f"/proc/{job.id}/cmdline").read_bytes()
    except OSError:
        return False


def _queued(jobs: Collection[Submitted]) -> set[str]:
    """Ids of one's own jobs that Slurm has in its queue, where any of `jobs` could be there."""
    if not jobs:
        return set()
    words = ["squeue", "--noheader", "--array", "--me", "--format=%i"]
    try:
        told = subprocess.run(words, check=True, capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or reason(error)).strip()
        raise CaptError(
            f"squeue does not say which jobs there are ({one_line(said)[:300]}); try again "
            "where Slurm's commands work"
        ) from error
    return set(told.stdout.split())
