"""Which backbone the settings name, found without loading it."""

from __future__ import annotations

from pathlib import Path

from capt_core import params
from capt_core.artifacts.files import file_digest
from capt_core.backbone.weights_file import weights_form
from capt_core.errors import CaptError, shown
from capt_core.reporter import announced

TINY_CLIP = "tiny-clip"
TINY_CLIP_WEIGHTS = Path(__file__).parent / "tiny_clip" / "weights.safetensors"


def checkpoint_path(settings: params.Backbone) -> Path | None:
    """The weights file that the settings name, if they name one."""
    return None if settings.checkpoint is None else Path(settings.checkpoint).expanduser()


@announced(lambda settings: f"hashing the weights of {settings.name}")
def backbone_identity(settings: params.Backbone) -> str:
    """Name and weights of the configured backbone; artifacts made with it carry this.

    Raises:
        CaptError: the checkpoint is missing or no weights file, or no weights are named.
    """
    path = checkpoint_path(settings)
    if path is not None:
        weights_form(path)
        return f"{settings.name}@{file_digest(path)}"
    if settings.name == TINY_CLIP:
        return f"{TINY_CLIP}@{file_digest(TINY_CLIP_WEIGHTS)}"
    if settings.pretrained is not None:
        return f"{settings.name}@{settings.pretrained}"
    raise CaptError(
        f"backbone {shown(settings.name)}: no weights named; set backbone.checkpoint=FILE, or "
        "backbone.pretrained=TAG (such as openai) to download them"
    )
