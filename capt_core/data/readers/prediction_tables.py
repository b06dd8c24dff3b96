"""Tables of what a classifier took images for: a row per image."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from capt_core.data.column_files import TABLE_ENDINGS
from capt_core.data.readers.columns import (
    PATH_COLUMNS,
    SPLIT_COLUMNS,
    column_named,
    columns_of,
    plain_label,
    refuse_twice,
    without_fraction,
)
from capt_core.data.readers.table_files import row_split
from capt_core.data.readers.tables import read_cells, table_columns
from capt_core.data.readers.text_tables import TEXT_ENDINGS, no_key_twice
from capt_core.errors import CaptError, reason, shown

TRUE_COLUMNS: tuple[str, ...] = (
    "true",
    "true_class",
    "true_label",
    "ground_truth",
    "y_true",
    "actual",
    "gt",
)
TRUE_COLUMNS += ("label", "target", "class", "class_name", "category")
PREDICTED_COLUMNS: tuple[str, ...] = (
    "predicted",
    "prediction",
    "pred",
    "predicted_class",
    "predicted_label",
)
PREDICTED_COLUMNS += ("y_pred", "pred_class", "pred_label")
CONFIDENCE_COLUMNS = ("confidence", "conf", "probability", "prob", "score")
SCORES_COLUMNS = ("scores", "probabilities", "probs")
_SCORE = "score_"
_AT_ONCE = 100  # columns of scores; text takes ten times the room of numbers
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Scores:
    """Probabilities of classes.

    Attributes:
        names: of the K classes; None: those of the data set, in the order of their ids.
        values: [N, K], NaN where a row gives none.
    """

    names: list[str] | None
    values: np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class PredictionRows:
    """Rows of a table of predictions, N of them.

    Attributes:
        file: the table.
        paths: image files as the table names them.
        true: labels; None where the table has no such column.
        predicted: labels.
        splits: `train`, `val` or `test`; None where the table has no such column.
        confidences: of the predicted class, [N], NaN where none is given.
        scores: of all classes, or None.
    """

    file: Path
    paths: list[str]
    true: list[str] | None
    predicted: list[str]
    splits: list[str] | None
    confidences: np.ndarray[Any, np.dtype[np.float64]]
    scores: Scores | None
    numbers: Sequence[int]
    unit: str

    def place(self, row: int) -> str:
        """What messages call a row: the file and the line in it."""
        return f"{self.file}: {self.unit} {self.numbers[row]}"


def read_predictions(path: Path) -> PredictionRows:
    """Read a CSV, TSV, JSON-lines, Parquet or Arrow table of predictions.

    Its columns are `path`, `predicted` and, if there are, `true`, `split` and `confidence`, or
    other usual names of these, in any case; and scores from 0 to 1: a column ``score_<class>`` for
    each class, or `scores` with a JSON object (class to score) or list per row.

    Raises:
        CaptError: no such table, a column is missing or may be one of two, a cell that cannot be
            what its column says.
    """
    if not path.is_file():
        raise CaptError(f"{path}: no such file; give a table with the columns path,true,predicted")
    if path.suffix.lower() not in (*TEXT_ENDINGS, *TABLE_ENDINGS):
        endings = ", ".join((*TEXT_ENDINGS, *TABLE_ENDINGS))
        raise CaptError(f"{path}: expected a table whose name ends in one of {endings}")
    columns = table_columns(path)
    names = _column(columns, PATH_COLUMNS, path)
    predicted = _column(columns, PREDICTED_COLUMNS, path)
    true = _column(columns, TRUE_COLUMNS, path, needed=False)
    split = _column(columns, SPLIT_COLUMNS, path, needed=False)
    confidence = _column(columns, CONFIDENCE_COLUMNS, path, needed=False)
    wanted = [name for name in (names, predicted, true, split, confidence) if name]
    cells, numbers, unit = read_cells(path, wanted)
    found = dict(zip(wanted, cells, strict=True))
    places = _Places(path, numbers, unit)
    if not numbers:
        raise CaptError(f"{path}: a table without rows; give it one per image")
    texts = [_label(cell, places, row, predicted) for row, cell in enumerate(found[predicted])]
    if true:
        texts += [_label(cell, places, row, true) for row, cell in enumerate(found[true])]
    labels = [str(label) for label in without_fraction(texts)]
    return PredictionRows(
        path,
        [_path(cell, places, row, names) for row, cell in enumerate(found[names])],
        labels[len(numbers) :] if true else None,
        labels[: len(numbers)],
        _splits(found[split], places, split) if split else None,
        _shares(found[confidence], places, confidence)
        if confidence
        else np.full(len(numbers), np.nan),
        _scores(path, columns, places),
        numbers,
        unit,
    )


@dataclass(frozen=True)
class _Places:
    path: Path
    numbers: Sequence[int]
    unit: str

    def error(self, row: int, column: str, cell: object, expected: str) -> CaptError:
        return CaptError(
            f"{self.path}: {self.unit} {self.numbers[row]}: column {column[:40]} holds "
            f"{shown(cell, 60)}, {expected}"
        )


def _column(columns: Sequence[str], names: Sequence[str], path: Path, needed: bool = True) -> str:
    """The column of a role, by the role's own name or else by its only other name; empty: none."""
    found = list(dict.fromkeys(filter(None, (column_named(columns, [name]) for name in names))))
    if not found:
        if needed:
            raise CaptError(
                f"{path}: no column {names[0]} (or {', '.join(names[1:5])}, ...); "
                f"{columns_of(columns)}"
            )
        return ""
    if len(found) > 1 and column_named(found, names[:1]) is None:
        raise CaptError(
            f"{path}: columns {found[0][:40]} and {found[1][:40]} may both be what is called "
            f"{names[0]} here; rename the one to take to {names[0]}"
        )
    refuse_twice(columns, found[0], path)
    return found[0]


