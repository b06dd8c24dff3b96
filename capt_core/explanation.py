"""Where a model looks for two classes, before and after a method was fitted (occlusion).

Windows slide over the image and hide what is below them; where a class's score falls, the model
saw that class (Zeiler and Fergus, ECCV 2014). It asks nothing of the tower but scores, so it serves
vision transformers, ResNets and every method alike. Small windows and large ones, that show the
mean colour and that show a blurred image, are averaged: `benchmarks/explanation.py` measures this
beside each of them alone and beside methods that follow gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from capt_core.data.images import Preprocess, open_image
from capt_core.errors import CaptError, shown
from capt_core.methods.capt.method import FittedCapt
from capt_core.methods.capt.parts import parts_of, switched_on
from capt_core.methods.clip import Clip
from capt_core.methods.trained import TrainedModel
from capt_core.reporter import active

CELLS = 8
"""Windows are as wide as one and as two of this many cells of the image, and move by one."""

WIDTHS = (1, 2)

_BLUR = 8  # the side of the image divided by the blur's standard deviation
_BATCH = 32

_PART_NAMES = {
    "adapter_local": "adapter, local part",
    "adapter_global": "adapter, global part",
    "adapter": "adapter",
    "experts": "experts",
    "pair_expert": "confused-pair expert",
    "whitening": "whitening",
    "discriminant": "discriminant",
}

Score = Callable[[torch.Tensor], torch.Tensor]
"""Images [B, 3, S, S] to scores [B, C]."""


@dataclass(frozen=True)
class View:
    """What one model makes of an image.

    Attributes:
        name: of the model, for people.
        prediction: its answer.
        confidence: probability of that answer, calibrated where the model was.
        probabilities: of the two classes among all classes that the model knows.
        maps: by how much the score (logit, in nats of eq. 1) of each of the two classes, less the
            mean score of all classes, falls where windows hide a place, [2, S, S]; negative
            where hiding raises it. Their difference is the evidence for the first class against
            the second.
    """

    name: str
    prediction: str
    confidence: float
    probabilities: tuple[float, float]
    maps: NDArray[np.float32]

    @property
    def difference(self) -> NDArray[np.float32]:
        """Evidence for the first class against the second, [S, S]."""
        result: NDArray[np.float32] = self.maps[0] - self.maps[1]
        return result


@dataclass(frozen=True)
class Explanation:
    """Where models look for two classes.

    Attributes:
        classes: the two classes.
        image: as the models see it, [S, S, 3], 0 to 255.
        before: the base model.
        after: the model; None if it is the base model.
        parts: what was fitted, part by part, each switched on alone; empty if not asked for.
    """

    classes: tuple[str, str]
    image: NDArray[np.uint8]
    before: View
    after: View | None
    parts: tuple[View, ...] = ()


def explain(
    model: TrainedModel,
    image: Path | str | Image.Image,
    classes: Sequence[str] | None = None,
    *,
    parts: bool = False,
) -> Explanation:
    """Show where a model and its base model look for two classes.

    Args:
        model: of any method.
        image: a file or PIL image.
        classes: two class names; None takes the model's answer and the base model's, or, where
            they agree, the model's first and second guess.
        parts: also switch on what CAPT added part by part; other methods have no parts.

    Raises:
        CaptError: an unreadable image, not two different classes of the model, or no parts.
        ModuleNotFoundError: the extra ``[explain]`` is not installed.
    """
    if isinstance(image, str | Path):
        image = open_image(Path(image), "give another image")
    pixels = model.preprocess(image)[None]
    base = base_model(model)
    answers = [_probabilities(each, pixels) for each in (base, model)]
    pair = _pair(model.class_names, classes, *answers)
    switches = _switches(model) if parts else {}
    compared = [base] if base is model else [base, model]
    windows = occlusion_count(model.preprocess.size) * (len(compared) + len(switches))
    with active().progress("hidden windows", windows) as advance:
        views = [_view(_label(each), each, pixels, pair, advance) for each in compared]
        alone = []
        for name, switch in switches.items():
            with switch:
                part = TrainedModel(model.fitted, model.classes, "", model.seed, model.provenance)
                alone.append(_view(name, part, pixels, pair, advance))
    names = model.class_names
    return Explanation(
        (names[pair[0]], names[pair[1]]),
        seen_image(pixels[0], model.preprocess),
        views[0],
        views[1] if len(views) > 1 else None,
        tuple(alone),
    )


def base_model(model: TrainedModel) -> TrainedModel:
    """What a model is compared with: what it started from, see `Fitted.start`."""
    if type(model.fitted.method) is Clip:
        return model
    return TrainedModel(model.fitted.start, model.classes, "", model.seed, model.provenance)


def occlusion(
    score: Score, image: torch.Tensor, hidden: torch.Tensor, window: int, stride: int
) -> torch.Tensor:
    """By how much scores fall where a window hides a place.

    Args:
        score: to be explained.
        image: [3, H, W].
        hidden: what the window shows instead, [3, H, W].
        window: side of the window, pixels.
        stride: from one window to the next, pixels.

    Returns:
        [C, H, W]: at each pixel the mean fall of the score over the windows that cover it.

    Raises:
        ModuleNotFoundError: captum is not installed.
    """
    from captum.attr import Occlusion

    found = Occlusion(score).attribute(
        image[None],
        sliding_window_shapes=(len(image), window, window),
        strides=(len(image), stride, stride),
        baselines=hidden[None],
        perturbations_per_eval=_BATCH,
    )
    # Channels are hidden together, so all hold the same.
    maps: torch.Tensor = found[:, 0]
    return maps


def averaged_occlusion(score: Score, image: torch.Tensor) -> torch.Tensor:
    """Mean of `occlusion` by windows of `WIDTHS` that show the mean colour or a blurred image.

    Args:
        score: to be explained.
        image: preprocessed, so that 0 is the mean colour, [3, S, S].

    Returns:
        [C, S, S]; a window twice as wide counts half.
    """
    size = image.shape[-1]
    cell = cell_of(size)
    maps = [
        occlusion(score, image, hidden, min(width * cell, size), cell) / width
        for hidden in (torch.zeros_like(image), blurred(image))
        for width in WIDTHS
    ]
    return torch.stack(maps).mean(dim=0)


def occlusion_count(size: int) -> int:
    """How many images `averaged_occlusion` scores for an image of a side of `size` pixels."""
    cell = cell_of(size)
    steps = [max(0, -(-(size - width * cell) // cell)) + 1 for width in WIDTHS]
    return 2 * sum(each * each + 1 for each in steps)


def cell_of(size: int) -> int:
    """Side of a cell, in pixels, of an image of a side of `size` pixels."""
    return max(1, round(size / CELLS))


def blurred(image: torch.Tensor) -> torch.Tensor:
    """An image [3, S, S] without detail: light and colours stay, so that none are invented."""
    from torchvision.transforms.functional import gaussian_blur

    deviation = image.shape[-1] / _BLUR
    kernel = 2 * int(2 * deviation) + 1
    result: torch.Tensor = gaussian_blur(image, [kernel, kernel], [deviation, deviation])
    return result


def centred_scores(logits: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """Logits [B, C] of some classes, less the mean of all, [B, len(classes)].

    What raises all scores alike says nothing for any class.
    """
    return logits[:, list(classes)] - logits.mean(dim=1, keepdim=True)


def seen_image(pixels: torch.Tensor, preprocess: Preprocess) -> NDArray[np.uint8]:
    """A preprocessed image [3, S, S] as pixels [S, S, 3], 0 to 255."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (preprocess.mean, preprocess.std))
    values = (pixels * std + mean).clamp(0, 1) * 255
    result: NDArray[np.uint8] = values.round().to(torch.uint8).permute(1, 2, 0).numpy()
    return result


