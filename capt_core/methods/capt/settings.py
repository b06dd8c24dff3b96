"""Settings of CAPT: the section ``methods.capt``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from capt_core.learning.optimisation import Optimisation
from capt_core.methods.descriptions import Describe
from capt_core.methods.retention import RetentionNames
from capt_core.settings_file import Section, packaged

Block = Annotated[int, Field(ge=0, le=1000)]


class Adapter(Section, path="methods.capt.adapter"):
    """The Diff-Manner Adapter (eq. 9, 10, 13)."""

    blocks: Literal["all"] | Block | list[Block] = packaged()
    form: Literal["broadcast", "unsummed"] = packaged()
    parts: Literal["global_local", "local", "global"] = packaged()
    kernel_size: int = packaged(ge=1, le=99)
    scale: float = packaged(gt=0, le=1e6)
    exponent: float = packaged(ge=0, le=100)
    momentum: float = packaged(ge=0, lt=1)

    @model_validator(mode="after")
    def _centred_kernel(self) -> Self:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, found {self.kernel_size}")
        return self


Granularity = Literal["sample", "commonality", "difference", "confused_pair"]
EXPERTS: tuple[Granularity, ...] = ("sample", "commonality", "difference")
"""Those behind the router, in the order of their gates."""


class Experts(Section, path="methods.capt.experts"):
    """The Multi-Granularity Discrepancy Expert (eq. 11, 12)."""

    granularities: list[Granularity] = packaged()
    routing: Literal["top_k", "mean"] = packaged()
    active: int = packaged(ge=1, le=3)
    mask_rate: float = packaged(ge=0, lt=1)
    pairs: Literal["confused", "unconfused"] = packaged()
    pair_strength: float = packaged(ge=0, le=100)
    shrinkage: float = packaged(gt=0, le=1)


class Losses(Section, path="methods.capt.losses"):
    """What training minimises (eq. 2, 3) and what keeps it near the base model."""

    confusion_weight: float = packaged(ge=0, le=1e6)
    factor: Literal["half", "sum"] = packaged()
    original_weight: float = packaged(ge=0, le=1e6)
    original_images: Literal["anchors", "mixtures"] = packaged()
    margin: float = packaged(ge=0, le=100)
    margin_counts: Literal["bank", "permuted"] = packaged()
    retention_weight: float = packaged(ge=0, le=1e6)
    retention_names: RetentionNames = packaged()

    @model_validator(mode="after")
    def _something_to_minimise(self) -> Self:
        if not any((self.confusion_weight, self.original_weight)):
            raise ValueError("confusion_weight and original_weight are both 0: nothing to learn")
        return self


class ClassTexts(Section, path="methods.capt.class_texts"):
    """What images are compared with (t of eq. 1 to 3)."""

    difference_weight: float = packaged(ge=0, le=1e6)
    describe: Describe = packaged()


class Discriminant(Section, path="methods.capt.discriminant"):
    """Few-shot images as Gaussians beside the class texts of trained classes."""

    weight: float = packaged(ge=0, le=1e6)


class Whitening(Section, path="methods.capt.whitening"):
    """Within-class covariance normalisation of the joint space, from few-shot images."""

    shrinkage: float = packaged(gt=0, le=1)


class Train(Optimisation, path="methods.capt.train"):
    """Schedule, views and noise of the training."""

    gate_rate: float = packaged(gt=0, le=1e6)
    augmentation: Literal["crop_flip", "none"] = packaged()
    views: int = packaged(ge=0, le=1000)
    cache_prefix: bool = packaged()
    representative_noise: float = packaged(ge=0, le=1)
    redraw: bool = packaged()
    interpolation: float = packaged(gt=0, le=1)

    @model_validator(mode="after")
    def _cacheable(self) -> Self:
        if self.cache_prefix and self.augmentation != "none" and self.views == 0:
            raise ValueError(
                "cache_prefix needs a fixed number of views: set views to 1 or more, "
                "or augmentation to none"
            )
        return self


class CaptSettings(Section):
    """The section ``methods.capt``."""

    adapter: Adapter = Adapter()
    experts: Experts = Experts()
    losses: Losses = Losses()
    class_texts: ClassTexts = ClassTexts()
    whitening: Whitening = Whitening()
    discriminant: Discriminant = Discriminant()
    train: Train = Train()
