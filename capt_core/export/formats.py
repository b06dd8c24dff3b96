"""The formats that a trained model is exported in."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import torch

from capt_core.artifacts.files import atomic_path
from capt_core.errors import CaptError, shown
from capt_core.export.image_scores import ImageScores, largest_difference
from capt_core.export.onnx_file import export_onnx
from capt_core.export.torchscript_file import export_torchscript
from capt_core.methods.model_file import load_model
from capt_core.methods.trained import TrainedModel


class Format(StrEnum):
    """Formats by their names."""

    ONNX = "onnx"
    SAFETENSORS = "safetensors"
    TORCHSCRIPT = "torchscript"


ENDINGS = {".onnx": Format.ONNX, ".safetensors": Format.SAFETENSORS, ".pt": Format.TORCHSCRIPT}
"""Formats by how the names of their files end."""


def format_of(path: Path) -> Format:
    """The format that a file's name asks for.

    Raises:
        CaptError: another ending.
    """
    if path.suffix.lower() not in ENDINGS:
        raise CaptError(
            f"{path}: what format is {shown(path.suffix)}? give a name that ends in "
            f"{', '.join(ENDINGS)}, or --format {' | '.join(Format)}"
        )
    return ENDINGS[path.suffix.lower()]


def export(model: TrainedModel, path: Path, form: Format) -> float:
    """Write a model in a format, after comparing what the file gives with what the model gives.

    Returns:
        Largest difference from the model's scores and probabilities on the images that were tried.

    Raises:
        CaptError: as the format's own function.
        ModuleNotFoundError: the extra ``[export]`` is not installed.
    """
    if form is Format.ONNX:
        return export_onnx(model, path)
    if form is Format.TORCHSCRIPT:
        return export_torchscript(model, path)
    return export_safetensors(model, path)


def export_safetensors(model: TrainedModel, path: Path) -> float:
    """Write a model with its backbone inside, for `capt_core.load_model`, and load it again.

    Returns:
        Largest difference between the scores of both: 0.

    Raises:
        CaptError: the model is not on the CPU in fp32, or the file cannot be written.
    """
    module = ImageScores(model)
    with torch.no_grad(), atomic_path(path) as temporary:
        try:
            model.save(temporary, with_backbone=True)
        except CaptError as error:
            raise CaptError(str(error).replace(str(temporary), str(path))) from error
        return largest_difference(module, ImageScores(load_model(temporary)))
