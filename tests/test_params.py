"""Settings: what is refused, what is merged, and what the project's own file says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from capt_core.errors import CaptError
from capt_core.params import (
    EXPERTS,
    Losses,
    Matrix,
    Settings,
    Train,
    load_settings,
    load_study,
    settings_hash,
)

MATRIX = "datasets: [dtd]\nseeds: [1]\nmethods: [clip]\n"


def write(folder: Path, body: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(MATRIX + body, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str, dataset: str | None = None) -> str:
    with pytest.raises(CaptError) as caught:
        load_settings(path, dataset, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_file_without_sections_gives_the_defaults(tmp_path: Path) -> None:
    settings, matrix = load_settings(write(tmp_path, ""))
    assert settings == Settings()
    assert matrix == Matrix(datasets=["dtd"], seeds=[1], methods=["clip"])


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("train: {epochz: 3}\n", ["train.epochz", "unknown key", "did you mean epochs?"]),
        ("trian: {epochs: 3}\n", ["trian", "unknown key", "did you mean train?"]),
        ("fewshot: {zzzz: 3}\n", ["fewshot.zzzz", "known: shots"]),
        ("train: {epochs: many}\n", ["train.epochs", "integer", "'many'"]),
        ("train: {epochs: '3'}\n", ["train.epochs", "integer", "'3'"]),
        ("train: {epochs: 2.5}\n", ["train.epochs", "integer", "2.5"]),
        ("train: {epochs: true}\n", ["train.epochs", "integer", "True"]),
        ("train: {epochs: 0}\n", ["train.epochs", "greater than or equal to 1", "0"]),
        ("train: {learning_rate: 0}\n", ["train.learning_rate", "greater than 0"]),
        ("train: {momentum: 1}\n", ["train.momentum", "less than 1"]),
        ("experts: {active: 4}\n", ["experts.active", "less than or equal to 3"]),
        ("experts: {granularities: [word]}\n", ["experts.granularities.0", "'word'"]),
        ("adapter: {blocks: some}\n", ["adapter.blocks", "'some'"]),
        ("adapter: {blocks: -1}\n", ["adapter.blocks", "-1"]),
        ("adapter: {blocks: [0, -1]}\n", ["adapter.blocks", "-1"]),
        ("adapter: {form: mirrored}\n", ["adapter.form", "'mirrored'"]),
        ("losses: {retention_weight: -1}\n", ["losses.retention_weight", "-1"]),
        ("train: {interpolation: 0}\n", ["train.interpolation", "greater than 0"]),
        ("train: {cache_prefix: true}\n", ["train", "set views to 1 or more"]),
        ("train: {optimizer: adam}\n", ["train.optimizer", "'sgd' or 'adamw'", "'adam'"]),
        ("data: {root: 3}\n", ["data.root", "string"]),
        ("data: {on_bad_image: skip}\n", ["data.on_bad_image", "'error' or 'quarantine'"]),
        ("train: 5\n", ["train", "5"]),
        ("train:\n", ["train", "None"]),
        ("train: {1: 2}\n", ["train.1"]),
        ("per_dataset: [dtd]\n", ["per_dataset", "expected keys and values"]),
        ("per_dataset: {dtd: 3}\n", ["per_dataset.dtd", "expected keys and values"]),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, body: str, parts: list[str]) -> None:
    path = write(tmp_path, body)
    message = refusal(path)
    assert message.startswith(str(path))
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("datasets: []\nseeds: [1]\nmethods: [clip]\n", "datasets"),
        ("datasets: [dtd]\nseeds: []\nmethods: [clip]\n", "seeds"),
        ("datasets: [dtd]\nseeds: ['1']\nmethods: [clip]\n", "seeds.0"),
        ("datasets: [dtd]\nseeds: [1]\nmethods: [clap]\n", "'residual' or 'capt'"),
        ("datasets: [dtd]\nseeds: [1]\n", "methods: is missing"),
        ("", "datasets: is missing"),
        ("[1, 2]\n", "expected keys and values"),
        ("train: {epochs: 3\n", "not valid YAML"),
    ],
)
def test_a_file_without_a_sound_matrix_is_refused(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    message = refusal(path)
    assert str(path) in message
    assert part in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "adapter.blocks=some",
            "adapter.blocks: should be 'all' or a valid integer or a valid list, found 'some'",
        ),
        ("adapter.kernel_size=4", "adapter: kernel_size must be odd, found 4"),
        ("train.views=1.5", "train.views: should be a valid integer, found 1.5"),
        (
            "losses={confusion_weight: 0, original_weight: 0}",
            "losses: confusion_weight and original_weight are both 0: nothing to learn",
        ),
    ],
)
def test_a_value_that_does_not_do_is_named_with_what_would(
    tmp_path: Path, override: str, message: str
) -> None:
    section, _, key = override.partition("=")[0].partition(".")
    value = override.partition("=")[2]
    body = f"{section}: {{{key}: {value}}}\n" if key else f"{section}: {value}\n"
    path = write(tmp_path, body)
    assert refusal(path) == f"{path}: {message}"


def test_a_missing_file_says_how_to_point_to_one(tmp_path: Path) -> None:
    message = refusal(tmp_path / "params.yaml")
    assert str(tmp_path / "params.yaml") in message
    assert "--params" in message


def test_a_file_in_another_encoding_is_a_users_mistake(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(MATRIX.encode() + "data: {root: /bilder/gärten}\n".encode("latin-1"))
    assert str(path) in refusal(path)


def test_per_dataset_settings_hold_for_their_data_set_only(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "train: {epochs: 7, batch_size: 8}\nfewshot: {shots: 4}\n"
        "per_dataset:\n  dtd: {train: {epochs: 50}, data: {root: here}}\n  eurosat: {}\n",
    )
    plain, _ = load_settings(path)
    dtd, _ = load_settings(path, "dtd")
    eurosat, _ = load_settings(path, "eurosat")
    unlisted, _ = load_settings(path, "food101")
    assert (dtd.train.epochs, dtd.train.batch_size, dtd.fewshot.shots) == (50, 8, 4)
    assert dtd.data.root == "here"
    assert plain.train.epochs == 7
    assert plain == eurosat == unlisted


@pytest.mark.parametrize("dataset", [None, "eurosat", "dtd"])
def test_every_per_dataset_entry_is_checked_whichever_is_asked_for(
    tmp_path: Path, dataset: str | None
) -> None:
    path = write(tmp_path, "per_dataset: {dtd: {train: {epochz: 3}}}\n")
    message = refusal(path, dataset=dataset)
    assert "per_dataset.dtd" in message
    assert "did you mean epochs?" in message


def test_overrides_win_over_the_data_set_and_later_ones_over_earlier(tmp_path: Path) -> None:
    path = write(tmp_path, "per_dataset: {dtd: {train: {epochs: 50, batch_size: 2}}}\n")
    settings, _ = load_settings(path, "dtd", ["train.epochs=3", "train.epochs=4"])
    assert (settings.train.epochs, settings.train.batch_size) == (4, 2)


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.epochs=3", "train", "epochs", 3),
        ("train.learning_rate=1", "train", "learning_rate", 1.0),
        ("train.learning_rate=0.5", "train", "learning_rate", 0.5),
        ("adapter.blocks=2", "adapter", "blocks", 2),
        ("adapter.blocks=all", "adapter", "blocks", "all"),
        ("adapter.blocks=[0, 2]", "adapter", "blocks", [0, 2]),
        ("experts.granularities=[]", "experts", "granularities", []),
        ("adapter.scale=3", "adapter", "scale", 3.0),
        ("prepare.check_images=none", "prepare", "check_images", "none"),
        ("build-bank.source=full_train", "build_bank", "source", "full_train"),
        ("data.root=2024", "data", "root", "2024"),
        ("data.root=1e3", "data", "root", "1e3"),
        ("data.root=yes", "data", "root", "yes"),
        ("data.root=a=b", "data", "root", "a=b"),
        ("data.root=null", "data", "root", None),
        ("backbone.pretrained=off", "backbone", "pretrained", "off"),
    ],
)
def test_overrides_are_typed_by_their_key(
    tmp_path: Path, override: str, section: str, key: str, value: object
) -> None:
    settings, _ = load_settings(write(tmp_path, ""), overrides=[override])
    found = getattr(getattr(settings, section), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.epochs", ["--set train.epochs", "section.key=value"]),
        ("epochs=3", ["--set epochs=3", "section.key=value"]),
        ("=3", ["section.key=value"]),
        ("train.=3", ["section.key=value"]),
        ("train.epochs=[", ["--set train.epochs=[", "not valid YAML"]),
        ("train.epochs=", ["train.epochs", "integer"]),
        ("train.epochs=3.0", ["train.epochs", "integer", "3.0"]),
        ("train.epochz=3", ["--set", "train.epochz", "did you mean epochs?"]),
        ("trian.epochs=3", ["--set", "trian", "did you mean train?"]),
        ("train.epochs.x=3", ["--set", "epochs.x", "unknown key"]),
        ("seeds.first=3", ["--set", "seeds", "unknown key"]),
        ("train.optimizer=adam", ["--set", "train.optimizer", "'adam'"]),
    ],
)
def test_a_mistake_in_an_override_is_named(tmp_path: Path, override: str, parts: list[str]) -> None:
    message = refusal(write(tmp_path, ""), override)
    for part in parts:
        assert part in message


def test_whole_numbers_do_for_floats_in_the_file(tmp_path: Path) -> None:
    body = "train: {learning_rate: 1, weight_decay: 0}\n"
    settings, _ = load_settings(write(tmp_path, body))
    assert (settings.train.learning_rate, settings.train.weight_decay) == (1.0, 0.0)
    assert type(settings.train.weight_decay) is float


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "2e-05"])
def test_exponents_do_for_floats(tmp_path: Path, number: str) -> None:
    # YAML 1.1 reads 1e-3 as text, and that is how learning rates are written.
    settings, _ = load_settings(write(tmp_path, ""), overrides=[f"train.learning_rate={number}"])
    assert settings.train.learning_rate == float(number)
    settings, _ = load_settings(write(tmp_path, f"train: {{learning_rate: {number}}}\n"))
    assert settings.train.learning_rate == float(number)


@pytest.mark.parametrize("key", ["train.learning_rate", "train.weight_decay", "adapter.scale"])
@pytest.mark.parametrize("number", [".inf", ".nan"])
def test_numbers_must_be_finite(tmp_path: Path, key: str, number: str) -> None:
    assert key in refusal(write(tmp_path, ""), f"{key}={number}")


@pytest.mark.parametrize("text", ["[drafts", "@home", "*", "%tmp", "a: b: c"])
def test_text_overrides_need_not_be_yaml(tmp_path: Path, text: str) -> None:
    settings, _ = load_settings(write(tmp_path, ""), overrides=[f"data.root={text}"])
    assert settings.data.root == text


def test_sections_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Train().epochs = 3  # type: ignore[misc]


def test_the_hash_follows_the_values_not_their_order() -> None:
    assert settings_hash(Train(), {"a": 1, "b": 2}) == settings_hash(Train(), {"b": 2, "a": 1})
    assert settings_hash(Train()) != settings_hash(Train(epochs=26))
    assert settings_hash(Train(), 1) != settings_hash(Train(), 2)
    assert settings_hash(Train(), 1) != settings_hash(1, Train())
    assert len(settings_hash()) == 16


def test_the_projects_own_file_is_sound(project: Path) -> None:
    document = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    for dataset in document["datasets"]:
        for variant in (None, *document["variants"]):
            load_settings(project / "params.yaml", dataset, variant=variant)
        # The pipeline tracks this key for every data set; DVC stops when it is not there.
        assert dataset in document["per_dataset"]


def test_the_projects_own_file_lists_every_setting(project: Path) -> None:
    document = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    for name, field in Settings.model_fields.items():
        section = field.annotation
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        assert set(document[name]) == set(section.model_fields), name
    beside = {"per_dataset", "variants", "study"}
    assert set(document) == {*Settings.model_fields, *Matrix.model_fields, *beside}


def test_the_defaults_are_the_papers_as_is_the_variant_of_that_name(project: Path) -> None:
    defaults = Settings()
    paper, _ = load_settings(project / "params.yaml", variant="paper")
    assert paper == defaults
    # Batch, epochs, pairs, s and gamma are stated in the paper; the others are its release's.
    train, adapter, experts = defaults.train, defaults.adapter, defaults.experts
    assert (train.batch_size, train.epochs, defaults.mine_pairs.pairs) == (4, 25, 5)
    assert (adapter.scale, adapter.exponent, defaults.mine_samples.representatives) == (5.0, 0.5, 1)
    assert (train.optimizer, train.learning_rate) == ("sgd", 0.002)
    assert (train.momentum, train.weight_decay) == (0.9, 0.0005)
    assert (train.warmup_epochs, train.warmup_learning_rate) == (1, 1e-5)
    assert (adapter.blocks, adapter.kernel_size) == ("all", 3)
    assert (experts.granularities, experts.active) == (list(EXPERTS), 2)
    assert (experts.mask_rate, defaults.cluster_prompts.clusters) == (0.3, 5)
    # L_confuse alone, and nothing that the paper does not have.
    assert defaults.losses == Losses(confusion_weight=1.0, original_weight=0.0)
    assert defaults.class_texts.difference_weight == 0
    weights = defaults.losses.model_dump()
    assert [name for name, value in weights.items() if name.endswith("weight") and value] == [
        "confusion_weight"
    ]


def test_the_fast_preset_is_the_papers_on_cached_views(project: Path) -> None:
    fast, _ = load_settings(project / "params.yaml", variant="fast")
    paper, _ = load_settings(project / "params.yaml", variant="paper")
    assert fast.train.cache_prefix
    assert fast.train.views > 0
    assert fast.adapter.blocks != "all"
    alike = {
        "adapter": fast.adapter.model_copy(update={"blocks": "all"}),
        "train": fast.train.model_copy(update={"cache_prefix": False, "views": 0}),
    }
    assert fast.model_copy(update=alike) == paper


def test_the_preset_recommended_is_the_file_as_it_stands(project: Path) -> None:
    recommended, _ = load_settings(project / "params.yaml", variant="recommended")
    assert recommended == load_settings(project / "params.yaml")[0]


def test_the_study_runs_variants_that_are_there(project: Path) -> None:
    document = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    study = load_study(project / "params.yaml")
    assert set(study.variants) <= set(document["variants"])
    assert set(study.methods) <= set(study.variants)


VARIANTS = (
    "train: {epochs: 7, batch_size: 8}\nper_dataset: {dtd: {train: {epochs: 50}}}\n"
    "variants:\n  plain: {}\n  long: {train: {epochs: 90}, adapter: {blocks: 2}}\n"
)


def test_a_variant_wins_over_the_data_set_and_overrides_over_both(tmp_path: Path) -> None:
    path = write(tmp_path, VARIANTS)
    for variant, dataset, overrides, epochs in (
        (None, None, (), 7),
        ("plain", None, (), 7),
        ("plain", "dtd", (), 50),
        ("long", None, (), 90),
        ("long", "dtd", (), 90),
        ("long", "dtd", ("train.epochs=3",), 3),
    ):
        settings, _ = load_settings(path, dataset, overrides, variant)
        assert (settings.train.epochs, settings.train.batch_size) == (epochs, 8)
        assert settings.adapter.blocks == (2 if variant == "long" else "all")


def test_an_unknown_variant_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    for body, known in ((VARIANTS, "plain, long"), ("", "none")):
        with pytest.raises(CaptError, match=f"no variant 'longer'; known: {known}") as caught:
            load_settings(write(tmp_path, body), variant="longer")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ("{train: {epochz: 3}}", ["variants.bad", "did you mean epochs?"]),
        ("{trian: {epochs: 3}}", ["variants.bad", "did you mean train?"]),
        ("{adapter: {blocks: some}}", ["variants.bad: adapter.blocks", "'some'"]),
        ("3", ["variants.bad", "expected keys and values"]),
    ],
)
def test_every_variant_is_checked_whichever_is_asked_for(
    tmp_path: Path, entry: str, parts: list[str]
) -> None:
    message = refusal(write(tmp_path, f"variants: {{good: {{}}, bad: {entry}}}\n"))
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("", "variants: is missing"),
        ("study: {variants: []}\n", "variants"),
        ("study: [paper]\n", "expected keys and values"),
        ("study: {variants: [paper], method: {}}\n", "did you mean methods?"),
    ],
)
def test_a_study_without_variants_is_refused(tmp_path: Path, body: str, part: str) -> None:
    with pytest.raises(CaptError) as caught:
        load_study(write(tmp_path, body))
    assert part in str(caught.value)
    assert "study" in str(caught.value)


def test_methods_of_the_study_are_capt_unless_named(tmp_path: Path) -> None:
    path = write(tmp_path, "study: {variants: [a, b], methods: {b: [clip, capt]}}\n")
    study = load_study(path)
    assert study.methods_of("a") == ["capt"]
    assert study.methods_of("b") == ["clip", "capt"]


def test_only_data_and_training_can_differ_for_a_data_set(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "per_dataset: {dtd: {fewshot: {shots: 4}}}\n"))
    assert "per_dataset.dtd: fewshot: unknown key; known: data, train" in message
