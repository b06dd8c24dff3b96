"""Malformed inputs by the thousand: every command ends in its result or in one clear line.

``python -m benchmarks.fault_campaign --inputs 3000`` damages settings, overrides, folders, tables,
split files, images, weights, artifacts, prompt stores and model files at random (with a seed), runs
the command that reads them in a process of its own, and prints what each kind ended in. It exits
with 1 if a command showed a traceback, ended with another code than 0 or 2, said more than one
error or a longer one than `LONGEST`, ran for more than `SECONDS`, or, with a damaged artifact,
ended well with other bytes than with the undamaged one.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fault_inputs import (
    damaged_bytes,
    damaged_text,
    hostile_folder,
    hostile_value,
    photographs,
)

ROOT = Path(__file__).parent.parent
LONGEST = 700
SECONDS = 120
# A forked process waits for ever for what another thread held at that moment, such as an import.
_ONE_AT_A_TIME = threading.Lock()
LOADED = (
    *("torch", "polars", "capt_core.backbone.loading", "sklearn.linear_model"),
    "matplotlib.figure",
)
SMALL = (
    "prepare.proctex_train=4",
    "prepare.proctex_val=1",
    "prepare.proctex_test=2",
    "fewshot.shots=2",
    "methods.capt.train.epochs=1",
    "runtime.workers=1",
)


@dataclass(frozen=True)
class Case:
    """A command on a damaged input.

    Attributes:
        words: its arguments.
        damage: what was done to the input.
        results: folder whose files must be those of the undamaged input if the command succeeds.
    """

    words: Sequence[str]
    damage: str
    results: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: exit code; negative for a signal.
        output: of both streams.
        complaint: what is wrong with that; empty if nothing.
    """

    code: int
    output: str
    complaint: str


def run(words: Sequence[str], log: Path) -> tuple[int, str]:
    """Run a command in a forked process that has the packages loaded; its code and output."""
    with _ONE_AT_A_TIME:
        child = os.fork()
    if child == 0:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        signal.alarm(SECONDS)
        os.chdir(log.parent)  # a relative path among the arguments must not lead into the project
        code = 99
        try:
            from stages.cli import main

            sys.argv = ["capt-stage", *words]
            main()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(bool(error.code))
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")


def complaint(code: int, output: str) -> str:
    """What is wrong with how a command ended; empty if nothing."""
    if "Traceback" in output:
        return "traceback"
    if code == -signal.SIGALRM:
        return f"ran for more than {SECONDS} s"
    if code not in (0, 2):
        return f"exit code {code}"
    errors = [line for line in output.splitlines() if re.match(r"error: |Error: |│", line)]
    if code == 2 and not errors and "Usage:" not in output:
        return "exit code 2 without a line"
    if sum(line.startswith("error: ") for line in errors) > 1:
        return "several errors"
    longest = max(map(len, output.splitlines()), default=0)
    return f"a line of {longest} characters" if longest > LONGEST else ""


