"""What the names of folders say: splits, unlabelled images, kinds of files."""

from __future__ import annotations

import re
from collections.abc import Sequence

from capt_core.data.readers.listing import SPLIT_WORDS
from capt_core.text import normal

UNLABELLED = {"demo", "extra", "example", "examples", "inference", "pred", "predict", "prediction"}
UNLABELLED |= {"predictions", "sample", "samples", "submission", "unlabeled", "unlabelled"}
KINDS_OF_FILES = {"annotations", "annotation", "bboxes", "images", "imgs", "img", "image", "jpg"}
KINDS_OF_FILES |= {"jpegimages", "labels", "mask", "masks", "photos", "pictures", "segmentations"}
IMAGE_FOLDERS = {"images", "imgs", "img", "image", "jpegimages", "photos", "pictures"}
_PLAIN_WORDS = IMAGE_FOLDERS | {"data", "dataset", "folder", "set", "split"}


def split_word(name: str) -> tuple[str, str] | None:
    """The split that a folder's name stands for, and the words beside it; None if there is none.

    ``Train``, ``train_images`` and ``trainval`` are (train, ""), ``val2017`` is (val, ""),
    ``seg_test`` (test, "seg").
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", normal(name))
    words = re.findall(r"[^\W\d_]+", spaced.lower())
    found = [(word, _split_of(word)) for word in words]
    splits = {split for _, split in found if split}
    rest = " ".join(word for word, split in found if not split and word not in _PLAIN_WORDS)
    if splits == {"train", "val"}:
        return "train", rest
    return (splits.pop(), rest) if len(splits) == 1 else None


def split_group(names: Sequence[str]) -> dict[str, str]:
    """Folders that are splits of one set: those with the same words beside the split's."""
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        if found := split_word(name):
            groups.setdefault(found[1], {})[name] = found[0]
    plain = groups.pop("", {})
    if "train" in plain.values():
        return plain
    several = [group for group in groups.values() if len({*group.values()} & {"train"}) == 1]
    several = [
        group
        for group in several
        if len(set(group.values())) > 1
        or (len(names) > 1 and all(is_unlabelled(name) for name in names if name not in group))
    ]
    return several[0] if len(several) == 1 else plain


def is_trainval(name: str) -> bool:
    """Whether a folder is named for training and validation images together."""
    words = re.findall(r"[a-z]+", name.lower())
    return "trainval" in words or len({_split_of(word) for word in words} & {"train", "val"}) == 2


def is_unlabelled(name: str) -> bool:
    """Whether a word of a folder's name says that its images have no labels."""
    return any(word in UNLABELLED for word in re.findall(r"[^\W\d_]+", normal(name).lower()))


def _split_of(word: str) -> str | None:
    """The split of a word such as train, testing or valset."""
    if word == "trainval":
        return "train"
    known = re.fullmatch(r"(\w+?)(?:set|data|images|imgs)?", word)
    return SPLIT_WORDS.get(word) or (SPLIT_WORDS.get(known[1]) if known else None)
