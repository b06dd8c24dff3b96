"""Jobs in the queue of Slurm, through submitit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from capt_core.errors import CaptError, reason

from .job_arrays import JobArray
from .queued_command import queued_command
from .submitted import Executor, Ledger, Resources, Submitted

_ARRAY = 1000  # jobs of one array: Slurm's usual MaxArraySize allows no more
_MINUTES = 720  # time limit of a job
_WARNING = 90  # seconds before its time limit that a job is told, or an eighth of a shorter limit
_SETTINGS = ("SLURM_CONF", "SLURM_CLUSTERS")


def submit_to_slurm(
    arrays: Sequence[JobArray], ledger: Ledger, queued: Collection[str], resources: Resources
) -> list[Submitted]:
    """Hand arrays to Slurm, each with what it must wait for.

    Args:
        arrays: in an order in which none comes before one that it is `after`.
        ledger: gets the jobs, array by array.
        queued: names of jobs that are in the queue already, which are left as they are.
            One that runs at any rate is submitted again behind what is new and itself.
        resources: of each job.

    Returns:
        The new jobs.

    Raises:
        CaptError: Slurm is not there or takes a job not.
    """
    from submitit.slurm.slurm import SlurmExecutor

    folder = ledger.new_folder()
    new: list[Submitted] = []
    ids: dict[str, list[str]] = {}
    renewed: set[str] = set()
    for array in arrays:
        ids[array.name] = [ledger.jobs[job.name].id for job in array.jobs if job.name in queued]
        before = [id_ for name in array.after for id_ in ids.get(name, ())]
        waiting = [job for job in array.jobs if job.name not in queued]
        if array.at_any_rate and renewed.intersection(array.after):
            # What sums up is queued for less than there is: once more, behind itself.
            before += ids[array.name]
            waiting = list(array.jobs)
        needed = ":".join(before)
        kind = "afterany" if array.at_any_rate else "afterok"
        for start in range(0, len(waiting), _ARRAY):
            jobs = waiting[start : start + _ARRAY]
            try:
                executor = SlurmExecutor(folder)
                executor.update_parameters(
                    **_parameters(resources),
                    job_name=f"capt-{array.name}",
                    **({"dependency": f"{kind}:{needed}"} if needed else {}),
                )
                with _environment():
                    handed = executor.submit_array(
                        [queued_command(job.words, resources.threads) for job in jobs]
                    )
            except (RuntimeError, OSError) as error:
                raise CaptError(
                    f"Slurm does not take the jobs of {array.name} ({reason(error)}); check "
                    "partition and limits, or --executor local"
                ) from error
            found = [
                Submitted(job.name, job.words, Executor.slurm, str(folder), each.job_id)
                for job, each in zip(jobs, handed, strict=True)
            ]
            ledger.add(found)
            new += found
            renewed.add(array.name)
            # Of an array its number stands for all of its jobs.
            ids[array.name] += dict.fromkeys(each.id.partition("_")[0] for each in found)
    return new


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """The environment that jobs get: not that of a job or of torchrun, which this may run in.

    What its user says to Slurm stays: which cluster there is, and defaults of sbatch.
    """
    from submitit.helpers import clean_env

    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _SETTINGS or (name.startswith("SBATCH_") and "_BIND" not in name)
    }
    with clean_env():
        os.environ |= kept
        yield


def _parameters(resources: Resources) -> dict[str, Any]:
    minutes = resources.minutes or _MINUTES
    given = {
        "array_parallelism": resources.at_once,
        "time": minutes,
        "signal_delay_s": min(_WARNING, 60 * minutes // 8),
        "cpus_per_task": resources.cpus,
        "gpus_per_node": resources.gpus,
        "mem": None if resources.memory is None else f"{round(resources.memory * 1024)}M",
        "partition": resources.partition,
        "setup": list(resources.setup) or None,
        "stderr_to_stdout": True,
        # srun does not take it over from sbatch, and some clusters bind tasks to their cores.
        "srun_args": None if resources.cpus is None else [f"--cpus-per-task={resources.cpus}"],
        # What waits for a job that failed would otherwise stay in the queue for ever.
        "additional_parameters": {"kill-on-invalid-dep": "yes", **(resources.slurm or {})},
    }
    return {key: value for key, value in given.items() if value is not None}
