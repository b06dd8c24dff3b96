"""Settings: what is refused, what is merged, and what the packaged file says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import BaseModel

from capt_core.errors import CaptError
from capt_core.methods.capt.settings import Adapter, CaptSettings, Train
from capt_core.methods.linear_probe import LinearProbeSettings
from capt_core.methods.registry import _BUILT_IN, check_methods, method_class
from capt_core.params import (
    MOST_SEED,
    Data,
    Matrix,
    Settings,
    check_seed,
    load_settings,
    method_section,
    settings_hash,
)
from capt_core.settings_file import PACKAGED_PARAMS, Section, packaged_settings
from tests.refusals import refusal

MATRIX = "datasets: [dtd]\nseeds: [1]\ncompare: [clip]\n"


def write(folder: Path, body: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(MATRIX + body, encoding="utf-8")
    return path


def in_capt(body: str) -> str:
    return f"methods: {{capt: {{{body}}}}}\n"


def capt(path: Path | None, *overrides: str, dataset: str | None = None) -> CaptSettings:
    return method_section("capt", CaptSettings, path, dataset, overrides)


def file_refusal(path: Path, *overrides: str, dataset: str | None = None) -> str:
    """The one line that refuses a file, on reading all sections or CAPT's own."""

    def read() -> None:
        load_settings(path, dataset, overrides)
        capt(path, *overrides, dataset=dataset)

    return refusal(read)


