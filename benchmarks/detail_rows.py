"""The rows of the grid of one tower: training, probes, text towers, weights."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.nn import functional

from benchmarks.detail_images import read_set
from benchmarks.detail_probes import KINDS, confusions, embed_tokens, probes, rank_correlation
from benchmarks.detail_tower import DetailStage, limiting_projection, train_detail_tower
from capt_core.artifacts.files import atomic_path
from capt_core.backbone.tiny_clip import Tokenizer, build_model, load_model, measure
from capt_core.backbone.tiny_clip.facts import fact_targets
from capt_core.backbone.tiny_clip.towers import TextStage, train_text_tower
from capt_core.data.proctex import CLASS_NAMES

if TYPE_CHECKING:
    from open_clip.model import CLIP

ALL: Final = len(CLASS_NAMES)  # as many directions as this leave the projection as it is
ROOM: Final = 3.5  # a text tower is trained where the probe of patches too is so much better
ABOVE_NAMES: Final = 3.0  # its weights are kept where the pooled probe beats zero-shot by this
CHOSEN_ON: Final = ("pool", "val")  # sets to learn probes from and to score with
PROBES_SECONDS, TEXT_SECONDS = 3.0, 5.0  # the least that a row takes


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
class Work:
    """What is done with every tower, where, and until when.

    Attributes:
        deadline: seconds of the epoch.
        text_steps: of each text tower.
        projections: directions that the limited projections keep, and the factor on them.
        fine_names: shares of captions that name the class.
        device: that trains.
        images: folder of the drawings.
        out: file of JSON lines.
        weights: folder of weights.
    """

    deadline: float
    text_steps: int
    projections: tuple[tuple[int, float], ...]
    fine_names: tuple[float, ...]
    device: str
    images: Path
    out: Path
    weights: Path

    def check_time(self, needed: float = 0.0) -> None:
        """Raise OutOfTimeError where less than so many seconds are left."""
        if time.time() + needed > self.deadline:
            raise OutOfTimeError


class OutOfTimeError(Exception):
    """The time given to the whole run has passed."""


def run_tower(tower: Tower, work: Work) -> str:
    """Train or load one tower, probe it, and train text towers; says how far it came."""
    torch.set_num_threads(1)
    started, count = time.time(), 0
    done = finished_rows(work.out)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(OutOfTimeError):
        work.check_time()
        for row in _rows(tower, work, done):
            append_row(work.out, row)
            count += 1
    late = ", out of time" if time.time() > work.deadline else ""
    return f"{count} rows in {time.time() - started:.0f} s{late}"


def _rows(tower: Tower, work: Work, done: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each projection's probes, and each of its text towers, that are not done yet."""
    began = time.time()
    model = _trained(tower, work)
    facts = {
        "tower": tower.name,
        "seed": tower.seed,
        "scratch": tower.scratch,
        "stage": asdict(tower.stage),
        "tower_seconds": round(time.time() - began, 1),
        "device": work.device,
    }
    sets = {name: read_set(name, work.images) for name in CHOSEN_ON}
    labels = {name: textures.labels for name, textures in sets.items()}
    tokens = {name: embed_tokens(model.visual, each.images) for name, each in sets.items()}
    facts["probes"] = {
        kind: probes([tokens["pool"][i] for i in parts], [tokens["val"][i] for i in parts], labels)
        for kind, parts in KINDS.items()
    }
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    projection = initial["visual.proj"]
    textures = read_set(f"pretrain{tower.seed}", work.images)
    features = torch.from_numpy(embed_tokens(model.visual, textures.images)[0]).to(work.device)
    features = features @ projection
    for kept, share in ((ALL, 1.0), *work.projections):
        limit = limiting_projection(
            features, torch.from_numpy(textures.labels).to(work.device), kept, share
        )
        limited = (projection @ limit).cpu().numpy()
        pooled = {name: tokens[name][0] @ limited for name in CHOSEN_ON}
        row = {"id": f"{tower.name}-k{kept}-w{share:g}", **facts, "kept": kept, "share": share}
        if row["id"] in done:
            row = done[row["id"]]
        else:
            work.check_time(PROBES_SECONDS)
            row["pooled"] = probes([pooled["pool"]], [pooled["val"]], labels)
            yield row
        if kept == ALL or _room(row) < ROOM:
            continue
        captioned = functional.normalize(features @ limit, dim=-1).cpu().numpy()
        for fine_name in work.fine_names:
            name = f"{row['id']}-f{fine_name:g}"
            if name in done:
                continue
            work.check_time(TEXT_SECONDS)
            model.load_state_dict({**initial, "visual.proj": projection @ limit})
            found = _with_texts(tower, work, model, captioned, pooled["val"], fine_name)
            yield {**row, "id": name, **found}
            if "zero_shot" in found and _above_names({**row, **found}) >= ABOVE_NAMES:
                _save(_of_text(model), work.weights / f"{name}.safetensors")


