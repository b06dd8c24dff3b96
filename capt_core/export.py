"""Trained models for other runtimes."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from capt_core.artifacts.files import atomic_path
from capt_core.errors import CaptError
from capt_core.methods.trained import TrainedModel


def export_onnx(model: TrainedModel, path: Path) -> float:
    """Write a model as ONNX and compare it with the original under onnxruntime.

    Its input `images` is [B, 3, S, S] in fp32, preprocessed as the file's metadata say (resize
    the shorter side to S with bicubic interpolation, crop the centre, normalise); its output
    `scores` is [B, C], in the order of the metadata's class names. B is free.

    Args:
        model: on the CPU.
        path: the file to write, atomically.

    Returns:
        Largest difference between the scores of both on random images.

    Raises:
        CaptError: the model is not on the CPU in fp32, or the file cannot be written.
        ModuleNotFoundError: the extra ``[export]`` is not installed.
    """
    import onnx
    import onnxruntime

    backbone, preprocess = model.fitted.backbone, model.preprocess
    if backbone.device.type != "cpu" or backbone.autocast is not None:
        raise CaptError("export works on the CPU in fp32; set runtime.device=cpu, precision=fp32")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, preprocess.size, preprocess.size, generator=generator)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            scores = model(images)
            program = torch.onnx.export(
                model,
                (images[:2],),
                input_names=["images"],
                output_names=["scores"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
                dynamo=True,
                verbose=False,
            )
        finally:
            logging.disable(logging.NOTSET)
    assert program is not None
    document = program.model_proto
    facts = {
        "class_names": json.dumps(model.class_names, ensure_ascii=False),
        "preprocess": json.dumps(
            {"size": preprocess.size, "mean": preprocess.mean, "std": preprocess.std}
        ),
        "method": model.method,
        "sees": model.sees,
        "provenance": json.dumps(model.provenance.as_dict(), sort_keys=True),
    }
    onnx.helper.set_model_props(document, facts)
    with atomic_path(path) as temporary:
        onnx.save_model(document, str(temporary))
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        # Other batch sizes than the traced one: the file must not be fixed to it.
        found = [
            session.run(["scores"], {"images": part.numpy()})[0]
            for part in (images[:3], images[3:])
        ]
    return float((torch.from_numpy(np.concatenate(found)) - scores).abs().max())
