"""A trained model as other runtimes see it: 8-bit images in, scores and probabilities out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import nn

from capt_core.errors import CaptError
from capt_core.methods.trained import TrainedModel

TOLERANCE = 1e-4
"""Of scores up to `CUSTOMARY`; of larger ones in proportion, as fp32 has it."""

CUSTOMARY = 100.0
"""Largest logit of a CLIP: its scale times a cosine of one."""

INPUT = "images"
OUTPUTS = ("scores", "probabilities")


class ImageScores(nn.Module):
    """What is exported.

    Args:
        model: on the CPU in fp32.

    Raises:
        CaptError: the model is elsewhere, or in another precision.
    """

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        backbone, preprocess = model.fitted.backbone, model.preprocess
        if backbone.device.type != "cpu" or backbone.autocast is not None:
            raise CaptError(
                "export works on the CPU in fp32; set runtime.device=cpu, precision=fp32"
            )
        self.model = model
        self.size = preprocess.size
        self.temperature = temperature_of(model)
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, 3, 1, 1))
        self.eval()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """8-bit RGB images [B, S, S, 3] to scores and probabilities [B, C]."""
        pixels = images.permute(0, 3, 1, 2).float() / 255
        scores = self.model((pixels - self.mean) / self.std).float()
        return scores, (scores / self.temperature).softmax(dim=-1)

    def examples(self) -> torch.Tensor:
        """Five images to try: noise, black and white, [5, S, S, 3]."""
        source = torch.Generator().manual_seed(0)
        shape = (3, self.size, self.size, 3)
        noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=source)
        plain = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None]
        return torch.cat([noise, plain.expand(2, *shape[1:])])


def temperature_of(model: TrainedModel) -> float:
    """What scores are divided by before they become probabilities."""
    return 1.0 if model.calibration is None else model.calibration.temperature


def facts_of(module: ImageScores) -> dict[str, str]:
    """What the file says beside the computation; all values but plain words are JSON."""
    model, preprocess = module.model, module.model.preprocess
    steps = {
        "input": "8-bit RGB images [B, S, S, 3]; scaling and normalisation are inside",
        "resize": "shorter side to S with bicubic interpolation (Pillow), longer side rounded down",
        "crop": "centre, S x S, offsets rounded to the nearest whole number, halves to even",
        "size": preprocess.size,
        "mean": preprocess.mean,
        "std": preprocess.std,
    }
    return {
        "class_names": json.dumps(model.class_names, ensure_ascii=False),
        "preprocess": json.dumps(steps),
        "method": model.method,
        "sees": model.sees,
        "calibration": json.dumps(model.calibration and asdict(model.calibration)),
        "provenance": json.dumps(model.provenance.as_dict(), sort_keys=True),
    }


def largest_difference(
    module: ImageScores, run: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
) -> float:
    """How far another runtime's scores and probabilities are from the model's, at most.

    It is asked about batches of one, three and one image: a file must not be fixed to a batch size.

    Raises:
        CaptError: further than `TOLERANCE`, or no numbers.
    """
    batches = torch.split(module.examples(), [1, 3, 1])
    with torch.no_grad():
        wanted, found = ([each(batch) for batch in batches] for each in (module, run))
    mine, theirs = (
        [torch.cat(parts) for parts in zip(*given, strict=True)] for given in (wanted, found)
    )
    off = [float((one - other).abs().max()) for one, other in zip(mine, theirs, strict=True)]
    allowed = TOLERANCE * max(1.0, float(mine[0].abs().max()) / CUSTOMARY)
    if not (off[0] <= allowed and off[1] <= TOLERANCE):
        raise CaptError(
            f"the exported {module.model.method} gives other scores than the model (by {off[0]:.1e}"
            f" where {allowed:.1e} is allowed), so no file was written; export it as safetensors"
        )
    return max(off)