def _trained(tower: Tower, work: Work) -> CLIP:
    """The model with this tower's values, trained unless its file is there."""
    torch.manual_seed(tower.seed)
    model = build_model() if tower.scratch else load_model()
    model.to(work.device)
    file = work.weights / f"{tower.name}.safetensors"
    if not file.is_file():
        textures = read_set(f"pretrain{tower.seed}", work.images)
        images = torch.from_numpy(textures.images).permute(0, 3, 1, 2).contiguous()
        targets = {name: t.to(work.device) for name, t in fact_targets(textures).items()}
        train_detail_tower(
            model.visual,
            images.to(work.device),
            targets,
            tower.stage,
            tower.seed,
            after_step=work.check_time,
        )
        _save(model.visual.state_dict(), file)
    # A tower that was trained just now is read back too, so that both ways give the same rows.
    values = {n: t.float() if t.is_floating_point() else t for n, t in load_file(file).items()}
    model.visual.load_state_dict(values)
    return model.eval()


def _with_texts(
    tower: Tower,
    work: Work,
    model: CLIP,
    captioned: NDArray[np.float32],
    scored: NDArray[np.float32],
    fine_name: float,
) -> dict[str, Any]:
    """Train the text tower in place; zero-shot accuracy and confusions beside tiny-clip's."""
    if not tower.scratch:
        _freeze_early_text(model)
    stage = TextStage(
        steps=work.text_steps,
        fine_name=fine_name,
        warm_up=min(50, work.text_steps),
        report_every=max(1, work.text_steps // 5),
    )
    textures = read_set(f"pretrain{tower.seed}", work.images)
    began = time.time()
    try:
        train_text_tower(
            model, textures, captioned, Tokenizer(), stage, tower.seed, partial(work.check_time)
        )
    except RuntimeError as error:  # its loss did not fall; the other rows go on
        return {"fine_name": fine_name, "failed": str(error)}
    seconds = round(time.time() - began, 1)
    unit = scored / np.linalg.norm(scored, axis=1, keepdims=True)
    features = measure.Features(unit, read_set("val", work.images).labels)
    names = measure.embed_class_names(model, Tokenizer())
    own = confusions(features, names)
    return {
        "fine_name": fine_name,
        "text_stage": asdict(stage),
        "text_seconds": seconds,
        "zero_shot": measure.zero_shot(features, names),
        "confusion_rank_correlation": rank_correlation(own, _packaged_confusions(work.images)),
    }


@cache
def _packaged_confusions(folder: Path) -> NDArray[np.int64]:
    """Confusions of tiny-clip on the images that are scored."""
    model, textures = load_model(), read_set("val", folder)
    values = measure.embed_images(model, textures.images)
    names = measure.embed_class_names(model, Tokenizer())
    return confusions(measure.Features(values, textures.labels), names)


def _room(row: dict[str, Any]) -> float:
    """By how much class token and patches beat the pooled feature, in the half with less."""
    both, pooled = row["probes"]["class_and_patches"], row["pooled"]
    return min(float(both[f"{half}_16"] - pooled[f"{half}_16"]) for half in measure.HALVES)


def _above_names(row: dict[str, Any]) -> float:
    """By how much the pooled probe beats zero-shot, in the half with less."""
    pooled, zero_shot = row["pooled"], row["zero_shot"]
    return min(float(pooled[f"{half}_16"] - zero_shot[half]) for half in measure.HALVES)


def finished_rows(file: Path) -> dict[str, dict[str, Any]]:
    """Rows of a file of JSON lines, by their id."""
    if not file.is_file():
        return {}
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {row["id"]: row for row in rows}


def append_row(file: Path, row: dict[str, Any]) -> None:
    """Add one JSON line in one write, so that rows of several processes do not mix."""
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, (json.dumps(row) + "\n").encode())
    finally:
        os.close(handle)


def _freeze_early_text(model: CLIP) -> None:
    """Leave the text tower's embeddings and first block as tiny-clip has them."""
    for module in (model.token_embedding, model.transformer.resblocks[0]):
        module.requires_grad_(requires_grad=False)
    model.positional_embedding.requires_grad_(requires_grad=False)


def _of_text(model: CLIP) -> dict[str, torch.Tensor]:
    """What a text stage changes, with the projection."""
    kept = ("visual.", "token_", "positional")
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name == "visual.proj" or not name.startswith(kept)
    }


def _save(tensors: dict[str, torch.Tensor], file: Path) -> None:
    half = {
        name: (t.half() if t.is_floating_point() else t).cpu().contiguous()
        for name, t in tensors.items()
    }
    with atomic_path(file) as temporary:
        save_file(half, temporary)
