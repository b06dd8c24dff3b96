"""Finding the evaluated runs and reading what the page shows of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from capt_core.artifacts.layout import Layout, ReportLayout
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import (
    CONFUSION_BANK,
    EVALUATION,
    PREDICTIONS,
    REPRESENTATIVES,
    RUN_PREDICTIONS,
    TRAINING_LOG,
)
from capt_core.artifacts.tables import read_provenance, read_table
from capt_core.data.dataset import Dataset
from capt_core.data.registry import dataset_spec
from capt_core.errors import CaptError
from capt_core.methods.model_file import read_summary
from capt_core.reporting.inputs import DatasetReport, RunReport, SeedReport


def find_runs(artifacts: Path, dataset: str | None) -> dict[str, list[Path]]:
    """Evaluation records by data set, sorted; only of one data set if it is given.

    Raises:
        CaptError: there are none.
    """
    found: dict[str, list[Path]] = {}
    for record in sorted(ReportLayout(artifacts).evaluations.glob("*/*.parquet")):
        if dataset in (None, record.parent.name):
            found.setdefault(record.parent.name, []).append(record)
    if not found:
        name = dataset or "proctex"
        raise CaptError(
            f"{ReportLayout(artifacts).evaluations}: no evaluated runs; "
            f"run: capt-stage evaluate --dataset {name}"
        )
    return found


def read_dataset_report(
    layout: Layout, dataset: Dataset, image_root: Path, records: Sequence[Path], shots: int
) -> DatasetReport:
    """Read all that the page shows of one data set.

    Args:
        layout: of the data set.
        dataset: as prepared now.
        image_root: folder that sample paths are relative to.
        records: evaluation records of its runs.
        shots: training images per class.

    Raises:
        CaptError: a table is missing, or was made from other data or with another backbone than
            the evaluated runs.
    """
    origin = dataset.provenance(read_provenance(records[0]).backbone)
    runs = [_run(layout, record, origin) for record in records]
    seeds = sorted({run.seed for run in runs})
    remedy = f"run: capt-stage fit-teacher --dataset {dataset.name}"
    base = read_summary(layout.seed(seeds[0]).base_model, origin, remedy)
    return DatasetReport(
        name=dataset.name,
        image_root=image_root,
        classes=dataset.classes,
        base_model=base.method,
        seeds=[
            SeedReport(
                seed,
                read_table(PREDICTIONS, layout.seed(seed).predictions, origin),
                read_table(CONFUSION_BANK, layout.seed(seed).confusion_bank, origin),
                read_table(REPRESENTATIVES, layout.seed(seed).representatives, origin),
            )
            for seed in seeds
        ],
        runs=runs,
        shots=shots,
        protocol=read_table(EVALUATION, records[0], origin)["protocol"][0],
        untrained=base.untrained,
        embedded=dataset_spec(dataset.name).reader == "proctex",
    )


def _run(layout: Layout, record: Path, origin: Provenance) -> RunReport:
    first = read_table(EVALUATION, record, origin).row(0, named=True)
    method, seed = str(first["method"]), int(first["seed"])
    paths = layout.seed(seed).run(method)
    remedy = f"run: capt-stage evaluate --dataset {layout.dataset} --method {method} --seed {seed}"
    layout.check_digests(read_provenance(record).inputs, remedy)
    return RunReport(
        method=method,
        seed=seed,
        provenance=read_provenance(paths.predictions),
        predictions=read_table(RUN_PREDICTIONS, paths.predictions, origin),
        training_log=read_table(TRAINING_LOG, paths.training_log, origin),
    )
