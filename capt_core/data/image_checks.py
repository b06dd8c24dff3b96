"""Checking image files: which cannot be used, and which are used in a way users should know."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from PIL import Image

from capt_core.addresses import is_remote
from capt_core.advice import setting
from capt_core.data.dataset import iter_values
from capt_core.data.decoding import BadImageError, file_size, is_deep, problem_of, to_rgb
from capt_core.data.images import opened_image
from capt_core.data.parquet_images import in_table, read_row
from capt_core.data.remote.opening import is_elsewhere, read_elsewhere, version_of
from capt_core.data.splits import QUARANTINE
from capt_core.errors import CaptError
from capt_core.user_paths import brief

CheckLevel = Literal["decode", "exists", "none"]

# Properties of a readable image: how it is used, and the command that changes the image.
REMARKS = {
    "EXIF-rotated": (
        "used without its rotation, as the field's code does",
        "mogrify -auto-orient FILE",
    ),
    "animated": ("its first frame is used", "convert 'FILE[0]' FILE"),
    "transparent": (
        "its transparency is dropped",
        "mogrify -background white -alpha remove FILE",
    ),
    "CMYK": ("converted to RGB without its colour profile", "mogrify -colorspace sRGB FILE"),
    "nearly black": (
        "its 16-bit values use less than a sixteenth of their range",
        "convert FILE -auto-level FILE",
    ),
    "16-bit": ("reduced to 8 bits", "nothing"),
    "palette": ("converted to RGB", "nothing"),
    "grey": ("converted to RGB", "nothing"),
}
# Those that can change what a class looks like.
CHANGES_APPEARANCE = ("EXIF-rotated", "animated", "transparent", "CMYK", "nearly black")
_ORIENTATION = 0x0112
_DARK = 16  # of 255
_CHUNK = 1024
_AT_ONCE = 16  # remote images


@dataclass(frozen=True)
class ImageCheck:
    """The result of checking one image file.

    Attributes:
        problem: why it cannot be used; None if it can.
        digest: SHA-256 of its bytes; if its content was not read, its size in bytes or what its
            store tells contents apart by.
        remarks: keys of `REMARKS`.
    """

    problem: str | None
    digest: str
    remarks: tuple[str, ...] = ()


@dataclass
class SampleChecks:
    """The results of checking the images of a table of samples; a few bytes per image.

    Attributes:
        problems: row number to the reason why its image cannot be used.
        remarks: key of `REMARKS` to the numbers of the rows that it holds for.
        marks: first 64 bits of each image's digest, 0 where it cannot be used; empty unless the
            images were decoded.
        contents: SHA-256 over the digests of all images that can be used, in row order.
    """

    problems: dict[int, str] = field(default_factory=dict)
    remarks: dict[str, array[int]] = field(default_factory=dict)
    marks: array[int] = field(default_factory=lambda: array("Q"))
    contents: str = ""

    def duplicates(self, samples: pl.DataFrame) -> pl.DataFrame:
        """Samples whose images have the same bytes: a row of lists per image, by its first path."""
        marks = self.marks or [0] * len(samples)
        return (
            samples.with_columns(pl.Series("mark", marks, dtype=pl.UInt64))
            .filter((pl.col("mark") > 0) & pl.col("mark").is_duplicated())
            .group_by("mark")
            .agg("path", "split", "class_id")
            .sort(pl.col("path").list.first())
            .drop("mark")
        )


def check_samples(
    samples: pl.DataFrame,
    image_root: Path,
    level: CheckLevel,
    quarantine: bool,
    advance: Callable[[int], None] = lambda _: None,
) -> SampleChecks:
    """Check the image of every sample.

    Args:
        samples: with the column `path`, relative to `image_root`.
        image_root: folder of the images.
        level: see `check_image`; remarks and duplicates need `decode`.
        quarantine: note bad images, instead of stopping at the first.
        advance: called with 1 after each image.

    Raises:
        CaptError: an image cannot be used (unless quarantined).
    """
    found = SampleChecks()
    contents = hashlib.sha256()
    paths = samples["path"]
    checks = check_images(
        (image_root / path for path in iter_values(paths)), level, _workers(image_root, paths)
    )
    for row, (path, check) in enumerate(zip(iter_values(paths), checks, strict=True)):
        advance(1)
        if level == "decode":
            found.marks.append(int(check.digest[:16] or "0", 16))
        if check.problem is None:
            contents.update(check.digest.encode())
        elif quarantine:
            found.problems[row] = check.problem
        else:
            raise CaptError(
                f"{brief(image_root / path)}: {check.problem}; {_remedy(check.problem)}, or leave "
                f"it out with {setting(*QUARANTINE.split('='))}"
            )
        for remark in check.remarks:
            found.remarks.setdefault(remark, array("Q")).append(row)
    found.contents = contents.hexdigest()
    return found


def _workers(image_root: Path, paths: pl.Series) -> int:
    """Threads that check images: servers answer many at once, and are waited for meanwhile."""
    remote = len(paths) > 0 and is_remote(image_root / str(paths[0]))
    return max(_AT_ONCE if remote else 1, os.cpu_count() or 1)


def _remedy(problem: str) -> str:
    if problem == "missing":
        return "add it or correct the list"
    return "correct its permissions" if "ermission" in problem else "replace the file"


def check_image(path: Path, level: CheckLevel) -> ImageCheck:
    """Check one image file.

    Args:
        path: the file, or a row of a Parquet file.
        level: `decode` reads all pixels and digests all bytes, `exists` takes the file's size for
            its digest, `none` does not open or look up the file.
    """
    if level == "none":
        return ImageCheck(None, "")
    try:
        if level == "exists" and is_elsewhere(path):
            digest = version_of(path) or hashlib.sha256(read_elsewhere(path)).hexdigest()
            return ImageCheck(None, digest)
        if level == "exists":
            size = len(read_row(path)) if in_table(path) else file_size(path)
            return ImageCheck(None, str(size))
        with opened_image(path) as (image, content):
            # Damage must stop the decoder here, not in looking for remarks, which passes it over.
            image.load()
            remarks = remarks_on(image)
            pixels = to_rgb(image)
            if "16-bit" in remarks and np.asarray(pixels).max() < _DARK:
                remarks = ("nearly black", *remarks)
    except (FileNotFoundError, NotADirectoryError):
        return ImageCheck("missing", "")
    except (BadImageError, OSError, ValueError) as error:
        return ImageCheck(f"unreadable: {problem_of(error)}", "")
    return ImageCheck(None, hashlib.sha256(content).hexdigest(), remarks)


def remarks_on(image: Image.Image) -> tuple[str, ...]:
    """Keys of `REMARKS` that hold for an opened image whose pixels are loaded."""
    found = {
        # Pillow turns TIFF images itself.
        "EXIF-rotated": image.format != "TIFF" and _orientation(image) not in (0, 1),
        # A JPEG of several pictures (MPO) is an ordinary photograph with previews.
        "animated": image.format != "MPO" and _is_animated(image),
        "transparent": image.has_transparency_data,
        "CMYK": image.mode == "CMYK",
        "16-bit": is_deep(image),
        "palette": image.mode in ("P", "PA"),
        "grey": image.mode in ("1", "L", "LA"),
    }
    return tuple(name for name, holds in found.items() if holds)


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged entries raise nearly everything; the pixels do not depend on them
        return 1


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a later frame is damaged; only the first one is used
        image.seek(0)
        return True


def check_images(paths: Iterable[Path], level: CheckLevel, workers: int) -> Iterator[ImageCheck]:
    """`check_image` of many files in order, by several threads."""
    if level == "none":  # threads would take most of the time of listing a million images
        yield from (ImageCheck(None, "") for _ in paths)
        return
    upcoming = iter(paths)
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        while chunk := list(islice(upcoming, _CHUNK)):
            yield from pool.map(lambda path: check_image(path, level), chunk)
