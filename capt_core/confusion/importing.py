"""Predictions of any classifier in the place of the base model's: matched, or listed anew."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from capt_core.advice import tool
from capt_core.artifacts.schemas import CLASSES, PREDICTIONS, SAMPLES
from capt_core.data.dataset import Dataset, fingerprint
from capt_core.data.readers.listing import sorted_labels
from capt_core.data.readers.prediction_tables import PredictionRows, Scores
from capt_core.data.registry import DatasetSpec
from capt_core.data.splits import SplitData, check_classes, in_split_order, path_problem
from capt_core.errors import CaptError, shown
from capt_core.text import name_key, normal

LISTED_BY_IMPORT = "listed by import-predictions; images need not be there"
"""Note of the tables of a data set that was not prepared."""


@dataclass(frozen=True)
class Imported:
    """Predictions that were read for a data set.

    Attributes:
        dataset: their data set.
        predictions: the table `predictions`.
        notes: lines that the user should read.
    """

    dataset: Dataset
    predictions: pl.DataFrame
    notes: Sequence[str] = ()


def match(rows: PredictionRows, dataset: Dataset, folders: Sequence[Path], top: int) -> Imported:
    """Predictions for the images of a prepared data set.

    Args:
        rows: of the table.
        dataset: prepared.
        folders: that paths of the table may begin with, beside those relative to the images.
        top: classes that the `top_*` columns list.

    Raises:
        CaptError: rows of no known image or class, or named twice; another true class; lists of
            scores that do not fit.
    """
    samples = dataset.samples
    known = {normal(path): row for row, path in enumerate(samples["path"])}
    known |= {path: row for row, path in enumerate(samples["path"])}
    prefixes = _prefixes(folders)
    places = [
        next((known[path] for path in _spellings(text, prefixes) if path in known), -1)
        for text in rows.paths
    ]
    missing = [row for row, place in enumerate(places) if place < 0]
    if missing:
        first = missing[0]
        raise CaptError(
            f"{rows.file}: {len(missing)} of {len(places)} rows are of no image of {dataset.name}, "
            f"the first {rows.unit} {rows.numbers[first]}: {shown(rows.paths[first], 200)}; paths "
            f"are relative to the folder of the images, as {shown(samples['path'][0], 200)} is"
        )
    _refuse_twice(rows, places)
    ids = _class_ids(dataset.class_names)
    predicted = _known_classes(rows, rows.predicted, ids, dataset)
    true = samples["class_id"].gather(places).to_list()
    if rows.true is not None:
        stated = _known_classes(rows, rows.true, ids, dataset)
        differing = [row for row, label in enumerate(stated) if label != true[row]]
        if differing:
            first = differing[0]
            raise CaptError(
                f"{rows.place(first)}: {shown(rows.paths[first])} is {shown(rows.true[first])} "
                f"here and {shown(dataset.class_names[true[first]])} in the data set "
                f"({len(differing)} rows differ); correct the table, or the images' folders"
            )
    scores = _aligned(rows, rows.scores, ids, dataset, strict=True)
    notes = [f"{count} images have no prediction"] if (count := len(samples) - len(places)) else []
    if rows.splits is not None and rows.splits != samples["split"].gather(places).to_list():
        notes.append("splits are those of the prepared data set, not the table's")
    table, more = _predictions(rows, dataset, places, predicted, scores, top)
    return Imported(dataset, table, [*notes, *more])


def listed(rows: PredictionRows, spec: DatasetSpec, folders: Sequence[Path], top: int) -> Imported:
    """Predictions, and the data set that their table lists, for one that was not prepared.

    All classes that are true or predicted somewhere are in the group `base`; images are in the
    table's splits, or without them all in `test`.

    Args:
        rows: of the table.
        spec: name and prompt template of the data set.
        folders: of the images, see `match`; none where they are not known.
        top: classes that the `top_*` columns list.

    Raises:
        CaptError: no true classes, paths that lead out of the folder or stand there twice, names
            that are alike.
    """
    if rows.true is None:
        raise CaptError(
            f"{rows.file}: no column true, and {spec.name} is not prepared; add the true classes, "
            f"or first run: {tool('prepare', dataset=spec.name)}"
        )
    paths, notes = _relative(rows, folders)
    for row, path in enumerate(paths):
        if problem := path_problem(path):
            raise CaptError(
                f"{rows.place(row)}: {problem}; write paths relative to the folder of the images"
            )
    names = sorted_labels({*rows.true, *rows.predicted})
    ids = {name: class_id for class_id, name in enumerate(names)}
    listing = pl.DataFrame(
        {
            "row": range(len(paths)),
            "path": paths,
            "class_id": [ids[label] for label in rows.true],
            "class_name": rows.true,
            "split": rows.splits or ["test"] * len(paths),
        }
    )
    ordered = in_split_order(listing).with_row_index("sample_id").cast({"sample_id": pl.Int64})
    samples = SAMPLES.select(ordered)
    check_classes(
        SplitData(samples, names), str(rows.file), trained=False, rename="write them alike"
    )
    _refuse_numbers_alike(names, rows.file)
    if set(rows.true).isdisjoint(rows.predicted):
        notes.append(
            "every image is misclassified, and no class is true here and predicted there: are "
            "names in one column and numbers in the other?"
        )
    classes = pl.DataFrame(
        {
            "class_id": range(len(names)),
            "class_name": names,
            "group": ["base"] * len(names),
            "template": [spec.template] * len(names),
        },
        schema=dict(CLASSES.columns),
    )
    dataset = Dataset(spec.name, samples, classes, fingerprint(samples, classes, LISTED_BY_IMPORT))
    places = ordered.sort("row")["sample_id"].to_list()
    unique = {path: row for row, path in enumerate(paths)}
    _refuse_twice(rows, [unique[path] for path in paths])
    predicted = [ids[label] for label in rows.predicted]
    scores = _aligned(rows, rows.scores, ids, dataset, strict=False)
    table, more = _predictions(rows, dataset, places, predicted, scores, top)
    return Imported(dataset, table, [*notes, *more])


def _refuse_numbers_alike(names: Iterable[str], file: Path) -> None:
    """Refuse 007 beside 7, which is what a program makes of it that reads labels as numbers."""
    first: dict[int, str] = {}
    for name in names:
        if not re.fullmatch(r"\d{1,18}", name):
            continue
        other = first.setdefault(int(name), name)
        if other != name:
            raise CaptError(
                f"{file}: {shown(other)} and {shown(name)} are one number, but two classes; write "
                "them alike, or with a letter if both are meant"
            )


def _clean(text: str) -> str:
    """A path with forward slashes, without ``./`` and doubled slashes."""
    if "\\" in text:
        text = text.replace("\\", "/")
    if "//" in text or "./" in text:
        text = posixpath.normpath(text)
    return normal(text)


def _prefixes(folders: Iterable[Path]) -> list[str]:
    """How paths below these folders begin: as they are written, absolute, and without links."""
    found: dict[str, None] = {}
    for folder in folders:
        for form in (str(folder), os.path.abspath(folder), os.path.realpath(folder)):
            found[normal(form.rstrip("/")) + "/"] = None
    return [prefix for prefix in found if prefix != "./"]


def _spellings(text: str, prefixes: Sequence[str]) -> Iterator[str]:
    yield text
    plain = _clean(text)
    yield plain
    for prefix in prefixes:
        if plain.startswith(prefix):
            yield plain[len(prefix) :]


def _relative(rows: PredictionRows, folders: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Paths relative to the folder of the images, and notes on which it is.

    Where that is not known and all paths are absolute, it is the deepest that holds all.
    """
    paths = [_clean(text) for text in rows.paths]
    for prefix in _prefixes(folders):
        if prefix.startswith("/") or all(path.startswith(prefix) for path in paths):
            paths = [path.removeprefix(prefix) for path in paths]
    if not all(path.startswith("/") for path in paths):
        return paths, []
    common = posixpath.commonpath([posixpath.dirname(path) for path in paths])
    if folders:
        raise CaptError(
            f"{rows.place(0)}: {shown(paths[0], 200)} is not below {folders[0]}, the folder of the "
            "images; set data.root to one that holds them"
        )
    shorter = [path.removeprefix(common).lstrip("/") for path in paths]
    return shorter, [f"paths are relative to {common}; the report shows images with data.root"]


