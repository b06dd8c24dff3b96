"""Settings: ``params.yaml`` and ``--set`` to validated, frozen objects."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from capt_core.errors import CaptError


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys and wrong types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Data(Section):
    root: str | None = None
    on_bad_image: Literal["error", "quarantine"] = "error"
    layout: Literal[
        "auto", "class_folders", "split_folders", "table", "image_table", "split_json"
    ] = "auto"
    table: str | None = None
    classes: str | None = None
    val_share: float = Field(0.2, ge=0, lt=1)
    test_share: float = Field(0.3, ge=0, lt=1)
    split_seed: int = Field(0, ge=0)


class FewShot(Section):
    shots: int = Field(16, ge=0)


class Backbone(Section):
    name: str = "tiny-clip"
    checkpoint: str | None = None
    pretrained: str | None = None


class Runtime(Section):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    workers: int = Field(2, ge=0)


class Prepare(Section):
    check_images: Literal["decode", "exists", "none"] = "decode"
    proctex_seed: int = Field(0, ge=0)
    proctex_train: int = Field(64, ge=1)
    proctex_val: int = Field(16, ge=1)
    proctex_test: int = Field(112, ge=1)


class FitTeacher(Section):
    method: Literal["clip"] = "clip"


class ExtractFeatures(Section):
    batch_size: int = Field(128, ge=1)


class InferTeacher(Section):
    top_classes: int = Field(5, ge=1)


class BuildBank(Section):
    source: Literal["fewshot", "full_train"] = "fewshot"


class MinePairs(Section):
    pairs: int = Field(5, ge=1)
    use_statistics: bool = True


class GeneratePrompts(Section):
    provider: Literal["store", "template", "store_or_template"] = "store_or_template"
    store: str | None = None
    prompts: int = Field(2, ge=1)


class ClusterPrompts(Section):
    clusters: int = Field(5, ge=1)
    restarts: int = Field(10, ge=1)


class MineSamples(Section):
    fallback: Literal["random_train", "skip"] = "random_train"


class Train(Section):
    epochs: int = Field(25, ge=1)
    batch_size: int = Field(4, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(0.002, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0005, ge=0)
    warmup_epochs: int = Field(1, ge=0)
    warmup_learning_rate: float = Field(1e-5, gt=0)
    augmentation: Literal["crop_flip", "none"] = "crop_flip"
    original_weight: float = Field(0.0, ge=0)
    adapter_blocks: Literal["all"] | Annotated[int, Field(ge=0)] = "all"
    adapter_scale: float = Field(5.0, gt=0)
    adapter_exponent: float = Field(0.5, gt=0)
    adapter_momentum: float = Field(0.99, ge=0, lt=1)
    kernel_size: int = Field(3, ge=1)
    active_experts: int = Field(2, ge=1, le=3)
    mask_rate: float = Field(0.3, ge=0, lt=1)


class Evaluate(Section):
    batch_size: int = Field(128, ge=1)


class Report(Section):
    pairs: int = Field(6, ge=1)


class Settings(Section):
    """All settings as they hold for one data set.

    The shared sections come first, then one section per stage, named like the stage.
    """

    data: Data = Data()
    fewshot: FewShot = FewShot()
    backbone: Backbone = Backbone()
    runtime: Runtime = Runtime()
    prepare: Prepare = Prepare()
    fit_teacher: FitTeacher = FitTeacher()
    extract_features: ExtractFeatures = ExtractFeatures()
    infer_teacher: InferTeacher = InferTeacher()
    build_bank: BuildBank = BuildBank()
    mine_pairs: MinePairs = MinePairs()
    generate_prompts: GeneratePrompts = GeneratePrompts()
    cluster_prompts: ClusterPrompts = ClusterPrompts()
    mine_samples: MineSamples = MineSamples()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()


class Matrix(Section):
    """What ``dvc repro`` fans out over: every data set x seed x method."""

    datasets: list[str] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    methods: list[Literal["clip", "capt"]] = Field(min_length=1)


class PerDataset(Section):
    """What may differ for one data set.

    No other section can: dvc.yaml names these two, and DVC wants them for every data set it runs.
    """

    data: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)


_Model = TypeVar("_Model", bound=Section)


def load_settings(
    path: Path, dataset: str | None = None, overrides: Sequence[str] = ()
) -> tuple[Settings, Matrix]:
    """Read a params file and merge: shared sections, ``per_dataset.<dataset>``, overrides.

    Args:
        path: the YAML file.
        dataset: whose ``per_dataset`` entry applies; None applies none.
        overrides: ``section.key=value`` strings, values in YAML notation.

    Raises:
        CaptError: unreadable file, unknown key, wrong type or value; the message names it.
    """
    document = _read_yaml(path)
    keys = {key: document.pop(key) for key in Matrix.model_fields if key in document}
    matrix = _validate(Matrix, keys, str(path))
    differing = _mapping(document.pop("per_dataset", {}), f"{path}: per_dataset")
    for name, entry in differing.items():
        where = f"{path}: per_dataset.{name}"
        _validate(PerDataset, _mapping(entry, where), where)
        _validate(Settings, _merge(document, entry), where)
    values = _merge(document, differing.get(dataset, {})) if dataset else document
    settings = _validate(Settings, values, str(path))
    if overrides:
        settings = _validate(Settings, _with_overrides(values, overrides), "--set")
    return settings, matrix


def settings_hash(*parts: object) -> str:
    """First 16 hex digits of SHA-256 over sections and plain values, in canonical JSON."""
    plain = [part.model_dump() if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CaptError(
            f"{path}: cannot read the settings ({error.strerror}); "
            "run from the project folder or give --params FILE"
        ) from error
    except UnicodeDecodeError as error:
        raise CaptError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CaptError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    return _mapping(document or {}, str(path))


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CaptError(f"{where}: expected keys and values, found {value!r}")
    return dict(value)


def _merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _with_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    merged = dict(values)
    for override in overrides:
        key, equals, text = override.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot and section and name):
            raise CaptError(f"--set {override}: expected section.key=value")
        section = section.replace("-", "_")
        merged = _merge(merged, {section: {name: _override_value(section, name, text)}})
    return merged


def _override_value(section: str, name: str, text: str) -> object:
    if _expects_text(section, name):
        return None if text.strip() in ("null", "~") else text
    try:
        return yaml.safe_load(text) if text.strip() else ""
    except yaml.YAMLError as error:
        raise CaptError(f"--set {section}.{name}={text}: the value is not valid YAML") from error


def _expects_text(section: str, name: str) -> bool:
    """Whether a key takes a path or a name, which YAML might read as a number."""
    field = Settings.model_fields.get(section)
    owner = field.annotation if field else None
    if isinstance(owner, type) and issubclass(owner, BaseModel) and name in owner.model_fields:
        return owner.model_fields[name].annotation in (str, str | None)
    return False


def _validate(model: type[_Model], values: Mapping[str, Any], where: str) -> _Model:
    try:
        return model.model_validate(_floats(model, values))
    except ValidationError as error:
        problem = error.errors()[0]
        location = ".".join(str(part) for part in problem["loc"] if str(part) not in _UNION_PARTS)
        raise CaptError(f"{where}: {location}: {_explain(model, problem)}") from error


_UNION_PARTS = frozenset({"int", "literal['all']", "str"})


_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def _floats(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Strict mode refuses 1 for a float, and YAML reads 1e-3, without a point, as text."""
    converted = dict(values)
    for name, field in model.model_fields.items():
        value = converted.get(name)
        if isinstance(value, dict) and isinstance(field.annotation, type):
            if issubclass(field.annotation, BaseModel):
                converted[name] = _floats(field.annotation, value)
        elif field.annotation is float and (
            type(value) is int or (isinstance(value, str) and _EXPONENT.fullmatch(value))
        ):
            converted[name] = float(value)
    return converted


def _explain(model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        owner: type[BaseModel] = model
        for part in problem["loc"][:-1]:
            annotation = owner.model_fields[str(part)].annotation
            assert isinstance(annotation, type)
            owner = annotation
        near = difflib.get_close_matches(str(problem["loc"][-1]), owner.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(owner.model_fields)}"
        return f"unknown key; {hint}"
    return f"{problem['msg']}, found {problem['input']!r}"