def contents(folder: Path) -> dict[str, str]:
    """Digests of a folder's result files; not of records and caches, which may be made anew."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".parquet", ".json", ".safetensors")
        and path.is_file()
        and not {"runs", "cache", "work"} & set(path.relative_to(folder).parts)
    }


class Campaign:
    """Generators of cases on a small data set whose artifacts exist undamaged in `reference`."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.reference = work / "reference"
        self.photos = photographs(work / "photos")
        self.settings = (ROOT / "params.yaml").read_text()
        self.kinds: dict[str, Callable[[random.Random, Path], Case]] = {
            "settings": self.broken_settings,
            "overrides": self.hostile_overrides,
            "folders": self.hostile_folders,
            "tables": self.damaged_table,
            "parquet": self.damaged_parquet,
            "split file": self.damaged_split,
            "class file": self.damaged_class_file,
            "images": self.damaged_image,
            "weights": self.damaged_weights,
            "artifacts": self.damaged_artifact,
            "prompt stores": self.damaged_store,
            "model files": self.damaged_model,
            "arguments": self.hostile_arguments,
        }

    def build(self) -> None:
        """Make the undamaged artifacts."""
        from stages.commands import PIPELINE

        run(self.prepare(self.work, self.photos), self.work / "log")
        (self.work / "artifacts").rename(self.work / "prepared")
        for stage in PIPELINE:
            for method in ("clip", "capt") if stage in ("train", "evaluate") else ("",):
                words = self.stage(stage, "proctex", self.reference, method)
                code, output = run(words, self.work / "log")
                if code:
                    raise SystemExit(f"{' '.join(words)}: {output}")

    def stage(self, name: str, dataset: str, artifacts: Path, method: str = "") -> list[str]:
        """Arguments of a stage on small settings."""
        words = [name, "--dataset", dataset, "--artifacts", str(artifacts)]
        if method:
            words += ["--method", method]
        if dataset == "proctex":
            words += [word for item in SMALL for word in ("--set", item)]
            words += ["--set", f"generate_prompts.answers={self.work / 'answers'}"]
        return words

    def prepare(self, folder: Path, root: Path, *overrides: str) -> list[str]:
        """Arguments that prepare a folder of one's own images."""
        words = ["prepare", "--dataset", "mine", "--artifacts", str(folder / "artifacts")]
        return words + [w for each in (f"data.root={root}", *overrides) for w in ("--set", each)]

    def broken_settings(self, rng: random.Random, folder: Path) -> Case:
        path = folder / "params.yaml"
        text, damage = damaged_text(rng, self.settings)
        path.write_bytes(text)
        return Case([*self.prepare(folder, self.photos), "--params", str(path)], damage)

    def hostile_overrides(self, rng: random.Random, folder: Path) -> Case:
        keys = re.findall(r"^ *([a-z_]+):", self.settings, re.M)
        key = ".".join(rng.choice(keys) for _ in range(rng.randint(1, 4)))
        known = ["runtime.workers", "fewshot.shots", "data.layout", "prepare.proctex_train"]
        known += ["data.root", "backbone.name", "backbone.checkpoint", "data.label_column", key]
        override = f"{rng.choice(known)}={hostile_value(rng)}"
        return Case(self.prepare(folder, self.photos, override.replace("\0", "")), override[:80])

    def hostile_folders(self, rng: random.Random, folder: Path) -> Case:
        damage = hostile_folder(rng, folder / "data")
        policy = rng.choice(["error", "quarantine"])
        return Case(self.prepare(folder, folder / "data", f"data.on_bad_image={policy}"), damage)

    def damaged_table(self, rng: random.Random, folder: Path) -> Case:
        shutil.copytree(self.photos, folder / "data")
        mark = rng.choice([",", ";", "\t"])
        rows = [("path", "label", "note")]
        rows += [
            (str(path.relative_to(self.photos)), path.parent.name, "fine")
            for path in sorted(self.photos.rglob("*.png"))
        ]
        text, damage = damaged_text(rng, "\n".join(mark.join(row) for row in rows) + "\n")
        (folder / "data" / "labels.csv").write_bytes(text)
        return Case(self.prepare(folder, folder / "data"), damage)

    def damaged_parquet(self, rng: random.Random, folder: Path) -> Case:
        images = [path.read_bytes() for path in sorted(self.photos.rglob("*.png"))]
        labels: list[object] = [path.parent.name for path in sorted(self.photos.rglob("*.png"))]
        if rng.random() < 0.4:
            labels = [hostile_value(rng).replace("\udc80", "?") for _ in labels]
        elif rng.random() < 0.3:
            labels = [rng.choice([[1], [1, 2], [], None]) for _ in labels]
        (folder / "data").mkdir()
        path = folder / "data" / "train-00000-of-00001.parquet"
        # Not with polars: a process forked after its threads have started waits for them for ever.
        pq.write_table(pa.table({"image": images, "label": labels}), path)
        damage = "labels"
        if rng.random() < 0.6:
            data, damage = damaged_bytes(rng, path.read_bytes())
            path.write_bytes(data)
        return Case(self.prepare(folder, folder / "data"), damage)

    def damaged_split(self, rng: random.Random, folder: Path) -> Case:
        root = folder / "data"
        shutil.copytree(self.photos, root / "dtd" / "images")
        split: dict[str, list[list[object]]] = {"train": [], "val": [], "test": []}
        for label, name in enumerate(sorted(path.name for path in self.photos.iterdir())):
            for index, path in enumerate(sorted((self.photos / name).iterdir())):
                row = [f"{name}/{path.name}", label, name]
                split[("train", "train", "val", "test")[index % 4]].append(row)
        text, damage = damaged_text(rng, json.dumps(split, indent=0))
        (root / "dtd" / "split_zhou_DescribableTextures.json").write_bytes(text)
        words = self.prepare(folder, root)
        words[2] = "dtd"
        return Case(words, damage)

    def damaged_class_file(self, rng: random.Random, folder: Path) -> Case:
        shutil.copytree(self.photos, folder / "data")
        names = sorted(path.name for path in self.photos.iterdir())
        text, damage = damaged_text(
            rng, "names:\n" + "".join(f"  {name}: a {name}\n" for name in names)
        )
        (folder / "data" / "classes.yaml").write_bytes(text)
        return Case(self.prepare(folder, folder / "data"), damage)

    def damaged_image(self, rng: random.Random, folder: Path) -> Case:
        shutil.copytree(self.photos, folder / "data")
        damages = []
        for path in rng.sample(sorted((folder / "data").rglob("*.png")), 6):
            data, damage = damaged_bytes(rng, path.read_bytes())
            path.write_bytes(data)
            damages.append(damage)
        policy = rng.choice(["error", "quarantine"])
        words = self.prepare(folder, folder / "data", f"data.on_bad_image={policy}")
        return Case(words, ", ".join(damages))

    def damaged_weights(self, rng: random.Random, folder: Path) -> Case:
        sources = sorted((ROOT / "capt_core").rglob("tiny_clip/*.safetensors"))
        data, damage = damaged_bytes(rng, sources[0].read_bytes())
        path = folder / rng.choice(["w.safetensors", "w.pt", "w.bin"])
        path.write_bytes(data)
        words = self.prepare(folder, self.photos, f"backbone.checkpoint={path}")
        if rng.random() < 0.7:
            shutil.copytree(self.work / "prepared", folder / "artifacts")
            words[0] = "extract-features"
        return Case(words, damage)

    def damaged_artifact(self, rng: random.Random, folder: Path) -> Case:
        from stages.commands import PIPELINE, module_of
        from stages.stage import Place

        artifacts = folder / "artifacts"
        shutil.copytree(self.reference, artifacts)
        stage = rng.choice(PIPELINE[1:])
        method = rng.choice(["clip", "capt"])
        place = Place.of(artifacts, "proctex", method, 1, 2)
        read = [each for each in module_of(stage).STAGE.reads(place) if each.exists()]
        path = rng.choice(read)  # first, because the folders of images hold far more files
        if path.is_dir():
            path = rng.choice([each for each in sorted(path.rglob("*")) if each.is_file()])
        data, damage = damaged_bytes(rng, path.read_bytes())
        path.write_bytes(data)
        words = self.stage(
            stage, "proctex", artifacts, method if stage in ("train", "evaluate") else ""
        )
        return Case(words, f"{path.relative_to(artifacts)}: {damage}", artifacts)

    def damaged_store(self, rng: random.Random, folder: Path) -> Case:
        store = ROOT / "capt_core" / "prompts" / "stores" / "proctex.json"
        text, damage = damaged_text(rng, store.read_text())
        path = folder / "store.json"
        path.write_bytes(text)
        artifacts = folder / "artifacts"
        shutil.copytree(self.reference, artifacts)
        words = self.stage("generate-prompts", "proctex", artifacts)
        return Case([*words, "--set", f"generate_prompts.store={path}"], damage)

    def damaged_model(self, rng: random.Random, folder: Path) -> Case:
        sources = sorted(self.reference.rglob("model.safetensors"))
        data, damage = damaged_bytes(rng, rng.choice(sources).read_bytes())
        path = folder / "model.safetensors"
        path.write_bytes(data)
        words = ["predict", str(path), str(self.photos), "--out", str(folder / "out.csv")]
        return Case(words, damage)

    def hostile_arguments(self, rng: random.Random, folder: Path) -> Case:
        words = self.prepare(folder, self.photos)
        position = rng.randrange(len(words))
        words[position] = hostile_value(rng).replace("\0", "")
        return Case(words, f"argument {position}: {words[position][:60]!r}")


