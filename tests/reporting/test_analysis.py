"""From artifacts to findings: whatever there is, and what is missing is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from capt_core.artifacts.features import feature_column
from capt_core.artifacts.layout import Layout, ReportLayout
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.report_tables import REPORT_TABLES, RUN_CHANGES
from capt_core.artifacts.schemas import (
    CLASSES,
    CONFUSION_BANK,
    EVALUATION,
    IMAGE_FEATURES,
    PREDICTIONS,
    RUN_PREDICTIONS,
    SAMPLES,
    TRAINING_LOG,
)
from capt_core.artifacts.tables import Table, read_table, schema_problem, write_table
from capt_core.confusion.bank import confusion_bank
from capt_core.data.dataset import Dataset
from capt_core.evaluation.outcomes import run_changes
from capt_core.reporting.analysis import IMPORTED, find
from capt_core.reporting.findings import Findings
from capt_core.reporting.inputs import find_datasets, read_inputs
from capt_core.reporting.tables import as_csv, tables_of, write_tables
from tests.refusals import refusal

NAMES = ("cat", "fox", "oak")
SPLITS = ["train"] * 3 + ["test"] * 9
TRUE = [0, 1, 2, 0, 0, 0, 1, 1, 1, 2, 2, 2]
BEFORE = [1, 1, 2, 1, 1, 0, 1, 1, 1, 2, 2, 2]
AFTER = [0, 1, 2, 0, 2, 0, 1, 1, 0, 2, 2, 2]
ORIGIN = Provenance("pets", "0123456789abcdef", "net@1", "settings1")


def dataset(splits: Sequence[str] = SPLITS) -> Dataset:
    samples = SAMPLES.frame(
        [
            {
                "sample_id": index,
                "path": f"{index}.png",
                "class_id": of,
                "class_name": NAMES[of],
                "split": split,
            }
            for index, (of, split) in enumerate(zip(TRUE, splits, strict=True))
        ]
    )
    classes = CLASSES.frame(
        [
            {"class_id": index, "class_name": name, "group": "base", "template": "a {}"}
            for index, name in enumerate(NAMES)
        ]
    )
    return Dataset("pets", samples, classes, ORIGIN.dataset_fingerprint)


def answers(predicted: Sequence[int], splits: Sequence[str] = SPLITS, **same: Any) -> pl.DataFrame:
    rows = [
        {
            "sample_id": index,
            "path": f"{index}.png",
            "split": split,
            "group": "base",
            "true_class_id": of,
            "true_class": NAMES[of],
            "pseudo_label_id": taken,
            "pseudo_label": NAMES[taken],
            "correct": of == taken,
            "confidence": 0.75,
            "true_confidence": 0.75 if of == taken else 0.2,
            "top_class_ids": [taken],
            "top_classes": [NAMES[taken]],
            "top_confidences": [0.75],
        }
        | same
        for index, (of, taken, split) in enumerate(zip(TRUE, predicted, splits, strict=True))
    ]
    return PREDICTIONS.frame(rows)


class Artifacts:
    """A folder of artifacts, filled table by table."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root, "pets")
        self.splits: Sequence[str] = SPLITS

    def write(self, table: Table, frame: pl.DataFrame, path: Path, **origin: Any) -> None:
        write_table(table, frame, path, replace(ORIGIN, **origin))

    def predict(self, seed: int = 1, splits: Sequence[str] = SPLITS, **same: Any) -> None:
        self.splits = splits
        frame = answers(BEFORE, splits, **same)
        self.write(SAMPLES, dataset(splits).samples, self.layout.samples)
        self.write(PREDICTIONS, frame, self.layout.seed(seed).predictions)

    def bank(self) -> None:
        train = answers(BEFORE).filter(split="train")
        path = self.layout.seed(1).confusion_bank
        self.write(CONFUSION_BANK, confusion_bank(train), path)

    def features(self) -> None:
        vectors = np.eye(3, 4, dtype=np.float32)[TRUE] + 0.01
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        frame = pl.DataFrame({"sample_id": range(12)}, schema={"sample_id": pl.Int64})
        frame = frame.with_columns(feature_column(torch.from_numpy(vectors)))
        self.write(IMAGE_FEATURES, frame, self.layout.image_features)

    def evaluate(self, method: str = "capt", seed: int = 1) -> None:
        run = self.layout.seed(seed).run(method)
        self.write(RUN_PREDICTIONS, answers(AFTER, self.splits), run.predictions)
        self.write(TRAINING_LOG, TRAINING_LOG.frame(), run.training_log)
        row = {
            "dataset": "pets",
            "method": method,
            "variant": "default",
            "sees": "base only",
            "protocol": "all_classes",
            "seed": seed,
            "metric": "accuracy",
            "value": 50.0,
            "n": 9,
        }
        inputs = self.layout.digests({run.predictions: "evaluate"})
        path = self.layout.evaluation(method, seed)
        self.write(EVALUATION, EVALUATION.frame([row]), path, inputs=inputs)

    def find(self, method: str | None = None, root: Path | None = None) -> Findings:
        inputs = read_inputs(self.layout, dataset(self.splits), root, 16, method)
        found = find(inputs)
        for table, frame in tables_of(found):
            assert schema_problem(table, frame) is None
        return found


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path)


