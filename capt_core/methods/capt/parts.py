"""Parts of a trained CAPT model switched on alone, to see what each does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from capt_core.methods.capt.adapter import DiffMannerAdapter
from capt_core.methods.capt.model import CaptModel

FEATURE_PARTS = ("adapter_local", "adapter_global", "adapter", "experts", "pair_expert")


def parts_of(model: CaptModel) -> tuple[str, ...]:
    """Those of `FEATURE_PARTS` that a model has.

    Eq. 10 convolves X-hat, which in the form `broadcast` is the patches plus the global vector.
    The convolution is linear, so what the adapter adds is the sum of a local and a global part;
    the other forms do not part in this way.
    """
    adapter = model.adapter_settings
    found: list[str] = []
    if model.adapters:
        if adapter.parts == "global_local" and adapter.form == "broadcast":
            found += ["adapter_local", "adapter_global"]
        found.append("adapter")
    if model.experts.names:
        found.append("experts")
    if model.pair_expert is not None:
        found.append("pair_expert")
    return tuple(found)


@contextmanager
def switched_on(model: CaptModel, part: str | None) -> Iterator[None]:
    """Within the block the model adds one part to the base model's features, or nothing.

    Args:
        model: trained; it is as before after the block.
        part: one of `parts_of`; None switches all off, which leaves the base model's features.
    """
    changed: list[torch.Tensor] = [] if part == "experts" else [model.experts.residual_gate]
    if model.pair_expert is not None and part != "pair_expert":
        changed.append(model.pair_expert.strength)
    adapters = [each for each in model.adapters.values() if isinstance(each, DiffMannerAdapter)]
    if part not in ("adapter", "adapter_local", "adapter_global"):
        changed += [adapter.kernel for adapter in adapters]
    kept = [parameter.detach().clone() for parameter in changed]
    settings = [adapter.settings for adapter in adapters]
    try:
        with torch.no_grad():
            for parameter in changed:
                parameter.zero_()
        if part in ("adapter_local", "adapter_global"):
            for adapter in adapters:
                only = {"parts": part.removeprefix("adapter_")}
                adapter.settings = adapter.settings.model_copy(update=only)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(changed, kept, strict=True):
                parameter.copy_(value)
        for adapter, own in zip(adapters, settings, strict=True):
            adapter.settings = own
