"""What a split is: which image is which class, in training, validation or test."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import polars as pl

from capt_core.addresses import absence
from capt_core.advice import setting, tool
from capt_core.artifacts.schemas import REJECTED
from capt_core.data.registry import DatasetSpec
from capt_core.data.remote.braces import is_pattern, shards_of
from capt_core.data.remote.tree import is_remote_root, parts_of
from capt_core.data.scan import is_utf8
from capt_core.errors import CaptError, one_line, shown
from capt_core.text import name_key, spoken

SPLITS = ("train", "val", "test")
QUARANTINE = "data.on_bad_image=quarantine"
_REJECTED = {name: kind for name, kind in REJECTED.columns.items() if name != "rejected_id"}


@dataclass(frozen=True)
class SplitData:
    """A data set as listed, before its images are checked.

    Attributes:
        samples: columns `path` (relative to the image folder, with forward slashes), `class_id`
            and `split`; train, val, test, each in the order of its source.
        class_names: by class id.
        rejected: the table `rejected` without its ids: what was left out while listing.
        template: prompt template that replaces the data set's, or None.
        notes: lines that the user should read.
    """

    samples: pl.DataFrame
    class_names: list[str]
    rejected: pl.DataFrame = field(default_factory=lambda: Rejects(True).frame())
    template: str | None = None
    notes: Sequence[str] = ()


def sample_frame(
    paths: Iterable[str], class_ids: Iterable[int], splits: Iterable[str]
) -> pl.DataFrame:
    """Samples as a table, train before val before test, otherwise in the given order."""
    frame = pl.DataFrame(
        {"path": paths, "class_id": class_ids, "split": splits},
        schema={"path": pl.String, "class_id": pl.Int64, "split": pl.String},
    )
    return in_split_order(frame)


def in_split_order(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows sorted by split: train, val, test; the order within a split stays."""
    return pl.concat([frame.filter(pl.col("split") == split) for split in SPLITS])


class Rejects:
    """Collects what is left out, or stops at the first of it."""

    def __init__(self, quarantine: bool) -> None:
        self._quarantine = quarantine
        self._rows: list[tuple[str, int | None, str, str, str]] = []

    def add(
        self, where: str, row: tuple[str, int | None, str, str], reason: str, remedy: str
    ) -> None:
        """Note a row (path, class id or None, class name, split) and why it is left out.

        Raises:
            CaptError: nothing is to be left out.
        """
        if not self._quarantine:
            leave_out = setting(*QUARANTINE.split("="))
            raise CaptError(f"{where}: {reason}; {remedy}, or leave it out with {leave_out}")
        path, class_id, class_name, split = row
        self._rows.append((one_line(path), class_id, class_name, split, one_line(reason)))

    def frame(self) -> pl.DataFrame:
        """The table `rejected` without its ids."""
        return pl.DataFrame(self._rows, schema=_REJECTED, orient="row")


def path_problem(path: str) -> str | None:
    """Why a listed path cannot be one of an image below the image folder, or None."""
    parts = PurePosixPath(path).parts
    if not path or "\0" in path:
        return "an empty path" if not path else "a path with a NUL character"
    if path.startswith("/") or ".." in parts:
        return f"the path {shown(path)} leads out of the image folder"
    if not is_utf8(path):
        return f"the path {shown(path)} is not valid UTF-8"
    return None


