"""Settings: ``params.yaml`` and ``--set`` to validated, frozen objects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field

from capt_core.settings_file import (
    Section,
    mapping,
    merge,
    packaged,
    packaged_settings,
    read_yaml,
    validate,
    with_overrides,
)

_Section = TypeVar("_Section", bound=Section)


class Data(Section, path="data"):
    root: str | None = packaged()
    on_bad_image: Literal["error", "quarantine"] = packaged()
    layout: Literal[
        "auto", "class_folders", "split_folders", "table", "image_table", "split_json"
    ] = packaged()
    table: str | None = packaged()
    image_column: str | None = packaged()
    label_column: str | None = packaged()
    classes: str | None = packaged()
    val_share: float = packaged(ge=0, lt=1)
    test_share: float = packaged(ge=0, lt=1)
    split_seed: int = packaged(ge=0)


class FewShot(Section, path="fewshot"):
    shots: int = packaged(ge=0)


class Backbone(Section, path="backbone"):
    name: str = packaged()
    checkpoint: str | None = packaged()
    pretrained: str | None = packaged()


class Runtime(Section, path="runtime"):
    device: Literal["auto", "cpu", "cuda"] = packaged()
    precision: Literal["fp32", "bf16", "fp16"] = packaged()
    workers: int = packaged(ge=0)


class Prepare(Section, path="prepare"):
    check_images: Literal["decode", "exists", "none"] = packaged()
    proctex_seed: int = packaged(ge=0)
    proctex_train: int = packaged(ge=1)
    proctex_val: int = packaged(ge=1)
    proctex_test: int = packaged(ge=1)


class ExtractFeatures(Section, path="extract_features"):
    batch_size: int = packaged(ge=1)


class FitTeacher(Section, path="fit_teacher"):
    method: str = packaged()


class InferTeacher(Section, path="infer_teacher"):
    top_classes: int = packaged(ge=1)


class BuildBank(Section, path="build_bank"):
    source: Literal["fewshot", "full_train", "augmented_views"] = packaged()
    views: int = packaged(ge=1)
    batch_size: int = packaged(ge=1)


class MinePairs(Section, path="mine_pairs"):
    pairs: int = packaged(ge=1, le=10)
    use_statistics: bool = packaged()
    pseudo_label: Literal["pseudo_gt", "real_gt"] = packaged()
    selection: Literal["confusion", "any"] = packaged()


class GeneratePrompts(Section, path="generate_prompts"):
    provider: Literal[
        "anthropic", "anthropic-batch", "store-only", "store-or-template", "template"
    ] = packaged()
    store: str | None = packaged()
    prompts: int = packaged(ge=1)
    model: str = packaged()
    instructions: str | None = packaged()
    answers: str | None = packaged()
    attempts: int = packaged(ge=1)
    concurrency: int = packaged(ge=1, le=64)
    retries: int = packaged(ge=0)
    timeout: float = packaged(gt=0)
    max_tokens: int = packaged(ge=256)


class ClusterPrompts(Section, path="cluster_prompts"):
    clusters: int = packaged(ge=1)
    restarts: int = packaged(ge=1)


class MineSamples(Section, path="mine_samples"):
    choice: Literal["representative", "random"] = packaged()
    representatives: int = packaged(ge=1, le=5)
    fallback: Literal["random_train", "skip"] = packaged()


class Train(Section, path="train"):
    checkpoint_steps: int = packaged(ge=0)


class Evaluate(Section, path="evaluate"):
    batch_size: int = packaged(ge=1)


class Report(Section, path="report"):
    pairs: int = packaged(ge=1)


class Settings(Section):
    """All settings as they hold for one data set.

    Attributes:
        methods: section of every method, by its name, as plain values; the method's own class
            checks them (see `method_section`).
    """

    data: Data = Data()
    fewshot: FewShot = FewShot()
    backbone: Backbone = Backbone()
    runtime: Runtime = Runtime()
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
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)


class Matrix(Section, path=""):
    """What ``dvc repro`` fans out over: every data set x seed x method."""

    datasets: list[str] = packaged(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = packaged(min_length=1)
    compare: list[str] = packaged(min_length=1)


class PerDataset(Section):
    """What may differ for one data set.

    No other section can: dvc.yaml names these two, and DVC wants them for every data set it runs.
    """

    data: dict[str, Any] = Field(default_factory=dict)
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)


@dataclass(frozen=True)
class SettingsFile:
    """A settings file, read and checked.

    Attributes:
        path: of the file; None stands for the packaged settings.
        shared: what holds for every data set, as plain values.
        per_dataset: what differs, by data set.
        matrix: what `dvc repro` fans out over.
    """

    path: Path | None
    shared: Mapping[str, Any]
    per_dataset: Mapping[str, Mapping[str, Any]]
    matrix: Matrix

    @property
    def name(self) -> str:
        """The file, for messages."""
        return "packaged settings" if self.path is None else str(self.path)

    def sources(
        self, dataset: str | None, overrides: Sequence[str], change: Mapping[str, Any]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """All values after each further source that is merged in, with the source's name."""
        values = dict(self.shared)
        yield self.name, values
        for name, differing in self.per_dataset.items():
            merged = merge(values, differing)
            yield f"{self.name}: per_dataset.{name}", merged
        values = merge(merge(values, self.per_dataset.get(dataset or "", {})), change)
        yield self.name, values
        if overrides:
            yield "--set", with_overrides(Settings, values, overrides)


