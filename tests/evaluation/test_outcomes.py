"""What became of images, pairs and classes, counted by hand."""

from __future__ import annotations

import polars as pl
import pytest

from capt_core.artifacts.report_tables import (
    CLASS_RESULTS,
    PAIR_RESULTS,
    RUN_CHANGES,
    SUMMARY,
)
from capt_core.artifacts.tables import schema_problem
from capt_core.evaluation.intervals import wilson_interval
from capt_core.evaluation.outcomes import (
    class_results,
    confusion_counts,
    counted_images,
    differences,
    image_outcomes,
    pair_results,
    run_changes,
    summary_rows,
)

NAMES = ("cat", "fox", "oak")
CLASSES = pl.DataFrame(
    {"class_id": [0, 1, 2, 3], "class_name": [*NAMES, "elm"], "group": ["base"] * 4}
)
TRUE = [0, 0, 0, 0, 1, 1, 2]
BEFORE = [1, 1, 1, 0, 1, 1, 2]
# repaired, same error, another error, newly wrong (cat for oak), right, newly wrong, right
AFTER = [0, 1, 2, 2, 1, 0, 2]
OUTCOMES = [
    *("repaired", "same_error", "another_error", "newly_wrong"),
    *("right", "newly_wrong", "right"),
]


def answers(predicted: list[int], true: list[int] = TRUE, split: str = "test") -> pl.DataFrame:
    rows = [
        {
            "sample_id": 10 + index,
            "path": f"{index}.png",
            "split": split,
            "group": "base",
            "true_class_id": of,
            "true_class": NAMES[of],
            "pseudo_label_id": taken,
            "pseudo_label": NAMES[taken],
            "correct": of == taken,
            "confidence": 0.5 + index / 100,
        }
        for index, (of, taken) in enumerate(zip(true, predicted, strict=True))
    ]
    return pl.DataFrame(rows)


def both_seeds() -> pl.DataFrame:
    """Seed 1 changes nothing, seed 2 as above."""
    before = answers(BEFORE)
    return pl.concat([image_outcomes(before, before, 1), image_outcomes(before, answers(AFTER), 2)])


def test_outcomes_of_images() -> None:
    found = image_outcomes(answers(BEFORE), answers(AFTER), 3)
    assert found["outcome"].to_list() == OUTCOMES
    assert found["seed"].to_list() == [3] * 7
    first = found.row(0, named=True)
    assert (first["base_prediction"], first["prediction"]) == ("fox", "cat")
    assert (first["base_confidence"], first["confidence"]) == (0.5, 0.5)
    alone = image_outcomes(answers(BEFORE), None)
    assert alone["outcome"].to_list() == ["error"] * 3 + ["right"] * 4
    assert alone["prediction"].null_count() == 7
    assert alone.schema == found.schema


def test_the_summary_counts_every_image_once() -> None:
    found = summary_rows(both_seeds(), CLASSES, repaired=True)
    assert schema_problem(SUMMARY, found) is None
    same, changed = found.to_dicts()
    assert (same["repaired"], same["newly_wrong"], same["p_value"]) == (0, 0, 1)
    assert (changed["images"], changed["classes"]) == (7, 4)
    assert (changed["errors_before"], changed["errors_after"]) == (3, 4)
    assert [changed[name] for name in ("repaired", "same_error", "another_error")] == [1, 1, 1]
    assert changed["newly_wrong"] == 2
    assert changed["p_value"] == 1  # one repair against two new errors
    alone = summary_rows(image_outcomes(answers(BEFORE), None, 1), CLASSES, repaired=False)
    assert alone.row(0, named=True)["errors_before"] == 3
    assert alone["errors_after"].to_list() == [None]


def test_halves_come_in_the_order_of_the_classes() -> None:
    halves = both_seeds().with_columns(
        group=pl.when(pl.col("true_class_id") == 2).then(pl.lit("novel")).otherwise(pl.lit("base"))
    )
    classes = CLASSES.with_columns(group=pl.Series(["base", "base", "novel", "novel"]))
    found = summary_rows(halves, classes, repaired=True)
    assert found["group"].to_list() == ["base", "base", "novel", "novel"]
    assert found["images"].to_list() == [6, 6, 1, 1]
    assert set(differences(halves)) == {"base", "novel"}
    assert differences(halves)["base"].value == pytest.approx(-1 / 12)


