"""Learning rates chosen on classes held out of the base classes, for any trained method alike.

    OMP_NUM_THREADS=1 python -m benchmarks.pseudo_novel_folds --method maple --method promptsrc

Draws the embedded textures anew (with another seed than the benchmark's, so none of its images
occurs) and keeps the base classes only. Each fold takes some of their families for base classes
and the others for novel ones. Every method gets the same number of trials: its published learning
rate times 1, 10, 0.1, 3.2, 0.32, in this order. Printed for each trial: base and pseudo-novel
accuracy on the drawing's test images, means over the folds, beside the frozen model's. The trial
with the highest harmonic mean is chosen; of equal ones the first. Choices go into a table that
`capt-stage tables` reads.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl
import torch
import yaml

import capt_core
from capt_core.artifacts.files import write_text
from capt_core.backbone.identity import TINY_CLIP_TEACHER
from capt_core.data.dataset import fingerprint
from capt_core.data.proctex.classes import CLASS_NAMES, GROUPS
from capt_core.evaluation.metrics import accuracy, harmonic_mean
from capt_core.evaluation.predictions import classified
from capt_core.methods.fitting import dataset_features, group_scorers
from capt_core.methods.method import Need
from capt_core.methods.registry import method_class, method_names

DRAWINGS = (7, 8)
SHOTS = 16
FOLDS = (
    ("stripes", "dots"),
    ("relief", "cracks"),
    ("stripes", "relief"),
    ("dots", "cracks"),
    ("stripes", "dots", "relief", "cracks"),  # all of them: as many classes as there will be
)
"""Families of the base half's classes that are base classes in a fold."""

TUNING_FOLDS = FOLDS[:2]
FACTORS = (1.0, 10.0, 0.1, 3.2, 0.32)
TABLE = Path("docs/results/tuned_rates.csv")
COLUMNS = ("method", "factor", "rates", "trials", "base", "novel", "harmonic_mean", "frozen_hm")


@dataclass
class Fold:
    """A data set with what it is tried on.

    Attributes:
        dataset: from `fold_of`.
        backbone: frozen.
        teachers: the fold's teacher, fitted when a method first needs one.
    """

    dataset: capt_core.Dataset
    backbone: capt_core.Backbone
    teachers: list[capt_core.TrainedModel] = field(default_factory=list)

    def teacher(self) -> capt_core.TrainedModel:
        """PromptSRC, as published, on the embedded teacher."""
        if not self.teachers:
            larger = capt_core.load_backbone(TINY_CLIP_TEACHER)
            fitted = capt_core.fit(
                "promptsrc", self.dataset, larger, shots=SHOTS, seed=1, calibrate=False
            )
            self.teachers.append(fitted)
        return self.teachers[0]


@dataclass(frozen=True)
class Trial:
    """A learning rate of a method, in per cent of the images, means over the folds.

    Attributes:
        method: its name.
        rates: learning rates by their place in the method's settings.
        factor: that they are the published ones times.
        base, novel: accuracies.
        harmonic: mean of their harmonic means.
        seconds: of training and measuring.
    """

    method: str
    rates: Mapping[str, float]
    factor: float
    base: float
    novel: float
    harmonic: float
    seconds: float

    def __str__(self) -> str:
        rates = ", ".join(f"{place} {rate:g}" for place, rate in self.rates.items())
        tried = f": {rates} (x {self.factor:g})" if rates else ""
        return (
            f"{self.method}{tried}: base {self.base:.2f} "
            f"novel {self.novel:.2f} HM {self.harmonic:.2f} ({self.seconds:.0f} s)"
        )


@contextmanager
def drawn_textures(drawing: int, folder: Path | None = None) -> Iterator[capt_core.Dataset]:
    """The textures of another drawing than the benchmark's, in a folder that may be temporary."""
    with tempfile.TemporaryDirectory() as temporary:
        yield capt_core.open_dataset("proctex", folder=folder or Path(temporary), seed=drawing)