def test_what_a_file_leaves_out_has_the_packaged_value(tmp_path: Path) -> None:
    body = "fewshot: {}\nmethods: {capt: {adapter: {scale: 2.0}}}\n"
    for path in (write(tmp_path, ""), write(tmp_path, body)):
        settings, matrix = load_settings(path)
        packaged, _ = load_settings(None)
        assert settings.model_copy(update={"methods": packaged.methods}) == packaged
        assert matrix == Matrix(datasets=["dtd"], seeds=[1], compare=["clip"])
    assert capt(path) == CaptSettings(adapter=Adapter(scale=2.0))
    assert Adapter().scale == packaged_settings()["methods"]["capt"]["adapter"]["scale"] != 2.0


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("fewshoot: {shots: 3}\n", ["fewshoot", "unknown key", "did you mean fewshot?"]),
        ("fewshot: {zzzz: 3}\n", ["fewshot.zzzz", "known: shots"]),
        ("fewshot: {shots: many}\n", ["fewshot.shots", "integer", "'many'"]),
        ("fewshot: {shots: '3'}\n", ["fewshot.shots", "integer", "'3'"]),
        ("fewshot: {shots: 2.5}\n", ["fewshot.shots", "integer", "2.5"]),
        ("fewshot: {shots: true}\n", ["fewshot.shots", "integer", "True"]),
        ("fewshot: {shots: -1}\n", ["fewshot.shots", "greater than or equal to 0", "-1"]),
        ("data: {root: 3}\n", ["data.root", "string"]),
        ("data: {on_bad_image: skip}\n", ["data.on_bad_image", "'error' or 'quarantine'"]),
        ("data: {val_share: 1}\n", ["data.val_share", "less than 1"]),
        ("fewshot: 5\n", ["fewshot", "5"]),
        ("fewshot:\n", ["fewshot", "None"]),
        ("fewshot: {1: 2}\n", ["fewshot.1"]),
        ("methods: [capt]\n", ["methods", "dictionary"]),
        ("methods: {capt: 3}\n", ["methods.capt", "dictionary", "3"]),
        ("per_dataset: [dtd]\n", ["per_dataset", "expected keys and values"]),
        ("per_dataset: {dtd: 3}\n", ["per_dataset.dtd", "expected keys and values"]),
        ("data:\n  val_share: 0.1\n  root: ''\n", ["data.root", "at least 1", "(line 6)"]),
        ("fewshot: {shots: 0x}\n", ["fewshot.shots", "integer", "'0x'", "(line 4)"]),
        ("fewshot: {shots: 010}\n", ["line 4: fewshot.shots: '010' is an octal number"]),
        ("methods: {}\nmethods: {}\n", ["line 5: the key 'methods' stands there twice (first in"]),
        ("data: {split_seed: 4294967296}\n", ["split_seed", "less than or equal to 4294967295"]),
        ("data: {root: '~no-such-user-here/x'}\n", ["data.root: no such user's home folder"]),
        (f"data: {{table: {'x' * 300}}}\n", ["data.table: longer than a path can be: 'xxx"]),
        (f"{'k' * 500}: 1\n", ["kkk...: unknown key"]),
        (f"fewshot: {{shots: '{'9' * 5000}'}}\n", ["999..."]),
        (f"fewshot: {{shots: {'[' * 30}{']' * 30}}}\n", ["fewshot.shots", "integer, found [["]),
        ("per_dataset: {dtd: {data: {val_share: 2}}}\n", ["data.val_share", "(line 4)"]),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, body: str, parts: list[str]) -> None:
    path = write(tmp_path, body)
    message = file_refusal(path)
    assert message.startswith(str(path))
    for part in parts:
        assert part in message
    assert len(message) < len(str(path)) + 350


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("train: {epochz: 3}", ["train.epochz", "unknown key", "did you mean epochs?"]),
        ("trian: {epochs: 3}", ["trian", "unknown key", "did you mean train?"]),
        ("train: {epochs: 0}", ["train.epochs", "greater than or equal to 1", "0"]),
        ("train: {learning_rate: 0}", ["train.learning_rate", "greater than 0"]),
        ("train: {momentum: 1}", ["train.momentum", "less than 1"]),
        ("train: {interpolation: 0}", ["train.interpolation", "greater than 0"]),
        ("train: {optimizer: adam}", ["train.optimizer", "'sgd' or 'adamw'", "'adam'"]),
        ("train: {augmentation: crop_flip}", ["train", "set views to 1 or more"]),
        ("train: {views: 1.5}", ["train.views: should be a valid integer, found 1.5"]),
        ("experts: {active: 4}", ["experts.active", "less than or equal to 3"]),
        ("experts: {granularities: [word]}", ["experts.granularities.0", "'word'"]),
        ("adapter: {blocks: -1}", ["adapter.blocks", "-1"]),
        ("adapter: {blocks: [0, -1]}", ["adapter.blocks", "-1"]),
        ("adapter: {form: mirrored}", ["adapter.form", "'mirrored'"]),
        (
            "adapter: {blocks: some}",
            ["adapter.blocks: should be 'all' or a valid integer or a valid list, found 'some'"],
        ),
        ("adapter: {kernel_size: 4}", ["adapter: kernel_size must be odd, found 4"]),
        ("losses: {retention_weight: -1}", ["losses.retention_weight", "-1"]),
        (
            "losses: {confusion_weight: 0, original_weight: 0}",
            ["losses: confusion_weight and original_weight are both 0: nothing to learn"],
        ),
    ],
)
def test_a_mistake_in_a_methods_section_is_named_with_its_full_path(
    tmp_path: Path, body: str, parts: list[str]
) -> None:
    path = write(tmp_path, in_capt(body))
    load_settings(path)  # does not know what a method's section holds
    message = file_refusal(path)
    assert message.startswith(f"{path}: methods.capt.{parts[0]}")
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("datasets: []\nseeds: [1]\ncompare: [clip]\n", "datasets"),
        ("datasets: [dtd]\nseeds: []\ncompare: [clip]\n", "seeds"),
        ("datasets: [dtd]\nseeds: ['1']\ncompare: [clip]\n", "seeds.0"),
        ("datasets: [dtd]\nseeds: [1]\ncompare: clip\n", "compare"),
        ("[1, 2]\n", "expected keys and values"),
        ("", "expected keys and values, found nothing"),
        ("# all: gone\n", "expected keys and values, found nothing"),
        ("datasets: [dtd]\nseeds: [4294967296]\n", "seeds.0"),
        ("datasets: [dtd]\nseeds: [-1]\n", "seeds.0"),
        ("datasets: ['']\n", "datasets.0"),
        ("train: {epochs: 3\n", "not valid YAML"),
    ],
)
def test_a_file_without_a_sound_matrix_is_refused(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    message = file_refusal(path)
    assert str(path) in message
    assert part in message


def test_an_unknown_method_is_refused_with_those_that_are_known() -> None:
    check_methods(["clip", "capt"], "here")
    with pytest.raises(CaptError, match=r"^here: unknown method 'clap'; known: clip, .*, capt"):
        check_methods(["clip", "clap"], "here")
    with pytest.raises(CaptError, match=r"^unknown method 'clap'"):
        method_class("clap")


def test_a_missing_file_and_one_in_another_encoding_are_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    message = file_refusal(path)
    assert str(path) in message
    assert "--params" in message
    path.write_bytes(MATRIX.encode() + "data: {root: /bilder/gärten}\n".encode("latin-1"))
    assert str(path) in file_refusal(path)


PER_DATASET = (
    "fewshot: {shots: 4}\nmethods: {capt: {train: {epochs: 7, batch_size: 8}}}\n"
    "per_dataset:\n"
    "  dtd: {methods: {capt: {train: {epochs: 50}}}, data: {root: here}}\n  eurosat: {}\n"
)


def test_per_dataset_settings_hold_for_their_data_set_only(tmp_path: Path) -> None:
    path = write(tmp_path, PER_DATASET)
    plain, _ = load_settings(path)
    dtd, _ = load_settings(path, "dtd")
    assert (dtd.data.root, dtd.fewshot.shots) == ("here", 4)
    assert plain == load_settings(path, "eurosat")[0] == load_settings(path, "food101")[0]
    of_dtd = capt(path, dataset="dtd").train
    assert (of_dtd.epochs, of_dtd.batch_size) == (50, 8)
    assert capt(path).train.epochs == 7
    assert capt(path) == capt(path, dataset="eurosat") == capt(path, dataset="food101")


@pytest.mark.parametrize("dataset", [None, "eurosat", "dtd"])
@pytest.mark.parametrize(
    ("entry", "place"),
    [
        ("methods: {capt: {train: {epochz: 3}}}", "methods.capt.train.epochz: "),
        ("data: {rooot: x}", "data.rooot: "),
    ],
)
def test_every_per_dataset_entry_is_checked_whichever_is_asked_for(
    tmp_path: Path, dataset: str | None, entry: str, place: str
) -> None:
    path = write(tmp_path, f"per_dataset: {{dtd: {{{entry}}}}}\n")
    message = file_refusal(path, dataset=dataset)
    assert f"per_dataset.dtd: {place}unknown key; did you mean" in message


def test_only_data_and_methods_can_differ_for_a_data_set(tmp_path: Path) -> None:
    message = file_refusal(write(tmp_path, "per_dataset: {dtd: {fewshot: {shots: 4}}}\n"))
    assert "per_dataset.dtd: fewshot: unknown key; known: data, methods" in message


def test_changes_win_over_the_data_set_overrides_over_both_later_ones_over_earlier(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, PER_DATASET)
    change = {"methods": {"capt": {"train": {"epochs": 90}}}, "data": {"root": "there"}}
    twice = ["methods.capt.train.epochs=3", "methods.capt.train.epochs=4"]
    for given, overrides, epochs in (({}, [], 50), (change, [], 90), (change, twice, 4)):
        train = method_section("capt", CaptSettings, path, "dtd", overrides, given).train
        assert (train.epochs, train.batch_size) == (epochs, 8)
    assert load_settings(path, "dtd", change=change)[0].data.root == "there"
    assert load_settings(path, "dtd", ["data.root=x"], change)[0].data.root == "x"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("methods.capt.train.epochs=3", 3),
        ("methods.capt.train.learning_rate=1", 1.0),
        ("methods.capt.train.learning_rate=0.5", 0.5),
        ("methods.capt.adapter.blocks=2", 2),
        ("methods.capt.adapter.blocks=all", "all"),
        ("methods.capt.adapter.blocks=[0, 2]", [0, 2]),
        ("methods.capt.experts.granularities=[]", []),
        ("methods.capt.adapter.scale=3", 3.0),
        ("prepare.check_images=none", "none"),
        ("build-bank.source=full_train", "full_train"),
        ("data.root=2024", "2024"),
        ("data.root=1e3", "1e3"),
        ("data.root=yes", "yes"),
        ("data.root=a=b", "a=b"),
        ("data.root=null", None),
        ("backbone.pretrained=off", "off"),
    ],
)
def test_overrides_are_typed_by_their_key(tmp_path: Path, override: str, value: object) -> None:
    path = write(tmp_path, "")
    found: Any = load_settings(path, overrides=[override])[0]
    if override.startswith("methods.capt."):
        found, override = capt(path, override), override.removeprefix("methods.capt.")
    for name in override.partition("=")[0].replace("-", "_").split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("fewshot.shots", ["--set fewshot.shots", "section.key=value"]),
        ("shots=3", ["--set shots=3", "section.key=value"]),
        ("=3", ["section.key=value"]),
        ("fewshot.=3", ["section.key=value"]),
        ("fewshot.shots=[", ["--set fewshot.shots=[", "not valid YAML"]),
        ("fewshot.shots=", ["fewshot.shots", "integer"]),
        ("fewshot.shots=3.0", ["fewshot.shots", "integer", "3.0"]),
        ("fewshot.shotz=3", ["--set", "fewshot.shotz", "did you mean shots?"]),
        ("fewshoot.shots=3", ["--set", "fewshoot", "did you mean fewshot?"]),
        ("fewshot.shots.x=3", ["--set", "fewshot.shots", "{'x': 3}"]),
        ("seeds.first=3", ["--set", "seeds", "unknown key"]),
        ("methods.capt.train.epochz=3", ["--set: methods.capt.train.epochz: unknown key"]),
        ("methods.capt.train.optimizer=adam", ["--set: methods.capt.train.optimizer", "'adam'"]),
        ("fewshot.shots=010", ["--set fewshot.shots=010: '010' is an octal number in YAML 1.1"]),
        ("mine_pairs.use_statistics=no", ["'no' is true or false in YAML 1.1"]),
        ("fewshot.shots=!!int x", ["tags are not read here"]),
        (f"fewshot.shots={'[' * 3000}", ["nested too deeply"]),
        (f"fewshot.shots={'9' * 5000}", ["a number of 5000 characters"]),
        (f"fewshot.shots={'9' * 200}", ["--set: fewshot.shots", "less than or equal to 1000000"]),
        ("fewshot.shots={a: 1, a: 2}", ["the key 'a' stands there twice; keep one"]),
        ("methods.capt.train.learning_rate=1e400", ["numbers must be finite"]),
        (f"methods.capt.train.learning_rate={'9' * 200}", ["less than or equal to 1000"]),
        ("generate_prompts.timeout=1e30", ["generate_prompts.timeout", "86400"]),
        ("runtime.workers=100000", ["runtime.workers", "256"]),
        ("prepare.proctex_seed=4294967296", ["proctex_seed", "4294967295"]),
        ("data.root=a\0b", ["--set data.root=a", "holds the character"]),
        ("data.root=", ["data.root", "at least 1 character"]),
        ("data.root=~no-such-user-here", ["data.root: no such user's home folder"]),
        (f"fewshot.shots{'.a' * 3000}=1", ["section.key=value"]),
        (f"{'k' * 3000}", ["section.key=value"]),
    ],
)
def test_a_mistake_in_an_override_is_named(tmp_path: Path, override: str, parts: list[str]) -> None:
    message = file_refusal(write(tmp_path, ""), override)
    for part in parts:
        assert part in message
    assert len(message) < 500


