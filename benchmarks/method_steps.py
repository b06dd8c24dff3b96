"""A few training steps of every registered method on a real architecture, and what they take.

    python -m benchmarks.method_steps PHOTOGRAPHS [--device cuda] [--precision bf16] [--published]

PHOTOGRAPHS holds a folder of images for each class, such as `dtd/images`. Weights are random, in
files that are loaded as anyone's are; sentences about the classes are made up, in a store that is
read as anyone's is. Every method that has a learning rate is fitted by the library with its own
settings, but without warm-up and for a few steps, in a process of its own. A row for each tells

* the time of a step, decoding of images included: the median, of the steps after the first, and
  its ratio to that of `coop` in the same run;
* peak memory: all that torch allocates on a GPU, the resident set of the process on the CPU;
* how many numbers are trained;
* the loss of the first batch before and after the steps, with the same views and draws.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.capt_speed import random_weights, resident
from capt_core.artifacts.files import write_text
from capt_core.backbone.identity import TINY_CLIP
from capt_core.backbone.loading import Backbone
from capt_core.data.dataset import Dataset
from capt_core.data.folder import open_folder
from capt_core.data.scan import IMAGE_ENDINGS
from capt_core.errors import CaptError
from capt_core.learning.loop import Batch, Loop, Record, Trained
from capt_core.learning.optimisation import Optimisation
from capt_core.library import fit, load_backbone
from capt_core.methods.method import Method, Need
from capt_core.methods.registry import BASE_METHOD, check_methods, method_class, method_names
from capt_core.methods.trained import TrainedModel
from capt_core.prompts.store import SCHEMA_VERSION, PromptStore, store_text

NAME = "photographs"
PHRASES = {
    "surface": ("with a rough surface", "with a smooth and shiny surface", "worn by use"),
    "colour": ("in pale colours", "in strong colours", "in shades of grey"),
    "light": ("in daylight", "lit from one side", "in deep shadow"),
}
"""Made-up descriptions: they change no time."""
SMALL_BATCH = 4
COMPARED = "coop"


@dataclass(frozen=True)
class Training:
    """What a few steps of one training took.

    Attributes:
        method: its name.
        batch: images of a step.
        seconds: of each step.
        memory: peak, in bytes.
        parameters: how many numbers are trained.
        before: loss of the first batch.
        after: loss of the same batch after the steps.
    """

    method: str
    batch: int
    seconds: Sequence[float]
    memory: int
    parameters: int
    before: float
    after: float

    @property
    def step(self) -> float:
        """Seconds of a step, the first left out."""
        return median(self.seconds[1:] or self.seconds)


class Bench:
    """Photographs and backbones of random weights for all methods.

    Args:
        options: from the command line.
        folder: for weights, photographs and the store of made-up descriptions.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder

    @cached_property
    def backbone(self) -> Backbone:
        """What methods are fitted on."""
        return self._loaded(self.options.backbone)

    @cached_property
    def teacher(self) -> TrainedModel:
        """What methods distil from: zero-shot, since it is forwarded as a fitted one is."""
        backbone = self._loaded(self.options.teacher)
        return fit(BASE_METHOD, self.dataset(1), backbone, shots=1, calibrate=False)

    def _loaded(self, name: str) -> Backbone:
        weights = self.folder / f"{name.replace('/', '-')}.safetensors"
        if name != TINY_CLIP and not weights.is_file():
            random_weights(name, weights)
        return load_backbone(
            name,
            checkpoint=None if name == TINY_CLIP else weights,
            device=self.options.device,
            precision=self.options.precision,
        )

    def dataset(self, shots: int) -> Dataset:
        """Photographs of the first classes: `shots` for training, one for validation and tests.

        Raises:
            CaptError: the folder has too few.
        """
        root = self.folder / f"{NAME}-{shots}"
        if not root.is_dir():
            copy_photographs(self.options.photographs, root, self.options.classes, shots)
        return open_folder(root, name=NAME)

    def store(self, names: Sequence[str]) -> Path:
        """A file of made-up descriptions of classes."""
        path = self.folder / "descriptions.json"
        write_text(path, store_text(made_up_descriptions(names)))
        return path

    def method_settings(self, name: str) -> dict[str, Any]:
        """What differs from a method's packaged settings: a smaller batch, unless published."""
        values = method_class(name).Settings().model_dump()
        changed = {} if self.options.published else with_batch(values, SMALL_BATCH)
        return changed | {key: value for key, value in self.options.set if key in values}

    def shots(self, name: str) -> int:
        """Images of a class that fill a batch of a method."""
        values = method_class(name).Settings().model_dump()
        sizes = [SMALL_BATCH, *(numbers(values, "batch_size") if self.options.published else [])]
        classes: int = self.options.classes
        return -(-int(max(sizes)) // classes)

    def train(self, name: str) -> list[Training]:
        """Train a method for a few steps; one entry for each training that it consists of.

        Raises:
            CaptError: it cannot be fitted here.
        """
        method, dataset = method_class(name), self.dataset(self.shots(name))
        problem: CaptError | None = None
        for base in self.bases(method):
            try:
                with few_steps(name, self.options.steps, self.backbone) as trainings:
                    self.fitted(name, dataset, base)
                return trainings
            except CaptError as error:
                problem = problem or error
        assert problem is not None
        raise problem

    def bases(self, method: type[Method]) -> Iterator[str | TrainedModel]:
        """What a method may start from: zero-shot CLIP, or else whatever it takes."""
        yield BASE_METHOD
        if Need.BASE_MODEL not in method.needs:
            return
        for name in method_names():
            if Need.BASE_MODEL not in method_class(name).needs and trained_by_steps(name):
                try:
                    with few_steps(name, 1, self.backbone):
                        base = self.fitted(name, self.dataset(self.shots(name)), BASE_METHOD)
                except CaptError:
                    continue
                yield base

    def fitted(self, name: str, dataset: Dataset, base: str | TrainedModel) -> TrainedModel:
        """A method fitted by the library, with all that it needs."""
        return fit(
            name,
            dataset,
            self.backbone,
            shots=self.shots(name),
            base_model=base,
            teacher=self.teacher if Need.TEACHER in method_class(name).needs else None,
            settings=self.method_settings(name),
            prompts=self.store(dataset.class_names),
            calibrate=False,
        )


@contextlib.contextmanager
def few_steps(method: str, steps: int, backbone: Backbone) -> Iterator[list[Training]]:
    """Within the block, every training ends after some steps and is measured.

    Args:
        method: that is trained.
        steps: how many.
        backbone: on whose device.

    Yields:
        What was measured, in order.
    """
    original, found = Loop.fit, []

    def wait() -> None:
        if backbone.device.type == "cuda":
            torch.cuda.synchronize()

    def measured(loop: Loop) -> Trained:
        first: list[tuple[Batch, float]] = []
        ends: list[float] = []
        loss_of = loop.loss_of

        def remembering(batch: Batch) -> tuple[torch.Tensor, Record]:
            loss, record = loss_of(batch)
            if not first:
                first.append((batch, loss.item()))
            return loss, record

        def advance(_: int) -> None:
            wait()
            ends.append(time.perf_counter())

        loop.loss_of, loop.advance, loop.last_step = remembering, advance, steps
        if isinstance(loop.settings, Optimisation):
            loop.settings = loop.settings.model_copy(update={"warmup_epochs": 0})
        if backbone.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        trained = original(loop)
        memory = (
            torch.cuda.max_memory_allocated()
            if backbone.device.type == "cuda"
            else resident("VmHWM")
        )
        (batch, before), count = first[0], sum(_trained_numbers(loop))
        with torch.no_grad():
            after = loss_of(batch)[0].item()
        seconds = [end - start for start, end in pairwise(ends)]
        rows = int(trained.log["rows"][0])
        found.append(Training(method, rows, seconds, memory, count, before, after))
        return trained

    Loop.fit = measured  # type: ignore[method-assign, assignment]
    try:
        yield found
    finally:
        Loop.fit = original  # type: ignore[method-assign]


def _trained_numbers(loop: Loop) -> Iterator[int]:
    for group in loop.groups:
        yield from (parameter.numel() for parameter in group.parameters)


def copy_photographs(source: Path, target: Path, classes: int, shots: int) -> None:
    """Photographs of the first classes as `target`/SPLIT/CLASS/FILE.

    Raises:
        CaptError: there are too few classes, or images of a class.
    """
    folders = sorted(each for each in source.iterdir() if each.is_dir()) if source.is_dir() else []
    if len(folders) < classes:
        raise CaptError(
            f"{source}: {len(folders)} folders of classes, {classes} are used; give a folder with "
            "one folder of photographs for each class, or fewer --classes"
        )
    splits = ["train"] * shots + ["val", "test"]
    for folder in folders[:classes]:
        files = sorted(each for each in folder.iterdir() if each.suffix.lower() in IMAGE_ENDINGS)[
            : len(splits)
        ]
        if len(files) < len(splits):
            raise CaptError(f"{folder}: {len(files)} photographs, {len(splits)} are used; add some")
        for split, file in zip(splits, files, strict=False):
            own = target / split / folder.name
            own.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, own)


