"""The data sets known by name: the entries of ``benchmarks.yaml``, checked."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from capt_core.advice import setting
from capt_core.errors import CaptError, cut, shown
from capt_core.params import Data
from capt_core.settings_file import Section
from capt_core.yaml_file import load_yaml

BENCHMARKS = Path(__file__).parents[1] / "benchmarks.yaml"
OWN_TEMPLATE = "a photo of a {}."
TAKEN = ("code", "evaluations", "kept", "report", "runs", "study", "tables", "work")
"""Folders of the artifacts folder that are not those of data sets."""


class RemoteFile(Section):
    """One file that ``fetch`` gets, and what becomes of it.

    Attributes:
        name: file name, below the data set's folder.
        url: http(s) address, or ``drive:ID`` of a file on Google Drive.
        by_hand: where to get a file that cannot be downloaded without a login, or whose host is
            gone.
        inside: the archive of the same data set that holds this file.
        size: bytes.
        md5, sha256: hex digests of the content; at least one of them unless none is published.
        unpack: prefix of an archive's members to the folder (ending in ``/``) or file that takes
            its place, relative to the data set's folder. Members under no prefix are left out.
        class_archives: folder that takes one folder per inner archive (ImageNet's training set).
        labelled_by: archive that says which class each image is (ImageNet's validation set).
    """

    name: str
    url: str | None = Field(None, alias="from")
    by_hand: str | None = None
    inside: str | None = None
    size: int | None = Field(None, ge=0)
    md5: str | None = Field(None, pattern=r"^[0-9a-f]{32}$")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    unpack: dict[str, str] = Field(default_factory=dict)
    class_archives: str | None = None
    labelled_by: str | None = None

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not name or "/" in name or name in (".", ".."):
            raise ValueError("expected a file name without folders")
        return name

    @field_validator("unpack", "class_archives")
    @classmethod
    def _inside(cls, value: dict[str, str] | str | None) -> dict[str, str] | str | None:
        places = value.values() if isinstance(value, dict) else [value or ""]
        for place in places:
            if place.startswith("/") or ".." in place.split("/"):
                raise ValueError(f"{shown(place)} leads out of the data set's folder")
        return value


class DatasetSpec(Section):
    """How to find and read one data set.

    Attributes:
        name: name on the command line and in artifacts, lower snake case.
        reader: `split_json`, `class_folders` and `aircraft` read benchmarks, `own` reads a data set
            of the user's in any of the known layouts, `proctex` draws the embedded textures.
        folder: the data set's folder below ``data.root``; empty for ``data.root`` itself.
        images: image folder, relative to `folder`; paths of samples are relative to it.
        split: split file, relative to `folder`; None for `class_folders`.
        splits: for `class_folders`: split to its folder of class folders, relative to `images`.
        class_names: for `class_folders`: file of lines "<folder> <name>", relative to `folder`.
        numbered: class folders are numbers, folder i being called by line i of `class_names`.
        shared_names: class folder to the name it gets where another class has the same one.
        template: hand-written prompt; ``{}`` takes the class name.
        domain: what the images show, for the text of generated prompts.
        classes: number of classes of the full data set; None if not known.
        also: other names that people know it by.
        licence: terms of use as far as they are known.
        files: what ``fetch`` downloads.
    """

    name: str
    reader: Literal["split_json", "class_folders", "aircraft", "own", "proctex"]
    folder: str = ""
    images: str = ""
    split: str | None = None
    splits: dict[Literal["train", "val", "test"], str] = Field(default_factory=dict)
    class_names: str | None = None
    numbered: bool = False
    shared_names: dict[str, str] = Field(default_factory=dict)
    template: str = OWN_TEMPLATE
    domain: str = "photographs"
    classes: int | None = Field(None, ge=1)
    also: list[str] = Field(default_factory=list)
    licence: str = "not stated"
    files: list[RemoteFile] = Field(default_factory=list)

    @field_validator("template")
    @classmethod
    def _one_place(cls, template: str) -> str:
        return check_template(template)

    @property
    def has_training(self) -> bool:
        """Whether there are training images; ImageNet's variants have test images only."""
        return self.reader != "class_folders" or "train" in self.splits


def check_template(template: str) -> str:
    """Return a prompt template that has exactly one place for the class name.

    Raises:
        ValueError: it has none, several, or other braces.
    """
    if (
        template.count("{}") != 1
        or "{" in template.replace("{}", "")
        or "}" in template.replace("{}", "")
    ):
        raise ValueError(
            f"template {shown(template)}: expected exactly one {{}} for the class name"
        )
    return template


def read_registry(path: Path) -> dict[str, DatasetSpec]:
    """Read and check a file of benchmark entries.

    Raises:
        CaptError: unreadable file, unknown key or wrong value; the message names the entry.
    """
    document = load_yaml(path).value
    if not isinstance(document, dict):
        raise CaptError(f"{path}: expected data-set names with their entries")
    return {name: _entry(path, name, entry) for name, entry in document.items()}


def _entry(path: Path, name: str, entry: object) -> DatasetSpec:
    where = f"{path}: {cut(name)}"
    if not isinstance(entry, dict) or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise CaptError(f"{where}: expected a lower-case name and its keys and values")
    needed = {"split_json": ("folder", "split"), "class_folders": ("folder", "splits")}
    for key in needed.get(str(entry.get("reader")), ()):
        if not entry.get(key):
            raise CaptError(f"{where}: {key} is missing; reader {cut(entry['reader'])} needs it")
    try:
        return DatasetSpec.model_validate({**entry, "name": name})
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        found = shown(problem["input"])
        raise CaptError(f"{where}: {cut(key)}: {problem['msg']}, found {found}") from error


_PROCTEX = DatasetSpec(
    name="proctex",
    reader="proctex",
    template="a photo of a {} texture",
    domain="synthetic texture images",
)
DATASETS = {"proctex": _PROCTEX, **read_registry(BENCHMARKS)}


def dataset_spec(name: str) -> DatasetSpec:
    """Look a data set up; a name that is not known stands for a data set of the user's own."""
    return DATASETS.get(name) or DatasetSpec(name=name, reader="own")


def check_dataset_name(name: str, data: Data, listed: bool) -> None:
    """Refuse a name that is probably a slip, or that cannot name a data set of one's own.

    Args:
        name: as given on the command line.
        data: settings as they hold for that name.
        listed: whether the settings list the name, or artifacts of it exist.

    Raises:
        CaptError: the message says what was probably meant, or how to use the name.
    """
    if name in DATASETS:
        return
    meant = _meant(name)
    if meant and not listed and data.layout == "auto":
        raise CaptError(
            f"unknown data set {shown(name)}; did you mean {meant}? For a data set of your own "
            "under this name, list it under datasets in params.yaml"
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name in TAKEN:
        raise CaptError(
            f"data set {shown(name)}: a name is made of lower-case letters, digits, _ and -, and "
            f"is none of {', '.join(TAKEN)}; choose another"
        )
    if data.root is None and not listed:
        raise CaptError(
            f"unknown data set {shown(name)}; known: {', '.join(DATASETS)}; for images of your own "
            f"add {setting('data.root', 'DIR')}"
        )


def _meant(name: str) -> str | None:
    """The known name that an unknown one is close to."""
    plain = {_plain(known): known for known in DATASETS}
    for spec in DATASETS.values():
        plain |= {_plain(other): spec.name for other in spec.also}
    near = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.8)
    return plain[near[0]] if near else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