def checked_root(spec: DatasetSpec, data_root: str | None) -> Path:
    """Folder of a data set, after checking that the usual layout is there.

    A data set of the user's own is `data_root` itself, or the folder of the table or the shards
    that it names. A remote folder is not looked at.

    Raises:
        CaptError: a part of the layout is missing.
    """
    if data_root is None:
        holds = f", where DIR holds {spec.folder}/" if spec.folder else ""
        raise CaptError(f"data.root is not set; give {setting('data.root', 'DIR')}{holds}")
    if is_remote_root(data_root):
        folder, _ = parts_of(data_root)
        return Path(folder) / spec.folder
    if spec.reader == "own" and is_pattern(data_root):
        return shards_of(data_root)[0].parent
    # Not pathlib's: it raises for names that are too long and for homes of unknown users.
    base = Path(os.path.expanduser(data_root))
    if not os.path.exists(base) or (spec.reader != "own" and not os.path.isdir(base)):
        place = shown(str(base), 300)[1:-1]
        if spec.reader == "own":
            raise CaptError(
                f"data.root: {place}: {absence(data_root)}; give the folder of your images"
            )
        raise CaptError(
            f"data.root: {place} is not a folder; set data.root to the parent of {spec.folder}/"
        )
    if spec.reader == "own":
        if not base.is_dir() and not base.is_file():
            raise CaptError(f"data.root: {base} is neither a folder nor a file")
        return base if base.is_dir() else base.parent
    root = base / spec.folder
    command = tool("doctor", dataset=spec.name, data_root=base)
    doctor = f"to look for them, run: {command}"
    if not root.is_dir():
        hint = (
            f"data.root seems to be the data set itself, use its parent: {base.resolve().parent}"
            if base.resolve().name == spec.folder
            else f"set data.root to the folder that holds {spec.folder}/ ({doctor})"
        )
        raise CaptError(f"data.root: looked for {root}, which does not exist; {hint}")
    parts = [(spec.split, "split file"), (spec.images, "image folder")]
    # Joined as paths: with `images` empty, "/train" would be an absolute one.
    parts += [
        (str(PurePosixPath(spec.images) / part), f"{split} folder")
        for split, part in spec.splits.items()
    ]
    for part, kind in parts:
        if part and not (root / part).exists():
            usual = f"{spec.folder}/{spec.split} beside " if spec.split else ""
            raise CaptError(
                f"{spec.name}: looked for the {kind} {root / part}, which does not exist; "
                f"the usual layout is {usual}{spec.folder}/{spec.images} ({doctor})"
            )
    return root


RENAME = "rename one (data.classes takes a file of names)"


def check_classes(data: SplitData, where: str, trained: bool = True, rename: str = RENAME) -> None:
    """Refuse class names that cannot work and classes without training images.

    Args:
        data: what was listed.
        where: named in errors.
        trained: whether every class needs training images.
        rename: what to do about two names that are alike.

    Raises:
        CaptError: an empty or duplicate name, a class without training images, no classes.
    """
    if not data.class_names:
        raise CaptError(f"{where}: no classes found; is this the data set's split file?")
    seen: dict[str, int] = {}
    for class_id, name in enumerate(data.class_names):
        key = name_key(name) if is_utf8(name) else name
        if not key or not is_utf8(name):
            kind = f"a name that is not valid UTF-8 ({shown(name)})" if key else "an empty name"
            raise CaptError(f"{where}: class {class_id} has {kind}; give it another")
        if key in seen:
            other = seen[key]
            raise CaptError(
                f"{where}: classes {other} and {class_id} are both called {shown(name, 60)} "
                f"({shown(data.class_names[other], 60)}); prompts could not tell them apart, "
                f"{rename}"
            )
        seen[key] = class_id
    if not trained:
        return
    found = set(data.samples.filter(pl.col("split") == "train")["class_id"].unique())
    for class_id, name in enumerate(data.class_names):
        if class_id not in found:
            raise CaptError(
                f"{where}: class {class_id} ({name}) has no training images; "
                "add some or remove the class from the split"
            )


def with_samples(data: SplitData, samples: pl.DataFrame, rejected: pl.DataFrame) -> SplitData:
    """The same classes with other samples and further rejected ones."""
    return replace(data, samples=samples, rejected=pl.concat([data.rejected, rejected]))


def prompt_name(class_name: str) -> str:
    """Class name as it stands in prompts, see `spoken`."""
    return spoken(class_name)