def made_up_descriptions(names: Sequence[str]) -> PromptStore:
    """A store that describes every class, by attribute too."""
    every = [phrase for phrases in PHRASES.values() for phrase in phrases]
    content = {
        "schema_version": SCHEMA_VERSION,
        "dataset": NAME,
        "domain": "photographs",
        "source": "made up",
        "classes": {name: {"attributes": every} for name in names},
        "pairs": [],
        "class_prompts": {
            name: {"by_attribute": {key: list(phrases) for key, phrases in PHRASES.items()}}
            for name in names
        },
    }
    return PromptStore.model_validate(content)


def numbers(values: Mapping[str, Any], key: str) -> list[float]:
    """All values of a key in nested settings."""
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += numbers(value, key)
        elif name == key:
            found.append(value)
    return found


def with_batch(values: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The part of nested settings that holds batch sizes, with another size."""
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            below = with_batch(value, size)
            changed |= {name: below} if below else {}
        elif name == "batch_size":
            changed[name] = size
    return changed


def trained_by_steps(name: str) -> bool:
    """Whether a method has a learning rate."""
    return bool(numbers(method_class(name).Settings().model_dump(), "learning_rate"))


def chosen_methods(options: argparse.Namespace) -> list[str]:
    """The methods that are named, or all that are trained by steps.

    Raises:
        CaptError: an unknown name.
    """
    if options.method:
        check_methods(options.method, "--method")
        return list(options.method)
    return [name for name in method_names() if trained_by_steps(name)]


def measure(name: str, options: argparse.Namespace, folder: Path) -> list[Training] | str:
    """What a method's steps took, or why it could not be trained."""
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        return Bench(options, folder).train(name)
    except CaptError as error:
        return str(error)


def heading(options: argparse.Namespace) -> str:
    """What was measured, and the head of the table."""
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    return "\n".join(
        [
            f"{options.backbone}, {options.precision}, {device}, torch {torch.__version__}, "
            f"{options.classes} classes, {options.steps} steps.",
            "",
            f"| method | batch | seconds a step | of `{COMPARED}`'s | peak (MiB) | trained "
            "| loss before | after |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
    )


def row(found: Training, compared: float | None) -> str:
    """A row of the table; `compared` are the seconds that a step is compared with."""
    ratio = "" if compared is None else f"{found.step / compared:.2g}"
    return (
        f"| `{found.method}` | {found.batch} | {found.step:.3f} | {ratio} "
        f"| {found.memory / 2**20:.0f} "
        f"| {found.parameters:,} | {found.before:.6g} | {found.after:.6g} |"
    )


def setting(text: str) -> tuple[str, str]:
    """A key and its value."""
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text}: give KEY=VALUE")
    return key, value


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.method_steps")
    add = parser.add_argument
    add("photographs", type=Path, help="folder with one folder of photographs for each class")
    add("--method", action="append", help="only this one; may be given again")
    add("--backbone", default="ViT-B-16", help="tiny-clip or an open_clip model")
    add("--teacher", default="ViT-L-14", help="that methods distil from, likewise")
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--precision", default="fp32", choices=("fp32", "bf16"))
    add("--published", action="store_true", help=f"each method's own batch, not {SMALL_BATCH}")
    add("--set", action="append", type=setting, default=[], help="KEY=VALUE of methods with it")
    add("--classes", type=int, default=8)
    add("--steps", type=int, default=2)
    add("--threads", type=int, help="of torch on the CPU")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit code 1 if a method could not be trained."""
    options = parse(arguments)
    # With a fixed threshold glibc gives large blocks back at once; kept ones would count as used.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(64 * 1024)
    try:
        names = chosen_methods(options)
    except CaptError as error:
        print(error, file=sys.stderr)
        return 2
    failed, compared = [], None
    print(heading(options), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as process:
                found = process.submit(measure, name, options, Path(folder)).result()
            if isinstance(found, str):
                failed.append(f"`{name}`: {found}")
                continue
            for each in found:
                compared = each.step if each.method == COMPARED else compared
                print(row(each, compared), flush=True)
    others = [name for name in method_names() if not trained_by_steps(name)]
    print(f"\nWithout steps: {', '.join(others)}.")
    if failed:
        print("\n".join(["", *failed]))
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
