"""Both presets on ViT-B-16 with random weights and photographs: training and evaluation."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from capt_core.backbone.loading import UNTRAINED_WARNING
from tests.pipeline.commands import BEFORE_TRAINING, capt

BACKBONE = "ViT-B-16"
BLOCKS, WIDTH, TOKENS = 12, 768, 197
CLASSES = ("banded", "blotchy", "braided")  # two base classes and a novel one
# An image takes about a second on a busy core, and so does every text.
OVERRIDES = (
    f"backbone.name={BACKBONE}",
    "fewshot.shots=1",
    "generate_prompts.prompts=1",
    "methods.capt.losses.retention_names=training",
    "methods.capt.train.epochs=2",
    "methods.capt.train.batch_size=2",
    "methods.capt.train.warmup_epochs=0",
    "methods.capt.train.views=1",
    "runtime.workers=1",
)
STEPS = 2
ANCHORS = 2


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is gone after the test: the weights take 600 MB."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_presets_on_vit_b_16(
    shared: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = photographs(shared / "data/coop_root/dtd", folder / "data")
    weights = random_weights(folder / "random.safetensors")
    overrides = (*OVERRIDES, f"data.root={data}", f"backbone.checkpoint={weights}")
    artifacts, losses = folder / "artifacts", {}
    for stage in BEFORE_TRAINING:
        variant = None if stage in ("prepare", "extract-features") else "paper"
        capt(stage, "dtd", artifacts, overrides, variant=variant)
    # The presets differ in nothing that these stages read.
    shutil.copytree(artifacts / "study/paper", artifacts / "study/fast")
    for preset, adapters in (("paper", BLOCKS), ("fast", 1)):
        for stage in ("train", "evaluate"):
            capt(stage, "dtd", artifacts, overrides, variant=preset)
        seed = artifacts / "study" / preset / "dtd/seed1"
        found = seed / "capt"
        state = load_file(found / "model.safetensors")
        kernels = {name: value for name, value in state.items() if name.endswith(".kernel")}
        assert len(kernels) == adapters
        assert all(kernel.shape == (WIDTH, 1, 3, 3) for kernel in kernels.values())
        assert all(kernel.abs().max() > 0 for kernel in kernels.values())
        assert state["model.experts.residual_gate"] != 0

        log = pl.read_parquet(found / "training_log.parquet")
        retrieved = len(pl.read_parquet(seed / "representatives.parquet"))
        assert retrieved > 0
        assert log["rows"].to_list() == [ANCHORS + retrieved] * STEPS
        assert log["loss"].is_finite().all()
        losses[preset] = log["loss"].to_list()

        predictions = pl.read_parquet(found / "predictions.parquet")
        assert predictions.filter(split="test")["true_class"].n_unique() == len(CLASSES)
        assert json.loads((found / "metrics.json").read_text())["novel_accuracy"] is not None
        assert UNTRAINED_WARNING in capsys.readouterr().out
    # Before the first update both are the base model, on the same views of the same images.
    assert losses["fast"][0] == pytest.approx(losses["paper"][0], abs=1e-3)
    assert losses["fast"][1] != losses["paper"][1]
    (shard,) = (artifacts / "work/prefix").rglob("*.safetensors")
    cached = load_file(shard)
    assert cached["tokens"].shape == (2, TOKENS, WIDTH)


def photographs(original: Path, root: Path) -> Path:
    """A data root whose split lists one photograph of each class in each part."""
    name = "split_zhou_DescribableTextures.json"
    split = json.loads((original / name).read_text())
    few = {}
    for part, rows in split.items():
        first = {row[2]: row[0] for row in reversed(rows)}
        few[part] = [[first[class_], label, class_] for label, class_ in enumerate(CLASSES)]
    (root / "dtd").mkdir(parents=True)
    (root / "dtd" / name).write_text(json.dumps(few))
    (root / "dtd/images").symlink_to(original / "images", target_is_directory=True)
    return root


def random_weights(path: Path) -> Path:
    """A checkpoint of a freshly initialised model."""
    import open_clip

    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = open_clip.create_model(BACKBONE, load_weights=False)
    save_file({name: value.contiguous() for name, value in clip.state_dict().items()}, path)
    return path
