"""Ways to show where a model looks, by what they find: deletion, insertion, and collages.

    OMP_NUM_THREADS=1 python -m benchmarks.explanation [--images 50] [--collages 50] [--only NAME]

Fits CAPT on the embedded textures and attributes the score of its answer less that of its second
guess to 8 x 8 cells of test images.

*Deletion* hides cells, those first that speak most for the answer, *insertion* shows them first on
a hidden image: how much lower, or higher, the score is than with random orders, in logits, mean
over the steps; and the share of images for which it is. What hides a cell is the mean colour or a
blurred image, so that no method is judged only by what it hides cells with itself. *Collages* of
two textures of two classes, two quadrants each: the area under the ROC curve of the attribution as
a sign of the first class's quadrants, and how often the strongest evidence for each class lies in
its quadrants (the pointing game).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import captum.attr
import numpy as np
import polars as pl
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

import capt_core
from capt_core.data.images import open_image
from capt_core.explanation import averaged_occlusion, blurred, occlusion

GRID = 8
STEP = 4  # cells hidden at once
ORDERS = 3  # random ones, for comparison

Score = Callable[[torch.Tensor], torch.Tensor]
Attribution = Callable[[Score, torch.Tensor], torch.Tensor]
"""A score [B] of images, and an image [3, S, S], to evidence [8, 8]."""


@dataclass(frozen=True)
class Case:
    """An image [3, S, S] and the classes that are told apart on it."""

    image: torch.Tensor
    first: int
    second: int


def cells(pixels: torch.Tensor) -> torch.Tensor:
    """Evidence of pixels [S, S], summed over cells, [8, 8]."""
    return functional.avg_pool2d(pixels[None], pixels.shape[-1] // GRID)[0]


def hidden(image: torch.Tensor, by: str) -> torch.Tensor:
    return torch.zeros_like(image) if by == "mean colour" else blurred(image)


def attributions(tower: Any) -> dict[str, Attribution]:
    """What is compared, by name."""
    first, last = tower.ln_pre, tower.transformer.resblocks[-1].ln_1

    def tokens(found: torch.Tensor) -> torch.Tensor:
        return found.detach().sum(dim=-1)[0, 1 : 1 + GRID**2].reshape(GRID, GRID)

    def windows(width: int, by: str) -> Attribution:
        def run(score: Score, image: torch.Tensor) -> torch.Tensor:
            cell = image.shape[-1] // GRID
            found = occlusion(_column(score), image, hidden(image, by), width * cell, cell)
            return cells(found[0])

        return run

    def shapley(score: Score, image: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        cell = image.shape[-1] // GRID
        numbers = torch.arange(GRID**2).reshape(1, 1, GRID, GRID)
        mask = numbers.repeat_interleave(cell, 2).repeat_interleave(cell, 3)
        found = captum.attr.ShapleyValueSampling(score).attribute(
            image[None],
            feature_mask=mask.expand(1, 3, -1, -1).contiguous(),
            baselines=blurred(image)[None],
            n_samples=10,
            perturbations_per_eval=64,
        )
        return cells(found[0, 0])

    def gradients(score: Score, image: torch.Tensor) -> torch.Tensor:
        found = captum.attr.IntegratedGradients(score).attribute(
            image[None], baselines=blurred(image)[None], n_steps=32
        )
        return cells(found[0].sum(dim=0).detach())

    def layer_gradients(score: Score, image: torch.Tensor) -> torch.Tensor:
        found = captum.attr.LayerIntegratedGradients(score, first).attribute(
            image[None], baselines=blurred(image)[None], n_steps=32
        )
        return tokens(found)

    def gradient_times(layer: Any) -> Attribution:
        def run(score: Score, image: torch.Tensor) -> torch.Tensor:
            given = image[None].clone().requires_grad_(True)
            return tokens(captum.attr.LayerGradientXActivation(score, layer).attribute(given))

        return run

    def grad_cam(score: Score, image: torch.Tensor) -> torch.Tensor:
        kept = []
        hook = last.register_forward_hook(lambda _module, _given, out: kept.append(out))
        try:
            total = score(image[None].clone().requires_grad_(True)).sum()
        finally:
            hook.remove()
        (slope,) = torch.autograd.grad(total, kept[0])
        patches = slice(1, 1 + GRID**2)
        return tokens(kept[0] * slope[:, patches].mean(dim=1, keepdim=True))

    return {
        "occlusion, averaged (explain)": lambda score, image: cells(
            averaged_occlusion(_column(score), image)[0]
        ),
        **{
            f"occlusion, {width} cell{'s' if width > 1 else ''}, {by}": windows(width, by)
            for width, by in product((1, 2, 3), ("mean colour", "blurred"))
        },
        "Shapley values, 10 permutations": shapley,
        "integrated gradients, pixels": gradients,
        "integrated gradients, tokens": layer_gradients,
        "gradient x activation, first layer": gradient_times(first),
        "gradient x activation, last layer": gradient_times(last),
        "Grad-CAM, last layer": grad_cam,
        "random": lambda _score, _image: torch.rand(GRID, GRID),
    }


def _column(score: Score) -> Score:
    return lambda images: score(images)[:, None]


def class_score(model: capt_core.TrainedModel, case: Case) -> Score:
    """The first class's logit less the second's."""

    def score(images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(images)
        return logits[:, case.first] - logits[:, case.second]

    return score


@torch.no_grad()
def mean_score(
    score: Score, image: torch.Tensor, by: str, order: torch.Tensor, insertion: bool
) -> float:
    """Mean of the score while cells are hidden, or shown, in an order."""
    rank = torch.empty(GRID**2, dtype=torch.long)
    rank[order] = torch.arange(GRID**2)
    cell = image.shape[-1] // GRID
    ranks = rank.reshape(GRID, GRID).repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    counts = torch.arange(0, GRID**2 + 1, STEP)[:, None, None, None]
    gone = (ranks < counts) != insertion
    return float(score(torch.where(gone, hidden(image, by), image)).mean())


def test_cases(
    model: capt_core.TrainedModel, dataset: capt_core.Dataset, count: int
) -> Iterator[Case]:
    """Test images, with the model's answer and second guess."""
    for path in _drawn(dataset.samples.filter(split="test"), count)["path"]:
        image = _read(model, dataset, path)
        with torch.no_grad():
            first, second = model(image[None])[0].topk(2).indices.tolist()
        yield Case(image, first, second)


