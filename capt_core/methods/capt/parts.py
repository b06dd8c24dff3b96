"""Parts of a trained CAPT model switched on alone, to see what each does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from capt_core.methods.capt.adapter import DiffMannerAdapter
from capt_core.methods.capt.method import FittedCapt

FEATURE_PARTS = (
    "adapter_local",
    "adapter_global",
    "adapter",
    "experts",
    "pair_expert",
    "whitening",
    "discriminant",
)


def parts_of(fitted: FittedCapt) -> tuple[str, ...]:
    """Those of `FEATURE_PARTS` that a model has.

    Eq. 10 convolves X-hat, which in the form `broadcast` is the patches plus the global vector.
    The convolution is linear, so what the adapter adds is the sum of a local and a global part;
    the other forms do not part in this way.
    """
    model, space = fitted.model, fitted.space
    adapter = model.adapter_settings
    found: list[str] = []
    if model.adapters:
        if adapter.parts == "global_local" and adapter.form == "broadcast":
            found += ["adapter_local", "adapter_global"]
        found.append("adapter")
    if model.experts.names:
        found.append("experts")
    if space.pair_expert is not None:
        found.append("pair_expert")
    if space.whitening is not None:
        found.append("whitening")
    if fitted.told_weight is not None:
        found.append("discriminant")
    return tuple(found)


@contextmanager
def switched_on(fitted: FittedCapt, part: str | None) -> Iterator[None]:
    """Within the block one part does something to the base model's features, or none.

    Args:
        fitted: it is as before after the block, within which scorers have to be made anew.
        part: one of `parts_of`; None switches all off, which leaves the base model's features.
    """
    model, space = fitted.model, fitted.space
    changed: list[torch.Tensor] = [] if part == "experts" else [model.experts.residual_gate]
    adapters = [each for each in model.adapters.values() if isinstance(each, DiffMannerAdapter)]
    if part not in ("adapter", "adapter_local", "adapter_global"):
        changed += [adapter.kernel for adapter in adapters]
    kept = [parameter.detach().clone() for parameter in changed]
    settings = [adapter.settings for adapter in adapters]
    expert, whitening, told = space.pair_expert, space.whitening, fitted.told_weight
    try:
        space.pair_expert = expert if part == "pair_expert" else None
        space.whitening = whitening if part == "whitening" else None
        fitted.told_weight = told if part == "discriminant" else None
        with torch.no_grad():
            for parameter in changed:
                parameter.zero_()
        if part in ("adapter_local", "adapter_global"):
            for adapter in adapters:
                only = {"parts": part.removeprefix("adapter_")}
                adapter.settings = adapter.settings.model_copy(update=only)
        yield
    finally:
        space.pair_expert, space.whitening, fitted.told_weight = expert, whitening, told
        with torch.no_grad():
            for parameter, value in zip(changed, kept, strict=True):
                parameter.copy_(value)
        for adapter, own in zip(adapters, settings, strict=True):
            adapter.settings = own
