"""A small CLIP of open_clip's, and its weights in files."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from capt_core.backbone.loading import Backbone, load_backbone
from capt_core.params import Backbone as Settings
from capt_core.params import Runtime
from tests.refusals import refusal

NAME = "capt-test-vit"
CPU = Runtime(device="cpu")
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
        "image_size": 32,
    },
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}
State = dict[str, torch.Tensor]


def small_weights(folder: Path) -> State:
    """Weights of a small model, registered with open_clip; not those of a fresh one."""
    import open_clip

    config = folder / f"{NAME}.json"
    config.write_text(json.dumps(CONFIG), encoding="utf-8")
    open_clip.add_model_config(config)
    model = open_clip.create_model(NAME, load_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            name: value + 0.1 * torch.randn_like(value)
            for name, value in model.state_dict().items()
        }


def as_safetensors(state: State, folder: Path) -> Path:
    path = folder / "weights.safetensors"
    save_file(state, path)
    return path


def as_pt(state: State, folder: Path) -> Path:
    path = folder / "weights.pt"
    torch.save(state, path)
    return path


def as_training_checkpoint(state: State, folder: Path) -> Path:
    path = folder / "epoch_3.pt"
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, path)
    return path


def load(path: Path | None) -> Backbone:
    settings = Settings(name=NAME, checkpoint=None if path is None else str(path))
    return load_backbone(settings, CPU)


def load_refusal(path: Path) -> str:
    message = refusal(load, path)
    assert str(path) in message
    return message


def activation(backbone: Backbone) -> str:
    return type(backbone.clip.visual.transformer.resblocks[0].mlp.gelu).__name__


def assert_loaded(path: Path, state: State) -> None:
    for name, value in load(path).clip.state_dict().items():
        assert torch.equal(value, state[name]), name


class _Node(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def module_of(state: State) -> nn.Module:
    """A module that has these tensors as parameters of its submodules."""
    root = _Node()
    for name, value in state.items():
        node: nn.Module = root
        *parents, leaf = name.split(".")
        for part in parents:
            if part not in dict(node.named_children()):
                node.add_module(part, _Node())
            node = node.get_submodule(part)
        node.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
    return root


def scripted(module: nn.Module, folder: Path) -> Path:
    path = folder / "archive.pt"
    torch.jit.script(module).save(str(path))  # type: ignore[no-untyped-call]
    return path


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}