def test_whole_numbers_do_for_floats_in_the_file(tmp_path: Path) -> None:
    train = capt(write(tmp_path, in_capt("train: {learning_rate: 1, weight_decay: 0}"))).train
    assert (train.learning_rate, train.weight_decay) == (1.0, 0.0)
    assert type(train.weight_decay) is float


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "2e-05"])
def test_exponents_do_for_floats(tmp_path: Path, number: str) -> None:
    # YAML 1.1 reads 1e-3 as text, but that is how learning rates are written.
    key = "train: {learning_rate: " + number + "}"
    for found in (
        capt(write(tmp_path, ""), f"methods.capt.train.learning_rate={number}"),
        capt(write(tmp_path, in_capt(key))),
    ):
        assert found.train.learning_rate == float(number)
    path = write(tmp_path, f"methods: {{linear_probe: {{strength: {number}}}}}\n")
    probe = method_section("linear_probe", LinearProbeSettings, path)
    assert probe.strength == float(number)


@pytest.mark.parametrize("key", ["train.learning_rate", "train.weight_decay", "adapter.scale"])
@pytest.mark.parametrize("number", [".inf", ".nan"])
def test_numbers_must_be_finite(tmp_path: Path, key: str, number: str) -> None:
    assert key in file_refusal(write(tmp_path, ""), f"methods.capt.{key}={number}")


