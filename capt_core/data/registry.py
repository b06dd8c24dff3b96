"""The data sets known by name: one declarative entry each over shared readers."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from capt_core.errors import CaptError


@dataclass(frozen=True)
class DatasetSpec:
    """How to find and read one data set.

    Attributes:
        name: name on the command line and in artifacts, lower snake case.
        reader: `zhou` reads a split JSON, `aircraft` the variant lists of FGVC-Aircraft,
            `proctex` draws the embedded textures.
        folder: the data set's folder below ``data.root``.
        image_folder: images, relative to `folder`; paths of samples are relative to it.
        split_file: split JSON, relative to `folder`.
        template: hand-written prompt; ``{}`` takes the class name.
        domain: what the images show, for the text of generated prompts.
    """

    name: str
    reader: Literal["zhou", "aircraft", "proctex"]
    folder: str
    image_folder: str
    split_file: str
    template: str
    domain: str


def _zhou(
    name: str, folder: str, image_folder: str, split: str, template: str, domain: str
) -> DatasetSpec:
    return DatasetSpec(
        name, "zhou", folder, image_folder, f"split_zhou_{split}.json", template, domain
    )


_PHOTO = "a photo of a {}."

_SPECS = (
    DatasetSpec(
        "proctex", "proctex", "", "", "", "a photo of a {} texture", "synthetic texture images"
    ),
    _zhou("caltech101", "caltech-101", "101_ObjectCategories", "Caltech101", _PHOTO, "objects"),
    _zhou(
        "oxford_pets",
        "oxford_pets",
        "images",
        "OxfordPets",
        "a photo of a {}, a type of pet.",
        "cat and dog breeds",
    ),
    _zhou("stanford_cars", "stanford_cars", "", "StanfordCars", _PHOTO, "car models"),
    _zhou(
        "flowers102",
        "oxford_flowers",
        "jpg",
        "OxfordFlowers",
        "a photo of a {}, a type of flower.",
        "flowers",
    ),
    _zhou("food101", "food-101", "images", "Food101", "a photo of {}, a type of food.", "dishes"),
    DatasetSpec(
        "fgvc_aircraft",
        "aircraft",
        "fgvc_aircraft",
        "images",
        "variants.txt",
        "a photo of a {}, a type of aircraft.",
        "aircraft variants",
    ),
    _zhou("sun397", "sun397", "SUN397", "SUN397", _PHOTO, "scenes"),
    _zhou("dtd", "dtd", "images", "DescribableTextures", "{} texture.", "photographs of textures"),
    _zhou(
        "eurosat",
        "eurosat",
        "2750",
        "EuroSAT",
        "a centered satellite photo of {}.",
        "satellite images of land cover",
    ),
    _zhou(
        "ucf101",
        "ucf101",
        "UCF-101-midframes",
        "UCF101",
        "a photo of a person doing {}.",
        "video frames of human actions",
    ),
)

DATASETS = {spec.name: spec for spec in _SPECS}


def dataset_spec(name: str) -> DatasetSpec:
    """Look a data set up by name.

    Raises:
        CaptError: unknown name; the message lists the known ones.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise CaptError(f"unknown data set {name!r}; {hint}known: {', '.join(DATASETS)}")
    return DATASETS[name]
