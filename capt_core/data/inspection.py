"""Comparing the files on disk with what a data set's split names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from capt_core.addresses import is_remote
from capt_core.data.image_checks import REMARKS, CheckLevel, check_samples
from capt_core.data.readers import read_split
from capt_core.data.registry import DatasetSpec
from capt_core.data.scan import find_images
from capt_core.data.splits import QUARANTINE, SplitData
from capt_core.params import Data

# Kinds of findings, worst first, and what to do about each: those that fail, and the others.
FAILS = {
    "listing": "correct the list, or --set " + QUARANTINE,
    "missing": "{again}, or --set " + QUARANTINE,
    "empty": "{again}, or --set " + QUARANTINE,
    "unreadable": "{again} --again, or --set " + QUARANTINE,
}
NOTES = {
    "in two splits": "the same bytes are in the splits named; remove one of each if the split is "
    "yours",
    "two labels": "the same bytes carry several labels; remove one of each if the labels are yours",
    "twice": "the same bytes twice in one split and class; nothing, or remove one of each",
    "extra": "not named by the split, and not used; nothing",
}
KINDS = (*FAILS, *NOTES, *REMARKS)
_SCHEMA = {"kind": pl.String, "path": pl.String, "split": pl.String, "detail": pl.String}
_Row = tuple[str, str, str, str]


@dataclass(frozen=True)
class Inspection:
    """What a check of a data set's files found.

    Attributes:
        findings: a row per file and kind of finding: `kind`, `path`, `split`, `detail`.
        images: how many images the split names.
        split: what was listed.
    """

    findings: pl.DataFrame
    images: int
    split: SplitData

    def count(self, kind: str) -> int:
        return len(self.findings.filter(kind=kind))

    @property
    def failed(self) -> bool:
        return self.findings["kind"].is_in(list(FAILS)).any()

    @property
    def sound(self) -> int:
        """Images that can be used."""
        bad = self.findings.filter(pl.col("kind").is_in(["missing", "empty", "unreadable"]))
        return self.images - len(bad)


def list_files(spec: DatasetSpec, data: Data) -> tuple[SplitData, Path]:
    """What a data set's split names, with everything that cannot be listed as rejected.

    Raises:
        CaptError: the layout is not there, or the split cannot be read at all.
    """
    return read_split(spec, data.model_copy(update={"on_bad_image": "quarantine"}))


def inspect_files(
    spec: DatasetSpec,
    split: SplitData,
    image_root: Path,
    level: CheckLevel,
    advance: Callable[[int], None] = lambda _: None,
) -> Inspection:
    """Check every image of a data set.

    Args:
        spec: the data set.
        split: from `list_files`.
        image_root: likewise.
        level: see `check_image`; duplicates and remarks need `decode`.
        advance: called with 1 after each image.
    """
    rows: list[_Row] = [
        ("listing", path, part, reason)
        for path, part, reason in split.rejected.select("path", "split", "reason").iter_rows()
    ]
    checks = check_samples(split.samples, image_root, level, True, advance)
    places = split.samples.select("path", "split")
    rows += (
        (_kind(problem), *places.row(row), problem) for row, problem in checks.problems.items()
    )
    for remark, numbers in checks.remarks.items():
        rows += ((remark, *places.row(row), REMARKS[remark][0]) for row in numbers)
    rows += _duplicates(checks.duplicates(split.samples))
    rows += _extra(spec, image_root, pl.concat([places["path"], split.rejected["path"]]))
    order = {kind: rank for rank, kind in enumerate(KINDS)}
    findings = pl.DataFrame(rows, schema=_SCHEMA, orient="row").sort(
        pl.col("kind").replace_strict(order, return_dtype=pl.Int64), "path", maintain_order=True
    )
    return Inspection(findings, len(split.samples), split)


def _kind(problem: str) -> str:
    if problem == "missing":
        return "missing"
    return "empty" if "0 bytes" in problem else "unreadable"


def _duplicates(groups: pl.DataFrame) -> Iterator[_Row]:
    for paths, splits, class_ids in groups.select("path", "split", "class_id").iter_rows():
        kind = "twice"
        if len(set(class_ids)) > 1:
            kind = "two labels"
        if len(set(splits)) > 1:
            kind = "in two splits"
        for path, part in zip(paths, splits, strict=True):
            others = [
                f"{other} ({other_part})"
                for other, other_part in zip(paths, splits, strict=True)
                if other != path
            ]
            yield kind, path, part, f"same bytes as {', '.join(others)}"


def _extra(spec: DatasetSpec, image_root: Path, listed: pl.Series) -> Iterator[_Row]:
    """Images that the split does not list; there are none where the folders are the list."""
    if spec.reader == "class_folders" or is_remote(image_root):
        return
    found = pl.Series(find_images(image_root).images, dtype=pl.String)
    for path in found.filter(~found.is_in(listed.implode())):
        yield "extra", path, "", "not named by the split"
