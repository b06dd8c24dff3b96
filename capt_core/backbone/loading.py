"""Loading a frozen CLIP: the embedded tiny one, or any open_clip model."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from capt_core import params
from capt_core.backbone.identity import TINY_CLIP, backbone_identity
from capt_core.data.images import Preprocess
from capt_core.device import choose_device
from capt_core.errors import CaptError, reason
from capt_core.reporter import announced
from capt_core.torchvision_ops import ensure_torchvision

UNTRAINED_WARNING = "The backbone's weights are untrained: these numbers mean nothing."


class Tokenizer(Protocol):
    """Turns texts into token ids [n, context_length] and refuses over-long ones."""

    context_length: int

    def __call__(self, texts: list[str]) -> torch.Tensor: ...

    def token_count(self, text: str) -> int: ...


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP with what belongs to it.

    Attributes:
        identity: name and digest of the weights, carried by every artifact made with it.
        clip: the open_clip model in evaluation mode, on `device`.
        tokenizer: of its text tower.
        preprocess: makes of a PIL image what its image tower takes.
        untrained: the weights are a random initialisation, so results mean nothing.
    """

    identity: str
    clip: Any
    tokenizer: Tokenizer
    preprocess: Preprocess
    device: torch.device
    autocast: torch.dtype | None
    untrained: bool

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
    """open_clip's own tokenizer of a model, with token counts.

    Raises:
        CaptError: the model has a tokenizer of another kind.
    """

    def __init__(self, name: str) -> None:
        ensure_torchvision()
        import open_clip

        self._tokenize = open_clip.get_tokenizer(name)
        if not hasattr(self._tokenize, "encode"):
            raise CaptError(
                f"backbone {name}: its tokenizer is not CLIP's own; choose a model such as ViT-B-16"
            )
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


@announced(lambda settings, runtime: f"loading the weights of {settings.name}")
def load_backbone(settings: params.Backbone, runtime: params.Runtime) -> Backbone:
    """Build the configured CLIP, load its weights, freeze it.

    Raises:
        CaptError: unknown model, missing or unsuitable weights, unavailable device.
    """
    ensure_torchvision()
    if settings.name != TINY_CLIP:
        _check_known(settings.name)
    identity = backbone_identity(settings)
    device, autocast = choose_device(runtime)
    if settings.name == TINY_CLIP:
        clip, tokenizer, preprocess = _tiny(settings)
    else:
        clip, tokenizer, preprocess = _open_clip(settings)
    clip.eval().requires_grad_(False)
    return Backbone(
        identity=identity,
        clip=clip.to(device),
        tokenizer=tokenizer,
        preprocess=preprocess,
        device=device,
        autocast=autocast,
        untrained=looks_untrained(clip),
    )


def load_tokenizer(settings: params.Backbone) -> Tokenizer:
    """The tokenizer of the configured backbone, without its weights.

    Raises:
        CaptError: unknown model.
    """
    ensure_torchvision()
    if settings.name == TINY_CLIP:
        from capt_core.backbone import tiny_clip

        return tiny_clip.Tokenizer()
    _check_known(settings.name)
    return OpenClipTokenizer(settings.name)


def looks_untrained(model: nn.Module) -> bool:
    """Whether every LayerNorm still has the scale 1 and shift 0 it is created with."""
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    return bool(norms) and all(
        bool((norm.weight == 1).all()) and bool((norm.bias == 0).all()) for norm in norms
    )


def _tiny(settings: params.Backbone) -> tuple[Any, Tokenizer, Preprocess]:
    from capt_core.backbone import tiny_clip

    preprocess = Preprocess(tiny_clip.IMAGE_SIZE, tiny_clip.IMAGE_MEAN, tiny_clip.IMAGE_STD)
    if settings.checkpoint is None:
        return tiny_clip.load_model(), tiny_clip.Tokenizer(), preprocess
    model = tiny_clip.build_model()
    path = Path(settings.checkpoint).expanduser()
    _assign(model, _read_weights(path)[0], path)
    return model, tiny_clip.Tokenizer(), preprocess


def _open_clip(settings: params.Backbone) -> tuple[Any, Tokenizer, Preprocess]:
    import open_clip

    _check_known(settings.name)
    if settings.checkpoint is not None:
        path = Path(settings.checkpoint).expanduser()
        state, openai = _read_weights(path)
        # OpenAI's weights were trained with QuickGELU, which their own archives do not record.
        with _without_warnings():
            clip = open_clip.create_model(
                settings.name, load_weights=False, force_quick_gelu=openai
            )
        _assign(clip, state, path)
    else:
        try:
            known = open_clip.get_pretrained_cfg(settings.name, settings.pretrained) or {}
            clip = open_clip.create_model(
                settings.name,
                pretrained=settings.pretrained,
                force_quick_gelu=bool(known.get("quick_gelu")),
            )
        except Exception as error:
            raise CaptError(
                f"backbone {settings.name}: weights {settings.pretrained!r} could not be had "
                f"({reason(error)}); get the file and set backbone.checkpoint"
            ) from error
    visual = clip.visual
    sizes = visual.image_size if isinstance(visual.image_size, tuple) else (visual.image_size,)
    if len(set(sizes)) != 1:
        raise CaptError(
            f"backbone {settings.name}: its images are not square {sizes}; choose another"
        )
    preprocess = Preprocess(
        int(sizes[0]),
        tuple(getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN),
        tuple(getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD),
    )
    return clip, OpenClipTokenizer(settings.name), preprocess


def _check_known(name: str) -> None:
    import open_clip

    if name not in open_clip.list_models():
        raise CaptError(
            f"backbone.name: open_clip has no model {name!r}; "
            "python -c 'import open_clip; print(open_clip.list_models())' lists them"
        )


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Hush open_clip, which warns of random weights in a model that is about to get its own."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _read_weights(path: Path) -> tuple[dict[str, torch.Tensor], bool]:
    """State dict of a weights file, and whether it is one of OpenAI's TorchScript archives."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path), False
        if _is_torchscript(path):
            archive = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
            state = dict(archive.state_dict())
            for name in ("input_resolution", "context_length", "vocab_size"):
                state.pop(name, None)
            return {name: value.float() for name, value in state.items()}, True
        document = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CaptError(
            f"backbone.checkpoint: {path}: not a readable weights file ({reason(error)})"
        ) from error
    weights = document.get("state_dict", document) if isinstance(document, dict) else None
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items()
    ):
        raise CaptError(f"backbone.checkpoint: {path}: holds no weights by name")
    return {name.removeprefix("module."): value for name, value in weights.items()}, False


def _is_torchscript(path: Path) -> bool:
    import zipfile

    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def _assign(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CaptError(
            f"backbone.checkpoint: {path}: the weights have other shapes than the model "
            f"({str(error).splitlines()[-1].strip()}); is backbone.name right?"
        ) from error
    if missing or unexpected:
        example = (missing or unexpected)[0]
        raise CaptError(
            f"backbone.checkpoint: {path}: {len(missing)} tensors missing, {len(unexpected)} "
            f"unknown (such as {example}); is backbone.name right?"
        )
