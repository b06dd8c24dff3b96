"""What each expert gives: how much, how much of it to every image alike, and how it chooses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from capt_core.methods.capt.semantic_expert import SemanticExpert
from capt_core.methods.capt.settings import EXPERTS


def output_norm(outputs: torch.Tensor) -> float:
    """Mean length of an expert's outputs [L, D]."""
    length: float = outputs.norm(dim=-1).mean().item()
    return length


def common_share(outputs: torch.Tensor) -> float:
    """Share of the outputs that is the same for all images: |mean|^2 / mean |output|^2.

    Between 0, where the outputs cancel out, and 1, where the expert is a constant; 0 where it gives
    nothing. Of a single image all is common.

    Args:
        outputs: [L, D].
    """
    total = outputs.square().sum(dim=-1).mean().item()
    return outputs.mean(dim=0).square().sum().item() / total if total > 0 else 0.0


def lookup_entropy(weights: torch.Tensor) -> float:
    """Mean entropy of a softmax over M centres in shares of log M: 1 if it does not choose.

    Args:
        weights: [L, M]; with one centre there is no choice, which is told as 1.
    """
    if weights.shape[1] == 1:
        return 1.0
    entropy = -(weights * weights.clamp(min=1e-12).log()).sum(dim=1).mean().item()
    return entropy / math.log(weights.shape[1])


@dataclass
class Watched:
    """What went through experts while they were watched, by name, the latest call of each.

    Attributes:
        outputs: [L, D].
        weights: over the centres of a semantic expert, [L, M].
    """

    outputs: dict[str, torch.Tensor] = field(default_factory=dict)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)


@contextmanager
def watched(experts: nn.ModuleDict) -> Iterator[Watched]:
    """Within the block, keep what experts give; they compute as they would otherwise."""
    seen = Watched()

    def keep(name: str, expert: nn.Module, inputs: tuple[torch.Tensor], out: torch.Tensor) -> None:
        seen.outputs[name] = out.detach().float()
        if isinstance(expert, SemanticExpert):
            with torch.no_grad():
                seen.weights[name] = expert.weights(inputs[0]).float()

    with ExitStack() as hooks:
        for name, expert in experts.items():
            handle = expert.register_forward_hook(
                lambda module, inputs, out, name=name: keep(name, module, inputs, out)
            )
            hooks.callback(handle.remove)
        yield seen


def expert_statistics(seen: Watched, names: Sequence[str] = EXPERTS) -> dict[str, float | None]:
    """The columns of `training_log` about what experts gave; None for experts a model has not."""
    found: dict[str, float | None] = {}
    for name in names:
        outputs, weights = seen.outputs.get(name), seen.weights.get(name)
        found[f"{name}_expert_norm"] = None if outputs is None else output_norm(outputs)
        found[f"{name}_expert_common"] = None if outputs is None else common_share(outputs)
        if name != "sample":
            found[f"{name}_expert_entropy"] = None if weights is None else lookup_entropy(weights)
    return found
