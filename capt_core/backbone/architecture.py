"""Which architectures there are, and how one is built."""

from __future__ import annotations

import contextlib
import difflib
import logging
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch

from capt_core import params
from capt_core.backbone.identity import EMBEDDED, backbone_identity, checkpoint_path
from capt_core.backbone.weights import check_fit
from capt_core.errors import CaptError, reason, shown

LIST_MODELS = "python -c 'import open_clip; print(open_clip.list_models())'"


def check_name(name: str) -> None:
    """Refuse backbones that open_clip does not know, or that read texts in another way than CLIP.

    Raises:
        CaptError: the message names similar models, where there are any.
    """
    if name in EMBEDDED:
        return
    from capt_core.backbone.light_open_clip import open_clip

    known = [*EMBEDDED, *open_clip.list_models()]
    if name not in known:
        plain = {_plain(each): each for each in reversed(known)}
        near = [plain[each] for each in difflib.get_close_matches(_plain(name), plain, 3, 0.7)]
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        raise CaptError(
            f"backbone.name: unknown model {shown(name)}; {guess}{LIST_MODELS} lists all"
        )
    text = open_clip.get_model_config(name).get("text_cfg", {})
    if text.get("hf_tokenizer_name") or text.get("hf_model_name"):
        raise CaptError(
            f"backbone.name: the tokenizer of {name} is not CLIP's own; choose a model such as "
            "ViT-B-16"
        )


def _plain(name: str) -> str:
    return name.lower().replace("/", "-").replace("_", "-").replace(" ", "-")


def build(name: str, *, quick_gelu: bool = False, device: str = "cpu") -> Any:
    """A model of random weights.

    Args:
        name: of a model known to `check_name`.
        quick_gelu: QuickGELU as its activation, whatever its configuration says.
        device: ``meta`` makes one without values, at once.

    Raises:
        CaptError: open_clip cannot build it here.
    """
    if name in EMBEDDED:
        from capt_core.backbone import tiny_clip

        with torch.device(device):
            return tiny_clip.build_model(name)
    from capt_core.backbone.light_open_clip import open_clip

    try:
        with _without_warnings(), torch.device(device):
            return open_clip.create_model(
                name, load_weights=False, force_quick_gelu=quick_gelu, device=device
            )
    except Exception as error:
        raise CaptError(
            f"backbone.name: {name} cannot be built ({reason(error)}); choose a model such as "
            "ViT-B-16"
        ) from error


@lru_cache(maxsize=1)
def outline(name: str) -> Any:
    """A model with the names and shapes of its tensors, but no values; built at once.

    Raises:
        CaptError: unknown model, or none that can be built here.
    """
    check_name(name)
    return build(name, device="meta")


def check_backbone(settings: params.Backbone) -> None:
    """Check all that can be told of a backbone without its values: name, file, names, shapes.

    Raises:
        CaptError: unknown model, missing or unsuitable weights.
    """
    check_name(settings.name)
    path = checkpoint_path(settings)
    if path is not None:
        check_fit(path, outline(settings.name))
    elif settings.name not in EMBEDDED:
        backbone_identity(settings)  # refuses settings that name neither a file nor a tag
        check_tag(settings)
    if settings.name not in EMBEDDED:
        check_square(settings.name, outline(settings.name).visual)


def check_tag(settings: params.Backbone) -> None:
    """Refuse weights to download that open_clip does not know for the model.

    Raises:
        CaptError: the message lists the known ones.
    """
    from capt_core.backbone.light_open_clip import open_clip

    known = open_clip.list_pretrained_tags_by_model(settings.name)
    if settings.pretrained not in known:
        listed = f"known: {', '.join(known[:8])}" if known else "there are none"
        raise CaptError(
            f"backbone.pretrained: open_clip has no weights {shown(settings.pretrained)} of "
            f"{settings.name}; {listed}; for a file of your own set backbone.checkpoint"
        )


def check_square(name: str, visual: Any) -> int:
    """Side of the images that a tower takes, in pixels.

    Raises:
        CaptError: they are not square.
    """
    sizes = visual.image_size if isinstance(visual.image_size, tuple) else (visual.image_size,)
    if len(set(sizes)) != 1:
        raise CaptError(
            f"backbone.name: {name} takes images that are not square, {sizes}; choose another"
        )
    return int(sizes[0])


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Hush open_clip, which warns of random weights in a model that is about to get its own."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