def judge(
    campaign: Campaign, kind: str, number: int, seed: int, expected: dict[str, str]
) -> Outcome:
    """Make a case, run it, and say what is wrong with its end."""
    folder = Path(tempfile.mkdtemp(dir=campaign.work))
    try:
        with _ONE_AT_A_TIME:
            case = campaign.kinds[kind](random.Random(f"{seed} {kind} {number}"), folder)
        code, output = run(case.words, folder / "log")
        wrong = complaint(code, output)
        if not wrong and code == 0 and case.results is not None:
            damaged = case.damage.partition(":")[0]
            found = contents(case.results)
            other = [n for n in found if n != damaged and found[n] != expected.get(n, found[n])]
            wrong = f"other results without a word: {other[:3]}" if other else ""
        told = f"{case.damage}\n    capt-stage {' '.join(case.words)[:300]}\n{output[-1500:]}"
        return Outcome(code, told, wrong)
    finally:
        os.system(f"chmod -R u+rwX {folder} 2>/dev/null")
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--inputs", type=int, default=300, help="how many in all")
    parser.add_argument("--seed", type=int, default=1, help="of the damages")
    parser.add_argument("--only", help="one kind of input")
    options = parser.parse_args()
    for module in LOADED:
        importlib.import_module(module)
    work = Path(tempfile.mkdtemp(prefix="faults-"))
    campaign = Campaign(work)
    if options.only and options.only not in campaign.kinds:
        parser.error(f"--only: one of {', '.join(campaign.kinds)}")
    campaign.build()
    expected = contents(campaign.reference)
    kinds = [options.only] if options.only else list(campaign.kinds)
    jobs = [(kinds[index % len(kinds)], index) for index in range(options.inputs)]
    started = time.monotonic()
    ended: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in kinds}
    failures = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = pool.map(
            lambda job: judge(campaign, job[0], job[1], options.seed, expected), jobs
        )
        for (kind, number), outcome in zip(jobs, outcomes, strict=True):
            ended[kind]["wrong" if outcome.complaint else f"exit {outcome.code}"] += 1
            if outcome.complaint:
                failures += 1
                print(f"{kind} {number}: {outcome.complaint}: {outcome.output}", flush=True)
    for kind, counts in ended.items():
        print(f"{kind}: " + ", ".join(f"{n} {end}" for end, n in sorted(counts.items())))
    print(f"{len(jobs)} inputs, {failures} wrong, {time.monotonic() - started:.0f} s")
    shutil.rmtree(work, ignore_errors=True)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