def collages(
    model: capt_core.TrainedModel, dataset: capt_core.Dataset, count: int
) -> Iterator[Case]:
    """Two textures of two classes, each in two opposite quadrants; all are classified rightly."""
    random = np.random.default_rng(0)
    test = dataset.samples.filter(split="test")
    made = 0
    while made < count:
        first, second = random.choice(len(dataset.class_names), 2, replace=False).tolist()
        quarters = []
        for class_id in (first, second, second, first):
            rows = test.filter(class_id=class_id)
            image = _read(model, dataset, rows["path"][int(random.integers(len(rows)))])
            with torch.no_grad():
                if int(model(image[None]).argmax()) != class_id:
                    break
            quarter = image.shape[-1] // 4
            quarters.append(image[:, quarter : 3 * quarter, quarter : 3 * quarter])
        if len(quarters) == 4:
            above, below = torch.cat(quarters[:2], dim=2), torch.cat(quarters[2:], dim=2)
            made += 1
            yield Case(torch.cat([above, below], dim=1), first, second)


def _drawn(rows: pl.DataFrame, count: int) -> pl.DataFrame:
    return rows.sample(count, seed=0, shuffle=True)


def _read(model: capt_core.TrainedModel, dataset: capt_core.Dataset, path: str) -> torch.Tensor:
    assert dataset.image_root is not None
    return model.preprocess(open_image(dataset.image_root / path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--collages", type=int, default=50)
    parser.add_argument("--only", help="methods whose names hold this")
    parser.add_argument("--model", type=Path, help="model of the textures, in place of a new one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        drawn = (1, 1, 112) if given.model else (64, 16, 112)
        dataset = capt_core.open_dataset("proctex", folder=folder, images=drawn)
        backbone = capt_core.load_backbone(device="cpu")
        if given.model:
            model = capt_core.load_model(given.model, backbone)
        else:
            model = capt_core.fit("capt", dataset, backbone)
        images = list(test_cases(model, dataset, given.images))
        pasted = list(collages(model, dataset, given.collages))
    compare(model, images, pasted, given.only or "")


def compare(
    model: capt_core.TrainedModel, images: list[Case], pasted: list[Case], only: str
) -> None:
    """Print a row per method."""
    kinds = list(product(("mean colour", "blurred"), (False, True)))
    random = torch.Generator().manual_seed(0)
    chance: list[dict[tuple[str, bool], float]] = []
    for case in images:
        score = class_score(model, case)
        orders = [torch.randperm(GRID**2, generator=random) for _ in range(ORDERS)]
        chance.append(
            {
                kind: float(np.mean([mean_score(score, case.image, kind[0], each, kind[1])
                                     for each in orders]))
                for kind in kinds
            }
        )  # fmt: skip
    titles = [f"{'insertion' if insertion else 'deletion'}, {by}" for by, insertion in kinds]
    print(f"| | {' | '.join(titles)} | collage | points | ms |")
    print("|---|" + "---:|" * 7)
    half = GRID // 2
    truth = torch.zeros(GRID, GRID, dtype=torch.bool)
    truth[:half, :half] = truth[half:, half:] = True
    for name, attribute in attributions(model.fitted.backbone.clip.visual).items():
        if only not in name:
            continue
        torch.manual_seed(0)
        gains: dict[tuple[str, bool], list[float]] = {kind: [] for kind in kinds}
        spent = 0.0
        for case, usual in zip(images, chance, strict=True):
            score, start = class_score(model, case), time.process_time()
            order = attribute(score, case.image).flatten().argsort(descending=True, stable=True)
            spent += time.process_time() - start
            for by, insertion in kinds:
                found = mean_score(score, case.image, by, order, insertion)
                gains[by, insertion].append((found - usual[by, insertion]) * (2 * insertion - 1))
        areas, points = [], []
        for case in pasted:
            found_map = attribute(class_score(model, case), case.image)
            areas.append(roc_auc_score(truth.flatten().numpy(), found_map.flatten().numpy()))
            inside = truth.flatten()
            points += [bool(inside[found_map.argmax()]), not bool(inside[found_map.argmin()])]
        told = [f"{np.mean(gains[k]):.2f} ({np.mean(np.array(gains[k]) > 0):.0%})" for k in kinds]
        print(
            f"| {name} | {' | '.join(told)} | {np.mean(areas):.3f} | {np.mean(points):.0%} "
            f"| {1000 * spent / max(1, len(images)):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