def read_settings(path: Path | None) -> SettingsFile:
    """Read a params file.

    Raises:
        CaptError: unreadable file, unknown key outside the sections, wrong type or value.
    """
    document = dict(packaged_settings()) if path is None else read_yaml(path)
    where = "packaged settings" if path is None else str(path)
    keys = {key: document.pop(key) for key in Matrix.model_fields if key in document}
    matrix = validate(Matrix, keys, where)
    differing = mapping(document.pop("per_dataset", {}), f"{where}: per_dataset")
    for name, entry in differing.items():
        place = f"{where}: per_dataset.{name}"
        validate(PerDataset, mapping(entry, place), place)
    return SettingsFile(path, document, differing, matrix)


def load_settings(
    path: Path | None,
    dataset: str | None = None,
    overrides: Sequence[str] = (),
    change: Mapping[str, Any] | None = None,
) -> tuple[Settings, Matrix]:
    """Read a params file and merge: sections, ``per_dataset.<dataset>``, change, overrides.

    A key that the file leaves out has its packaged value.

    Args:
        path: the YAML file; None takes the packaged settings.
        dataset: whose ``per_dataset`` entry applies; None applies none.
        overrides: ``section.key=value`` strings, values in YAML notation.
        change: sections and keys that a variant changes.

    Raises:
        CaptError: unreadable file, unknown key, wrong type or value; the message names it.
    """
    file = read_settings(path)
    settings = Settings()
    for where, values in file.sources(dataset, overrides, change or {}):
        settings = validate(Settings, values, where)
    return settings, file.matrix


def changed_sections(
    path: Path | None, overrides: Sequence[str] = (), change: Mapping[str, Any] | None = None
) -> list[str]:
    """Names below `methods` whose settings differ anywhere from the packaged ones."""
    packaged_methods = packaged_settings()["methods"]
    found: dict[str, None] = {}
    for _, values in read_settings(path).sources(None, overrides, change or {}):
        methods = values.get("methods", {})
        if isinstance(methods, dict):
            own = (name for name in methods if methods[name] != packaged_methods.get(name))
            found |= dict.fromkeys(own)
    return list(found)


def method_section(
    name: str,
    model: type[_Section],
    path: Path | None,
    dataset: str | None = None,
    overrides: Sequence[str] = (),
    change: Mapping[str, Any] | None = None,
) -> _Section:
    """The section ``methods.<name>``, merged as `load_settings` does and checked by its class.

    Raises:
        CaptError: unknown key, wrong type or value; the message names it.
    """
    section = model()
    for where, values in read_settings(path).sources(dataset, overrides, change or {}):
        own = mapping(values.get("methods", {}), f"{where}: methods").get(name, {})
        entry = mapping(own, f"{where}: methods.{name}")
        section = validate(model, entry, where, f"methods.{name}.")
    return section


def settings_hash(*parts: object) -> str:
    """First 16 hex digits of SHA-256 over sections and plain values, in canonical JSON."""
    plain = [part.model_dump() if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