@pytest.mark.parametrize("seed", [0, 7, MOST_SEED, np.int64(7)])
def test_seeds_are_whole_numbers_that_every_generator_takes(seed: Any) -> None:
    assert check_seed(seed, "here") == seed
    assert type(check_seed(seed, "here")) is int


@pytest.mark.parametrize("seed", [-1, 2**32, 10**4000, 1.0, True, "1", None, float("nan")])
def test_other_seeds_are_refused(seed: Any) -> None:
    message = refusal(check_seed, seed, "here: seed")
    assert message.startswith("here: seed: should be ")
    assert len(message) < 200


@pytest.mark.parametrize("text", ["[drafts", "@home", "*", "%tmp", "a: b: c"])
def test_text_overrides_need_not_be_yaml(tmp_path: Path, text: str) -> None:
    settings, _ = load_settings(write(tmp_path, ""), overrides=[f"data.root={text}"])
    assert settings.data.root == text


def test_sections_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Train().epochs = 3  # type: ignore[misc]


def test_the_hash_follows_the_values_not_their_order() -> None:
    assert settings_hash(Data(), {"a": 1, "b": 2}) == settings_hash(Data(), {"b": 2, "a": 1})
    assert settings_hash(Data()) != settings_hash(Data(split_seed=26))
    assert settings_hash(Data(), 1) != settings_hash(Data(), 2)
    assert settings_hash(Data(), 1) != settings_hash(1, Data())
    assert len(settings_hash()) == 16


