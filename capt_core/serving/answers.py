"""From an upload to an answer: opening the image, classifying it, what is told beside the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from pydantic import BaseModel

from capt_core.backbone.identity import is_embedded_backbone
from capt_core.backbone.loading import UNTRAINED_WARNING
from capt_core.data.decoding import LARGEST_PIXELS, BadImageError, opened, to_rgb
from capt_core.methods.trained import TrainedModel
from capt_core.serving.access import RefusedError
from capt_core.serving.companions import Companions, Picture
from capt_core.serving.uploads import Upload

TOP = 5
EMBEDDED_WARNING = (
    "This model uses the embedded tiny CLIP, which knows drawn textures only: "
    "what it says about photographs means nothing."
)
DIFFERENCE_PROMPTS, CLASS_TEXT = "difference prompts", "class text"


class Guess(BaseModel):
    """A class and its softmax probability, calibrated where the model was."""

    name: str
    confidence: float


class Told(BaseModel):
    """What is told about one of the two likeliest classes.

    Attributes:
        name: of the class.
        source: `difference prompts`, which tell it from the other of the two, or `class text`,
            what the model compares images with.
        texts: of that source.
        pictures: addresses of example images.
        captions: one per picture.
    """

    name: str
    source: str
    texts: list[str]
    pictures: list[str]
    captions: list[str]


class Answer(BaseModel):
    """What the service says about an image.

    Attributes:
        prediction: the likeliest class.
        confidence: its probability.
        second: the second guess; null for a model of one class.
        base_prediction: what the base model says; null where the model file does not hold it.
        base_confidence: likewise.
        changed: whether the two differ; null where that is not known.
        unsure: whether the confidence is below the fitted threshold; null where there is none.
        top: the likeliest classes, best first.
        told: about the likeliest class and the second.
        warning: why the answer may mean nothing; null where nothing is known against it.
    """

    prediction: str
    confidence: float
    second: Guess | None
    base_prediction: str | None
    base_confidence: float | None
    changed: bool | None
    unsure: bool | None
    top: list[Guess]
    told: list[Told]
    warning: str | None


class Answerer:
    """Answers for one model; to be called from one thread at a time.

    Args:
        model: the trained model.
        companions: what is shown beside its answers.
    """

    def __init__(self, model: TrainedModel, companions: Companions) -> None:
        self.model, self.companions = model, companions
        self.warning = model_warning(model)
        texts = model.fitted.readable_prompts(model.classes)
        self.class_texts = dict(zip(model.class_names, texts, strict=True))
        self.thumbnails: list[Picture] = []
        self._addresses: dict[str, list[str]] = {}
        for name, pictures in companions.pictures.items():
            start = len(self.thumbnails)
            self.thumbnails += pictures
            self._addresses[name] = [
                thumbnail_address(start + index) for index in range(len(pictures))
            ]

    def answer(self, upload: Upload, most_pixels: int = LARGEST_PIXELS) -> Answer:
        """Classify an uploaded image.

        Raises:
            RefusedError: it is no image that can be read, or has more pixels.
        """
        return self.answer_for(decoded(upload, most_pixels))

    def answer_for(self, image: Image.Image) -> Answer:
        """Classify an image in RGB."""
        row = prediction_row(self.model, image)
        pairs = zip(row["top_classes"], row["top_confidences"], strict=True)
        top = [Guess(name=name, confidence=confidence) for name, confidence in pairs]
        names = [guess.name for guess in top[:2]]
        return Answer(
            prediction=row["prediction"],
            confidence=row["confidence"],
            second=top[1] if len(top) > 1 else None,
            base_prediction=row.get("base_prediction"),
            base_confidence=row.get("base_confidence"),
            changed=row.get("changed"),
            unsure=row.get("unsure"),
            top=top,
            told=[self._told(name, [other for other in names if other != name]) for name in names],
            warning=self.warning,
        )

    def _told(self, name: str, others: Sequence[str]) -> Told:
        differences = self.companions.differences
        found = [text for other in others for text in differences.get((name, other), ())]
        pictures = self.companions.pictures.get(name, ())
        return Told(
            name=name,
            source=DIFFERENCE_PROMPTS if found else CLASS_TEXT,
            texts=found or [self.class_texts[name]],
            pictures=self._addresses.get(name, []),
            captions=[picture.caption for picture in pictures],
        )


def thumbnail_address(number: int) -> str:
    return f"/thumbnails/{number}"


def decoded(upload: Upload, most_pixels: int = LARGEST_PIXELS) -> Image.Image:
    """An upload as an RGB image of at most so many pixels.

    Raises:
        RefusedError: no image of a known format, damaged, or out of bounds.
    """
    try:
        with opened(upload.content, upload.suffix, most_pixels) as image:
            return to_rgb(image)
    except BadImageError as error:
        raise RefusedError(422, f"the file cannot be used: {error}") from error


def prediction_row(model: TrainedModel, image: Image.Image) -> Mapping[str, Any]:
    """The one row of `TrainedModel.predict` for an image.

    `base_prediction`, `base_confidence`, `changed` and `unsure` are there if the model knows them.
    """
    return model.predict([image], top=TOP, workers=1).row(0, named=True)


def model_warning(model: TrainedModel) -> str | None:
    """Why a model's answers may mean nothing."""
    backbone = model.fitted.backbone
    if backbone.untrained:
        return UNTRAINED_WARNING
    return EMBEDDED_WARNING if is_embedded_backbone(backbone.identity) else None
