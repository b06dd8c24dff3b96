"""Reading a trained model from its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, Field, model_validator

from capt_core.advice import Remedy
from capt_core.artifacts import lineage
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.tensors import SavedTensors, load_tensors
from capt_core.backbone.identity import EMBEDDED, embedded_identity
from capt_core.backbone.loading import Backbone, load_backbone
from capt_core.backbone.portable import Architecture, rebuilt
from capt_core.data.registry import check_template
from capt_core.errors import CaptError, reason, shown
from capt_core.evaluation.calibration import Calibration
from capt_core.methods.classes import Classes
from capt_core.methods.method import Fitted
from capt_core.methods.registry import method_class, method_names
from capt_core.methods.trained import FORMAT, TrainedModel, split_tensors
from capt_core.params import Backbone as BackboneSettings
from capt_core.params import Runtime
from capt_core.settings_file import validate


def restore_fitted(
    record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], backbone: Backbone
) -> Fitted:
    """A fitted method from its `record` and tensors, on the backbone's device.

    Raises:
        CaptError: the method is not installed here.
    """
    name = record["method"]
    if name not in method_names():
        raise CaptError(
            f"made with the method {shown(name)}, which is not known here; install the package "
            "that provides it, or import the module that registers it"
        )
    found = method_class(name)
    settings = validate(found.Settings, record["settings"], f"saved settings of {found.name}")
    # Copies: two models may be made of the same tensors, and products differ in their last bits
    # where those of a file are not aligned in memory.
    copies = {key: value.clone() for key, value in tensors.items()}
    fitted = found(settings).restore(backbone, copies, record["facts"])
    fitted.seen_before = tuple(record.get("seen_before", ()))
    fitted.left_out = tuple(record.get("left_out", ()))
    return fitted.to(backbone.device).eval()


def restore_base(
    record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], backbone: Backbone
) -> Fitted:
    """The base model that a fitted method holds as its module `base`.

    Args:
        record: of the base model.
        tensors: of the method.
        backbone: of both.

    Raises:
        CaptError: as `restore_fitted`.
    """
    below = {
        name.removeprefix("base."): value
        for name, value in tensors.items()
        if name.startswith("base.")
    }
    return restore_fitted(record, below, backbone)


class _Record(BaseModel):
    method: str
    settings: dict[str, Any]
    facts: dict[str, Any]
    seen_before: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


class _Classes(BaseModel):
    names: tuple[str, ...]
    templates: tuple[str, ...]

    @model_validator(mode="after")
    def _matching(self) -> Self:
        if len(self.names) != len(self.templates) or len(set(self.names)) != len(self.names):
            raise ValueError("class names and templates do not match")
        if not self.names:
            raise ValueError("no classes")
        for template in self.templates:
            check_template(template)
        return self


class _Calibration(BaseModel):
    temperature: float = Field(gt=0, allow_inf_nan=False)
    threshold: float | None = Field(ge=0, le=1)
    precision: float = Field(ge=0, le=1)
    images: int = Field(ge=1)
    accuracy: float = Field(ge=0, le=1)


class _Facts(BaseModel):
    """What a model file says beside its tensors, as far as it is read."""

    model: _Record
    classes: _Classes
    sees: str
    seed: int
    untrained: bool
    calibration: _Calibration | None = None
    backbone: Architecture | None = None


@dataclass(frozen=True)
class ModelFile:
    """A model file that was read and checked, before its model is built.

    Attributes:
        path: of the file.
        remedy: what to do if it cannot be used, for messages.
    """

    path: Path
    remedy: str | Remedy
    _saved: SavedTensors
    _facts: _Facts

    @property
    def identity(self) -> str:
        """Name and weights of the backbone that the model was trained on."""
        return self._saved.provenance.backbone

    @property
    def method(self) -> str:
        return self._facts.model.method

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._facts.classes.names

    @property
    def has_backbone(self) -> bool:
        """Whether a backbone is at hand: in the file, or the embedded one."""
        name = self.identity.partition("@")[0]
        embedded = name in EMBEDDED and self.identity == embedded_identity(name)
        return self._facts.backbone is not None or embedded

    def own_backbone(self, runtime: Runtime) -> Backbone:
        """The backbone in the file, or the embedded one.

        Raises:
            CaptError: there is none, or what the file holds is not the one that it names.
        """
        if self._facts.backbone is not None:
            _, tensors = split_tensors(self._saved.tensors)
            try:
                return rebuilt(self._facts.backbone, tensors, self.identity, runtime)
            except CaptError as error:
                raise CaptError(f"{self.path}: {error}") from error
        name, _, weights = self.identity.partition("@")
        if name not in EMBEDDED:
            raise CaptError(
                f"{self.path}: trained on {shown(name)} with weights {shown(weights)}; "
                f"give backbone=capt_core.load_backbone({shown(name)}, checkpoint=FILE)"
            )
        return load_backbone(BackboneSettings(name=name, checkpoint=None), runtime)

    def model(self, backbone: Backbone) -> TrainedModel:
        """The model on a backbone.

        Raises:
            CaptError: another backbone, an unknown method, or content that is no such model.
        """
        path, facts = self.path, self._facts
        if backbone.identity != self.identity:
            raise CaptError(
                f"{path}: trained on {shown(self.identity)}, not on {backbone.identity}; "
                "load that backbone with the weights it was trained on"
            )
        learnt, _ = split_tensors(self._saved.tensors)
        try:
            fitted = restore_fitted(facts.model.model_dump(), learnt, backbone)
        except CaptError as error:
            raise CaptError(f"{path}: {error}") from error
        except Exception as error:
            # A method restores itself from what the file says, and may stumble over any of it.
            raise CaptError(
                f"{path}: does not hold the model that it names ({reason(error)}); {self.remedy}"
            ) from error
        classes = Classes(facts.classes.names, facts.classes.templates)
        fits = facts.calibration
        calibration = None if fits is None else Calibration(**fits.model_dump())
        origin = self._saved.provenance
        return TrainedModel(fitted, classes, facts.sees, facts.seed, origin, calibration)


_CHECK = "check the path, or train it again"


def open_model(
    path: Path | str,
    *,
    expected: Provenance | None = None,
    remedy: str | Remedy = _CHECK,
) -> ModelFile:
    """Read and check a model file; `load_model` does this and builds the model.

    Raises:
        CaptError: missing, damaged or foreign file.
    """
    path = Path(path)
    saved = load_tensors(path, remedy)
    if saved.facts.get("format") != FORMAT:
        raise CaptError(f"{path}: holds no trained model of this version; {remedy}")
    if expected is not None:
        lineage.admit(path, saved.record, expected, remedy)
    return ModelFile(path, remedy, saved, _read_facts(path, saved, remedy))


def load_model(
    path: Path | str,
    backbone: Backbone | None = None,
    *,
    expected: Provenance | None = None,
    remedy: str | Remedy = _CHECK,
) -> TrainedModel:
    """Read a trained model; it needs nothing else but its backbone.

    Args:
        path: file that `TrainedModel.save` or ``capt-stage train`` wrote.
        backbone: that the model was trained on; None takes the one in the file, or the embedded
            tiny CLIP, if it was that.
        expected: data set and backbone that the reader works with; None checks the backbone only.
        remedy: what to do if the file cannot be used, for messages.

    Raises:
        CaptError: missing, damaged or foreign file, another backbone, or an unknown method.
    """
    file = open_model(path, expected=expected, remedy=remedy)
    return file.model(file.own_backbone(Runtime()) if backbone is None else backbone)


def _read_facts(path: Path, saved: SavedTensors, remedy: str | Remedy) -> _Facts:
    try:
        return _Facts.model_validate(saved.facts)
    except ValueError as error:
        raise CaptError(f"{path}: holds no trained model; {remedy}") from error


@dataclass(frozen=True)
class ModelSummary:
    """What a model file says of its model without building it.

    Attributes:
        method: its name.
        untrained: the backbone's weights are a random initialisation.
    """

    method: str
    untrained: bool


def read_summary(path: Path, expected: Provenance, remedy: str | Remedy) -> ModelSummary:
    """The summary of a model file.

    Raises:
        CaptError: missing, damaged or foreign file.
    """
    saved = load_tensors(path, remedy)
    lineage.admit(path, saved.record, expected, remedy)
    facts = _read_facts(path, saved, remedy)
    return ModelSummary(facts.model.method, facts.untrained)
