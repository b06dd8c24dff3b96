"""Findings made by hand or drawn at random, consistent with each other, for tests of the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from capt_core.artifacts.report_tables import (
    CLASS_RESULTS,
    IMAGE_MAP,
    NEXT_STEPS,
    PAIR_RESULTS,
    PRECISION,
    RELIABILITY,
    RUN_CHANGES,
    SUMMARY,
    SUSPECTED_LABELS,
    TEST_ERRORS,
)
from capt_core.artifacts.schemas import CLASSES, RESULTS, TRAINING_LOG
from capt_core.reporting.findings import Findings, PairedDifference

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "very long " * 20 + "name",
    "\u202egnp.evil",
    "line\nbreak",
    "\"quoted\" & 'so' on",
    "{{ 7 * 7 }}",
    "<!--",
    "漢字 🙂",
)


@dataclass(frozen=True)
class Answers:
    """Test images with what both models say of them in one seed.

    Attributes:
        truth: class ids, [N].
        before: base model's class ids, [N].
        after: repaired model's class ids, [N]; None without one.
    """

    truth: Sequence[int]
    before: Sequence[int]
    after: Sequence[int] | None


def random_answers(
    classes: int,
    images: int,
    errors: int,
    seed: int,
    *,
    repaired: bool = True,
    halves: bool = False,
) -> Answers:
    """Answers with that many errors before, of which about half are repaired and a few added.

    The truth and the base model's answers do not depend on the seed.
    """
    fixed, drawn = np.random.default_rng(0), np.random.default_rng(seed)
    truth = np.arange(images) % classes
    before = truth.copy()

    def other(rows: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
        # Neighbours most of all, as confusions are: a few pairs hold most errors.
        low = np.where(truth[rows] < (classes + 1) // 2, 0, (classes + 1) // 2) if halves else 0
        size = np.where(low > 0, classes // 2, (classes + 1) // 2) if halves else classes
        shift = np.minimum(1 + rng.geometric(0.5, len(rows)) - 1, size - 1)
        return np.asarray(low + (truth[rows] - low + np.maximum(shift, 1)) % size)

    wrong = fixed.permutation(images)[:errors]
    before[wrong] = other(wrong, fixed)
    if not repaired:
        return Answers(truth.tolist(), before.tolist(), None)
    after = before.copy()
    fate = drawn.random(len(wrong))
    after[wrong[fate < 0.5]] = truth[wrong[fate < 0.5]]
    moved = wrong[fate > 0.85]
    after[moved] = other(moved, drawn)
    right = np.setdiff1d(np.arange(images), wrong)
    broken = drawn.permutation(right)[: errors // 8]
    after[broken] = other(broken, drawn)
    return Answers(truth.tolist(), before.tolist(), after.tolist())


def findings(
    answers: Mapping[int, Answers],
    *,
    names: Sequence[str],
    image_root: Path | None = None,
    halves: bool = False,
    confidences: bool = True,
    path: Any = "{name}/{index}.png",
    name: str = "mine",
) -> Findings:
    """Findings whose tables follow from the answers by seed."""
    first = next(iter(answers.values()))
    repaired = first.after is not None
    half = (len(names) + 1) // 2 if halves else len(names)
    group = ["base" if class_id < half else "novel" for class_id in range(len(names))]

    def path_of(index: int) -> str:
        place = names[first.truth[index]].replace("/", "-") if "{name}" in path else ""
        return str(path).format(name=place, index=index)

    classes = CLASSES.frame(
        [
            {"class_id": i, "class_name": text, "group": group[i], "template": "a photo of a {}."}
            for i, text in enumerate(names)
        ]
    )
    errors = [
        {
            "seed": seed,
            "sample_id": index,
            "path": path_of(index),
            "group": group[truth],
            "true_class_id": truth,
            "true_class": names[truth],
            "base_prediction_id": before,
            "base_prediction": names[before],
            "base_confidence": 0.5 + index % 50 / 100 if confidences else None,
            "prediction_id": after if repaired else None,
            "prediction": names[after] if repaired else None,
            "confidence": 0.6 if repaired and confidences else None,
            "outcome": outcome(truth, before, after) if repaired else "error",
            "representative_path": path_of(0) if index % 2 else None,
        }
        for seed, given in answers.items()
        for index, (truth, before, after) in enumerate(
            zip(given.truth, given.before, given.after or given.before, strict=True)
        )
        if {before, after} != {truth}
    ]
    return Findings(
        name=name,
        protocol="base_to_novel" if halves else "all_classes",
        base_label="zero-shot CLIP (ViT-B/16)",
        repaired_label="CAPT" if repaired else None,
        image_root=image_root,
        facts=["Backbone: ViT-B/16", f"Seeds: {', '.join(map(str, answers))}"],
        warnings=[],
        further=[] if repaired else [("The repaired model beside it.", "capt-stage run --until x")],
        classes=classes,
        summary=SUMMARY.frame(_summary(answers, group, repaired)),
        errors=TEST_ERRORS.frame(errors),
        pairs=PAIR_RESULTS.frame(_pairs(answers, names, group, repaired)),
        class_results=CLASS_RESULTS.frame(_class_results(answers, names, group, repaired)),
        suspects=SUSPECTED_LABELS.frame(),
        steps=NEXT_STEPS.frame(),
        reliability=RELIABILITY.frame(),
        precision=PRECISION.frame(),
        image_map=IMAGE_MAP.frame(),
        difference={each: PairedDifference(0.05, 0.02, 0.08, 0.0004) for each in sorted(set(group))}
        if repaired
        else {},
        provenance=[{"method": "clip", "seed": "1", "settings": "s1", "fingerprint": "f1"}],
    )


def with_everything(found: Findings) -> Findings:
    """The same with suspects, steps, calibration, map, curves and a comparison."""
    names = found.classes["class_name"].to_list()
    images = found.errors.unique("path", maintain_order=True)
    rows = images.head(7).to_dicts()
    rng = np.random.default_rng(1)
    counts = dict(found.class_results.select("class_id", "images").iter_rows())
    by_class = images.group_by("true_class_id").agg("sample_id", "path")
    points = []
    for class_id, ids, paths in by_class.iter_rows():
        angle = 2 * np.pi * class_id / len(names)
        middle = 0.5 + 0.32 * np.array([np.cos(angle), np.sin(angle)])
        rest = range(counts[class_id] - len(ids))
        every = [*zip(ids, paths, strict=True)]
        every += [(10**6 + 10**4 * class_id + i, f"{class_id}/right {i}.png") for i in rest]
        points += [
            {"sample_id": sample, "path": path, "class_id": class_id, "class_name": names[class_id]}
            | dict(zip("xy", np.clip(rng.normal(middle, 0.06), 0, 1).tolist(), strict=True))
            for sample, path in every
        ]
    log = pl.DataFrame(
        [{"step": s, "epoch": 1, "learning_rate": 1 / s, "loss": 2 / s} for s in range(1, 60)]
    )
    models = ("base", "repaired", "calibrated")
    return replace(
        found,
        warnings=["The model does hardly better than chance on these images."],
        suspects=SUSPECTED_LABELS.frame(
            [
                {
                    "sample_id": row["sample_id"],
                    "path": row["path"],
                    "split": "test",
                    "label_id": row["true_class_id"],
                    "label": row["true_class"],
                    "suggested_id": row["base_prediction_id"],
                    "suggested": row["base_prediction"],
                    "kind": ("label", "ambiguous")[index % 2],
                    "label_probability": 0.04,
                    "suggested_probability": 0.91,
                }
                for index, row in enumerate(rows)
            ]
        ),
        steps=NEXT_STEPS.frame(
            [
                {
                    "position": position,
                    **{
                        key: pair[key]
                        for key in ("true_class_id", "true_class", "taken_class_id", "taken_class")
                    },
                    "action": action,
                    "reason": "Their texts have a cosine of 0.97.",
                    "command": f"capt-stage prompts --dataset mine --pair {position}",
                }
                for position, (pair, action) in enumerate(
                    zip(found.pairs.to_dicts(), ("rename_classes", "write_prompts"), strict=False),
                    start=1,
                )
            ]
        ),
        reliability=RELIABILITY.frame(
            [
                {
                    "model": model,
                    "lower": low / 10,
                    "upper": low / 10 + 0.1,
                    "images": 10 * low + 5,
                    "confidence": low / 10 + 0.05,
                    "accuracy": min(1.0, low / 10 + offset),
                }
                for model, offset in zip(models, (0.0, 0.02, 0.05), strict=True)
                for low in range(2, 10)
            ]
        ),
        precision=PRECISION.frame(
            [
                {"model": m, "precision": p, "threshold": None if p > 0.98 else p, "coverage": 0.6}
                for m in models
                for p in (0.9, 0.95, 0.99)
            ]
        ),
        image_map=IMAGE_MAP.frame(points),
        calibration={"base": 7.2, "repaired": 4.1, "calibrated": 1.2},
        training_logs={1: TRAINING_LOG.select(log), 2: TRAINING_LOG.select(log)},
        compared=(
            "first try",
            RUN_CHANGES.frame(
                [
                    {
                        "path": row["path"],
                        "true_class": row["true_class"],
                        "before": row["base_prediction"] if index else None,
                        "before_confidence": 0.5 if index else None,
                        "now": row["true_class"],
                        "now_confidence": 0.75,
                        "outcome": "repaired" if index else "added",
                    }
                    for index, row in enumerate(rows)
                ]
            ),
        ),
    )


def draw_images(found: Findings, root: Path, side: int = 24) -> Findings:
    """Write every image that the tables name, as drawn textures of that side."""
    paths = {*found.errors["path"], *found.errors["representative_path"].drop_nulls()}
    for number, path in enumerate(sorted(paths)):
        rng = np.random.default_rng(number)
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(place)
    return replace(found, image_root=root)


def results_of(names: Sequence[str] = ("mine",), methods: Sequence[str] = ("clip", "capt")) -> Any:
    """Table `results` of those data sets and methods."""
    return RESULTS.frame(
        [
            {
                "dataset": name,
                "method": method,
                "variant": "default",
                "sees": "base only",
                "protocol": "base_to_novel",
                "seed": 1,
                "metric": metric,
                "value": 50.0 + number,
                "n": 100,
            }
            for name in names
            for number, method in enumerate(methods)
            for metric in ("base_accuracy", "novel_accuracy", "harmonic_mean")
        ]
    )


def outcome(truth: int, before: int, after: int) -> str:
    """Of an image that at least one of the two answers gets wrong."""
    if before == truth:
        return "newly_wrong"
    if after == truth:
        return "repaired"
    return "same_error" if before == after else "another_error"


def _outcomes(given: Answers, group: Sequence[str], which: str) -> Counter[str]:
    return Counter(
        outcome(truth, before, after)
        for truth, before, after in zip(
            given.truth, given.before, given.after or given.before, strict=True
        )
        if group[truth] == which and {before, after} != {truth}
    )


def _summary(
    answers: Mapping[int, Answers], group: Sequence[str], repaired: bool
) -> list[dict[str, Any]]:
    rows = []
    for which in sorted(set(group)):
        for seed, given in answers.items():
            found = _outcomes(given, group, which)
            wrong = found["repaired"] + found["same_error"] + found["another_error"]
            row: dict[str, Any] = {
                "group": which,
                "seed": seed,
                "classes": list(group).count(which),
                "images": sum(group[truth] == which for truth in given.truth),
                "errors_before": wrong,
            }
            if repaired:
                row |= {
                    "errors_after": wrong - found["repaired"] + found["newly_wrong"],
                    **{
                        key: found[key]
                        for key in ("repaired", "same_error", "another_error", "newly_wrong")
                    },
                    "p_value": 0.0004,
                }
            rows.append(row)
    return rows


def _pairs(
    answers: Mapping[int, Answers], names: Sequence[str], group: Sequence[str], repaired: bool
) -> list[dict[str, Any]]:
    counts: dict[tuple[int, int], Counter[str]] = {}
    moved: dict[tuple[int, int], Counter[int]] = {}
    images = Counter(next(iter(answers.values())).truth)
    for given in answers.values():
        for truth, before, after in zip(
            given.truth, given.before, given.after or given.before, strict=True
        ):
            if before != truth:
                what = outcome(truth, before, after)
                counts.setdefault((truth, before), Counter())[what] += 1
                if what == "another_error":
                    moved.setdefault((truth, before), Counter())[after] += 1
            if after not in (truth, before):
                what = "newly_wrong" if before == truth else "moved_here"
                counts.setdefault((truth, after), Counter())[what] += 1
    rows = []
    stages = ("repaired", "same_error", "another_error", "newly_wrong", "moved_here")
    for (true_id, taken_id), found in counts.items():
        mean = {key: found[key] / len(answers) for key in stages}
        row: dict[str, Any] = {
            "group": group[true_id],
            "true_class_id": true_id,
            "true_class": names[true_id],
            "taken_class_id": taken_id,
            "taken_class": names[taken_id],
            "images": images[true_id],
            "before": mean["repaired"] + mean["same_error"] + mean["another_error"],
        }
        if repaired:
            gone = moved.get((true_id, taken_id))
            row |= mean | {
                "after": mean["same_error"] + mean["newly_wrong"] + mean["moved_here"],
                "moved_to": names[gone.most_common(1)[0][0]] if gone else None,
            }
        rows.append(row)
    return sorted(
        rows, key=lambda row: (-row["before"], row["true_class_id"], row["taken_class_id"])
    )


def _class_results(
    answers: Mapping[int, Answers], names: Sequence[str], group: Sequence[str], repaired: bool
) -> list[dict[str, Any]]:
    given = next(iter(answers.values()))
    images = Counter(given.truth)
    right = [Counter(), Counter()]  # type: list[Counter[int]]
    taken: dict[int, Counter[str]] = {}
    for truth, before, after in zip(
        given.truth, given.before, given.after or given.before, strict=True
    ):
        right[0][truth] += before == truth
        right[1][truth] += after == truth
        if after != truth:
            taken.setdefault(truth, Counter())[names[after]] += 1
    rows = []
    for class_id, name in enumerate(names):
        mostly = taken.get(class_id, Counter()).most_common(2)
        row: dict[str, Any] = {
            "group": group[class_id],
            "class_id": class_id,
            "class_name": name,
            "images": images[class_id],
            "mostly_taken_for": [other for other, _ in mostly],
            "taken_for_images": [float(count) for _, count in mostly],
        }
        for when, counter in zip(("before", "after"), right, strict=True):
            if images[class_id] and (repaired or when == "before"):
                value = counter[class_id] / images[class_id]
                row |= {
                    f"accuracy_{when}": value,
                    f"accuracy_{when}_low": max(0.0, value - 0.1),
                    f"accuracy_{when}_high": min(1.0, value + 0.1),
                }
        rows.append(row)
    return rows
