"""Trained models as TorchScript."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from capt_core.artifacts.files import atomic_path
from capt_core.errors import CaptError, reason
from capt_core.export.image_scores import ImageScores, facts_of, largest_difference
from capt_core.methods.trained import TrainedModel

_LEFT_OUT = (".debug_pkl", ".data/serialization_id")
"""Ends of names: paths of the machine's source files, and a digest of them."""


def export_torchscript(model: TrainedModel, path: Path) -> float:
    """Write a model as a traced module for `torch.jit.load` and compare it with the original.

    It takes `images` and returns (`scores`, `probabilities`), as `export_onnx` describes them; the
    same facts are its extra files.

    Args:
        model: on the CPU in fp32.
        path: the file to write, atomically.

    Returns:
        Largest difference from the model's scores and probabilities on the images that were tried.

    Raises:
        CaptError: the model is not on the CPU in fp32, cannot be traced, or gives other scores
            then; or the file cannot be written.
    """
    module = ImageScores(model)
    images = module.examples()[:2]
    with torch.no_grad(), warnings.catch_warnings(), atomic_path(path) as temporary:
        warnings.simplefilter("ignore")
        # In memory: torch aborts the process where a disk is full.
        written = io.BytesIO()
        try:
            module(images)  # the class texts are encoded here, and constants of what is traced
            traced = torch.jit.trace(module, (images,), check_trace=False)  # type: ignore
            torch.jit.save(traced, written, _extra_files=facts_of(module))
        except (CaptError, OSError):
            raise
        except Exception as error:
            raise CaptError(
                f"{path}: the method {model.method} computes what cannot be traced "
                f"({reason(error)}); export it as safetensors"
            ) from error
        _without_origin(written, temporary)
        return largest_difference(module, torch.jit.load(str(temporary)))  # type: ignore


def _without_origin(archive: BinaryIO, target: Path) -> None:
    """Copy an archive without what tells of the machine that wrote it."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if not name.endswith(_LEFT_OUT):
                # One date for all: equal models give equal bytes.
                new.writestr(zipfile.ZipInfo(name), old.read(name))
