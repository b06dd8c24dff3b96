"""Trained models as ONNX."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from capt_core.artifacts.files import atomic_path
from capt_core.errors import CaptError, reason
from capt_core.export.image_scores import (
    INPUT,
    OUTPUTS,
    ImageScores,
    facts_of,
    largest_difference,
)
from capt_core.methods.trained import TrainedModel

LARGEST = 2**31 - 2**26
"""Bytes of weights in one ONNX file: a protocol buffer has at most 2 GiB."""


def export_onnx(model: TrainedModel, path: Path) -> float:
    """Write a model as ONNX and compare it with the original under onnxruntime.

    Its input `images` is [B, S, S, 3], 8-bit RGB, resized and cropped as the metadata entry
    `preprocess` says; scaling and normalisation are inside. Its outputs are `scores` and
    `probabilities`, [B, C] in fp32, in the order of the metadata entry `class_names`; the second
    is the softmax of the first at the fitted temperature, if there is one. B is free. Equal models
    give equal bytes.

    Args:
        model: on the CPU in fp32.
        path: the file to write, atomically.

    Returns:
        Largest difference from the model's scores and probabilities on the images that were tried.

    Raises:
        CaptError: the model is not on the CPU in fp32, too large, cannot be expressed in ONNX, or
            gives other scores there; or the file cannot be written.
        ModuleNotFoundError: the extra ``[export]`` is not installed.
    """
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401 (torch would miss it as if the model were at fault)

    module = ImageScores(model)
    weights = model.fitted.backbone.clip.visual.state_dict().values()
    if sum(value.nbytes for value in weights) > LARGEST:
        raise CaptError(
            f"{path}: the image tower of {model.fitted.backbone.identity} has more than the 2 GiB "
            "that one ONNX file can hold; export it as safetensors or torchscript"
        )
    document = _document(module, path)
    onnx.helper.set_model_props(document, facts_of(module))
    with atomic_path(path) as temporary:
        onnx.save_model(document, str(temporary))
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])

        def run(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scores, probabilities = session.run(OUTPUTS, {INPUT: images.numpy()})
            return torch.from_numpy(scores), torch.from_numpy(probabilities)

        return largest_difference(module, run)


def _document(module: ImageScores, path: Path) -> Any:
    """The model as ONNX has it.

    Raises:
        CaptError: it computes what ONNX cannot express.
    """
    images = module.examples()[:2]
    silenced = logging.root.manager.disable
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            module(images)  # the class texts are encoded here, and constants of what is traced
            program = torch.onnx.export(
                module,
                (images,),
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch", min=1)}},
                dynamo=True,
                verbose=False,
            )
        except CaptError:
            raise
        except Exception as error:
            cause = error.__cause__ or error
            raise CaptError(
                f"{path}: the method {module.model.method} computes what cannot be written as ONNX "
                f"({reason(cause)}); export it as safetensors or torchscript"
            ) from error
        finally:
            logging.disable(silenced)
    assert program is not None
    document = program.model_proto
    _forget_origin(document)
    return document


def _forget_origin(document: Any) -> None:
    """Remove where in whose source code each step was found: paths of the machine."""
    graph = document.graph
    for part in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for each in part:
            del each.metadata_props[:]
            each.doc_string = ""
    del graph.metadata_props[:]
