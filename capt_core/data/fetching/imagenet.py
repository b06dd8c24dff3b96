"""ImageNet's validation images, which come without class folders."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

from capt_core.data.fetching.download import writing
from capt_core.errors import CaptError, reason

_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def sort_validation(folder: Path, devkit: Path) -> int:
    """Move ``ILSVRC2012_val_<number>.JPEG`` into the folder of its class.

    The development kit numbers the classes (``meta.mat``; its leaves are the 1,000 classes) and
    gives a number per image. Images that were moved before stay; the move can be run again.

    Args:
        folder: holds the images, side by side.
        devkit: ILSVRC2012_devkit_t12.tar.gz.

    Returns:
        How many images were moved.

    Raises:
        CaptError: the kit is damaged or has no class for an image.
    """
    truth = _validation_classes(devkit)
    moved = 0
    for path in sorted(folder.glob("ILSVRC2012_val_*.JPEG")):
        number = path.stem.rpartition("_")[2]
        if not number.isdecimal() or not 1 <= int(number) <= len(truth):
            raise CaptError(f"{path}: {devkit.name} has no class for it; move it away")
        target = folder / truth[int(number) - 1]
        with writing(target):
            target.mkdir(exist_ok=True)
            path.replace(target / path.name)
        moved += 1
    return moved


def _validation_classes(devkit: Path) -> list[str]:
    """The class folder of every validation image, in order."""
    from scipy.io import loadmat

    try:
        with tarfile.open(devkit) as kit:
            names = {Path(name).name: name for name in kit.getnames()}
            meta, truth = (kit.extractfile(names[name]) for name in ("meta.mat", _TRUTH))
            assert meta is not None
            assert truth is not None
            synsets = loadmat(meta, squeeze_me=True)["synsets"]
            numbers = [int(line) for line in truth.read().split()]
        folders = {
            int(row["ILSVRC2012_ID"]): str(row["WNID"])
            for row in synsets
            if int(row["num_children"]) == 0
        }
        if strange := [name for name in folders.values() if not re.fullmatch(r"n\d+", name)]:
            raise ValueError(f"a class called {strange[0]}")
        return [folders[number] for number in numbers]
    except Exception as error:
        # Damaged bytes make tarfile and SciPy raise nearly everything.
        raise CaptError(
            f"{devkit}: not the development kit of ILSVRC2012 ({reason(error)}); get it again"
        ) from error
