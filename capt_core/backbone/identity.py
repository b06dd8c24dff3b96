"""Which backbone the settings name, found without loading it."""

from __future__ import annotations

from pathlib import Path

from capt_core import params
from capt_core.artifacts.files import file_digest
from capt_core.backbone.weights_file import weights_form
from capt_core.errors import CaptError, shown
from capt_core.reporter import announced

TINY_CLIP = "tiny-clip"
TINY_CLIP_TEACHER = "tiny-clip-teacher"
EMBEDDED = {
    TINY_CLIP: Path(__file__).parent / "tiny_clip",
    TINY_CLIP_TEACHER: Path(__file__).parent / "tiny_clip" / "teacher",
}
"""Folders of the models that come with the package, by name: weights, architecture, facts."""
EMBEDDED_WEIGHTS = "weights.safetensors"


def is_embedded_backbone(identity: str) -> bool:
    """Whether an identity names a model that comes with the package, which knows textures only."""
    return identity.partition("@")[0] in EMBEDDED


def embedded_identity(name: str) -> str:
    """Identity of a model of `EMBEDDED` with its packaged weights."""
    return f"{name}@{file_digest(EMBEDDED[name] / EMBEDDED_WEIGHTS)}"


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
    if settings.name in EMBEDDED:
        return embedded_identity(settings.name)
    if settings.pretrained is not None:
        return f"{settings.name}@{settings.pretrained}"
    raise CaptError(
        f"backbone {shown(settings.name)}: no weights named; set backbone.checkpoint=FILE, or "
        "backbone.pretrained=TAG (such as openai) to download them"
    )