def _refuse_twice(rows: PredictionRows, places: Sequence[int]) -> None:
    seen: dict[int, int] = {}
    for row, place in enumerate(places):
        if place in seen:
            raise CaptError(
                f"{rows.place(row)}: {shown(rows.paths[row], 200)} has a prediction in "
                f"{rows.unit} {rows.numbers[seen[place]]} already; keep one of them"
            )
        seen[place] = row


def _class_ids(names: Sequence[str]) -> dict[str, int]:
    """Class id by name, and by what is left of a name without case and underscores."""
    return {name_key(name): class_id for class_id, name in enumerate(names)} | {
        name: class_id for class_id, name in enumerate(names)
    }


def _known_classes(
    rows: PredictionRows, labels: Sequence[str], ids: Mapping[str, int], dataset: Dataset
) -> list[int]:
    found = {label: ids.get(label, ids.get(name_key(label), -1)) for label in set(labels)}
    unknown = [row for row, label in enumerate(labels) if found[label] < 0]
    if unknown:
        raise CaptError(
            f"{rows.file}: {len(unknown)} of {len(labels)} rows name a class that {dataset.name} "
            f"does not have, the first {rows.unit} {rows.numbers[unknown[0]]}: "
            f"{shown(labels[unknown[0]])}; its classes are "
            f"{shown(', '.join(dataset.class_names), 200)[1:-1]}"
        )
    return [found[label] for label in labels]