def fold_of(textures: capt_core.Dataset, families: tuple[str, ...]) -> capt_core.Dataset:
    """The base half of the textures, some families as base classes and the others as novel ones."""
    chosen = [name for family in families for name in GROUPS[family]]
    names = chosen + [n for n in CLASS_NAMES[: len(CLASS_NAMES) // 2] if n not in chosen]
    rows = pl.DataFrame(
        {
            "class_id": pl.Series(range(len(names)), dtype=pl.Int64),
            "class_name": names,
            "group": ["base" if name in chosen else "novel" for name in names],
        }
    )
    classes = rows.join(
        textures.classes.drop("class_id", "group"), on="class_name", maintain_order="left"
    ).select(textures.classes.columns)
    samples = (
        textures.samples.drop("sample_id", "class_id")
        .join(rows.drop("group"), on="class_name", maintain_order="left")
        .with_row_index("sample_id")
        .with_columns(pl.col("sample_id").cast(pl.Int64))
        .select(textures.samples.columns)
    )
    digest = fingerprint(samples, classes, textures.fingerprint)
    return replace(textures, samples=samples, classes=classes, fingerprint=digest)


def published_rates(settings: Mapping[str, Any], place: str = "") -> dict[str, float]:
    """Learning rates in a method's settings by their dotted place, warm-up rates left out."""
    found: dict[str, float] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= published_rates(value, f"{place}{name}.")
        elif name.endswith("learning_rate") and not name.startswith("warmup"):
            found[place + name] = float(value)
    return found


def tuned_methods() -> list[str]:
    """Names of the methods that have a learning rate."""
    return [n for n in method_names() if published_rates(method_class(n).Settings().model_dump())]


def scaled(rates: Mapping[str, float], factor: float) -> dict[str, float]:
    """Rates times a factor, to three digits."""
    return {place: float(f"{rate * factor:.3g}") for place, rate in rates.items()}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted place as the nested mapping that `fit` takes."""
    found: dict[str, Any] = {}
    for place, value in values.items():
        *sections, name = place.split(".")
        section = found
        for each in sections:
            section = section.setdefault(each, {})
        section[name] = value
    return found


def accuracies(
    fold: capt_core.Dataset, model: capt_core.TrainedModel, stored: torch.Tensor | None = None
) -> tuple[float, float, float]:
    """Base, pseudo-novel and harmonic mean in per cent, each half's images among its classes.

    Args:
        fold: its test images are scored.
        model: that scores them.
        stored: frozen features of all samples, if they are at hand.
    """
    ids = fold.samples.filter(split="test")["sample_id"]
    features = dataset_features(model.fitted, fold, ids, stored, None, 128, 2)
    table = classified(fold, ids, features, group_scorers(model.fitted, fold), top_classes=1)
    base, novel = (accuracy(table.filter(group=group)).value for group in ("base", "novel"))
    assert base is not None
    assert novel is not None
    return base, novel, harmonic_mean(base, novel)


def trial(method: str, folds: Sequence[Fold], factor: float, settings: Mapping[str, Any]) -> Trial:
    """Fit a method on every fold at its published rates times a factor, and measure it.

    Args:
        method: its name.
        folds: to fit it on.
        factor: on the learning rates.
        settings: others than the packaged ones, by dotted place.
    """
    found = method_class(method)
    rates = scaled(published_rates(found.Settings().model_dump()), factor)
    changes = nested({**settings, **rates})
    results, seconds = [], 0.0
    for fold in folds:
        teacher = fold.teacher() if Need.TEACHER in found.needs else None
        started = time.process_time()
        model = capt_core.fit(
            method,
            fold.dataset,
            fold.backbone,
            shots=SHOTS,
            seed=1,
            teacher=teacher,
            settings=changes,
            calibrate=False,
        )
        results.append(accuracies(fold.dataset, model))
        seconds += time.process_time() - started
    base, novel, harmonic = map(fmean, zip(*results, strict=True))
    return Trial(method, rates, factor, base, novel, harmonic, seconds)


def best(trials: Sequence[Trial]) -> Trial:
    """That with the highest harmonic mean, the first of equal ones."""
    return max(trials, key=lambda each: each.harmonic)


def read_choices(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a table of choices by method; none where there is no table."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as stream:
        return {row["method"]: row for row in csv.DictReader(stream)}


def write_choices(path: Path, rows: Mapping[str, Mapping[str, str]]) -> None:
    """Write a table of choices, atomically, by name of the method."""
    text = StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows[name] for name in sorted(rows))
    write_text(path, text.getvalue())


def choice(chosen: Trial, frozen: Trial, trials: int) -> dict[str, str]:
    """The row of a method."""
    rates = " ".join(f"{place}={rate:g}" for place, rate in chosen.rates.items())
    values = (chosen.base, chosen.novel, chosen.harmonic, frozen.harmonic)
    numbers = [f"{value:.2f}" for value in values]
    row = [chosen.method, f"{chosen.factor:g}", rates, str(trials), *numbers]
    return dict(zip(COLUMNS, row, strict=True))


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if wrong := [setting for setting in options.set if "=" not in setting]:
        parser.error(f"--set {wrong[0]}: give KEY=VALUE")
    extra = {
        key: yaml.safe_load(value) for key, _, value in (s.partition("=") for s in options.set)
    }
    backbone = capt_core.load_backbone()
    with drawn_textures(options.drawing, options.work) as textures:
        folds = [Fold(fold_of(textures, families), backbone) for families in TUNING_FOLDS]
        frozen = trial("clip", folds, 1.0, {})
        print(frozen, flush=True)
        for method in options.method:
            trials = []
            for factor in FACTORS[: options.trials]:
                trials.append(trial(method, folds, factor, extra))
                print(trials[-1], flush=True)
            chosen = best(trials)
            print(f"chosen: {chosen}", flush=True)
            row = choice(chosen, frozen, len(trials))
            write_choices(options.output, read_choices(options.output) | {method: row})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Choose learning rates on pseudo-novel folds.")
    parser.add_argument("--method", action="append", required=True, choices=tuned_methods())
    parser.add_argument("--trials", type=int, choices=range(1, len(FACTORS) + 1), default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--drawing", type=int, default=DRAWINGS[0], help="seed of the textures")
    parser.add_argument("--work", type=Path, help="folder for images; a temporary one if absent")
    parser.add_argument("--output", type=Path, default=TABLE)
    return parser


if __name__ == "__main__":
    main()
