"""The variant lists of FGVC-Aircraft."""

from __future__ import annotations

from pathlib import Path

from capt_core.data.splits import SPLITS, SplitData, sample_frame
from capt_core.errors import CaptError, shown
from capt_core.text_file import read_text


def read_aircraft(root: Path) -> SplitData:
    """Read ``variants.txt`` (label order) and ``images_variant_{train,val,test}.txt``.

    Raises:
        CaptError: a list is missing or damaged, names an unknown variant or an image twice.
    """
    names = _lines(root / "variants.txt")
    labels = {name: label for label, name in enumerate(names)}
    seen: dict[str, str] = {}
    images: list[str] = []
    class_ids: list[int] = []
    splits: list[str] = []
    for split in SPLITS:
        path = root / f"images_variant_{split}.txt"
        for number, line in enumerate(_lines(path), start=1):
            image, _, name = line.partition(" ")
            if name not in labels:
                raise CaptError(f"{path}: line {number}: {shown(name)} is not in variants.txt")
            if image in seen:
                raise CaptError(
                    f"{path}: line {number}: {shown(image)} is listed a second time (first in the "
                    f"{seen[image]} list); get the lists again"
                )
            seen[image] = split
            images.append(f"{image}.jpg")
            class_ids.append(labels[name])
            splits.append(split)
    return SplitData(sample_frame(images, class_ids, splits), names)


def _lines(path: Path) -> list[str]:
    return read_text(path, "get it again").splitlines()
