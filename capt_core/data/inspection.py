"""Comparing the files on disk with what a data set's split names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from capt_core.data.dataset import iter_values
from capt_core.data.image_checks import REMARKS, ImageLook, check_images
from capt_core.data.readers import read_split
from capt_core.data.registry import DatasetSpec
from capt_core.data.scan import find_images
from capt_core.data.splits import QUARANTINE, SplitData
from capt_core.params import Data

# Kinds of trouble, worst first: whether it fails, what it means, and what mends it.
FAILS = {
    "listing": "mend the list, or --set " + QUARANTINE,
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
    """What was found of a data set's files.

    Attributes:
        findings: a row per file and trouble: `kind`, `path`, `split`, `detail`.
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
    look: ImageLook,
    advance: Callable[[int], None] = lambda _: None,
) -> Inspection:
    """Look at every image of a data set.

    Args:
        spec: the data set.
        split: from `list_files`.
        image_root: likewise.
        look: how closely, see `check_image`; duplicates and remarks need `decode`.
        advance: told 1 per image.
    """
    rows: list[_Row] = [
        ("listing", path, part, reason)
        for path, part, reason in split.rejected.select("path", "split", "reason").iter_rows()
    ]
    marks: list[int | None] = []
    paths = split.samples["path"]
    checks = check_images(
        (image_root / path for path in iter_values(paths)), look, os.cpu_count() or 1
    )
    for (path, part), check in zip(
        split.samples.select("path", "split").iter_rows(), checks, strict=True
    ):
        advance(1)
        if check.problem is not None:
            rows.append((_kind(check.problem), path, part, check.problem))
        rows += [(remark, path, part, REMARKS[remark][0]) for remark in check.remarks]
        sound = check.problem is None and look == "decode"
        marks.append(int(check.digest[:16], 16) if sound else None)
    rows += _duplicates(split.samples.with_columns(pl.Series("mark", marks, dtype=pl.UInt64)))
    rows += _extra(spec, image_root, pl.concat([paths, split.rejected["path"]]))
    order = {kind: rank for rank, kind in enumerate(KINDS)}
    findings = pl.DataFrame(rows, schema=_SCHEMA, orient="row").sort(
        pl.col("kind").replace_strict(order, return_dtype=pl.Int64), "path", maintain_order=True
    )
    return Inspection(findings, len(split.samples), split)


def _kind(problem: str) -> str:
    if problem == "missing":
        return "missing"
    return "empty" if "0 bytes" in problem else "unreadable"


def _duplicates(samples: pl.DataFrame) -> Iterator[_Row]:
    groups = (
        samples.filter(pl.col("mark").is_not_null())
        .group_by("mark")
        .agg("path", "split", "class_id", pl.len().alias("count"))
        .filter(pl.col("count") > 1)
        .sort(pl.col("path").list.first())
    )
    for _, paths, splits, class_ids, _ in groups.iter_rows():
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
    """Images below the image folder that were not listed; where folders are the list, none are."""
    if spec.reader == "class_folders":
        return
    found = pl.Series(find_images(image_root).images, dtype=pl.String)
    for path in found.filter(~found.is_in(listed.implode())):
        yield "extra", path, "", "not named by the split"
