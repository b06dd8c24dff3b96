"""Learning rates are tried on folds of the base classes, alike for every method."""

from __future__ import annotations

from pathlib import Path

import pytest

import capt_core
from benchmarks.pseudo_novel_folds import (
    FACTORS,
    Fold,
    Trial,
    best,
    choice,
    fold_of,
    nested,
    published_rates,
    read_choices,
    scaled,
    trial,
    tuned_methods,
    write_choices,
)
from capt_core.data.proctex.classes import CLASS_NAMES, GROUPS


def test_rates_of_a_method_are_found_wherever_they_stand_and_scaled_together() -> None:
    settings = {
        "learning_rate": 0.002,
        "warmup_learning_rate": 1e-5,
        "momentum": 0.9,
        "train": {"text_learning_rate": 0.3, "epochs": 5},
    }
    rates = published_rates(settings)
    assert rates == {"learning_rate": 0.002, "train.text_learning_rate": 0.3}
    tenth = scaled(rates, 0.1)
    assert tenth == {"learning_rate": 0.0002, "train.text_learning_rate": 0.03}
    assert nested(tenth) == {"learning_rate": 0.0002, "train": {"text_learning_rate": 0.03}}


def test_methods_that_train_are_tuned_and_the_published_rate_comes_first() -> None:
    names = tuned_methods()
    assert {"coop", "maple", "promptsrc", "capt"} <= set(names)
    assert not {"clip", "gda", "fudd"} & set(names)
    assert FACTORS[0] == 1


def test_the_highest_harmonic_mean_is_chosen_the_first_of_equal_ones() -> None:
    def tried(factor: float, harmonic: float) -> Trial:
        return Trial("coop", {"learning_rate": factor}, factor, 70.0, 60.0, harmonic, 1.0)

    assert best([tried(1, 64.0), tried(10, 65.0), tried(0.1, 65.0)]).factor == 10


def test_choices_of_other_methods_stay_in_the_table(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    assert read_choices(path) == {}
    frozen = Trial("clip", {}, 1.0, 60.0, 70.0, 64.6, 1.0)
    for name, rates in (("tap", {"text": 0.1, "image": 2.0}), ("coop", {"learning_rate": 0.02})):
        row = choice(Trial(name, rates, 10.0, 70.0, 66.0, 67.94, 1.0), frozen, 3)
        write_choices(path, read_choices(path) | {name: row})
    assert path.read_text(encoding="utf-8").splitlines() == [
        "method,factor,rates,trials,base,novel,harmonic_mean,frozen_hm",
        "coop,10,learning_rate=0.02,3,70.00,66.00,67.94,64.60",
        "tap,10,text=0.1 image=2,3,70.00,66.00,67.94,64.60",
    ]


def test_a_method_is_tried_on_base_classes_some_of_them_held_out(tmp_path: Path) -> None:
    textures = capt_core.open_dataset("proctex", folder=tmp_path, images=(2, 1, 1), seed=7)
    fold = fold_of(textures, ("stripes",))
    assert set(fold.class_names) == set(CLASS_NAMES[:15])
    assert tuple(fold.class_names[:4]) == GROUPS["stripes"]
    groups = fold.classes["group"].to_list()
    assert groups == ["base"] * 4 + ["novel"] * 11
    assert fold.fingerprint != textures.fingerprint
    found = trial("coop", [Fold(fold, capt_core.load_backbone())], 10.0, {"epochs": 1})
    assert found.rates == {"learning_rate": pytest.approx(0.02)}
    assert 0 <= found.harmonic <= 100
    assert "coop: learning_rate 0.02 (x 10): base" in str(found)
