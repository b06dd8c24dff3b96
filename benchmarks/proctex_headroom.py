"""How far the embedded model is from its own features, and how systematic its mistakes are.

    python benchmarks/proctex_headroom.py [--per-class 112] [--markdown report.md]

Prints, on freshly rendered test images: zero-shot accuracy of each half, the commonest
confusions, the rank correlation of confusion counts between two disjoint test sets, and linear
probes on the frozen image features with 16 and 60 images of each class. The gap between probe and
zero-shot is what few-shot tuning can win; the correlation says whether mistakes repeat.
Takes about a minute on two cores.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from capt_core.backbone.tiny_clip import Tokenizer, load_model
from capt_core.backbone.tiny_clip.corpus import render_set
from capt_core.backbone.tiny_clip.measure import (
    HALVES,
    Features,
    confusion_counts,
    embed_class_names,
    embed_images,
    linear_probe,
    zero_shot,
)
from capt_core.data.proctex import CLASS_NAMES

_OTHER_SEED = 1
_POOL = 60
_DRAWS = 3


@dataclass(frozen=True)
class Headroom:
    """What the benchmark measures; accuracies in per cent.

    Attributes:
        images: number of test images.
        zero_shot: accuracy by half, and ``all`` for thirty classes.
        probe_16: accuracies of the probes on 16 images of each class, by half, one per draw.
        probe_60: accuracy of the probe on 60 images of each class, by half.
        confusions: images by true and predicted class, (30, 30), within halves.
        rank_correlation: Spearman's coefficient of the off-diagonal counts of two test sets.
        same_top: classes whose commonest confusion is the same in both sets.
    """

    images: int
    zero_shot: dict[str, float]
    probe_16: dict[str, list[float]]
    probe_60: dict[str, float]
    confusions: NDArray[np.int64]
    rank_correlation: float
    same_top: int


def measure_headroom(per_class: int, workers: int, weights: Path | None = None) -> Headroom:
    """Measure the packaged model, or other weights, on ``per_class`` test images of each class."""
    model = load_model(weights)
    names = embed_class_names(model, Tokenizer())

    def features(seed: int, split: str, count: int) -> Features:
        textures = render_set(seed, split, count, workers)
        return Features(embed_images(model, textures.images), textures.labels)

    test = features(0, "test", per_class)
    pool = features(0, "train", _POOL)
    confusions = confusion_counts(test, names)
    others = confusion_counts(features(_OTHER_SEED, "test", per_class), names)
    return Headroom(
        images=len(test.labels),
        zero_shot=zero_shot(test, names),
        probe_16={
            half: [linear_probe(pool, test, classes, 16, draw) for draw in range(_DRAWS)]
            for half, classes in HALVES.items()
        },
        probe_60={
            half: linear_probe(pool, test, classes, _POOL, 0) for half, classes in HALVES.items()
        },
        confusions=confusions,
        rank_correlation=_rank_correlation(confusions, others),
        same_top=int((_top(confusions) == _top(others)).sum()),
    )


def to_markdown(result: Headroom) -> str:
    """The measurements as a small Markdown report."""
    lines = [
        f"Test images: {result.images}. Accuracy in per cent, fifteen classes competing.",
        "",
        "| | base | novel |",
        "|---|---|---|",
        _row("zero-shot", {half: [result.zero_shot[half]] for half in HALVES}),
        _row("linear probe, 16 shots", result.probe_16),
        _row("linear probe, 60 shots", {half: [result.probe_60[half]] for half in HALVES}),
        "",
        f"Zero-shot over all thirty classes: {result.zero_shot['all']:.1f}.",
        f"Rank correlation of confusion counts between two test sets: "
        f"{result.rank_correlation:.2f}; the commonest confusion is the same for "
        f"{result.same_top} of {len(CLASS_NAMES)} classes.",
        "",
        "| true class | taken for | images | share of the class |",
        "|---|---|---|---|",
    ]
    per_class = result.confusions.sum(axis=1)
    for true, taken, count in top_confusions(result.confusions, 12):
        share = count / per_class[true]
        lines.append(f"| {CLASS_NAMES[true]} | {CLASS_NAMES[taken]} | {count} | {share:.0%} |")
    return "\n".join(lines) + "\n"


def top_confusions(counts: NDArray[np.int64], limit: int) -> list[tuple[int, int, int]]:
    """The commonest confusions: true label, predicted label, number of images."""
    wrong = _off_diagonal(counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    rows, columns = np.unravel_index(order, counts.shape)
    return [(int(r), int(c), int(wrong[r, c])) for r, c in zip(rows, columns, strict=True)]


def _rank_correlation(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    pairs = np.zeros(first.shape, dtype=np.bool_)
    for classes in HALVES.values():
        pairs[np.ix_(list(classes), list(classes))] = True
    np.fill_diagonal(pairs, False)
    return float(spearmanr(first[pairs], second[pairs]).statistic)


def _top(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray(_off_diagonal(counts).argmax(axis=1), dtype=np.int64)


def _off_diagonal(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    return wrong


def _row(label: str, values: dict[str, list[float]]) -> str:
    cells = []
    for half in HALVES:
        accuracies = values[half]
        spread = f" ({min(accuracies):.1f}-{max(accuracies):.1f})" if len(accuracies) > 1 else ""
        cells.append(f"{mean(accuracies):.1f}{spread}")
    return f"| {label} | {cells[0]} | {cells[1]} |"


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Headroom and confusions of the tiny CLIP.")
    parser.add_argument("--per-class", type=int, default=112, help="test images of each class")
    parser.add_argument("--markdown", type=Path, help="file to write the report to")
    parser.add_argument("--weights", type=Path, help="weights other than the packaged ones")
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    options = parser.parse_args()
    torch.set_num_threads(2)
    report = to_markdown(measure_headroom(options.per_class, options.workers, options.weights))
    print(report, end="")
    if options.markdown:
        options.markdown.write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
