"""The declared ablations: settings that exist, tables that show them, the paper's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from capt_core import study
from capt_core.methods.capt.settings import EXPERTS, CaptSettings
from capt_core.params import load_settings, method_section
from capt_core.settings_file import merge, packaged_settings
from capt_core.yaml_file import load_yaml
from tests.refusals import refusal

ADDED = """
tables:
  scale: {title: s, source: Figure 10, setting: 5}
ablations:
  recommended: {change: {}, rows: [{table: scale, method: clip, setting: 0}]}
  half: {table: scale, setting: 0.5, method: coop, change: {fewshot: {shots: 4}}}
  ten: {table: scale, setting: 10, paper: [1, 2, 3], change: {methods: {capt: {x: 1}}}}
"""


@pytest.mark.parametrize("name", study.variants())
def test_a_variant_changes_settings_that_exist(name: str) -> None:
    change = study.variants()[name].change
    load_settings(None, change=change)
    sections = packaged_settings()
    for method, section in change.get("methods", {}).items():
        known = sections["methods"][method]
        assert merge(known, section).keys() == known.keys()
        for key, values in section.items():
            if isinstance(values, dict):
                assert values.keys() <= known[key].keys()


def test_every_variant_is_shown_and_every_table_has_the_unchanged_settings_once() -> None:
    assert next(iter(study.variants())) == study.FULL
    assert all(variant.methods for variant in study.variants().values())
    for table in study.tables():
        compared = table.full.variant
        full = [row for row in table.rows if (row.variant, row.method) == (compared, "capt")]
        assert full == [table.full]
        changed = study.variant(compared).change
        for row in table.rows:
            if compared != study.FULL and row.variant != compared:
                kept = merge(dict(changed), dict(study.variant(row.variant).change))
                assert kept == study.variant(row.variant).change, row


def test_one_entry_gives_the_variant_and_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ablations.yaml"
    path.write_text(ADDED)
    monkeypatch.setattr(study, "ABLATIONS", path)
    for cached in (study.variants, study.tables, study._declared):
        cached.cache_clear()
    try:
        assert study.variant("half") == study.Variant({"fewshot": {"shots": 4}}, ("coop",))
        assert study.variant("ten").methods == ("capt",)
        (table,) = study.tables()
        assert [row.label for row in table.rows] == ["0", "0.5", "5", "10"]
        assert table.rows[3].paper == (1.0, 2.0, 3.0)
        assert table.full == study.Row("5", setting=5)
    finally:
        for cached in (study.variants, study.tables, study._declared):
            cached.cache_clear()


def test_an_unknown_variant_lists_the_known_ones() -> None:
    assert "no variant 'papr'; known: recommended, paper" in refusal(study.variant, "papr")


def test_the_numbers_of_the_paper_are_consistent() -> None:
    for table in study.tables():
        for row in table.rows:
            if row.paper:
                base, novel, mean = row.paper
                # The paper's own harmonic means are means over data sets, or rounded: 0.2 points.
                assert mean == pytest.approx(2 * base * novel / (base + novel), abs=0.2), row


def test_a_file_of_settings_has_no_part_of_the_study() -> None:
    document = load_yaml(Path(study.__file__).parents[1] / "params.yaml").value
    assert document.keys().isdisjoint({"variants", "study"})


def capt_of(variant: str) -> CaptSettings:
    return method_section("capt", CaptSettings, None, change=study.variant(variant).change)


def test_the_variant_paper_has_the_papers_values() -> None:
    capt = capt_of("paper")
    settings, _ = load_settings(None, change=study.variant("paper").change)
    # Batch, epochs, pairs, s and gamma are stated in the paper; the others are its release's.
    train, adapter, experts = capt.train, capt.adapter, capt.experts
    assert (train.batch_size, train.epochs, settings.mine_pairs.pairs) == (4, 25, 5)
    assert (adapter.scale, adapter.exponent, settings.mine_samples.representatives) == (5.0, 0.5, 1)
    assert (train.optimizer, train.learning_rate) == ("sgd", 0.002)
    assert (train.momentum, train.weight_decay) == (0.9, 0.0005)
    assert (train.warmup_epochs, train.warmup_learning_rate) == (1, 1e-5)
    assert (adapter.blocks, adapter.kernel_size) == ("all", 3)
    assert (experts.granularities, experts.active) == (list(EXPERTS), 2)
    assert (experts.mask_rate, settings.cluster_prompts.clusters) == (0.3, 5)
    # L_confuse alone, and nothing that the paper does not have.
    weights = capt.losses.model_dump()
    assert {
        name: value for name, value in weights.items() if name.endswith("weight") and value
    } == {"confusion_weight": 1.0}
    assert capt.class_texts.difference_weight == capt.discriminant.weight == 0
    assert capt.whitening.shrinkage == 1
    assert (capt.losses.original_images, settings.mine_samples.choice) == (
        "anchors",
        "representative",
    )


def test_the_variant_fast_is_the_papers_on_cached_views() -> None:
    fast, paper = capt_of("fast"), capt_of("paper")
    assert fast.train.cache_prefix
    assert fast.train.views > 0
    assert fast.adapter.blocks != "all"
    alike = {
        "adapter": fast.adapter.model_copy(update={"blocks": "all"}),
        "train": fast.train.model_copy(update={"cache_prefix": False, "views": 0}),
    }
    assert fast.model_copy(update=alike) == paper