def test_predictions_alone_are_enough(artifacts: Artifacts) -> None:
    artifacts.predict()
    found = artifacts.find()
    assert (found.base_label, found.repaired_label, found.image_root) == (IMPORTED, None, None)
    assert (found.protocol, found.difference, found.warnings) == ("all_classes", {}, [])
    assert found.errors["outcome"].to_list() == ["error", "error"]
    assert found.errors["sample_id"].to_list() == [3, 4]
    assert found.summary["errors_before"].to_list() == [2]
    assert found.calibration["base"] == pytest.approx(100 * (7 / 9 - 0.75))
    assert found.image_map.is_empty()
    commands = [command for _, command in found.further]
    assert "capt-stage build-bank --dataset pets" in commands
    assert any(command.startswith("capt-stage report --dataset pets") for command in commands)


def test_answers_without_confidences(artifacts: Artifacts) -> None:
    artifacts.predict()
    frame = artifacts.find().errors
    unknown: dict[str, Any] = dict.fromkeys(("confidence", "true_confidence", "top_confidences"))
    inputs = read_inputs(artifacts.layout, dataset(), None, 16)
    blank = answers(BEFORE, **unknown)
    found = find(replace(inputs, seeds=[replace(inputs.seeds[0], predictions=blank)]))
    assert found.calibration == {}
    assert found.reliability.is_empty()
    assert found.errors["base_confidence"].null_count() == len(frame)
    assert any("import-predictions FILE" in command for _, command in found.further)


@pytest.mark.parametrize("split", ["train", "val"])
def test_without_test_images_all_are_counted_and_it_is_said(
    artifacts: Artifacts, split: str
) -> None:
    artifacts.predict(splits=[split] * 12)
    found = artifacts.find()
    assert found.summary["images"].to_list() == [12]
    assert f"No test images: errors are counted over the 12 images of {split}" in found.facts
    artifacts.evaluate()
    assert any("some of which were trained on" in fact for fact in artifacts.find().facts)


def test_a_repair_is_followed_image_by_image(artifacts: Artifacts) -> None:
    artifacts.predict()
    artifacts.features()
    artifacts.bank()
    artifacts.evaluate()
    found = artifacts.find()
    assert found.repaired_label == "CAPT"
    row = found.summary.row(0, named=True)
    assert (row["errors_before"], row["errors_after"]) == (2, 2)
    assert (row["repaired"], row["another_error"], row["newly_wrong"]) == (1, 1, 1)
    assert found.difference["base"].value == 0
    errors = {row["sample_id"]: row for row in found.errors.iter_rows(named=True)}
    assert {key: row["outcome"] for key, row in errors.items()} == {
        3: "repaired",
        4: "another_error",
        8: "newly_wrong",
    }
    # The bank's only image is a cat that was taken for a fox, as these are, or the other way.
    assert {row["representative_path"] for row in errors.values()} == {"0.png"}
    assert found.image_map["sample_id"].to_list() == list(range(3, 12))
    assert found.image_map["x"].is_between(0, 1).all()
    assert "Confusion bank: 1 misclassified training images" in found.facts
    assert found.provenance[0]["method"] == "CAPT"


