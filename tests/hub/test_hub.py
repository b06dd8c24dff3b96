"""Models go to the Hub's layout and come back; nothing else comes back."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from capt_core.artifacts.tensors import load_tensors, write_tensors
from capt_core.hub.client import pull, push
from capt_core.hub.layout import CARD, CONFIG, MODEL, check_repository, write_repository
from capt_core.methods.fitting import fit_method
from capt_core.methods.model_file import load_model
from capt_core.methods.task import Task
from capt_core.methods.trained import TrainedModel
from tests.hub.server import COMMIT, Hub, running
from tests.methods.toy_task import quick
from tests.refusals import refusal

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"


@pytest.fixture(scope="module")
def model(task: Task) -> TrainedModel:
    return fit_method(quick("coop"), task)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with running() as hub:
        yield hub


@pytest.fixture
def folder(model: TrainedModel, tmp_path: Path) -> Path:
    write_repository(model, tmp_path / "layout", "me/mine")
    return tmp_path / "layout"


def test_a_model_goes_there_and_back(
    hub: Hub, model: TrainedModel, folder: Path, tmp_path: Path
) -> None:
    assert push(folder, "me/mine", endpoint=hub.address).endswith(f"/commit/{COMMIT}")
    assert hub.files == {name: (folder / name).read_bytes() for name in (MODEL, CONFIG, CARD)}
    pull("me/mine", tmp_path / "got", endpoint=hub.address)
    assert (tmp_path / "got").read_bytes() == (folder / MODEL).read_bytes()
    pixels = torch.rand(2, 3, 64, 64)
    assert torch.equal(load_model(tmp_path / "got")(pixels), model(pixels))
    assert {given for _, _, given in hub.asked} == {f"Bearer {TOKEN}"}
    # Of what else the repository may hold, nothing is asked for.
    read = {path for method, path, _ in hub.asked if method in ("GET", "HEAD")}
    assert all(path.endswith(MODEL) for path in read if "/resolve/" in path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["got", "layout"]


def test_a_revision_is_asked_for(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.files[MODEL] = (folder / MODEL).read_bytes()
    pull("me/mine", tmp_path / "got", revision="v1.0", endpoint=hub.address)
    assert any("/resolve/v1.0/" in path for _, path, _ in hub.asked)


def test_without_a_token_nothing_is_sent(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert "export HF_TOKEN=" in refusal(push, folder, "me/mine", endpoint=hub.address)
    assert hub.asked == []
    hub.files[MODEL] = (folder / MODEL).read_bytes()
    pull("me/mine", tmp_path / "got", endpoint=hub.address)
    assert {given for _, _, given in hub.asked} == {""}


@pytest.mark.parametrize("status", [401, 403, 404, 400])
def test_what_the_service_refuses_is_told_without_the_token(
    status: int, hub: Hub, folder: Path, tmp_path: Path
) -> None:
    hub.status = status
    for call in (
        lambda: push(folder, "me/mine", endpoint=hub.address),
        lambda: pull("me/mine", tmp_path / "got", endpoint=hub.address),
    ):
        message = refusal(call)
        assert "me/mine: " in message
        assert TOKEN not in message
    assert not (tmp_path / "got").exists()


def test_too_large_a_model_is_not_fetched(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.files[MODEL], hub.size = (folder / MODEL).read_bytes(), 10**12
    assert "1000 GB" in refusal(pull, "me/mine", tmp_path / "got", endpoint=hub.address)
    assert not any(method == "GET" and "/resolve/" in path for method, path, _ in hub.asked)


def test_a_layout_in_a_folder_is_taken(folder: Path, tmp_path: Path) -> None:
    pull(str(folder), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == (folder / MODEL).read_bytes()
    assert "without any" in refusal(pull, str(folder), tmp_path / "x", revision="main")
    assert "missing" in refusal(pull, str(tmp_path), tmp_path / "x")


def test_only_what_loads_is_kept(folder: Path, model: TrainedModel, tmp_path: Path) -> None:
    file, out = folder / MODEL, tmp_path / "got"
    saved = load_tensors(file, "")
    tensors = {name: value.clone() for name, value in saved.tensors.items()}
    facts = saved.facts
    for damage in (
        lambda: file.write_bytes(pickle.dumps({"a": 1})),
        lambda: file.write_bytes(b""),
        lambda: write_tensors(file, {}, facts, model.provenance),
        lambda: write_tensors(file, tensors, {"format": 1}, model.provenance),
    ):
        damage()
        message = refusal(pull, str(folder), out)
        assert message.startswith(f"{folder}, {MODEL}: ")
        assert not out.exists()


@pytest.mark.parametrize(
    "name", ["mine", "a/b/c", "/b", "a/", "../b", "a/..", "a b/c", "a/b.git", "a--b/c", "a/é", ""]
)
def test_names_that_are_none(name: str) -> None:
    assert "owner/name" in refusal(check_repository, name)


def test_names_of_repositories() -> None:
    assert [check_repository(name) for name in ("me/mine", "A-1/b_c.d")] == ["me/mine", "A-1/b_c.d"]


def test_equal_models_give_equal_bytes(folder: Path, model: TrainedModel, tmp_path: Path) -> None:
    write_repository(model, tmp_path / "again", "me/mine")
    for name in (MODEL, CONFIG, CARD):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    front = re.match(r"---\n(.*?)---\n", (folder / CARD).read_text(), re.DOTALL)
    assert front is not None
    found = yaml.safe_load(front[1])
    assert (found["library_name"], found["pipeline_tag"]) == ("capt-stage", "image-classification")
    assert "license" not in found
