"""What the report's page shows of one data set: tables, and the pictures they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl


@dataclass(frozen=True)
class Findings:
    """Everything that was found on a data set's test images.

    Frames have the columns of the tables of `capt_core.artifacts.report_tables` of the same name.

    Attributes:
        name: of the data set.
        protocol: `all_classes` or `base_to_novel`.
        base_label: the base model, in words.
        repaired_label: the repaired model, in words; None where only the base model was run.
        image_root: folder that `path` columns are relative to; None where no images are at hand.
        facts: lines about the run: backbone, shots, seeds, size of the bank.
        warnings: sentences that belong above every number, the gravest first.
        further: what else could be shown, each with the command that adds it.
        classes: table `classes`.
        summary, errors, pairs, class_results, suspects, steps, reliability, precision, image_map:
            tables.
        calibration: ECE in percent by model, as in `reliability`.
        training_logs: table `training_log` by seed.
        difference: of the accuracies, repaired minus base, mean over seeds with the ends of its
            95 % interval and the p value of the test paired over images and seeds, by group, as
            shares; empty without a repaired model.
        compared: table `run_changes` beside the name of the other run; None without one.
        provenance: lines of the table of where numbers come from: method, seed, settings,
            backbone, fingerprint.
    """

    name: str
    protocol: str
    base_label: str
    repaired_label: str | None
    image_root: Path | None
    facts: Sequence[str]
    warnings: Sequence[str]
    further: Sequence[tuple[str, str]]
    classes: pl.DataFrame
    summary: pl.DataFrame
    errors: pl.DataFrame
    pairs: pl.DataFrame
    class_results: pl.DataFrame
    suspects: pl.DataFrame
    steps: pl.DataFrame
    reliability: pl.DataFrame
    precision: pl.DataFrame
    image_map: pl.DataFrame
    calibration: Mapping[str, float] = field(default_factory=dict)
    training_logs: Mapping[int, pl.DataFrame] = field(default_factory=dict)
    difference: Mapping[str, PairedDifference] = field(default_factory=dict)
    compared: tuple[str, pl.DataFrame] | None = None
    provenance: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class PairedDifference:
    """Difference of two accuracies on the same images, as shares.

    Attributes:
        value: mean over seeds.
        low: lower end of the 95 % interval.
        high: upper end.
        p_value: that there is no difference, paired over images and seeds.
    """

    value: float
    low: float
    high: float
    p_value: float
