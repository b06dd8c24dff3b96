"""Which pretraining leaves room for local detail: a grid over the tower of ``tiny-clip-detail``.

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
import contextlib
import io
import json
import os
import pickle
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr

from capt_core.artifacts.files import atomic_path
from capt_core.backbone.tiny_clip import load_model, measure
from capt_core.backbone.tiny_clip.corpus import TextureSet
from capt_core.backbone.tiny_clip.detail_tower import (
    DetailStage,
    limiting_projection,
    train_detail_tower,
)
from capt_core.backbone.tiny_clip.facts import fact_targets
from capt_core.backbone.tiny_clip.model import build_model
from capt_core.backbone.tiny_clip.tokenizer import Tokenizer
from capt_core.backbone.tiny_clip.towers import TextStage, train_text_tower
from capt_core.data.proctex import CLASS_NAMES, PRETRAIN_SPLIT, render_with_facts

CHOICE_SEED = 7919  # as in pretraining: progress is watched on images that no benchmark run uses
SEEDS = (2, 3)
ALL = len(CLASS_NAMES)  # as many directions as this leave the projection as it is
PROBE_SEEDS = (0, 1, 2)
ROOM = 3.5  # text towers are trained where class token and patches beat the pooled probe by this
ABOVE_NAMES = 3.0  # and their weights are kept where the pooled probe beats zero-shot by this


@dataclass(frozen=True)
class Tower:
    """One image tower of the grid.

    Attributes:
        seed: of its images, order and heads.
        scratch: it starts from random values, all blocks trained, rather than from tiny-clip.
        stage: settings of its training.
    """

    seed: int
    stage: DetailStage
    scratch: bool = False

    @property
    def name(self) -> str:
        """Short and unique within the grid."""
        stage = self.stage
        return (
            f"s{self.seed}{'z' if self.scratch else ''}-b{stage.blocks}-v{stage.scatter_weight:g}"
            f"-p{stage.patch_weight:g}-n{stage.steps}"
        )


@dataclass(frozen=True)
class Budget:
    """What a process needs to know to end in time.

    Attributes:
        deadline: seconds of the epoch.
        text_steps: of each text tower.
        projections: dimensions and share that the limited projections keep.
        fine_names: shares of captions that name the class.
        device: that trains.
        folder: of the rendered images.
        out: file of JSON lines.
        weights: folder of weights.
    """

    deadline: float
    text_steps: int
    projections: tuple[tuple[int, float], ...]
    fine_names: tuple[float, ...]
    device: str
    folder: Path
    out: Path
    weights: Path


class OutOfTimeError(Exception):
    """The time given to the whole run has passed."""


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
    options = _parser().parse_args()
    for folder in (options.weights, options.images, options.out.parent):
        folder.mkdir(parents=True, exist_ok=True)
    budget = Budget(
        deadline=started + options.seconds,
        text_steps=options.text_steps,
        projections=tuple(product(options.kept, options.share)),
        fine_names=tuple(options.fine_name),
        device=options.device,
        folder=options.images,
        out=options.out,
        weights=options.weights,
    )
    grid = [tower for tower in towers(options.steps) if tower.name in (options.only or tower.name)]
    seeds = {tower.seed for tower in grid}
    sets = {f"pretrain{seed}": (seed, PRETRAIN_SPLIT, options.per_class) for seed in seeds}
    sets["pool"] = (CHOICE_SEED, "train", options.choice_per_class)
    sets["val"] = (CHOICE_SEED, "val", options.choice_per_class)
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for name, arguments in sets.items():
            _render(pool, name, arguments, budget.folder)
        print(f"images drawn after {time.time() - started:.0f} s", flush=True)
        running = {pool.submit(run_tower, tower, budget): tower.name for tower in grid}
        for done in as_completed(running):
            left = budget.deadline - time.time()
            try:
                print(f"{running[done]}: {done.result()} ({left:.0f} s left)", flush=True)
            except Exception as error:  # the other towers go on
                print(f"{running[done]}: failed: {error!r}", flush=True)


def run_tower(tower: Tower, budget: Budget) -> str:
    """Train or load one tower, probe it, and train text towers; says how far it came."""
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return _run_tower(tower, budget)
    except OutOfTimeError:
        return "out of time"


def _run_tower(tower: Tower, budget: Budget) -> str:
    _check_time(budget, 0.0)
    done = _done(budget.out)
    started = time.time()
    model = _trained(tower, budget)
    facts: dict[str, Any] = {
        "tower": tower.name,
        "seed": tower.seed,
        "scratch": tower.scratch,
        "stage": asdict(tower.stage),
        "tower_seconds": round(time.time() - started, 1),
        "device": budget.device,
    }
    tokens = {
        name: measure.embed_tokens(model.visual, _images(budget.folder, name)[0])
        for name in ("pool", "val")
    }
    facts["probes"] = _token_probes(tokens, budget)
    base_projection = model.visual.proj.detach().clone()
    pretrain, facts_of = _images(budget.folder, f"pretrain{tower.seed}")
    textures = TextureSet(pretrain, facts_of)
    pooled = torch.from_numpy(measure.embed_tokens(model.visual, pretrain)[0]).to(budget.device)
    pooled = pooled @ base_projection
    pooled_labels = torch.from_numpy(textures.labels).to(budget.device)
    initial = {name: t.clone() for name, t in model.state_dict().items()}
    finished = 0
    for kept, share in ((ALL, 1.0), *budget.projections):
        limit = limiting_projection(pooled, pooled_labels, kept, share)
        projection = base_projection @ limit
        line = {**facts, "kept": kept, "share": share}
        features = {name: tokens[name][0] @ projection.cpu().numpy() for name in tokens}
        key = f"{tower.name}-k{kept}-w{share:g}"
        if key not in done:
            _check_time(budget, 3.0)
            line["pooled"] = _probes((features["pool"],), (features["val"],), budget)
            _append(budget.out, {"id": key, **line})
        else:
            line["pooled"] = done[key]["pooled"]
        if kept == ALL or _room(line) < ROOM:
            continue
        captioned = torch.nn.functional.normalize(pooled @ limit, dim=-1).cpu().numpy()
        for fine_name in budget.fine_names:
            name = f"{key}-f{fine_name:g}"
            if name in done:
                continue
            _check_time(budget, 5.0)
            model.load_state_dict(initial)
            with torch.no_grad():
                model.visual.proj.copy_(projection)
            began = time.time()
            stage = TextStage(
                steps=budget.text_steps,
                fine_name=fine_name,
                blocks=2 if not tower.scratch else None,
                warm_up=min(50, budget.text_steps),
                report_every=max(1, budget.text_steps // 5),
            )
            try:
                train_text_tower(
                    model,
                    textures,
                    captioned,
                    Tokenizer(),
                    stage,
                    tower.seed,
                    partial(_tick, budget),
                )
            except RuntimeError as error:  # of a loss that did not fall; the other ones go on
                _append(budget.out, {"id": name, **line, "failed": str(error)})
                continue
            unit = features["val"] / np.linalg.norm(features["val"], axis=1, keepdims=True)
            labels = np.array([f.class_id for f in _images(budget.folder, "val")[1]])
            names = measure.embed_class_names(model, Tokenizer())
            scored = measure.Features(unit.astype(np.float32), labels)
            line |= {
                "fine_name": fine_name,
                "text_stage": asdict(stage),
                "text_seconds": round(time.time() - began, 1),
                "zero_shot": measure.zero_shot(scored, names),
                "confusion_rank_correlation": _rank_correlation(scored, names, budget),
            }
            _append(budget.out, {"id": name, **line})
            if _above_names(line) >= ABOVE_NAMES:
                _save_text(model, budget.weights / f"{name}.safetensors")
            finished += 1
    return f"{finished} text towers in {time.time() - started:.0f} s"


def _trained(tower: Tower, budget: Budget) -> Any:
    """The model with this tower's values, trained unless its file is there."""
    torch.manual_seed(tower.seed)
    model = build_model() if tower.scratch else load_model()
    model.to(budget.device)
    file = budget.weights / f"{tower.name}.safetensors"
    if file.is_file():
        model.visual.load_state_dict(
            {n: t.float() if t.is_floating_point() else t for n, t in load_file(file).items()}
        )
        return model.eval()
    images, facts = _images(budget.folder, f"pretrain{tower.seed}")
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(budget.device)
    targets = {
        name: values.to(budget.device)
        for name, values in fact_targets(TextureSet(images, facts)).items()
    }
    train_detail_tower(
        model.visual, pixels, targets, tower.stage, tower.seed, after_step=partial(_tick, budget)
    )
    _save(model.visual.state_dict(), file)
    return model.eval()


