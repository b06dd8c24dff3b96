"""Settings: ``params.yaml`` and ``--set`` to validated, frozen objects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, SupportsIndex, TypeVar

from pydantic import BaseModel, Field, field_validator

from capt_core.errors import CaptError, cut, shown
from capt_core.settings_file import (
    Section,
    mapping,
    merge,
    packaged,
    packaged_settings,
    validate,
    with_overrides,
)
from capt_core.user_paths import usable_path
from capt_core.yaml_file import Document, load_yaml

_Section = TypeVar("_Section", bound=Section)

MOST_SEED = 2**32 - 1
"""The largest seed that every generator of random numbers takes."""
MOST_IN_BATCH = 65_536
MOST_PAIRS = 10
"""Confusion pairs that an image or a class may have."""

Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]


def check_seed(seed: object, where: str) -> int:
    """A seed that is given as an argument or an option, named `where`.

    Raises:
        CaptError: no whole number from 0 to `MOST_SEED`.
    """
    if isinstance(seed, bool) or not isinstance(seed, SupportsIndex):
        raise CaptError(f"{where}: should be a whole number, found {shown(seed)}")
    number = seed.__index__()
    if not 0 <= number <= MOST_SEED:
        raise CaptError(f"{where}: should be from 0 to {MOST_SEED}, found {shown(number)}")
    return number


class Data(Section, path="data"):
    root: str | None = packaged(min_length=1)
    on_bad_image: Literal["error", "quarantine"] = packaged()
    layout: Literal[
        "auto", "class_folders", "split_folders", "table", "image_table", "split_json", "shards"
    ] = packaged()
    table: str | None = packaged(min_length=1)
    image_column: str | None = packaged(min_length=1)
    label_column: str | None = packaged(min_length=1)
    classes: str | None = packaged(min_length=1)
    val_share: float = packaged(ge=0, lt=1)
    test_share: float = packaged(ge=0, lt=1)
    split_seed: int = packaged(ge=0, le=MOST_SEED)
    protocol: Literal["all_classes", "base_to_novel"] | None = packaged()
    base_classes: list[str] | None = packaged(min_length=1)

    _paths = field_validator("root", "table", "classes")(usable_path)


class FewShot(Section, path="fewshot"):
    shots: int = packaged(ge=0, le=1_000_000)


class Backbone(Section, path="backbone"):
    name: str = packaged(min_length=1)
    checkpoint: str | None = packaged(min_length=1)
    pretrained: str | None = packaged(min_length=1)

    _paths = field_validator("checkpoint")(usable_path)


class Runtime(Section, path="runtime"):
    device: Literal["auto", "cpu", "cuda"] = packaged()
    precision: Literal["fp32", "bf16", "fp16"] = packaged()
    workers: int = packaged(ge=0, le=256)


class Prepare(Section, path="prepare"):
    check_images: Literal["decode", "exists", "none"] = packaged()
    proctex_seed: int = packaged(ge=0, le=MOST_SEED)
    proctex_train: int = packaged(ge=1, le=100_000)
    proctex_val: int = packaged(ge=1, le=100_000)
    proctex_test: int = packaged(ge=1, le=100_000)


class ExtractFeatures(Section, path="extract_features"):
    batch_size: int = packaged(ge=1, le=MOST_IN_BATCH)
    part_images: int = packaged(ge=1, le=1_000_000)
    reading: Literal["exact", "fast"] = packaged()


class FitTeacher(Section, path="fit_teacher"):
    method: str = packaged(min_length=1)
    checkpoint: str | None = packaged(min_length=1)

    _paths = field_validator("checkpoint")(usable_path)


class TeacherBackbone(Section, path="teacher.backbone"):
    name: str | None = packaged(min_length=1)
    checkpoint: str | None = packaged(min_length=1)
    pretrained: str | None = packaged(min_length=1)

    _paths = field_validator("checkpoint")(usable_path)


class Teacher(Section, path="teacher"):
    """What methods distil from.

    Attributes:
        methods: what a teacher's section of a method changes of the packaged one, by its name.
    """

    backbone: TeacherBackbone = TeacherBackbone()
    method: str = packaged(min_length=1)
    methods: dict[str, dict[str, Any]] = packaged()
    checkpoint: str | None = packaged(min_length=1)

    _paths = field_validator("checkpoint")(usable_path)


class InferTeacher(Section, path="infer_teacher"):
    top_classes: int = packaged(ge=1, le=100_000)


class BuildBank(Section, path="build_bank"):
    source: Literal["fewshot", "full_train", "augmented_views"] = packaged()
    views: int = packaged(ge=1, le=1000)
    batch_size: int = packaged(ge=1, le=MOST_IN_BATCH)


class MinePairs(Section, path="mine_pairs"):
    pairs: int = packaged(ge=1, le=MOST_PAIRS)
    use_statistics: bool = packaged()
    pseudo_label: Literal["pseudo_gt", "real_gt"] = packaged()
    selection: Literal["confusion", "any"] = packaged()


class GeneratePrompts(Section, path="generate_prompts"):
    provider: Literal[
        "anthropic", "anthropic-batch", "store-only", "store-or-template", "template"
    ] = packaged()
    store: str | None = packaged(min_length=1)
    prompts: int = packaged(ge=1, le=100)
    attributes: list[Annotated[str, Field(max_length=60)]] = packaged(min_length=1, max_length=20)
    sentences: int = packaged(ge=1, le=50)
    model: str = packaged(min_length=1)
    instructions: str | None = packaged(min_length=1)
    answers: str | None = packaged(min_length=1)
    attempts: int = packaged(ge=1, le=100)
    concurrency: int = packaged(ge=1, le=64)
    retries: int = packaged(ge=0, le=1000)
    timeout: float = packaged(gt=0, le=86_400)
    max_tokens: int = packaged(ge=256, le=1_000_000)

    _paths = field_validator("store", "instructions", "answers")(usable_path)

    @field_validator("attributes")
    @classmethod
    def _told_apart(cls, given: list[str]) -> list[str]:
        names = [" ".join(name.split()) for name in given]
        seen: set[str] = set()
        for name in names:
            key = "".join(filter(str.isalnum, name.casefold()))
            if not key or not name.isprintable():
                raise ValueError(f"{shown(name)} cannot name an attribute; write a word")
            if key in seen:
                raise ValueError(f"{shown(name)} stands there twice")
            seen.add(key)
        return names


class ClusterPrompts(Section, path="cluster_prompts"):
    clusters: int = packaged(ge=1, le=10_000)
    restarts: int = packaged(ge=1, le=1000)


class MineSamples(Section, path="mine_samples"):
    choice: Literal["representative", "random", "nearest", "zone", "none"] = packaged()
    representatives: int = packaged(ge=1, le=5)
    fallback: Literal["random_train", "skip"] = packaged()


class Train(Section, path="train"):
    checkpoint_steps: int = packaged(ge=0, le=1_000_000_000)
    calibration_images: int = packaged(ge=0, le=1_000_000)
    calibration_precision: float = packaged(gt=0, lt=1)


class Evaluate(Section, path="evaluate"):
    batch_size: int = packaged(ge=1, le=MOST_IN_BATCH)


class Report(Section, path="report"):
    method: str | None = packaged(min_length=1)
    projection: Literal["pca", "umap"] = packaged()


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
    teacher: Teacher = Teacher()
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

    datasets: list[Annotated[str, Field(min_length=1)]] = packaged(min_length=1)
    seeds: list[Seed] = packaged(min_length=1)
    compare: list[Annotated[str, Field(min_length=1)]] = packaged(min_length=1)

    @field_validator("datasets", "seeds", "compare")
    @classmethod
    def _unique(cls, given: list[Any]) -> list[Any]:
        twice = next((value for index, value in enumerate(given) if value in given[:index]), None)
        if twice is not None:
            raise ValueError(f"{shown(twice)} stands there twice")
        return given


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
        lines: line of every key of the file, by its path.
    """

    path: Path | None
    shared: Mapping[str, Any]
    per_dataset: Mapping[str, Mapping[str, Any]]
    matrix: Matrix
    lines: Mapping[str, int]

    @property
    def name(self) -> str:
        """The file, for messages."""
        return "packaged settings" if self.path is None else str(self.path)

    def sources(
        self, dataset: str | None, overrides: Sequence[str], change: Mapping[str, Any]
    ) -> Iterator[Source]:
        """All values after each further source that is merged in."""
        values = dict(self.shared)
        yield Source(self.name, values, self.lines)
        for name, differing in self.per_dataset.items():
            place = f"per_dataset.{cut(name)}"
            lines = _below(f"per_dataset.{name}.", self.lines)
            yield Source(f"{self.name}: {place}", merge(values, differing), lines)
        values = merge(merge(values, self.per_dataset.get(dataset or "", {})), change)
        yield Source(self.name, values)
        if overrides:
            yield Source("--set", with_overrides(Settings, values, overrides))