@torch.no_grad()
def _probabilities(model: TrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    # As `predict` gives them, or the two would tell of one image two confidences.
    temperature = 1.0 if model.calibration is None else model.calibration.temperature
    logits: torch.Tensor = model(pixels)[0].double() / temperature
    return logits.softmax(dim=-1).float().cpu()


def _pair(
    names: Sequence[str],
    asked: Sequence[str] | None,
    before: torch.Tensor,
    after: torch.Tensor,
) -> tuple[int, int]:
    """Positions of the two classes to explain, the model's own answer first.

    Args:
        names: of C classes.
        asked: two of them, or None.
        before: probabilities of the base model, [C].
        after: of the model, [C].

    Raises:
        CaptError: not two different classes.
    """
    if len(names) < 2:
        raise CaptError("the model knows one class only: there is no other to tell it from")
    if asked is None:
        first, second = after.topk(2).indices.tolist()
        earlier = int(before.argmax())
        return first, earlier if earlier != first else second
    if isinstance(asked, str) or len(asked) != 2 or asked[0] == asked[1]:
        raise CaptError(f"classes: expected two different class names, found {shown(asked)}")
    for name in asked:
        if name not in names:
            near = get_close_matches(str(name), names, 1) or names[:1]
            raise CaptError(
                f"classes: the model knows no class {shown(name)}; one that it knows is "
                f"{shown(near[0])}"
            )
    return names.index(asked[0]), names.index(asked[1])


def _switches(model: TrainedModel) -> dict[str, AbstractContextManager[None]]:
    """What switches each part of a model on alone, by the part's name.

    Raises:
        CaptError: the method has no parts.
    """
    fitted = model.fitted
    if not isinstance(fitted, FittedCapt):
        raise CaptError(f"parts: only CAPT is made of parts, this model is {_label(model)}")
    found: dict[str, AbstractContextManager[None]] = {}
    if fitted.vector_names:
        found["class texts alone"] = switched_on(fitted, None)
    for part in parts_of(fitted):
        found[f"{_PART_NAMES[part]} alone"] = switched_on(fitted, part)
    return found


def _label(model: TrainedModel) -> str:
    return model.fitted.method.label


@torch.no_grad()
def _view(
    name: str,
    model: TrainedModel,
    pixels: torch.Tensor,
    pair: tuple[int, int],
    advance: Callable[[int], None],
) -> View:
    def score(images: torch.Tensor) -> torch.Tensor:
        advance(len(images))
        return centred_scores(model(images).float().cpu(), pair)

    probabilities = _probabilities(model, pixels)
    best = int(probabilities.argmax())
    maps = averaged_occlusion(score, pixels[0])
    return View(
        name,
        model.class_names[best],
        float(probabilities[best]),
        (float(probabilities[pair[0]]), float(probabilities[pair[1]])),
        maps.float().numpy(),
    )
