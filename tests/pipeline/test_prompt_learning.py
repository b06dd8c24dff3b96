"""Methods that learn prompts in both towers: through the stages, and on a real architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
from safetensors.torch import load_file

from tests.pipeline.commands import BEFORE_TRAINING, capt
from tests.pipeline.test_real_architecture import (  # noqa: F401 a fixture
    BACKBONE,
    folder,
    photographs,
    random_weights,
)

MAPLE = ("fit_teacher.method=maple", "methods.maple.epochs=2", "build_bank.source=fewshot")


def test_capt_through_all_stages_on_prompts_of_both_towers(
    copy: Path, again: Callable[..., None]
) -> None:
    for stage in BEFORE_TRAINING[BEFORE_TRAINING.index("fit-teacher") :]:
        again(stage, *MAPLE)
    for method in ("maple", "capt"):
        for stage in ("train", "evaluate"):
            again(stage, *MAPLE, method=method)
    seed = copy / "proctex/seed1"
    base, own = (
        load_file(path)
        for path in (seed / "base_model.safetensors", seed / "maple/model.safetensors")
    )
    # fit-teacher and train fit the same model.
    assert base.keys() == own.keys()
    assert all((base[name] == own[name]).all() for name in base)
    held = load_file(seed / "capt/model.safetensors")
    assert all((held[f"base.{name}"] == value).all() for name, value in base.items())


VIT_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "coop": {"context": (4, 512)},
    "maple": {
        "prompts": (9, 2, 512),
        "coupling_weights": (9, 768, 512),
        "coupling_biases": (9, 768),
    },
    "promptsrc": {"text": (9, 4, 512), "image": (9, 4, 768)},
}
"""Of what each method saves, with its published settings."""


def test_two_steps_on_vit_b_16(shared: Path, folder: Path) -> None:  # noqa: F811
    data = photographs(shared / "data/coop_root/dtd", folder / "data")
    overrides = [
        f"backbone.name={BACKBONE}",
        f"data.root={data}",
        f"backbone.checkpoint={random_weights(folder / 'random.safetensors')}",
        "fewshot.shots=1",
        "runtime.workers=1",
        "methods.coop.images=augmented",
        "methods.promptsrc.templates=1",
    ]
    for method in VIT_SHAPES:
        few = ("epochs=2", "batch_size=2", "warmup_epochs=0")
        overrides += [f"methods.{method}.{setting}" for setting in few]
    artifacts = folder / "artifacts"
    for stage in ("prepare", "extract-features"):
        capt(stage, "dtd", artifacts, overrides)
    for method, shapes in VIT_SHAPES.items():
        capt("train", "dtd", artifacts, overrides, method=method)
        found = artifacts / "dtd/seed1" / method
        state = load_file(found / "model.safetensors")
        assert {name: tuple(value.shape) for name, value in state.items()} == shapes
        log = pl.read_parquet(found / "training_log.parquet")
        assert log["rows"].to_list() == [2, 2]
        assert log["loss"].is_finite().all()
