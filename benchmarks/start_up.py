"""What people wait for before anything is computed, as ratios and differences within one run.

    python -m benchmarks.start_up                          # the command line and its stages
    python -m benchmarks.start_up pipeline --data-sets 15  # DVC: a no-op, one changed setting

The first compares, in turns, processor time of `capt-stage --help` with a bare `import typer`
(expected: less than twice), and with `import torch` (less than 1.5 s more) of importing what each
stage imports, of loading the embedded model as most of them do, and of both. The second makes
pipelines of the given numbers of data sets, seeds and methods in temporary folders, in one file and
split (`capt-stage init --split`), with commands that only write their outputs, notes all stages as
run, and times `dvc repro` with nothing to do and with one more value in the settings of a method.
Times are of the processor, since other programs change the clock's; the first also gives the
clock's. Of several turns the least is given.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from capt_core.settings_file import PACKAGED_PARAMS
from stages.commands import STAGES
from stages.pipeline import dvc_yaml, split_yaml

_STAND_IN = """\
for out; do
  case "${out##*/}" in
    *.*) mkdir -p "$(dirname "$out")"; echo "$DVC_STAGE $(date +%N)" > "$out" ;;
    *) mkdir -p "$out"; echo "$(date +%N)" > "$out/file" ;;
  esac
done
"""
_RECORD = """\
import json
from pathlib import Path
import yaml
from dvc.repo import Repo
from dvc.stage.serialize import to_single_stage_lockfile
repo, locks = Repo("."), {}
with repo.lock:
    stages = repo.index.stages
    for place in {each.fs_path for stage in stages for each in [*stage.outs, *stage.deps]}:
        path = Path(place)
        if not path.suffix:
            path = path / "file"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(place)
    for stage in stages:
        stage.save()
        stage.commit()
        entry = json.loads(json.dumps(to_single_stage_lockfile(stage)))
        locks.setdefault(Path(stage.dvcfile.path).parent, {})[stage.name] = entry
for folder, stages in locks.items():
    text = yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False)
    (folder / "dvc.lock").write_text(text)
print(sum(map(len, locks.values())))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", nargs="?", choices=["commands", "pipeline"], default="commands")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--data-sets", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--methods",
        default="clip,clip_prompts,linear_probe,tip_adapter,gda,coop,maple,promptsrc,tap,dpc,tac,"
        "lweib,clip_adapter,capt",
    )
    parser.add_argument(
        "--split-only", action="store_true", help="without the single file, which can take hours"
    )
    given = parser.parse_args()
    if given.what == "commands":
        _commands(given.turns)
    else:
        kinds = [True] if given.split_only else [False, True]
        _pipelines(given.data_sets, given.seeds, given.methods.split(","), kinds)


def _commands(turns: int) -> None:
    stages = [f"import stages.{name.replace('-', '_')}" for name in STAGES]
    loading = "import capt_core; capt_core.load_backbone('tiny-clip')"
    stages += [loading, f"import stages.mine_pairs; {loading}"]
    programs = {
        "import typer": ["-c", "import typer"],
        "capt-stage --help": ["-m", "stages.cli", "--help"],
        "import torch": ["-c", "import torch"],
        "import open_clip": ["-c", "import open_clip"],
        **{line: ["-c", line] for line in stages},
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(turns):
        for name, words in programs.items():
            taken[name].append(_seconds([sys.executable, *words]))
    least = {name: min(each)[0] for name, each in taken.items()}
    print("| program | seconds | by the clock | beside |")
    print("|---|---:|---:|---|")
    for name, seconds in least.items():
        clock = min(each[1] for each in taken[name])
        beside = ""
        if name == "capt-stage --help":
            beside = f"{seconds / least['import typer']:.2f} x import typer"
        elif name in stages or name == "import open_clip":
            beside = f"import torch + {seconds - least['import torch']:.2f} s"
        print(f"| `{name}` | {seconds:.2f} | {clock:.2f} | {beside} |")


def _pipelines(datasets: int, seeds: int, methods: Sequence[str], kinds: Sequence[bool]) -> None:
    """Print a row for each of some kinds: True is the split one."""
    names = [f"set{number:02d}" for number in range(datasets)]
    print("| pipeline | stages | no-op, s | one changed setting, s | stages run |")
    print("|---|---:|---:|---:|---:|")
    for split in kinds:
        with tempfile.TemporaryDirectory() as made:
            root = Path(made) / "project"
            root.mkdir()
            environment = {
                **os.environ,
                "DVC_NO_ANALYTICS": "1",
                "DVC_SITE_CACHE_DIR": str(Path(made) / "site"),
                "CI": "1",
            }
            count = _project(root, environment, split, names, seeds, methods)
            nothing, _ = _repro(root, environment)
            print(f"(no-op of {count} stages: {nothing:.1f} s)", file=sys.stderr, flush=True)
            settings = root / "params.yaml"
            text = settings.read_text(encoding="utf-8")
            if "gda" not in methods:
                raise SystemExit("--methods: gda is the one whose settings are changed")
            document = yaml.safe_load(text)
            document["methods"]["gda"] = {**(document["methods"]["gda"] or {}), "more": 1}
            settings.write_text(yaml.safe_dump(document), encoding="utf-8")
            change, run = _repro(root, environment)
            kind = "a file per data set" if split else "one file"
            print(f"| {kind} | {count} | {nothing:.1f} | {change:.1f} | {run} |", flush=True)


def _project(
    root: Path,
    environment: dict[str, str],
    split: bool,
    names: Sequence[str],
    seeds: int,
    methods: Sequence[str],
) -> int:
    """Write a project all of whose stages are noted as run; returns how many there are."""
    document = yaml.safe_load(PACKAGED_PARAMS.read_text(encoding="utf-8"))
    document |= {
        "datasets": list(names),
        "seeds": list(range(1, seeds + 1)),
        "compare": list(methods),
        "per_dataset": {name: {"data": {}, "methods": {}} for name in names},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    (root / "make.sh").write_text(_STAND_IN, encoding="utf-8")
    files = split_yaml(names) if split else {"dvc.yaml": dvc_yaml(with_code=False)}
    for name, text in files.items():
        pipeline = yaml.safe_load(text)
        for stage in pipeline["stages"].values():
            outputs = (
                each for kind in ("outs", "metrics", "plots") for each in stage.get(kind, [])
            )
            paths = [each if isinstance(each, str) else next(iter(each)) for each in outputs]
            stage["cmd"] = " ".join(["sh make.sh", *paths])
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    _ran(["dvc", "init", "-q", "--no-scm"], root, environment)
    return int(_ran([sys.executable, "-c", _RECORD], root, environment).split()[-1])


def _repro(root: Path, environment: dict[str, str]) -> tuple[float, int]:
    """Processor time of `dvc repro`, and how many stages it ran."""
    before = _children()
    told = _ran(["dvc", "repro"], root, environment)
    return _children() - before, told.count("Running stage")


def _ran(words: Sequence[str], root: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)[:80]}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def _seconds(words: Sequence[str]) -> tuple[float, float]:
    """Seconds of the processor, and of the clock."""
    before, began = _children(), time.perf_counter()
    subprocess.run(words, check=True, capture_output=True)
    return _children() - before, time.perf_counter() - began


def _children() -> float:
    used: Any = resource.getrusage(resource.RUSAGE_CHILDREN)
    return float(used.ru_utime + used.ru_stime)


if __name__ == "__main__":
    main()
