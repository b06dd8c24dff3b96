"""Imported predictions as later stages meet them: whose they are, and their bank."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from capt_core.advice import run_stage, tool
from capt_core.artifacts.files import file_digest
from capt_core.artifacts.schemas import PREDICTIONS
from capt_core.artifacts.tables import read_provenance, read_table
from capt_core.confusion.bank import confusion_bank, confusion_statistics
from capt_core.data.dataset import Dataset
from capt_core.errors import CaptError

_PREFIX = "imported:"
ALL_IMAGES = "of all imported images, test images among them: nothing may be trained with it"
"""Note of a bank and its statistics where no training image has a prediction."""


def identity_of(file: Path) -> str:
    """What stands for a backbone in artifacts made from a table: ``imported:`` and its digest."""
    return f"{_PREFIX}{file_digest(file)}"


def imported_identity(predictions: Path) -> str | None:
    """The `identity_of` that a table `predictions` was imported with; None for the base model's.

    A file that cannot be read is not imported either: whoever reads it says what is wrong.
    """
    try:
        backbone = read_provenance(predictions).backbone
    except (OSError, ValueError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None
    return backbone if backbone.startswith(_PREFIX) else None


def refuse_imported(predictions: Path, bank: Path) -> None:
    """Refuse to mine or train after an import.

    Raises:
        CaptError: the predictions are imported.
    """
    identity = imported_identity(predictions)
    if identity is None:
        return
    try:
        note = read_provenance(bank).note
    except (OSError, ValueError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        note = ""
    raise CaptError(
        f"{predictions}: imported ({identity}), without a model to mine pairs from or to train"
        f"{f'; its bank is {note}' if note else ''}; to repair a CLIP on these images, "
        f"{run_stage('infer-teacher', predictions)}"
    )


def refuse_replacing(predictions: Path) -> None:
    """Refuse to put the base model's predictions, unasked, in the place of imported ones.

    Raises:
        CaptError: the predictions are imported.
    """
    if (identity := imported_identity(predictions)) is not None:
        raise CaptError(
            f"{predictions}: imported ({identity}), and the base model's would replace it; give "
            "--run NAME to keep both, or remove this file first (the command report shows it)"
        )


def read_imported(predictions: Path, dataset: Dataset) -> pl.DataFrame:
    """The table `predictions` that was imported for a data set.

    Raises:
        CaptError: it was imported for other images or classes, or is damaged.
    """
    origin = read_provenance(predictions)
    if origin.dataset_fingerprint != dataset.fingerprint:
        raise CaptError(
            f"{predictions}: imported for other images or classes than there are now; run: "
            f"{tool('import-predictions FILE', dataset=dataset.name)}"
        )
    return read_table(PREDICTIONS, predictions, dataset.provenance(origin.backbone))


def imported_bank(predictions: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, str]:
    """Bank and statistics of imported predictions: of all training images, or without any of all.

    Returns:
        The tables `confusion_bank` and `confusion_statistics`, and their note.
    """
    trained = predictions.filter(pl.col("split") == "train")
    note = "" if len(trained) else ALL_IMAGES
    counted = trained if len(trained) else predictions
    bank = confusion_bank(counted)
    return bank, confusion_statistics(bank, counted), note
