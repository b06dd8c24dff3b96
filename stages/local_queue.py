"""Jobs as processes of this machine, through submitit."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from capt_core.errors import CaptError

from .job_arrays import Job, JobArray, needed_by
from .queued_command import queued_command
from .submitted import Executor, Ledger, Resources, State, Submitted, is_alive

_LOOK = 0.1  # seconds
_SIGNALS, _ENDING = 3, 10.0  # times that processes are told to end, and seconds that they get


class LocalJobs:
    """Jobs as processes of this machine, so many at once.

    Args:
        arrays: in an order in which none comes before one that it is `after`.
        ledger: gets every job as it is started.
        queued: names of jobs that an earlier call has left running.
        resources: of each job.
    """

    def __init__(
        self,
        arrays: Sequence[JobArray],
        ledger: Ledger,
        queued: Collection[str],
        resources: Resources,
    ) -> None:
        from submitit.local.local import LocalExecutor

        self._ledger, self._resources = ledger, resources
        self._needed = needed_by(arrays)
        self._folder = ledger.new_folder()
        self._executor = LocalExecutor(self._folder)
        # submitit's own limit, where none is given, is two minutes.
        minutes = resources.minutes or 366 * 24 * 60
        self._executor.update_parameters(timeout_min=minutes, stderr_to_stdout=True)
        self._waiting = [job for array in arrays for job in array.jobs if job.name not in queued]
        self._running = {name: ledger.jobs[name] for name in queued}
        self._places: dict[str, int] = {}
        self._handed: list[Any] = []

    def start(self, ended: Mapping[str, State]) -> dict[str, Submitted]:
        """Start what may run beside what is running.

        Args:
            ended: what has become of jobs that have ended, or are not to be run.

        Returns:
            What is running, by name.
        """
        self._running = {name: job for name, job in self._running.items() if name not in ended}
        self._waiting = [job for job in self._waiting if job.name not in ended]
        self._places = {name: at for name, at in self._places.items() if name in self._running}
        for job in list(self._waiting):
            if len(self._running) >= (self._resources.at_once or 1):
                break
            if all(name in ended for name in self._needed[job.name]):
                self._waiting.remove(job)
                self._start(job)
        return self._running

    def _start(self, job: Job) -> None:
        from submitit.helpers import clean_env

        taken = set(self._places.values())
        place = next(number for number in range(len(taken) + 1) if number not in taken)
        variables = self._resources.threads | _devices(self._resources.gpus, place)
        with clean_env():
            handed = self._executor.submit(queued_command(job.words, variables))
        # It must not be collected before it ends.
        self._handed.append(handed)
        found = Submitted(job.name, job.words, Executor.local, str(self._folder), handed.job_id)
        self._running[job.name], self._places[job.name] = found, place
        self._ledger.add([found])

    def stop(self) -> None:
        """End what is running as a signal would, and wait for that."""
        for _ in range(_SIGNALS):
            for job in filter(is_alive, self._running.values()):
                with contextlib.suppress(OSError):
                    os.kill(int(job.id), signal.SIGTERM)
            limit = time.monotonic() + _ENDING
            while any(map(is_alive, self._running.values())) and time.monotonic() < limit:
                time.sleep(_LOOK)


def _devices(gpus: int | None, place: int) -> dict[str, str | None]:
    """The GPUs of the job at a place among those that run at once.

    submitit hides all GPUs from local jobs that ask for none, and gives all jobs the same.
    """
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpus is None:
        return {"CUDA_VISIBLE_DEVICES": seen}
    wanted = range(place * gpus, (place + 1) * gpus)
    if seen is None:
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, wanted))}
    known = [each for each in seen.split(",") if each]
    if wanted and wanted[-1] >= len(known):
        raise CaptError(
            f"CUDA_VISIBLE_DEVICES={seen}: too few for {place + 1} jobs of {gpus} at once; give "
            "fewer --jobs or --gpus"
        )
    return {"CUDA_VISIBLE_DEVICES": ",".join(known[number] for number in wanted)}
