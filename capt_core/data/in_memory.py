"""Images of a program: arrays, PIL images or files, as a data set that is nowhere written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import polars as pl
from PIL import Image

from capt_core.artifacts.schemas import CLASSES, SAMPLES
from capt_core.data.dataset import Dataset, ImageSource, fingerprint
from capt_core.data.decoding import BadImageError, check_sides, problem_of, to_rgb
from capt_core.data.images import opened_image
from capt_core.data.names import check_distinguishable
from capt_core.data.splits import SplitData, check_classes
from capt_core.errors import CaptError, shown
from capt_core.user_paths import brief

_CHANNELS = (1, 3, 4)
_KINDS = "files, PIL images, or arrays (uint8, or floating-point from 0 to 1) of shape [H, W, 3]"


class Images(Sequence[ImageSource]):
    """Images of an argument, each made a path or an 8-bit RGB image when it is asked for.

    Args:
        items: paths, PIL images and arrays.
        where: name of the argument, for messages.
    """

    def __init__(self, items: Sequence[Any], where: str) -> None:
        self._items, self._where = items, where

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> ImageSource: ...
    @overload
    def __getitem__(self, index: slice) -> Images: ...
    def __getitem__(self, index: int | slice) -> ImageSource | Images:
        if isinstance(index, slice):
            return Images(self._items[index], self._where)
        item = self._items[index]
        if isinstance(item, str | os.PathLike):
            return Path(item)
        try:
            image = item if isinstance(item, Image.Image) else _from_array(item)
            check_sides(image.size)
            return to_rgb(image)
        except (BadImageError, OSError, ValueError) as error:
            raise CaptError(f"{self._where}[{index}]: {problem_of(error)}") from error

    def __iter__(self) -> Iterator[ImageSource]:
        return (self[index] for index in range(len(self)))

    def digest(self) -> str:
        """Digest of all pixels and files, SHA-256 in hex, after looking at each.

        Raises:
            CaptError: an image that cannot be used.
        """
        digest = hashlib.sha256()
        for index, image in enumerate(self):
            if isinstance(image, Image.Image):
                content = image.tobytes()
                digest.update(f"{image.size}".encode())
            else:
                content = self._read(index, image)
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
        return digest.hexdigest()

    def _read(self, index: int, path: Path) -> bytes:
        try:
            with opened_image(path) as (_, content):
                return content
        except (BadImageError, OSError, ValueError) as error:
            raise CaptError(
                f"{self._where}[{index}]: {brief(path)}: not a readable image "
                f"({problem_of(error)}); give another, or leave it out"
            ) from error


def _from_array(item: Any) -> Image.Image:
    """Grey [H, W] or [H, W, 1], RGB or RGBA array as an image.

    Raises:
        ValueError: another shape, type or range.
    """
    array = np.asarray(item)
    if array.dtype.kind in "OSUMm":
        raise ValueError(f"found {shown(item, 60)}; expected {_KINDS}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in _CHANNELS):
        turned = "; put the channels last" if array.ndim == 3 and len(array) in _CHANNELS else ""
        raise ValueError(f"an array of shape {list(array.shape)}; expected {_KINDS}{turned}")
    if array.dtype.kind == "f":
        low, high = (array.min(), array.max()) if array.size else (0, 0)
        if not np.isfinite(low + high):
            raise ValueError("an array that holds NaN or inf; give values from 0 to 1")
        if low < 0 or high > 1:
            raise ValueError(
                f"floating-point values from {low:g} to {high:g}; expected 0 to 1: scale them, or "
                "give uint8"
            )
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(
            f"an array of {array.dtype}; give uint8 from 0 to 255, or floating-point from 0 to 1"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def images_of(given: Any, where: str) -> Images:
    """Several images: a list, series or array of files, PIL images or arrays.

    Args:
        given: also an array [N, H, W, 3] (or 1, 4), or [N, H, W] of grey images; and a table of
            one column of paths.
        where: name of the argument, for messages.

    Raises:
        CaptError: a single image, or what holds no images.
    """
    if isinstance(given, str | bytes | os.PathLike | Image.Image):
        raise CaptError(f"{where}: expected several images, found one; put it into a list")
    if hasattr(given, "to_numpy"):
        given = given.to_numpy()
    elif hasattr(given, "__array__"):
        given = np.asarray(given)
    if isinstance(given, np.ndarray):
        return Images(_rows(given, where), where)
    if not isinstance(given, Sequence):
        raise CaptError(f"{where}: expected a list or array of {_KINDS}, found {shown(given, 60)}")
    return Images(given, where)


def _rows(array: np.ndarray[Any, Any], where: str) -> Sequence[Any]:
    texts = array.dtype.kind in "OU"
    if texts and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if texts and array.ndim == 1:
        rows: list[Any] = array.tolist()
        return rows
    shape = list(array.shape)
    if array.ndim == 3 and shape[-1] in (3, 4):
        raise CaptError(
            f"{where}: an array of shape {shape} is one image; put it into a list (grey images of "
            "this width: [N, H, W, 1])"
        )
    if array.ndim not in (3, 4):
        raise CaptError(
            f"{where}: an array of shape {shape} and type {array.dtype} holds no images; expected "
            "[N, H, W, 3] or [N, H, W]. Reshape your data: rows of pixels need their height and "
            "width back"
        )
    return list(array)


def memory_dataset(
    images: Images,
    class_ids: Sequence[int],
    class_names: Sequence[str],
    splits: Sequence[str],
    template: str,
) -> Dataset:
    """A data set of images in memory, all classes of it trained; `sample_id` is the position.

    Args:
        images: N of them.
        class_ids: of each image, by position in `class_names`.
        class_names: as they stand in prompts.
        splits: `train` or `val` of each image.
        template: prompt with one ``{}`` for the class name.

    Raises:
        CaptError: an image that cannot be used; names that are empty or that no text can tell
            apart.
    """
    names = list(class_names)
    samples = pl.DataFrame(
        {
            "sample_id": range(len(images)),
            "path": [str(index) for index in range(len(images))],
            "class_id": class_ids,
            "class_name": [names[class_id] for class_id in class_ids],
            "split": splits,
        },
        schema=dict(SAMPLES.columns),
    )
    check_classes(
        SplitData(samples.select("path", "class_id", "split"), names),
        "class names",
        rename="rename one",
    )
    check_distinguishable(names, "class names")
    classes = pl.DataFrame(
        {
            "class_id": range(len(names)),
            "class_name": names,
            "group": ["base"] * len(names),
            "template": [template] * len(names),
        },
        schema=dict(CLASSES.columns),
    )
    digest = fingerprint(samples, classes, images.digest())
    return Dataset("images", samples, classes, digest, Path(), in_memory=images)