def paths_of(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Every setting of a section and of those below it, with its path."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from paths_of(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_the_packaged_file_lists_every_setting_and_nothing_else() -> None:
    document = yaml.safe_load(PACKAGED_PARAMS.read_text(encoding="utf-8"))
    declared = {*paths_of(Settings, ""), *paths_of(Matrix, "")} - {"methods"}
    for method in _BUILT_IN:
        declared |= {*paths_of(method_class(method).Settings, f"methods.{method}.")}
    leaves = set()

    def walk(values: dict[str, Any], prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, dict) and f"{prefix}{name}" not in declared:
                walk(value, f"{prefix}{name}.")
            else:
                leaves.add(f"{prefix}{name}")

    differing = document.pop("per_dataset")
    walk(document, "")
    assert leaves == declared
    assert document["methods"].keys() == _BUILT_IN.keys()
    # DVC tracks these keys for every data set and stops where one is missing.
    assert differing == {name: {"data": {}, "methods": {}} for name in document["datasets"]}


def test_every_number_has_bounds() -> None:
    models: list[type[BaseModel]] = [Settings, Matrix]
    models += [method_class(name).Settings for name in _BUILT_IN]
    unbounded = []
    while models:
        model = models.pop()
        for name, field in model.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                models.append(kind)
            elif kind in (int, float, int | None, float | None):
                kinds = {type(each).__name__ for each in field.metadata}
                if not (kinds & {"Ge", "Gt"} and kinds & {"Le", "Lt"}):
                    unbounded.append(f"{model.__name__}.{name}")
    assert not unbounded


def test_the_packaged_file_is_sound() -> None:
    settings, matrix = load_settings(None)
    check_methods([*settings.methods, *matrix.compare, settings.fit_teacher.method])
    for name in settings.methods:
        section = method_class(name).Settings
        assert method_section(name, section, None) == section()


def test_nothing_is_compared_twice(tmp_path: Path) -> None:
    for key, values in (("seeds", "[1, 2, 1]"), ("compare", "[clip, capt, clip]")):
        path = tmp_path / f"{key}.yaml"
        path.write_text(f"{key}: {values}\n")
        assert f"{key}: " in refusal(load_settings, path)
        assert "stands there twice" in refusal(load_settings, path)
