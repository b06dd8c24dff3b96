"""Which pretraining of a tiny CLIP leaves room for local detail: a grid of image and text towers.

    python -m benchmarks.detail_grid --device cuda --processes 12 --seconds 330 \\
        --out grid.jsonl --weights weights

For every tower (seed, blocks, weights of the losses, steps) and every limited projection of it,
the probes on drawings kept for choosing (split ``val``; no test image is drawn): of the pooled
feature, and of the class token and the patches before it. Where the probes leave room, text
towers are trained at several shares of fine names, and the zero-shot accuracy and the rank
correlation of its confusions with those of ``tiny-clip`` are added. One JSON line for each, as it
ends; what stands in ``--out`` already is not run again.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path

from benchmarks.detail_images import draw_set
from benchmarks.detail_rows import Tower, Work, run_tower
from benchmarks.detail_tower import DetailStage
from capt_core.data.proctex import PRETRAIN_SPLIT

CHOICE_SEED = 7919  # as in pretraining: progress is watched on images that no benchmark run uses
SEEDS = (2, 3)


def towers(steps: int) -> list[Tower]:
    """The grid's towers, the shorter trainings first."""
    stage = DetailStage(steps=steps)
    variants = [
        replace(stage, blocks=blocks, scatter_weight=scatter, patch_weight=patch, steps=length)
        for length, scatter, patch, blocks in product(
            (steps, 2 * steps), (0.0, 0.1, 1.0, 3.0, 10.0, 30.0), (3.0, 1.0), (2, 3, 4)
        )
    ]
    scratch = replace(stage, blocks=4, steps=4 * steps, learning_rate=1e-3, warm_up=min(150, steps))
    grid = [Tower(seed, variant) for variant in variants for seed in SEEDS]
    grid += [
        Tower(seed, replace(scratch, scatter_weight=scatter), scratch=True)
        for scatter in (0.0, 0.3)
        for seed in SEEDS
    ]
    return grid


def main() -> None:
    """Command line; see the module's docstring."""
    started = time.time()
    parser = _parser()
    options = parser.parse_args()
    grid = [tower for tower in towers(options.steps) if tower.name in (options.only or tower.name)]
    if not grid:
        parser.error(f"--only: no such tower; the first is {towers(options.steps)[0].name}")
    if options.choice_per_class < 16:
        parser.error("--choice-per-class: probes need 16 images of each class or more")
    for folder in (options.weights, options.images, options.out.parent):
        folder.mkdir(parents=True, exist_ok=True)
    work = Work(
        deadline=started + options.seconds,
        text_steps=options.text_steps,
        projections=tuple(product(options.kept, options.share)),
        fine_names=tuple(options.fine_name),
        device=options.device,
        images=options.images,
        out=options.out,
        weights=options.weights,
    )
    seeds = sorted({tower.seed for tower in grid})
    sets = [(f"pretrain{seed}", seed, PRETRAIN_SPLIT, options.per_class) for seed in seeds]
    sets.append(("pool", CHOICE_SEED, "train", options.choice_per_class))
    sets.append(("val", CHOICE_SEED, "val", options.choice_per_class))
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for drawn in sets:
            draw_set(pool, *drawn, work.images)
        print(f"images drawn after {time.time() - started:.0f} s", flush=True)
        running = {pool.submit(run_tower, tower, work): tower.name for tower in grid}
        for done in as_completed(running):
            left = work.deadline - time.time()
            try:
                print(f"{running[done]}: {done.result()} ({left:.0f} s left)", flush=True)
            except Exception as error:  # the other towers go on
                print(f"{running[done]}: failed: {error!r}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Pretraining that leaves room for local detail.")
    add = parser.add_argument
    add("--device", default="cpu")
    add("--processes", type=int, default=1)
    add("--seconds", type=float, default=330.0, help="for everything; no work starts too late")
    add("--out", type=Path, required=True, help="JSON lines")
    add("--weights", type=Path, required=True, help="folder")
    add("--images", type=Path, default=Path("detail_images"), help="folder of the drawings")
    add("--steps", type=int, default=600, help="of most image towers")
    add("--text-steps", type=int, default=250)
    add("--per-class", type=int, default=800, help="pretraining images of each class")
    add("--choice-per-class", type=int, default=120, help="images to probe and to score with")
    add("--only", nargs="+", metavar="TOWER", help="only towers of these names")
    add("--kept", type=int, nargs="+", default=[4, 6, 8, 11, 14, 18], help="directions that stay")
    add("--share", type=float, nargs="+", default=[1.0], help="factor on them")
    add("--fine-name", type=float, nargs="+", default=[0.05, 0.12])
    return parser


if __name__ == "__main__":
    main()
