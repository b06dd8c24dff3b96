"""The Confusion Bank by cell: cell (g, p) holds the images of class g that were taken for p."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl


@dataclass(frozen=True)
class BankCells:
    """Samples of the bank, cell by cell.

    Attributes:
        samples: of all cells, in the order of the bank within a cell, [n].
        starts: where each cell begins, cell (g, p) at g * classes + p, [classes^2 + 1].
        classes: how many classes there are.
    """

    samples: np.ndarray
    starts: np.ndarray
    classes: int

    @staticmethod
    def from_bank(bank: pl.DataFrame, classes: int) -> BankCells:
        """Cells of the table `confusion_bank`."""
        true, taken = (bank[f"{name}_class_id"].to_numpy() for name in ("true", "predicted"))
        cell = true * classes + taken
        order = cell.argsort(kind="stable")
        starts = np.concatenate([[0], np.bincount(cell, minlength=classes * classes).cumsum()])
        return BankCells(bank["sample_id"].to_numpy()[order], starts, classes)

    def cell(self, true_class: int, predicted: int) -> np.ndarray:
        """Samples of a class that were taken for another."""
        index = true_class * self.classes + predicted
        return self.samples[self.starts[index] : self.starts[index + 1]]

    @cached_property
    def _rows(self) -> dict[int, np.ndarray]:
        return {}

    def row(self, true_class: int) -> np.ndarray:
        """All misclassified samples of a class, each once, ascending."""
        if true_class not in self._rows:
            begin = self.starts[true_class * self.classes]
            end = self.starts[(true_class + 1) * self.classes]
            self._rows[true_class] = np.unique(self.samples[begin:end])
        return self._rows[true_class]

    def candidates(self, pseudo_label: int, paired_class: int, source: int) -> np.ndarray:
        """Samples that may represent a pair, by where they come from, the best source first.

        0: images of the paired class taken for the pseudo-label; 1: any misclassified image of
        the paired class; 2: images of the pseudo-label's class taken for the paired class.
        """
        if source == 0:
            return self.cell(paired_class, pseudo_label)
        if source == 1:
            return self.row(paired_class)
        return self.cell(pseudo_label, paired_class)