@dataclass(frozen=True)
class Source:
    """Settings after one more source is merged in.

    Attributes:
        where: the source, for messages.
        values: sections and their values.
        lines: line of every key in the source, by its path, where it is a file.
    """

    where: str
    values: Mapping[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)


def _below(prefix: str, lines: Mapping[str, int]) -> dict[str, int]:
    return {key.removeprefix(prefix): line for key, line in lines.items() if key.startswith(prefix)}


def read_settings(path: Path | None) -> SettingsFile:
    """Read a params file.

    Raises:
        CaptError: unreadable or empty file, unknown key outside the sections, wrong type or value.
    """
    advice = "run from the project folder or give --params FILE"
    read = Document(packaged_settings()) if path is None else load_yaml(path, advice)
    where = "packaged settings" if path is None else str(path)
    document = mapping(read.value, where)
    keys = {key: document.pop(key) for key in Matrix.model_fields if key in document}
    matrix = validate(Matrix, keys, where, lines=read.lines)
    differing = mapping(document.pop("per_dataset", {}), f"{where}: per_dataset")
    for name, entry in differing.items():
        place = f"{where}: per_dataset.{cut(name)}"
        lines = _below(f"per_dataset.{name}.", read.lines)
        validate(PerDataset, mapping(entry, place), place, lines=lines)
    return SettingsFile(path, document, differing, matrix, read.lines)


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
    for source in file.sources(dataset, overrides, change or {}):
        settings = validate(Settings, source.values, source.where, lines=source.lines)
    return settings, file.matrix


def changed_sections(
    path: Path | None, overrides: Sequence[str] = (), change: Mapping[str, Any] | None = None
) -> list[str]:
    """Names below `methods` whose settings differ anywhere from the packaged ones."""
    packaged_methods = packaged_settings()["methods"]
    found: dict[str, None] = {}
    for source in read_settings(path).sources(None, overrides, change or {}):
        methods = source.values.get("methods", {})
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
    for source in read_settings(path).sources(dataset, overrides, change or {}):
        where = source.where
        own = mapping(source.values.get("methods", {}), f"{where}: methods").get(name, {})
        entry = mapping(own, f"{where}: methods.{name}")
        section = validate(model, entry, where, f"methods.{name}.", source.lines)
    return section


def settings_hash(*parts: object) -> str:
    """First 16 hex digits of SHA-256 over sections and plain values, in canonical JSON."""
    plain = [part.model_dump() if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
