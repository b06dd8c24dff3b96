"""Loading a frozen CLIP: the embedded tiny one, or any open_clip model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from capt_core import params
from capt_core.backbone.architecture import (
    build,
    check_backbone,
    check_name,
    check_square,
    check_tag,
    outline,
)
from capt_core.backbone.identity import EMBEDDED, backbone_identity, checkpoint_path
from capt_core.backbone.weights import check_fit, check_values, load_weights
from capt_core.data.images import Preprocess
from capt_core.device import choose_device
from capt_core.errors import CaptError, reason, shown
from capt_core.reporter import announced

UNTRAINED_WARNING = "The backbone's weights are untrained: these numbers mean nothing."


class Tokenizer(Protocol):
    """Turns texts into token ids [n, context_length] and refuses over-long ones."""

    context_length: int

    def __call__(self, texts: list[str]) -> torch.Tensor: ...

    def token_count(self, text: str) -> int: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP with what belongs to it.

    Attributes:
        identity: name and digest of the weights, carried by every artifact made with it.
        clip: the open_clip model in evaluation mode, on `device`.
        tokenizer: of its text tower.
        preprocess: makes of a PIL image what its image tower takes.
        untrained: the weights are a random initialisation, so results mean nothing.
        source: the weights as messages name them: their file, or the identity.
    """

    identity: str
    clip: Any
    tokenizer: Tokenizer
    preprocess: Preprocess
    device: torch.device
    autocast: torch.dtype | None
    untrained: bool
    source: str = ""

    def __repr__(self) -> str:
        """Short: notebooks show estimators with all that they were given."""
        return f"<Backbone {self.identity} on {self.device}>"

    def __sklearn_clone__(self) -> Backbone:
        """Clones of an estimator share what is frozen; scikit-learn would copy the weights."""
        return self

    @property
    def logit_scale(self) -> float:
        """exp(logit_scale): the factor on cosines in eq. 1."""
        return float(self.clip.logit_scale.detach().exp())

    def precision(self) -> Any:
        """Context in which the towers run; results are cast to fp32 by their callers."""
        return torch.autocast(
            self.device.type, dtype=self.autocast, enabled=self.autocast is not None
        )


class OpenClipTokenizer:
    """open_clip's own tokenizer, with token counts, of a model that `check_name` lets pass."""

    def __init__(self, name: str) -> None:
        from capt_core.backbone.light_open_clip import open_clip

        self._tokenize = open_clip.get_tokenizer(name)
        self.context_length = int(self._tokenize.context_length)

    def __call__(self, texts: list[str]) -> torch.Tensor:
        for text in texts:
            if self.token_count(text) > self.context_length:
                raise ValueError(f"{text!r} is longer than {self.context_length} tokens")
        tokens: torch.Tensor = self._tokenize(texts)
        return tokens

    def token_count(self, text: str) -> int:
        """Number of tokens of a text with its start and end tokens."""
        return len(self._tokenize.encode(text)) + 2

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return str(self._tokenize.decode(list(ids))).strip()


_shared: dict[tuple[object, ...], Backbone] | None = None


@contextlib.contextmanager
def shared_backbones() -> Iterator[None]:
    """Within the block, give the same backbone to all that load it with the same settings.

    It is frozen, and nothing that is given one changes it.
    """
    global _shared
    before, _shared = _shared, {}
    try:
        yield
    finally:
        _shared = before


def load_backbone(settings: params.Backbone, runtime: params.Runtime) -> Backbone:
    """Build the configured CLIP, load its weights, freeze it; or give one that is shared.

    Raises:
        CaptError: unknown model, missing, unsuitable or broken weights, unavailable device.
    """
    check_name(settings.name)
    identity = backbone_identity(settings)
    if _shared is None:
        return _loaded(settings, runtime, identity)
    key = (identity, settings.checkpoint, runtime.device, runtime.precision)
    if key not in _shared:
        _shared.clear()  # one is in memory at a time
        _shared[key] = _loaded(settings, runtime, identity)
    return _shared[key]


@announced(lambda settings, *_: f"loading the weights of {settings.name}")
def _loaded(settings: params.Backbone, runtime: params.Runtime, identity: str) -> Backbone:
    name = settings.name
    device, autocast = choose_device(runtime)
    path = checkpoint_path(settings)
    if path is not None:
        clip = build(name, quick_gelu=check_fit(path, outline(name)))
        load_weights(clip, path)
    elif name in EMBEDDED:
        from capt_core.backbone import tiny_clip

        clip = tiny_clip.load_model(name)
    else:
        clip = _pretrained(settings)
    clip.eval().requires_grad_(False)
    return Backbone(
        identity=identity,
        clip=clip.to(device),
        tokenizer=load_tokenizer(settings),
        preprocess=_preprocess(name, clip.visual),
        device=device,
        autocast=autocast,
        untrained=looks_untrained(clip),
        source=identity if path is None else str(path),
    )


def check_weights(settings: params.Backbone) -> None:
    """Check the configured backbone as `load_backbone` does; what is downloaded is not fetched.

    Raises:
        CaptError: unknown model, missing, unsuitable or broken weights.
    """
    check_backbone(settings)
    path = checkpoint_path(settings)
    if path is not None:
        load_weights(build(settings.name), path)


def load_tokenizer(settings: params.Backbone) -> Tokenizer:
    """The tokenizer of the configured backbone, without its weights.

    Raises:
        CaptError: unknown model, or one whose tokenizer is not CLIP's own.
    """
    check_name(settings.name)
    if settings.name in EMBEDDED:
        from capt_core.backbone import tiny_clip

        return tiny_clip.Tokenizer()
    return OpenClipTokenizer(settings.name)


def looks_untrained(model: nn.Module) -> bool:
    """Whether every LayerNorm still has the scale 1 and shift 0 it is created with."""
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    return bool(norms) and all(
        bool((norm.weight == 1).all()) and bool((norm.bias == 0).all()) for norm in norms
    )


def _pretrained(settings: params.Backbone) -> Any:
    """An open_clip model with weights that open_clip downloads."""
    from capt_core.backbone.light_open_clip import open_clip

    check_tag(settings)
    try:
        known = open_clip.get_pretrained_cfg(settings.name, settings.pretrained) or {}
        clip = open_clip.create_model(
            settings.name,
            pretrained=settings.pretrained,
            force_quick_gelu=bool(known.get("quick_gelu")),
        )
    except Exception as error:
        raise CaptError(
            f"backbone {settings.name}: weights {shown(settings.pretrained)} could not be had "
            f"({reason(error)}); get the file and set backbone.checkpoint"
        ) from error
    check_values(clip, f"backbone.pretrained: {settings.pretrained}")
    return clip


def _preprocess(name: str, visual: Any) -> Preprocess:
    if name in EMBEDDED:
        from capt_core.backbone import tiny_clip

        return Preprocess(tiny_clip.IMAGE_SIZE, tiny_clip.IMAGE_MEAN, tiny_clip.IMAGE_STD)
    from capt_core.backbone.light_open_clip import open_clip

    return Preprocess(
        check_square(name, visual),
        tuple(getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN),
        tuple(getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD),
    )