def _token_probes(
    tokens: dict[str, tuple[NDArray[np.float32], ...]], budget: Budget
) -> dict[str, dict[str, float]]:
    """Probes of the class token, the patches that enter the last block, and both."""
    parts = {
        "class_token": (0,),
        "patches": (1,),
        "class_and_patches": (0, 1),
        "class_and_leaving_patches": (0, 2),
    }
    return {
        name: _probes(
            tuple(tokens["pool"][i] for i in chosen),
            tuple(tokens["val"][i] for i in chosen),
            budget,
        )
        for name, chosen in parts.items()
    }


def _probes(
    pool: tuple[NDArray[np.float32], ...], val: tuple[NDArray[np.float32], ...], budget: Budget
) -> dict[str, float]:
    """Linear-probe accuracy by half and shots: mean of three draws of 16, one of 64."""
    pooled, scored = measure.beside(pool, val)
    sets = []
    for name, values in (("pool", pooled), ("val", scored)):
        labels = np.array([f.class_id for f in _images(budget.folder, name)[1]])
        sets.append(measure.Features(values, labels))
    most = len(pooled) // len(CLASS_NAMES)
    found = {}
    for (half, classes), shots in product(measure.HALVES.items(), (16, 64)):
        if shots > most:
            continue
        seeds = PROBE_SEEDS if shots == 16 else PROBE_SEEDS[:1]
        draws = [measure.linear_probe(sets[0], sets[1], classes, shots, seed) for seed in seeds]
        found[f"{half}_{shots}"] = round(float(np.mean(draws)), 2)
    return found