def test_all_seeds_are_shown(artifacts: Artifacts) -> None:
    for seed in (1, 3):
        artifacts.predict(seed)
        artifacts.evaluate(seed=seed)
    artifacts.predict(2)  # not evaluated
    found = artifacts.find()
    assert found.summary["seed"].to_list() == [1, 3]
    assert sorted(found.training_logs) == [1, 3]
    assert found.pairs.filter(true_class="cat", taken_class="fox")["before"].to_list() == [2]
    assert found.reliability.filter(model="base")["images"].sum() == 18


def test_which_method_is_shown(artifacts: Artifacts) -> None:
    artifacts.predict()
    artifacts.evaluate("clip")
    assert artifacts.find().repaired_label is None
    for method in ("maple", "coop"):
        artifacts.evaluate(method)
    assert artifacts.find().repaired_label == "CoOp"
    artifacts.evaluate("capt")
    assert artifacts.find().repaired_label == "CAPT"
    assert artifacts.find("maple").repaired_label == "MaPLe"
    assert artifacts.find("clip").repaired_label is not None
    message = refusal(artifacts.find, "gda")
    assert "run: capt-stage evaluate --dataset pets --method gda" in message


def test_what_is_stale_or_foreign_is_refused(artifacts: Artifacts) -> None:
    artifacts.predict()
    artifacts.evaluate()
    run = artifacts.layout.seed(1).run("capt").predictions
    artifacts.write(RUN_PREDICTIONS, answers(BEFORE), run)
    assert "changed since it was evaluated; run: capt-stage evaluate" in refusal(artifacts.find)
    artifacts.evaluate()
    bank = artifacts.layout.seed(1).confusion_bank
    artifacts.write(CONFUSION_BANK, CONFUSION_BANK.frame(), bank, backbone="net@2")
    message = refusal(artifacts.find)
    assert "another backbone" in message
    assert "run: capt-stage build-bank" in message
    bank.unlink()
    predictions = artifacts.layout.seed(1).predictions
    artifacts.write(PREDICTIONS, answers(BEFORE), predictions, dataset_fingerprint="f" * 16)
    assert "other images or classes" in refusal(artifacts.find)
    predictions.write_bytes(predictions.read_bytes()[:-9])
    artifacts.layout.evaluation("capt", 1).unlink()
    assert "run: capt-stage infer-teacher" in refusal(artifacts.find)


def test_data_sets_are_found_by_their_predictions(artifacts: Artifacts, tmp_path: Path) -> None:
    message = refusal(find_datasets, tmp_path, "pets")
    assert "run: capt-stage infer-teacher --dataset pets" in message
    artifacts.predict()
    (tmp_path / "work/seed1").mkdir(parents=True)
    (tmp_path / "work/seed1/predictions.parquet").touch()
    assert find_datasets(tmp_path, None) == ["pets"]
    assert "--dataset cars" in refusal(find_datasets, tmp_path, "cars")


def test_tables_are_written_twice(artifacts: Artifacts, tmp_path: Path) -> None:
    artifacts.predict()
    artifacts.evaluate()
    found = artifacts.find()
    layout = ReportLayout(tmp_path)
    changes = run_changes(answers(BEFORE), answers(AFTER))
    compared = replace(found, compared=("before", changes))
    for table, written in ((RUN_CHANGES, compared), (None, found)):
        paths = write_tables(written, layout, ORIGIN)
        names = {path.name for path in paths}
        assert names == {path.name for path in (tmp_path / "report/pets").iterdir()}
        assert (RUN_CHANGES.path.rpartition("/")[2] in names) is (table is not None)
    for table in REPORT_TABLES:
        if table is RUN_CHANGES:
            continue
        path = layout.table("pets", table.name)
        assert as_csv(read_table(table, path, ORIGIN)) == path.with_suffix(".csv").read_text()
    lines = layout.table("pets", "class_results").with_suffix(".csv").read_text().splitlines()
    assert lines[1].endswith(",oak,1.0")
    assert as_csv(pl.DataFrame({"a": [["x", "y"], []]})) == 'a\nx; y\n""\n'


def test_equal_inputs_give_equal_findings(artifacts: Artifacts) -> None:
    artifacts.predict()
    artifacts.features()
    artifacts.evaluate()
    first, second = artifacts.find(), artifacts.find()
    for (_, one), (_, other) in zip(tables_of(first), tables_of(second), strict=True):
        assert one.equals(other)
    assert first.further == second.further