def _aligned(
    rows: PredictionRows,
    scores: Scores | None,
    ids: Mapping[str, int],
    dataset: Dataset,
    strict: bool,
) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Scores [N, C] in the order of class ids, NaN for classes that have none.

    Args:
        strict: refuse scores of classes that the data set does not have, instead of leaving them
            out.
    """
    if scores is None:
        return None
    count = len(dataset.classes)
    if scores.names is None:
        if scores.values.shape[1] != count:
            raise CaptError(
                f"{rows.file}: lists of {scores.values.shape[1]} scores, but {count} classes; name "
                "the classes: an object of class to score, or columns score_<class>"
            )
        return scores.values
    values = np.full((len(rows.paths), count), np.nan)
    for at, name in enumerate(scores.names):
        class_id = ids.get(name, ids.get(name_key(name)))
        if class_id is not None:
            values[:, class_id] = scores.values[:, at]
        elif strict:
            raise CaptError(
                f"{rows.file}: scores of {shown(name)}, a class that {dataset.name} does not have; "
                "correct the name, or leave them out"
            )
    return values


def _predictions(
    rows: PredictionRows,
    dataset: Dataset,
    places: Sequence[int],
    predicted: Sequence[int],
    scores: np.ndarray[Any, np.dtype[np.float64]] | None,
    top: int,
) -> tuple[pl.DataFrame, list[str]]:
    """The table `predictions`, sorted by sample, and notes."""
    names = pl.Series(dataset.class_names, dtype=pl.String)
    taken = pl.Series(predicted, dtype=pl.Int64)
    table = dataset.samples.join(dataset.classes.select("class_id", "group"), on="class_id")
    table = table.sort("sample_id")[list(places)].rename(
        {"class_id": "true_class_id", "class_name": "true_class"}
    )
    confidences = pl.Series(rows.confidences).fill_nan(None)
    table = table.with_columns(
        taken.alias("pseudo_label_id"), names.gather(taken).alias("pseudo_label")
    ).with_columns((pl.col("true_class_id") == pl.col("pseudo_label_id")).alias("correct"))
    notes: list[str] = []
    if scores is None:
        table = table.with_columns(
            confidences.alias("confidence"),
            pl.when("correct").then(confidences).alias("true_confidence"),
            pl.concat_list("pseudo_label_id").alias("top_class_ids"),
            pl.concat_list("pseudo_label").alias("top_classes"),
        ).with_columns(
            pl.when(pl.col("confidence").is_not_null())
            .then(pl.concat_list("confidence"))
            .alias("top_confidences")
        )
    else:
        rank, notes = _ranked(rows, scores, predicted, dataset)
        every = np.arange(len(predicted))
        own = pl.Series(scores[every, list(predicted)]).fill_nan(None)
        shared = scores[every, table["true_class_id"].to_list()]
        counts = np.minimum((~np.isnan(scores)).sum(axis=1), top).tolist()
        top_ids = [row[:count] for row, count in zip(rank[:, :top].tolist(), counts, strict=True)]
        class_names = dataset.class_names
        table = table.with_columns(
            pl.coalesce(confidences, own).alias("confidence"),
            pl.Series(shared).fill_nan(None).alias("true_confidence"),
            pl.Series("top_class_ids", top_ids, dtype=pl.List(pl.Int64)),
            pl.Series(
                "top_classes",
                [[class_names[class_id] for class_id in row] for row in top_ids],
                dtype=pl.List(pl.String),
            ),
            pl.Series(
                "top_confidences",
                [scores[row, ids].tolist() for row, ids in enumerate(top_ids)],
                dtype=pl.List(pl.Float64),
            ),
        )
    return PREDICTIONS.select(table).sort("sample_id"), notes


def _ranked(
    rows: PredictionRows,
    scores: np.ndarray[Any, np.dtype[np.float64]],
    predicted: Sequence[int],
    dataset: Dataset,
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], list[str]]:
    """Class ids by falling score, the predicted class first among equals; and notes.

    Raises:
        CaptError: lists of scores whose highest is not the predicted class's, so that their order
            is probably another.
    """
    every = np.arange(len(predicted))
    order = np.where(np.isnan(scores), -1.0, scores)
    other = order[every, list(predicted)] < order.max(axis=1)
    order[every, list(predicted)] += 1e-9
    rank = np.argsort(-order, axis=1, kind="stable")
    if not other.any():
        return rank, []
    first = int(np.flatnonzero(other)[0])
    best = dataset.class_names[int(rank[first, 0])]
    if rows.scores is not None and rows.scores.names is None:
        raise CaptError(
            f"{rows.place(first)}: its list of scores is highest for {shown(best)}, but "
            f"{shown(rows.predicted[first])} is predicted; lists are in the order of the "
            f"classes ({shown(', '.join(dataset.class_names))[1:-1]}), objects in any"
        )
    return rank, [
        f"in {int(other.sum())} rows another class than the predicted one has the highest score "
        f"(the first is {rows.unit} {rows.numbers[first]}); predictions are taken as they are"
    ]