def _room(line: dict[str, Any]) -> float:
    """By how much class token and patches beat the pooled feature, in the half with less."""
    both, pooled = line["probes"]["class_and_patches"], line["pooled"]
    return min(both[f"{half}_16"] - pooled[f"{half}_16"] for half in measure.HALVES)


def _above_names(line: dict[str, Any]) -> float:
    """By how much the pooled probe beats zero-shot, in the half with less."""
    pooled, zero_shot = line["pooled"], line["zero_shot"]
    return min(float(pooled[f"{half}_16"] - zero_shot[half]) for half in measure.HALVES)


def _rank_correlation(
    scored: measure.Features, names: NDArray[np.float32], budget: Budget
) -> float:
    """Spearman's correlation of the confusions with those of tiny-clip on the same images."""
    own = measure.confusions(scored, names)
    return round(float(spearmanr(own, _shipped_confusions(budget.folder)).statistic), 4)


@cache
def _shipped_confusions(folder: Path) -> NDArray[np.int64]:
    model = load_model()
    images, facts = _images(folder, "val")
    values = measure.embed_images(model, images)
    scored = measure.Features(values, np.array([f.class_id for f in facts]))
    return measure.confusions(scored, measure.embed_class_names(model, Tokenizer()))


def _render(
    pool: ProcessPoolExecutor, name: str, arguments: tuple[int, str, int], folder: Path
) -> None:
    """Draw a set once, in pieces, into a file that all processes read."""
    file = folder / f"{name}.npy"
    if file.is_file():
        return
    seed, split, per_class = arguments
    jobs = [
        pool.submit(_render_part, seed, split, label, part, min(part + 100, per_class))
        for label in range(len(CLASS_NAMES))
        for part in range(0, per_class, 100)
    ]
    parts = [job.result() for job in jobs]
    with atomic_path(folder / f"{name}.pkl") as temporary:
        temporary.write_bytes(pickle.dumps(tuple(f for _, facts in parts for f in facts)))
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.concatenate([images for images, _ in parts]))


def _render_part(seed: int, split: str, label: int, start: int, end: int) -> tuple[Any, Any]:
    pairs = [render_with_facts(seed, split, label, index) for index in range(start, end)]
    return np.stack([image for image, _ in pairs]), [facts for _, facts in pairs]


@cache
def _images(folder: Path, name: str) -> tuple[NDArray[np.uint8], tuple[Any, ...]]:
    facts = pickle.loads((folder / f"{name}.pkl").read_bytes())
    return np.load(folder / f"{name}.npy"), facts


def _tick(budget: Budget) -> None:
    if time.time() > budget.deadline:
        raise OutOfTimeError


def _check_time(budget: Budget, needed: float) -> None:
    if time.time() + needed > budget.deadline:
        raise OutOfTimeError


def _append(file: Path, line: dict[str, Any]) -> None:
    """Add one line in one write, so that lines of several processes do not mix."""
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, (json.dumps(line) + "\n").encode())
    finally:
        os.close(handle)


def _done(file: Path) -> dict[str, dict[str, Any]]:
    """Finished lines by their id."""
    if not file.is_file():
        return {}
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {line["id"]: line for line in lines}


def _save_text(model: Any, file: Path) -> None:
    """What a text stage changes, with the projection."""
    late = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name == "visual.proj" or not name.startswith(("visual.", "token_", "positional"))
    }
    _save(late, file)


def _save(tensors: dict[str, torch.Tensor], file: Path) -> None:
    half = {
        name: (t.half() if t.is_floating_point() else t).cpu().contiguous()
        for name, t in tensors.items()
    }
    with atomic_path(file) as temporary:
        save_file(half, temporary)


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
