"""Tool import-predictions: any classifier's predictions in the place of the base model's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capt_core.advice import tool
from capt_core.artifacts.layout import Layout, ReportLayout
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import (
    CLASSES,
    CONFUSION_BANK,
    CONFUSION_STATISTICS,
    PREDICTIONS,
    REJECTED,
    SAMPLES,
)
from capt_core.artifacts.tables import read_provenance, write_table
from capt_core.confusion.imported import identity_of, imported_bank
from capt_core.confusion.importing import LISTED_BY_IMPORT, Imported, listed, match
from capt_core.data.dataset import image_root, load_dataset
from capt_core.data.readers.prediction_tables import PredictionRows, read_predictions
from capt_core.data.registry import DATASETS, check_dataset_name, dataset_spec
from capt_core.errors import CaptError
from capt_core.params import Settings, load_settings
from capt_core.user_paths import naming_files, user_path

from . import activity, options
from .console import result, say, warn


def main(
    file: Annotated[
        Path,
        typer.Argument(
            help="Table with the columns path, true, predicted and, if there are, confidence or "
            "scores, split."
        ),
    ],
    dataset: options.Dataset,
    seed: options.Seed = None,
    kept: options.Kept = None,
    params: options.Params = options.PARAMS,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    settings, matrix = load_settings(params, dataset, set_ or ())
    # Without images there is no data.root; the table is what the name stands for.
    check_dataset_name(dataset, settings.data, listed=True)
    layout = Layout(options.kept_in(artifacts, kept), dataset)
    _refuse_results(layout)
    file = user_path(file, "FILE")
    with activity.doing(f"reading {file.name}"), naming_files("FILE"):
        rows = read_predictions(file)
        imported = _imported(rows, layout, settings)
        identity = identity_of(file)
    paths = layout.seed(matrix.seeds[0] if seed is None else seed)
    origin = imported.dataset.provenance(identity)
    if paths.predictions.is_file():
        say(f"note: {paths.predictions} is replaced")
    write_table(PREDICTIONS, imported.predictions, paths.predictions, origin)
    bank, statistics, note = imported_bank(imported.predictions)
    below = Provenance(
        dataset,
        imported.dataset.fingerprint,
        identity,
        inputs=layout.digests({paths.predictions: "import-predictions"}),
        note=note,
    )
    write_table(CONFUSION_STATISTICS, statistics, paths.confusion_statistics, below)
    write_table(CONFUSION_BANK, bank, paths.confusion_bank, below)
    for line in imported.notes:
        say(f"note: {line}")
    if note:
        warn(f"no training image has a prediction, so the bank is {note}")
    wrong = int((~imported.predictions["correct"]).sum())
    count = len(imported.predictions)
    pairs = statistics.select("true_class", "predicted_class", "count").head(5)
    written = (paths.predictions, paths.confusion_statistics, paths.confusion_bank)
    result(
        {
            "dataset": dataset,
            "images": count,
            "errors": wrong,
            "without_prediction": len(imported.dataset.samples) - count,
            "identity": identity,
            "pairs": pairs.to_dicts(),
            "files": [str(path) for path in written],
        },
        f"{wrong} of {count} images misclassified -> {paths.predictions}",
        f"{len(bank)} of them in the bank -> {paths.confusion_bank}",
        *(f"  {true} taken for {taken}: {times}" for true, taken, times in pairs.iter_rows()),
        f"next: {tool('report', dataset=dataset)}",
    )


def _refuse_results(layout: Layout) -> None:
    """Results of trained models say what became of the predictions that would be replaced."""
    records = sorted((ReportLayout(layout.root).evaluations / layout.dataset).glob("*.parquet"))
    if records:
        raise CaptError(
            f"{records[0]}: models of {layout.dataset} were trained and tested from predictions "
            "that the import would replace; give --run NAME to keep it apart from them"
        )


def _imported(rows: PredictionRows, layout: Layout, settings: Settings) -> Imported:
    """Predictions for the prepared data set, or for the one that the table lists and is written."""
    name, top = layout.dataset, settings.infer_teacher.top_classes
    folders = _image_folders(layout, settings.data.root)
    if layout.samples.is_file() and read_provenance(layout.samples).note != LISTED_BY_IMPORT:
        return match(rows, load_dataset(layout), folders, top)
    if name in DATASETS:
        raise CaptError(
            f"{name} is a benchmark with classes and splits of its own; first run: "
            f"{tool('prepare', dataset=name)}"
        )
    imported = listed(rows, dataset_spec(name), folders, top)
    origin = Provenance(name, imported.dataset.fingerprint, note=LISTED_BY_IMPORT)
    write_table(REJECTED, REJECTED.frame(), layout.rejected, origin)
    write_table(CLASSES, imported.dataset.classes, layout.classes, origin)
    write_table(SAMPLES, imported.dataset.samples, layout.samples, origin)
    say(
        f"{name}: {len(imported.dataset.samples)} images, {len(imported.dataset.classes)} classes "
        f"-> {layout.samples}"
    )
    return imported


def _image_folders(layout: Layout, root: str | None) -> list[Path]:
    """Folders that paths may begin with: that of the images and, where it is another, the root."""
    folders = [] if root is None else [Path(root).expanduser()]
    try:
        images = image_root(layout, root)
    except CaptError:  # images need not be there
        return folders
    return [images, *(folder for folder in folders if folder != images)]
