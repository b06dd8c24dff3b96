"""What difference prompts for all classes are worth, and how much of it insider wording is.

    OMP_NUM_THREADS=1 python -m benchmarks.described --method clip_prompts

Draws the embedded textures anew (with another seed than the benchmark's, so none of its images
occurs). Methods are fitted with `describe: all` on the base half, once with each store of written
prompts: the shipped one, whose writer knew how the textures are drawn; `contact_sheet`, whose
writer had seen pictures of the classes alone; and `shuffled`, the contact sheet's sentences given
to other classes of the same half, which must do harm. Printed: base and novel accuracy on the
drawing's test images in per cent, each half's images among its classes, beside the frozen model's.
With `--folds` the base half alone is used, its families in turn as base and pseudo-novel classes.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import capt_core
from benchmarks.pseudo_novel_folds import (
    DRAWINGS,
    FOLDS,
    SHOTS,
    accuracies,
    drawn_textures,
    fold_of,
)
from capt_core.artifacts.files import write_text
from capt_core.data.proctex.classes import CLASS_NAMES
from capt_core.methods.fitting import dataset_features
from capt_core.prompts.store import load_store, shipped_store, store_text

EDITION = "contact_sheet"
DESCRIBE: Mapping[str, Mapping[str, Any]] = {
    "clip_prompts": {"describe": "all"},
    "residual_adapter": {"describe": "all"},
    "capt": {"class_texts": {"describe": "all"}},
}


def shuffled(store: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """A store whose pairs have the sentences of other pairs: each class takes those of another.

    Args:
        store: content of a store file.
        seed: of the ring in which the classes of a half stand.
    """
    draw = random.Random(seed)
    place: dict[str, str] = {}
    middle = len(CLASS_NAMES) // 2
    for half in (CLASS_NAMES[:middle], CLASS_NAMES[middle:]):
        order = list(half)
        draw.shuffle(order)
        place.update(zip(order, order[1:] + order[:1], strict=True))
    by_pair = {frozenset(entry["classes"]): entry for entry in store["pairs"]}
    pairs = []
    for entry in store["pairs"]:
        source = by_pair.get(frozenset(place[name] for name in entry["classes"]))
        if source is not None:
            difference = {name: source["difference"][place[name]] for name in entry["classes"]}
            pairs.append({**entry, "difference": difference})
    return {**store, "pairs": pairs}


def stores(folder: Path) -> Iterator[tuple[str, Path]]:
    """Each store under its name; the shuffled one is written into a folder."""
    usual, sheet = shipped_store("proctex"), shipped_store("proctex", EDITION)
    assert usual is not None
    assert sheet is not None
    yield "shipped", usual
    yield EDITION, sheet
    control = folder / "shuffled.json"
    content = json.loads(store_text(load_store(sheet, "proctex")))
    write_text(control, json.dumps(shuffled(content)))
    yield "shuffled", control


def image_features(model: capt_core.TrainedModel, dataset: capt_core.Dataset) -> torch.Tensor:
    """Frozen features of the test images by sample id, zero for others."""
    ids = dataset.samples.filter(split="test")["sample_id"]
    found = dataset_features(model.fitted, dataset, ids, None, None, 128, 2)
    features = torch.zeros(len(dataset.samples), found.shape[1])
    features[ids.to_list()] = found
    return features


def measure(
    datasets: Sequence[capt_core.Dataset], methods: Sequence[str], seeds: Sequence[int]
) -> Iterator[str]:
    """A line for the frozen model, then for every method and store: means over data and seeds."""
    backbone = capt_core.load_backbone()
    plain = capt_core.fit("clip", datasets[0], backbone, shots=SHOTS, calibrate=False)
    frozen = [capt_core.fit("clip", each, backbone, calibrate=False) for each in datasets]
    features = [image_features(plain, each) for each in datasets]
    trios = list(zip(frozen, datasets, features, strict=True))
    untouched = list(map(accuracies, datasets, frozen, features))
    yield _line("clip", "class prompts", untouched)
    with tempfile.TemporaryDirectory() as folder:
        for method in methods:
            for name, store in stores(Path(folder)):
                results = []
                for base, dataset, stored in trios:
                    for seed in seeds:
                        model = capt_core.fit(
                            method,
                            dataset,
                            backbone,
                            shots=SHOTS,
                            seed=seed,
                            base_model=base,
                            settings=DESCRIBE[method],
                            prompts=store,
                            calibrate=False,
                        )
                        results.append(accuracies(dataset, model, stored))
                yield _line(method, name, results)


def _line(method: str, store: str, results: Sequence[tuple[float, float, float]]) -> str:
    base, novel, middle = map(fmean, zip(*results, strict=True))
    return f"{method}, {store}: base {base:.2f} novel {novel:.2f} HM {middle:.2f}"


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Measure difference prompts for all classes.")
    parser.add_argument("--method", action="append", required=True, choices=list(DESCRIBE))
    parser.add_argument("--seed", action="append", type=int, help="few-shot draw; 1 if not given")
    parser.add_argument("--drawing", type=int, default=DRAWINGS[0], help="seed of the textures")
    parser.add_argument("--folds", action="store_true", help="pseudo-novel folds of the base half")
    parser.add_argument("--work", type=Path, help="folder for images; a temporary one if absent")
    options = parser.parse_args(arguments)
    with drawn_textures(options.drawing, options.work) as textures:
        tried = [textures]
        if options.folds:
            tried = [fold_of(textures, families) for families in FOLDS[:4]]
        for line in measure(tried, options.method, options.seed or [1]):
            print(line, flush=True)


if __name__ == "__main__":
    main()