def _label(cell: object, places: _Places, row: int, column: str) -> str:
    try:
        label = plain_label(cell)
    except ValueError as error:
        raise places.error(row, column, cell, reason(error)) from error
    if label is None:
        raise places.error(row, column, cell, "expected a class")
    return label


def _path(cell: object, places: _Places, row: int, column: str) -> str:
    if isinstance(cell, Mapping) and "path" in cell:
        cell = cell["path"]  # an image as Hugging Face's data sets have it
    if not isinstance(cell, str) or not cell.strip():
        raise places.error(row, column, cell, "expected the path of an image")
    return cell.strip()


def _splits(cells: Sequence[object], places: _Places, column: str) -> list[str]:
    splits = []
    for row, cell in enumerate(cells):
        split = row_split(cell)
        if split is None:
            raise places.error(row, column, cell, "expected train, val or test")
        splits.append(split)
    return splits


def _shares(
    cells: Iterable[object], places: _Places, column: str
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Numbers from 0 to 1; NaN where a cell is empty."""
    return np.array([_share(cell, places, row, column) for row, cell in enumerate(cells)])


def _share(cell: object, places: _Places, row: int, column: str) -> float:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return math.nan
    try:
        value = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        value = math.inf
    if isinstance(cell, bool) or not (-_ROUNDING <= value <= 1 + _ROUNDING or value != value):
        expected = "expected a share from 0 to 1 (of percent a hundredth, of logits the softmax)"
        raise places.error(row, column, cell, expected)
    return min(max(value, 0.0), 1.0) if value == value else value


def _scores(path: Path, columns: Sequence[str], places: _Places) -> Scores | None:
    listed = _column(columns, SCORES_COLUMNS, path, needed=False)
    named = [
        name for name in columns if name.lower().startswith(_SCORE) and len(name) > len(_SCORE)
    ]
    if not listed and not named:
        return None
    if listed and named:
        raise CaptError(
            f"{path}: scores are given twice, in columns {named[0][:40]}, ... and in "
            f"{listed[:40]}; remove one"
        )
    if listed:
        return _row_scores(read_cells(path, [listed])[0][0], places, listed)
    values = np.empty((len(places.numbers), len(named)))
    for start in range(0, len(named), _AT_ONCE):
        part = named[start : start + _AT_ONCE]
        for at, cells in enumerate(read_cells(path, part)[0], start=start):
            values[:, at] = _shares(cells, places, named[at])
    labels = [str(plain_label(name[len(_SCORE) :])) for name in named]
    twice = next((name for at, name in enumerate(labels) if name in labels[:at]), None)
    if twice is not None:
        raise CaptError(f"{path}: two columns of scores for {shown(twice)}; remove one")
    return Scores(labels, values)


def _row_scores(cells: Sequence[object], places: _Places, column: str) -> Scores:
    """Scores of a column of objects or lists, all of one kind."""
    read = [_document(cell, places, row, column) for row, cell in enumerate(cells)]
    if isinstance(read[0], list):
        width = len(read[0])
        for row, scores in enumerate(read):
            if not isinstance(scores, list) or len(scores) != width:
                expected = f"expected a list of {width} scores, as in the first row"
                raise places.error(row, column, cells[row], expected)
        shares = [
            [_share(score, places, row, column) for score in scores]
            for row, scores in enumerate(read)
        ]
        return Scores(None, np.array(shares, dtype=np.float64).reshape(len(read), width))
    names: dict[str, int] = {}
    for row, scores in enumerate(read):
        if not isinstance(scores, dict):
            raise places.error(row, column, cells[row], "expected an object, as in the first row")
        labels = {str(plain_label(name)) for name in scores}
        if len(labels) < len(scores):
            raise places.error(row, column, cells[row], "two scores of one class")
        for name in scores:
            names.setdefault(str(plain_label(name)), len(names))
    values = np.full((len(read), len(names)), np.nan)
    for row, scores in enumerate(read):
        for name, score in dict(scores).items():
            values[row, names[str(plain_label(name))]] = _share(score, places, row, column)
    return Scores(list(names), values)


def _document(cell: object, places: _Places, row: int, column: str) -> list[Any] | dict[str, Any]:
    expected = "expected a JSON object of classes with their scores, or a list"
    found = cell
    if isinstance(cell, str):
        try:
            found = json.loads(cell, object_pairs_hook=no_key_twice)
        except (ValueError, RecursionError) as error:
            raise places.error(row, column, cell, f"{expected} ({reason(error)})") from error
    if isinstance(found, list) and all(isinstance(each, tuple) for each in found) and found:
        found = dict(found)  # a map of Parquet
    if not isinstance(found, list | dict):
        raise places.error(row, column, cell, expected)
    return found
