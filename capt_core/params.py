"""Settings: ``params.yaml`` and ``--set`` to validated, frozen objects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from capt_core.errors import CaptError
from capt_core.settings_file import (
    PACKAGED_PARAMS,
    Section,
    mapping,
    merge,
    read_yaml,
    validate,
    with_overrides,
)


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


class ExtractFeatures(Section):
    batch_size: int = Field(128, ge=1)


class Optimisation(Section):
    """Stochastic gradient descent over few-shot images: the CoOp line's settings."""

    epochs: int = Field(200, ge=1)
    batch_size: int = Field(32, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(0.002, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0005, ge=0)
    warmup_epochs: int = Field(1, ge=0)
    warmup_learning_rate: float = Field(1e-5, gt=0)


class Coop(Optimisation):
    context_init: str | None = "a photo of a"
    context_length: int = Field(4, ge=1)


class LinearProbe(Section):
    strength: float | None = Field(None, gt=0)
    max_iterations: int = Field(1000, ge=1)


class Residual(Optimisation):
    epochs: int = Field(100, ge=1)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = Field(0.001, gt=0)
    hidden: int = Field(256, ge=1)
    retention_weight: float = Field(1.0, ge=0)
    retention_names: Literal["training", "all", "generic"] = "generic"


class FitTeacher(Coop):
    method: Literal["clip", "coop"] = "clip"


class InferTeacher(Section):
    top_classes: int = Field(5, ge=1)


class BuildBank(Section):
    source: Literal["fewshot", "full_train", "augmented_views"] = "fewshot"
    views: int = Field(4, ge=1)
    batch_size: int = Field(128, ge=1)


class MinePairs(Section):
    pairs: int = Field(5, ge=1, le=10)
    use_statistics: bool = True
    pseudo_label: Literal["pseudo_gt", "real_gt"] = "pseudo_gt"
    selection: Literal["confusion", "any"] = "confusion"


class GeneratePrompts(Section):
    provider: Literal[
        "anthropic", "anthropic-batch", "store-only", "store-or-template", "template"
    ] = "store-or-template"
    store: str | None = None
    prompts: int = Field(2, ge=1)
    model: str = "claude-sonnet-5-5"
    instructions: str | None = None
    answers: str | None = None
    attempts: int = Field(3, ge=1)
    concurrency: int = Field(4, ge=1, le=64)
    retries: int = Field(6, ge=0)
    timeout: float = Field(120.0, gt=0)
    max_tokens: int = Field(8192, ge=256)


class ClusterPrompts(Section):
    clusters: int = Field(5, ge=1)
    restarts: int = Field(10, ge=1)


class MineSamples(Section):
    choice: Literal["representative", "random"] = "representative"
    representatives: int = Field(1, ge=1, le=5)
    fallback: Literal["random_train", "skip"] = "random_train"


class Adapter(Section):
    """The Diff-Manner Adapter (eq. 9, 10, 13)."""

    blocks: Literal["all"] | Annotated[int, Field(ge=0)] | list[Annotated[int, Field(ge=0)]] = "all"
    form: Literal["broadcast", "unsummed", "swapped"] = "broadcast"
    parts: Literal["global_local", "local", "global"] = "global_local"
    attention: Literal["frozen", "own"] = "frozen"
    kernel_size: int = Field(3, ge=1)
    alpha: Literal["dynamic", "constant", "learned"] = "dynamic"
    anchor_alpha: Literal["mean", "max", "first"] = "mean"
    scale: float = Field(5.0, gt=0)
    exponent: float = Field(0.5, ge=0)
    momentum: float = Field(0.99, ge=0, lt=1)

    @model_validator(mode="after")
    def _centred_kernel(self) -> Self:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, found {self.kernel_size}")
        return self


Granularity = Literal["sample", "commonality", "difference"]
EXPERTS: tuple[Granularity, ...] = ("sample", "commonality", "difference")


class Experts(Section):
    """The Multi-Granularity Discrepancy Expert (eq. 11, 12)."""

    granularities: list[Granularity] = Field(default_factory=lambda: list(EXPERTS))
    routing: Literal["top_k", "mean"] = "top_k"
    active: int = Field(2, ge=1, le=3)
    semantic_form: Literal["memory", "feed_forward"] = "memory"
    mask_rate: float = Field(0.3, ge=0, lt=1)


class Losses(Section):
    """What training minimises (eq. 2, 3) and what keeps it near the base model."""

    confusion_weight: float = Field(1.0, ge=0)
    false_negatives: Literal["masked", "multi_positive", "class_unique"] = "masked"
    factor: Literal["half", "sum"] = "half"
    original_weight: float = Field(0.0, ge=0)
    load_balance_weight: float = Field(0.0, ge=0)
    retention_weight: float = Field(0.0, ge=0)
    retention_names: Literal["training", "all", "generic", "prompts"] = "generic"
    feature_weight: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _something_to_minimise(self) -> Self:
        if not any((self.confusion_weight, self.original_weight)):
            raise ValueError("confusion_weight and original_weight are both 0: nothing to learn")
        return self


class ClassTexts(Section):
    """What images are compared with (t of eq. 1 to 3)."""

    difference_weight: float = Field(0.0, ge=0)


class Train(Section):
    epochs: int = Field(25, ge=1)
    batch_size: int = Field(4, ge=1)
    accumulate: int = Field(1, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(0.002, gt=0)
    gate_rate: float = Field(1.0, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0005, ge=0)
    warmup_epochs: int = Field(1, ge=0)
    warmup_learning_rate: float = Field(1e-5, gt=0)
    augmentation: Literal["crop_flip", "none"] = "crop_flip"
    views: int = Field(0, ge=0)
    cache_prefix: bool = False
    representative_noise: float = Field(0.0, ge=0, le=1)
    interpolation: float = Field(1.0, gt=0, le=1)
    checkpoint_steps: int = Field(50, ge=0)

    @model_validator(mode="after")
    def _cacheable(self) -> Self:
        if self.cache_prefix and self.augmentation != "none" and self.views == 0:
            raise ValueError(
                "cache_prefix needs a fixed number of views: set views to 1 or more, "
                "or augmentation to none"
            )
        return self


class Evaluate(Section):
    batch_size: int = Field(128, ge=1)


class Report(Section):
    pairs: int = Field(6, ge=1)


class Settings(Section):
    """All settings as they hold for one data set.

    The shared sections come first, then one section per stage, named like the stage; those of the
    methods that `train` fits follow its own.
    """

    data: Data = Data()
    fewshot: FewShot = FewShot()
    backbone: Backbone = Backbone()
    runtime: Runtime = Runtime()
    adapter: Adapter = Adapter()
    experts: Experts = Experts()
    losses: Losses = Losses()
    class_texts: ClassTexts = ClassTexts()
    prepare: Prepare = Prepare()
    extract_features: ExtractFeatures = ExtractFeatures()
    fit_teacher: FitTeacher = FitTeacher()
    infer_teacher: InferTeacher = InferTeacher()
    build_bank: BuildBank = BuildBank()
    mine_pairs: MinePairs = MinePairs()
    generate_prompts: GeneratePrompts = GeneratePrompts()
    cluster_prompts: ClusterPrompts = ClusterPrompts()
    mine_samples: MineSamples = MineSamples()
    train: Train = Train()
    coop: Coop = Coop()
    linear_probe: LinearProbe = LinearProbe()
    residual: Residual = Residual()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()


class Matrix(Section):
    """What ``dvc repro`` fans out over: every data set x seed x method."""

    datasets: list[str] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    methods: list[Literal["clip", "clip_prompts", "linear_probe", "coop", "residual", "capt"]] = (
        Field(min_length=1)
    )


class Study(Section):
    """What the study runs: variants, and which methods beside CAPT with which of them."""

    variants: list[str] = Field(min_length=1)
    methods: dict[str, list[str]] = Field(default_factory=dict)

    def methods_of(self, variant: str) -> list[str]:
        """Methods that a variant is run with: CAPT alone unless others are listed."""
        return self.methods.get(variant, ["capt"])


class PerDataset(Section):
    """What may differ for one data set.

    No other section can: dvc.yaml names these two, and DVC wants them for every data set it runs.
    """

    data: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)


def load_settings(
    path: Path | None,
    dataset: str | None = None,
    overrides: Sequence[str] = (),
    variant: str | None = None,
) -> tuple[Settings, Matrix]:
    """Read a params file and merge: sections, ``per_dataset.<dataset>``, variant, overrides.

    Args:
        path: the YAML file; None takes the packaged settings.
        dataset: whose ``per_dataset`` entry applies; None applies none.
        overrides: ``section.key=value`` strings, values in YAML notation.
        variant: whose entry of ``variants`` applies; None applies none.

    Raises:
        CaptError: unreadable file, unknown key, wrong type or value; the message names it.
    """
    path = path or PACKAGED_PARAMS
    document = read_yaml(path)
    keys = {key: document.pop(key) for key in Matrix.model_fields if key in document}
    matrix = validate(Matrix, keys, str(path))
    document.pop("study", None)
    differing = mapping(document.pop("per_dataset", {}), f"{path}: per_dataset")
    variants = mapping(document.pop("variants", {}), f"{path}: variants")
    for name, entry in differing.items():
        where = f"{path}: per_dataset.{name}"
        validate(PerDataset, mapping(entry, where), where)
        validate(Settings, merge(document, entry), where)
    for name, entry in variants.items():
        where = f"{path}: variants.{name}"
        validate(Settings, merge(document, mapping(entry, where)), where)
    values = merge(document, differing.get(dataset, {})) if dataset else document
    if variant is not None:
        if variant not in variants:
            known = ", ".join(variants) or "none"
            raise CaptError(f"{path}: variants: no variant {variant!r}; known: {known}")
        values = merge(values, variants[variant])
    settings = validate(Settings, values, str(path))
    if overrides:
        settings = validate(Settings, with_overrides(Settings, values, overrides), "--set")
    return settings, matrix


def load_study(path: Path | None) -> Study:
    """The `study` entry of a params file.

    Raises:
        CaptError: unreadable file, no such entry, or a wrong one.
    """
    path = path or PACKAGED_PARAMS
    document = read_yaml(path)
    return validate(Study, mapping(document.get("study", {}), f"{path}: study"), f"{path}: study")


def settings_hash(*parts: object) -> str:
    """First 16 hex digits of SHA-256 over sections and plain values, in canonical JSON."""
    plain = [part.model_dump() if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
