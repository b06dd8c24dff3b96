"""The registry: what is known by name, and how an entry or a name is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from capt_core.data.layout_hints import layout_hints
from capt_core.data.readers import read_split
from capt_core.data.registry import BENCHMARKS as BENCHMARKS_FILE
from capt_core.data.registry import (
    DATASETS,
    DatasetSpec,
    RemoteFile,
    check_dataset_name,
    check_template,
    dataset_spec,
    read_registry,
)
from capt_core.errors import CaptError
from capt_core.params import Data
from tests.refusals import refusal

BENCHMARKS = {  # classes, has training images (method facts 5.1)
    "imagenet": (1000, True),
    "caltech101": (100, True),
    "oxford_pets": (37, True),
    "stanford_cars": (196, True),
    "flowers102": (102, True),
    "food101": (101, True),
    "fgvc_aircraft": (100, True),
    "sun397": (397, True),
    "dtd": (47, True),
    "eurosat": (10, True),
    "ucf101": (101, True),
    "imagenet_v2": (1000, False),
    "imagenet_sketch": (1000, False),
    "imagenet_a": (200, False),
    "imagenet_r": (200, False),
}


def test_the_fields_fifteen_benchmarks_are_known() -> None:
    found = {name: (spec.classes, spec.has_training) for name, spec in DATASETS.items()}
    # "Another benchmark" of the README adds to them.
    assert found.items() >= BENCHMARKS.items()


@pytest.mark.parametrize("spec", DATASETS.values(), ids=lambda spec: str(spec.name))
def test_every_known_data_set_is_described(spec: DatasetSpec) -> None:
    assert DATASETS[spec.name] is spec
    assert spec.template.count("{}") == 1
    assert spec.domain
    assert re.fullmatch(r"[a-z0-9_-]+", spec.name)
    if spec.name in BENCHMARKS:
        assert {file.name for file in spec.files} >= {spec.split} - {None, "variants.txt"}
        assert spec.licence


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dtdd", "did you mean dtd?"),
        ("oxford_flowers", "did you mean flowers102?"),
        ("OxfordFlowers", "did you mean flowers102?"),
        ("FGVCAircraft", "did you mean fgvc_aircraft?"),
        ("imagenetv2", "did you mean imagenet_v2?"),
        ("bolts", "known: proctex, caltech101"),
    ],
)
def test_an_unknown_name_is_refused(name: str, hint: str) -> None:
    message = refusal(check_dataset_name, name, Data(), listed=False)
    assert repr(name) in message
    assert hint in message


def test_a_name_of_ones_own_needs_a_root_or_a_place_in_the_settings() -> None:
    check_dataset_name("bolts", Data(root="/photos"), listed=False)
    check_dataset_name("bolts", Data(), listed=True)
    # Close to a benchmark's name: only on purpose.
    with pytest.raises(CaptError, match="did you mean dtd"):
        check_dataset_name("dtd2", Data(root="/photos"), listed=False)
    check_dataset_name("dtd2", Data(root="/photos"), listed=True)
    check_dataset_name("dtd2", Data(root="/photos", layout="class_folders"), listed=False)


@pytest.mark.parametrize("name", ["runs", "evaluations", "my photos", "../x", "A", ""])
def test_a_name_that_cannot_be_a_folder_is_refused(name: str) -> None:
    assert "choose another" in refusal(check_dataset_name, name, Data(root="/photos"), listed=True)


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{0}", "{name}", "a {} {", "}{}"])
def test_a_template_has_one_place_for_the_name(template: str) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        check_template(template)


SIXTEENTH = """
birds:
  reader: split_json
  folder: cub
  images: images
  split: split_zhou_CUB.json
  template: a photo of a {}, a type of bird.
  domain: birds
"""


def test_a_sixteenth_is_an_entry_and_no_code(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text(SIXTEENTH)
    spec = read_registry(tmp_path / "more.yaml")["birds"]
    (tmp_path / "cub" / "images").mkdir(parents=True)
    (tmp_path / "cub" / "split_zhou_CUB.json").write_text(
        '{"train": [["a/1.jpg", 0, "albatross"]], "val": [], "test": [["a/2.jpg", 0, "albatross"]]}'
    )
    data, images = read_split(spec, Data(root=str(tmp_path)))
    assert data.samples.rows() == [("a/1.jpg", 0, "train"), ("a/2.jpg", 0, "test")]
    assert (data.class_names, images) == (["albatross"], tmp_path / "cub" / "images")


CLASS_FOLDERS = """
bolts:
  reader: class_folders
  folder: bolts
  splits: {train: train, test: val}
"""


def test_a_sixteenth_in_class_folders_needs_no_image_folder(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text(CLASS_FOLDERS)
    spec = read_registry(tmp_path / "more.yaml")["bolts"]
    for path in ("train/hex/1.jpg", "train/wood/1.jpg", "val/hex/2.jpg"):
        (tmp_path / "bolts" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bolts" / path).touch()
    data, images = read_split(spec, Data(root=str(tmp_path)))
    assert images == tmp_path / "bolts"
    assert data.class_names == ["hex", "wood"]
    assert data.samples["path"].to_list() == [
        "train/hex/1.jpg",
        "train/wood/1.jpg",
        "val/hex/2.jpg",
    ]
    (tmp_path / "bolts/val").rename(tmp_path / "bolts/test")
    [hint] = layout_hints(spec, tmp_path)
    assert hint.problem == f"the test class folders are in {tmp_path / 'bolts/test'}"
    assert hint.command.endswith(f"ln -s {tmp_path / 'bolts/test'} {tmp_path / 'bolts/val'}")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "../evil"},
        {"name": "/evil"},
        {"unpack": {"a/": "../b/"}},
        {"unpack": {"a/": "/b/"}},
        {"class_archives": "x/../../b"},
    ],
)
def test_a_file_outside_the_data_sets_folder_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"without folders|leads out"):
        RemoteFile.model_validate({"name": "a.zip", **wrong})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("split_json", "split_jso", "birds: reader"),
        ("  folder: cub\n", "", "birds: folder is missing; reader split_json needs it"),
        ("a {},", "a bird,", "birds: template"),
        ("domain:", "domian:", "birds: domian"),
        ("birds:", "My Birds:", "My Birds: expected a lower-case name"),
        ("birds:\n", "birds: [\n", "not valid YAML"),
        (SIXTEENTH, "birds: 3", "birds: expected"),
        (SIXTEENTH, "- birds", "expected data-set names"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "more.yaml"
    path.write_text(SIXTEENTH.replace(old, new))
    found = refusal(read_registry, path)
    assert str(path) in found
    assert message in found


def test_what_is_not_known_is_the_users_own() -> None:
    spec = dataset_spec("bolts")
    assert (spec.reader, spec.folder, spec.template) == ("own", "", "a photo of a {}.")


def test_only_preparing_depends_on_the_list_of_benchmarks(project: Path) -> None:
    # What later stages need of an entry is in the tables; a new entry must not rerun them.
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    name = BENCHMARKS_FILE.relative_to(project).as_posix()
    assert [stage for stage, entry in stages.items() if name in entry["deps"]] == ["prepare"]
