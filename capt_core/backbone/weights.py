"""Weights into a model: names and shapes first, then values, each refused in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import nn

from capt_core.backbone.archive import StoredTensor
from capt_core.backbone.named import open_weights
from capt_core.backbone.state_dict import Match, match_weights
from capt_core.backbone.weights_file import WRITE_ALONE, place
from capt_core.errors import CaptError, shown

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check_fit(path: Path, model: nn.Module) -> bool:
    """Check the names, shapes and types in a weights file; their values are not read.

    Args:
        path: of the weights file.
        model: of the right architecture, possibly on the meta device.

    Returns:
        Whether the weights were trained with QuickGELU in place of GELU.

    Raises:
        CaptError: no weights file, or not this model's.
    """
    with open_weights(path) as tensors:
        match = match_weights(tensors, model.state_dict())
        _check(match, model, path)
    return _quick_gelu(match, path)


@torch.no_grad()
def load_weights(model: nn.Module, path: Path) -> None:
    """Give a model the weights of a file.

    Raises:
        CaptError: no weights file, not this model's, or broken values.
    """
    with open_weights(path) as tensors:
        state = model.state_dict()
        match = match_weights(tensors, state)
        _check(match, model, path)
        for name, stored in match.found.items():
            target = state[name]
            target.copy_(stored.load().reshape(target.shape))
    check_values(model, place(path))


def check_values(model: nn.Module, where: str) -> None:
    """Refuse weights that are broken.

    A bias or a mean may well be zero throughout, and the scale of a batch normalisation starts at
    that where it ends a residual branch; nobody trains a matrix or a scale to that.

    Args:
        model: with its weights.
        where: what the message names.

    Raises:
        CaptError: NaN or infinite values, or a tensor of zeros that has to be none.
    """
    may_be_zero = {
        f"{path}.weight"
        for path, module in model.named_modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        and module.running_mean is not None
        and not bool(module.running_mean.any())
    }
    for name, value in model.state_dict().items():
        if not bool(value.isfinite().all()):
            bad = int((~value.isfinite()).sum())
            raise CaptError(
                f"{where}: {bad} of {value.numel()} values of {shown(name)} are NaN or infinite; "
                "get other weights (training or saving in half precision can do this)"
            )
        scale = not name.endswith(("bias", "mean")) and name not in may_be_zero
        if (value.dim() > 1 or (value.numel() > 1 and scale)) and not bool(value.any()):
            raise CaptError(
                f"{where}: {shown(name)} is zero throughout, so the weights were not written "
                "properly; get the file again"
            )


def _check(match: Match, model: nn.Module, path: Path) -> None:
    where = place(path)
    if not match.found:
        raise CaptError(
            f"{where}: holds no tensors by the names of this model; is backbone.name right? if it "
            f"is, {WRITE_ALONE}"
        )
    if match.missing or match.unknown:
        example = (match.unknown or match.missing)[0]
        shard = re.search(r"-\d+-of-\d+", path.name)
        advice = "one of several files; join them all" if shard else "is backbone.name right?"
        if not match.missing:  # a larger model's, or weights with something beside them
            advice += f" if it is, {WRITE_ALONE}"
        raise CaptError(
            f"{where}: {len(match.missing)} tensors missing, {len(match.unknown)} unknown (such "
            f"as {shown(example)}); {advice}"
        )
    if match.rivals:
        raise CaptError(
            f"{where}: several sets of weights fit, below "
            f"{' and '.join(shown(prefix) for prefix in match.rivals[:2])}; write one of them "
            "alone: torch.save(the_state_dict, 'weights.pt')"
        )
    for name, target in model.state_dict().items():
        _check_tensor(where, name, match.found[name], target)


def _check_tensor(where: str, name: str, stored: StoredTensor, target: torch.Tensor) -> None:
    # A scale may be kept as a number or as a vector of one.
    if stored.shape != target.shape and not (
        target.numel() == 1 and stored.shape in ((), (1,)) and target.dim() < 2
    ):
        raise CaptError(
            f"{where}: the weights have other shapes than the model: {shown(name)} is "
            f"{shown(list(stored.shape))} in the file and {list(target.shape)} in the model; is "
            "backbone.name right?"
        )
    kinds = _FLOATS if target.is_floating_point() else (torch.int64, torch.int32)
    if stored.dtype not in kinds:
        kind = str(stored.dtype).removeprefix("torch.")
        raise CaptError(
            f"{where}: {shown(name)} holds numbers of type {kind}, which are no weights of CLIP; "
            "save them as float32"
        )


def _quick_gelu(match: Match, path: Path) -> bool:
    """Whether the weights go with QuickGELU, which OpenAI trained with and no tensor tells."""
    if not match.hugging_face:
        return match.openai
    file = path.with_name("config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        acts = {
            config.get(tower, {}).get("hidden_act", "quick_gelu")
            for tower in ("text_config", "vision_config")
        }
    except (OSError, ValueError, RecursionError, AttributeError, TypeError):
        acts = set()
    if acts in ({"quick_gelu"}, {"gelu"}):
        return acts == {"quick_gelu"}
    raise CaptError(
        f"{place(path)}: weights named as Hugging Face does tell their activation (hidden_act) in "
        "a config.json, and none that can be read lies beside them; put it there"
    )