def test_where_the_images_of_each_pair_went() -> None:
    found = pair_results(both_seeds(), repaired=True)
    assert schema_problem(PAIR_RESULTS, found) is None
    rows = {(row["true_class"], row["taken_class"]): row for row in found.iter_rows(named=True)}
    assert list(rows) == [("cat", "fox"), ("cat", "oak"), ("fox", "cat")]
    # Means over two seeds; in the first nothing moves.
    first = rows["cat", "fox"]
    assert (first["images"], first["before"], first["after"]) == (4, 3, 2)
    assert (first["repaired"], first["same_error"], first["another_error"]) == (0.5, 2, 0.5)
    assert (first["newly_wrong"], first["moved_here"], first["moved_to"]) == (0, 0, "oak")
    second = rows["cat", "oak"]
    assert (second["before"], second["after"]) == (0, 1)
    assert (second["newly_wrong"], second["moved_here"], second["moved_to"]) == (0.5, 0.5, None)
    for row in rows.values():
        parts = row["repaired"] + row["same_error"] + row["another_error"]
        assert row["before"] == parts
        assert row["after"] == row["same_error"] + row["newly_wrong"] + row["moved_here"]
    counts = confusion_counts(found, [0, 1, 2], "after")
    assert counts.tolist() == [[0, 2, 1], [0.5, 0, 0], [0, 0, 0]]


def test_pairs_of_the_base_model_alone() -> None:
    found = pair_results(image_outcomes(answers(BEFORE), None, 1), repaired=False)
    (row,) = found.to_dicts()
    assert (row["before"], row["after"], row["repaired"], row["moved_here"]) == (
        3,
        None,
        None,
        None,
    )
    assert pair_results(image_outcomes(answers(TRUE), None, 1), repaired=False).is_empty()


def test_results_of_classes() -> None:
    outcomes = both_seeds()
    found = class_results(outcomes, pair_results(outcomes, True), CLASSES, repaired=True)
    assert schema_problem(CLASS_RESULTS, found) is None
    cat, fox, oak, elm = found.to_dicts()
    assert (cat["images"], cat["accuracy_before"], cat["accuracy_after"]) == (4, 0.25, 0.25)
    low, high = wilson_interval(0.25, 4)
    assert (cat["accuracy_after_low"], cat["accuracy_after_high"]) == (low, high)
    assert (cat["mostly_taken_for"], cat["taken_for_images"]) == (["fox", "oak"], [2, 1])
    assert (fox["accuracy_before"], fox["accuracy_after"]) == (1, 0.75)
    assert (oak["mostly_taken_for"], oak["accuracy_before_high"]) == ([], 1)
    assert (elm["images"], elm["accuracy_before"], elm["accuracy_after"]) == (0, None, None)


def test_images_are_counted_over_the_test_split_if_there_is_one() -> None:
    both = pl.concat([answers(BEFORE), answers(AFTER, split="train")])
    assert counted_images(both).equals(answers(BEFORE))
    only = answers(AFTER, split="train")
    assert counted_images(only).equals(only)


def test_changes_between_two_runs() -> None:
    old = answers(BEFORE)[:6].with_columns(confidence=pl.lit(None, pl.Float64))
    found = run_changes(old, answers(AFTER)[1:])
    assert schema_problem(RUN_CHANGES, found) is None
    assert found.select("path", "before", "now", "outcome").rows() == [
        ("0.png", "fox", None, "removed"),
        ("2.png", "fox", "oak", "another_error"),
        ("3.png", "cat", "oak", "newly_wrong"),
        ("5.png", "fox", "cat", "newly_wrong"),
        ("6.png", None, "oak", "added"),
    ]
    assert found["true_class"].to_list() == ["cat", "cat", "cat", "fox", "oak"]
    assert run_changes(old, old).is_empty()
    # A corrected label changes whether the same answer is right.
    relabelled = answers(BEFORE[:1], [1])
    assert run_changes(answers(BEFORE[:1], [0]), relabelled)["outcome"].to_list() == ["repaired"]
