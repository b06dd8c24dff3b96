"""Stands in for Slurm's commands: `sbatch` notes a job, `squeue` runs what may run, then is empty.

Called as ``slurm_stand_in.py FOLDER NAME WORDS...``; the folder holds the queue.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

TAKEN = {"cpus-per-task", "gpus-per-node", "mem", "partition", "time", "account", "dependency"}
ALWAYS = {"job-name", "output", "open-mode", "nodes", "signal", "wckey", "kill-on-invalid-dep"}


def options_of(script: str) -> dict[str, str]:
    """Options of a script, each as a shell reads it."""
    found = {}
    for line in re.findall(r"^#SBATCH --(.*)$", script, re.MULTILINE):
        ((name, _, value),) = (word.partition("=") for word in shlex.split(line))
        assert name not in found, f"{name} is given twice"
        found[name] = value
    assert found.keys() - TAKEN - {"array"} == ALWAYS, found
    assert found["kill-on-invalid-dep"] == "yes"
    return found


def sbatch(folder: Path, path: str) -> None:
    script = Path(path).read_text()
    number = len(list(folder.glob("*.json"))) + 101
    variables = {name: value for name, value in os.environ.items() if name.startswith("S")}
    job = {"script": path, "options": options_of(script), "variables": variables, "codes": None}
    (folder / f"{number}.json").write_text(json.dumps(job))
    print(f"Submitted batch job {number}")


def squeue(folder: Path) -> None:
    for path in sorted(folder.glob("*.json")):
        job = json.loads(path.read_text())
        if job["codes"] is None:
            job["codes"] = run(folder, path.stem, job) if may_run(folder, job) else ["cancelled"]
            path.write_text(json.dumps(job))


def may_run(folder: Path, job: dict[str, Any]) -> bool:
    kind, *needed = job["options"].get("dependency", "afterany").split(":")
    ended = [json.loads((folder / f"{each}.json").read_text())["codes"] for each in needed]
    assert kind in ("afterok", "afterany")
    assert None not in ended
    return kind == "afterany" or not any(code for codes in ended for code in codes)


def run(folder: Path, number: str, job: dict[str, Any]) -> list[int]:
    array = job["options"].get("array")
    last = int(re.fullmatch(r"0-(\d+)%\d+", array)[1]) if array else 0  # type: ignore[index]
    codes = []
    for index in range(last + 1):
        names = {"SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
        names["SLURM_CPUS_PER_TASK"] = job["options"].get("cpus-per-task", "")
        if array:
            names |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(index)}
        codes.append(subprocess.call(["bash", job["script"]], env={**os.environ, **names}))
    return codes


def srun(*words: str) -> None:
    unbuffered, option, pattern, *command = words
    assert (unbuffered, option) == ("--unbuffered", "--output")
    if cpus := os.environ["SLURM_CPUS_PER_TASK"]:
        assert command.pop(0) == f"--cpus-per-task={cpus}"  # or else it may be bound to one
    array = os.environ.get("SLURM_ARRAY_JOB_ID", "")
    task = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    for sign, value in {"j": os.environ["SLURM_JOB_ID"], "A": array, "a": task, "t": "0"}.items():
        pattern = pattern.replace(f"%{sign}", value)
    with open(pattern, "a") as log:
        sys.exit(subprocess.call(command, stdout=log, stderr=log))


if __name__ == "__main__":
    place, name, *rest = sys.argv[1:]
    if name == "sbatch":
        sbatch(Path(place), *rest)
    elif name == "squeue":
        squeue(Path(place))
    else:
        srun(*rest)
