"""One advice per confused pair: the cheapest cause that the evidence shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from capt_core.artifacts.report_tables import NEXT_STEPS, PAIR_RESULTS, SUSPECTED_LABELS
from capt_core.artifacts.schemas import PROMPT_SEPARATION, PROMPTS
from capt_core.artifacts.tables import schema_problem
from capt_core.reporting.alike_names import same_words
from capt_core.reporting.evidence import Evidence, cohens_d, nearest_cosines
from capt_core.reporting.next_steps import PAIRS, advice, next_steps

SHOTS = 10


def pair(**values: Any) -> dict[str, Any]:
    usual = {
        "group": "base",
        "true_class_id": 0,
        "true_class": "pants",
        "taken_class_id": 1,
        "taken_class": "shorts",
        "images": 30,
        "before": 12.0,
        "after": 10.0,
        "moved_to": None,
    }
    return usual | values


def suspects(number: int, split: str = "test") -> pl.DataFrame:
    return SUSPECTED_LABELS.frame(
        [
            {
                "sample_id": index,
                "path": f"{index}.png",
                "split": split,
                "label_id": 0,
                "label": "pants",
                "suggested_id": 1,
                "suggested": "shorts",
                "kind": "label",
                "label_probability": 0.1,
                "suggested_probability": 0.8,
            }
            for index in range(number)
        ]
    )


def prompts(source: str) -> pl.DataFrame:
    row = {
        "class_id": 1,
        "class_name": "shorts",
        "paired_class_id": 0,
        "paired_class": "pants",
        "kind": "difference",
        "position": 0,
        "prompt": "shorts end above the knee",
        "source": source,
    }
    return PROMPTS.frame([row])


def separation(auc: float) -> pl.DataFrame:
    row = {
        "class_id": 1,
        "class_name": "shorts",
        "paired_class_id": 0,
        "paired_class": "pants",
        "images": 10,
        "paired_images": 10,
        "cosine": 0.2,
        "paired_cosine": 0.2,
        "auc": auc,
        "weakest_prompt": "shorts end above the knee",
        "weakest_auc": auc,
    }
    return PROMPT_SEPARATION.frame([row])


@pytest.fixture
def evidence() -> Evidence:
    """Nothing that would explain a confusion."""
    training = pl.DataFrame({"sample_id": range(5 * SHOTS), "class_id": np.repeat(range(5), SHOTS)})
    return Evidence(
        dataset="mine",
        again={},
        repaired=True,
        imported=False,
        unsuited=False,
        outcomes=pl.DataFrame(
            {
                "sample_id": range(50, 62),
                "group": ["base"] * 12,
                "true_class_id": [0] * 12,
                "base_prediction_id": [1] * 6 + [0] * 6,
                "prediction_id": [1] * 6 + [0] * 6,
            }
        ),
        suspects=suspects(0),
        training=training.cast(pl.Int64),
        available=dict.fromkeys(range(5), SHOTS),
        features=None,
        texts=None,
        prompts=None,
        separation=None,
    )


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (12.0, 3.0, "Repaired: of 12 errors 3 are left."),
        (12.0, 1.0, "Repaired: of 12 errors 1 is left."),
        (12.0, 0.0, "Repaired: of 12 errors 0 are left."),
        (1.0, 2.3, "2.3 images: too few errors"),
        (0.0, 1.0, "1 image: too few errors"),
    ],
)
def test_what_is_repaired_or_rare_is_left_alone(
    evidence: Evidence, before: float, after: float, reason: str
) -> None:
    found = advice(pair(before=before, after=after), evidence)
    assert (found.action, found.command) == ("nothing", "")
    assert found.reason.startswith(reason)


def test_labels_are_checked_first(evidence: Evidence) -> None:
    found = advice(
        pair(), replace(evidence, suspects=suspects(3), texts=np.ones((5, 1), dtype=np.float32))
    )
    assert (found.action, found.command) == ("check_labels", "capt-stage run --dataset mine")
    assert "3 images filed under pants look like shorts" in found.reason
    few = replace(evidence, suspects=suspects(2))
    assert advice(pair(), few).action != "check_labels"
    assert advice(pair(after=6.0), few).action == "check_labels"
    assert advice(pair(true_class_id=1, taken_class_id=0), few).action != "check_labels"
    # Few errors among the test images, but wrong labels among those that are trained on.
    elsewhere = replace(evidence, suspects=suspects(2, "train"))
    assert advice(pair(after=1.0, before=1.0), elsewhere).action == "check_labels"
    assert advice(pair(after=1.0, before=12.0), elsewhere).action == "nothing"


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("t-shirt", "T_shirts", True),
        ("shirt", "long sleeve shirt", True),
        ("glass", "glas", False),
        ("pants", "shorts", False),
        ("C++", "C#", False),
        ("...", "pants", False),
        ("Polka dots", "polka-dotted", True),
        ("stripes", "striped", True),
        ("dresses", "long dress", True),
        ("caps", "capes", False),
        ("bear", "ball bearing", False),
        ("bed", "bus", False),
    ],
)
def test_names_of_the_same_words(first: str, second: str, same: bool) -> None:
    assert same_words(first, second) is same


def test_a_class_that_is_never_recognised_by_its_name_is_renamed(evidence: Evidence) -> None:
    outcomes = pl.DataFrame(
        {
            "sample_id": range(24),
            "group": ["base"] * 24,
            "true_class_id": [0] * 12 + [1] * 12,
            "base_prediction_id": [1] * 18 + [0] * 6,
            "prediction_id": [1] * 18 + [0] * 6,
        }
    )
    named = replace(evidence, outcomes=outcomes, texts=np.eye(5, dtype=np.float32))
    found = advice(pair(), named)
    assert found.action == "rename_classes"
    assert found.reason.startswith("The base model recognises none of the 12 images of pants")
    once = outcomes.with_columns(base_prediction_id=pl.Series([0] + [1] * 17 + [0] * 6))
    chance = outcomes.with_columns(base_prediction_id=pl.Series([1] * 16 + [0] * 8))
    for other in (once, chance, outcomes[5:]):
        assert advice(pair(), replace(named, outcomes=other)).action != found.action
    assert advice(pair(), replace(named, imported=True)).action != found.action


def test_classes_whose_texts_are_alike_are_renamed(evidence: Evidence) -> None:
    assert advice(pair(true_class="short shorts"), evidence).action == "rename_classes"
    texts = np.eye(20, 21, dtype=np.float32)
    texts[1] = np.sqrt([0.9, 0.1, *[0] * 19])
    found = advice(pair(), replace(evidence, texts=texts))
    assert found.action == "rename_classes"
    assert "cosine 0.95, 0.00 on average" in found.reason
    assert advice(pair(taken_class_id=2), replace(evidence, texts=texts)).action != found.action
    # Of four classes nobody knows what is usual.
    assert advice(pair(), replace(evidence, texts=texts[:4])).action != found.action


def test_classes_of_few_photographs(evidence: Evidence) -> None:
    few = replace(evidence, training=evidence.training.filter(pl.col("sample_id") > 6))
    found = advice(pair(), few)
    assert found.action == "add_photographs"
    assert found.reason == "Only 3 of the 10 training images of pants are used."
    assert "shots=10" in found.command
    found = advice(pair(), replace(few, available={0: 3}))
    assert found.reason.startswith("pants has 3 training images only")
    assert found.command == "capt-stage run --dataset mine"
    # A class so small needs images however few of its test images there are to go wrong.
    assert advice(pair(before=1, after=1), replace(few, available={0: 3})) == found


def test_a_model_that_guesses_is_no_reason_to_work_on_the_classes(evidence: Evidence) -> None:
    guessing = replace(
        evidence, unsuited=True, prompts=prompts("template"), available={0: 3}, repaired=False
    )
    found = advice(pair(), guessing)
    assert (found.action, "trained on photographs" in found.reason) == ("choose_model", True)
    assert found.command.endswith("  # with name=ViT-B-16, checkpoint=FILE")
    # What needs no model stays.
    assert advice(pair(true_class="short shorts"), guessing).action == "rename_classes"
    assert advice(pair(), replace(guessing, suspects=suspects(9))).action == "check_labels"
    texts = np.eye(20, 21, dtype=np.float32)
    texts[1] = np.sqrt([0.9, 0.1, *[0] * 19])
    assert advice(pair(), replace(guessing, texts=texts)).action == "choose_model"
    imported = advice(pair(), replace(guessing, imported=True))
    assert "import-predictions FILE" in imported.command


def test_errors_unlike_the_training_images(evidence: Evidence) -> None:
    generator = np.random.default_rng(0)
    features = np.zeros((62, 8), dtype=np.float32)
    features[:, 0] = 1
    features[50:56, 1] = 1  # the errors
    features += 0.1 * generator.random(features.shape, dtype=np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    found = advice(pair(), replace(evidence, features=features))
    assert found.action == "add_photographs"
    assert "unlike the training images of pants" in found.reason
    assert "Add more" in found.reason
    alike = features[np.r_[:50, [50] * 12]]
    assert "unlike" not in advice(pair(), replace(evidence, features=alike)).reason


def test_prompts_that_say_nothing_or_do_not_separate(evidence: Evidence) -> None:
    found = advice(pair(), replace(evidence, prompts=prompts("template")))
    assert (found.action, "templates" in found.reason) == ("write_prompts", True)
    assert "provider=anthropic" in found.command
    written = replace(evidence, prompts=prompts("anthropic/model"), separation=separation(0.55))
    found = advice(pair(), written)
    assert (found.action, "55 % of comparisons" in found.reason) == ("write_prompts", True)
    assert found.command == (
        "capt-stage prompts show --dataset mine --class shorts --partner pants"
    )
    good = replace(written, separation=separation(0.8))
    assert advice(pair(), good).action == "add_photographs"


def test_where_no_cause_shows_itself(evidence: Evidence) -> None:
    assert advice(pair(), evidence).action == "add_photographs"
    alone = advice(pair(after=None), replace(evidence, repaired=False))
    assert (alone.action, "no repair was tried" in alone.reason) == ("repair", True)
    assert advice(pair(group="novel"), evidence).action == "nothing"
    imported = replace(evidence, imported=True, repaired=False)
    found = advice(pair(true_class="short shorts", after=None), imported)
    assert found.command == "capt-stage import-predictions FILE --dataset mine"


def test_running_again_covers_what_is_shown(evidence: Evidence) -> None:
    several = replace(evidence, again={"method": ["capt", "gda"], "seed": [1, 2]})
    assert advice(pair(), several).command == (
        "capt-stage run --dataset mine --method capt --method gda --seed 1 --seed 2"
    )


def test_the_worst_pairs_come_first(evidence: Evidence) -> None:
    rows = [
        pair(true_class_id=index, true_class=f"c{index}", before=20.0, after=float(index))
        | dict.fromkeys(("repaired", "same_error", "another_error", "newly_wrong"), 0.0)
        | {"moved_here": 0.0}
        for index in range(3, 5 + PAIRS)
    ]
    found = next_steps(PAIR_RESULTS.frame(rows), evidence)
    assert schema_problem(NEXT_STEPS, found) is None
    assert found["position"].to_list() == list(range(1, PAIRS + 1))
    assert found["true_class"][0] == f"c{4 + PAIRS}"
    assert next_steps(PAIR_RESULTS.frame(), evidence).is_empty()


def test_nearest_and_effect_size_by_hand() -> None:
    features = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    near = nearest_cosines(features, np.array([2, 0]), np.array([0, 1, 2]))
    assert near == pytest.approx([0.8, 0.6])
    # Means 3 and 1, both of variance 1.
    assert cohens_d(np.array([2.0, 3, 4]), np.array([0.0, 1, 2])) == pytest.approx(2)
    assert cohens_d(np.ones(3), np.zeros(3)) == 0
