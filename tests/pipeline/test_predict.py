"""The command predict: every kind of input, bad images, interruption."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

import polars as pl
import pytest

from capt_core import load_model
from capt_core.artifacts.blocks import Blocks
from capt_core.artifacts.tensors import load_tensors, write_tensors
from capt_core.errors import CaptError
from capt_core.methods import predicting
from capt_core.methods.predicting import PREDICT_COLUMNS, predict_blocks
from stages import predict
from stages.cli import app
from tests.conftest import PROJECT
from tests.refusals import refusal


@pytest.fixture(autouse=True)
def _few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "_BLOCK", 2)


@pytest.fixture
def model(small: Path) -> Path:
    return small / "proctex/seed1/capt/model.safetensors"


@pytest.fixture
def photos(small: Path, tmp_path: Path) -> Path:
    """Five images and one that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    images = sorted((small / "proctex/images").rglob("*.png"))
    for number, source in enumerate(images[:: len(images) // 5][:5]):
        shutil.copy(source, folder / f"{number}.png")
    (folder / "2b.jpg").write_text("no image")
    return folder


def run(*words: object) -> None:
    app(
        ["predict", *map(str, words), "--params", str(PROJECT / "params.yaml")],
        standalone_mode=False,
    )


def document(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    run(*words, "--json")
    return json.loads(capsys.readouterr().out)


def test_every_image_has_its_row(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = photos.parent / "out.parquet"
    run(model, photos, "--out", out)
    said = capsys.readouterr()
    table = pl.read_parquet(out)
    assert table.columns == list(PREDICT_COLUMNS)
    assert table["path"].to_list() == sorted(map(str, photos.iterdir()))
    assert table["prediction"].is_null().to_list() == [False] * 3 + [True] + [False] * 2
    assert table["problem"][3] == "not an image"
    assert "6 images -> " in said.out
    assert "1 of 6 images could not be used" in said.err
    assert [path.name for path in photos.parent.iterdir() if "out" in path.name] == ["out.parquet"]
    run(model, photos, "--out", out.with_suffix(".csv"))
    text = pl.read_csv(out.with_suffix(".csv"))
    assert text["confidence"].to_list() == pytest.approx(table["confidence"].to_list())
    assert text["top_classes"][0] == "; ".join(table["top_classes"][0])


def test_tables_files_and_folders_say_the_same(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name for path in photos.iterdir())
    held = [{"bytes": (photos / name).read_bytes(), "path": name} for name in names]
    pl.DataFrame({"path": names}).write_csv(photos / "list.csv")
    pl.DataFrame({"image": held}).write_parquet(photos.parent / "held.parquet")
    pl.DataFrame({"file": [f"photos/{name}" for name in names]}).write_ndjson(
        photos.parent / "list.jsonl"
    )
    answers = [
        pl.DataFrame(document(capsys, model, *given)["rows"]).drop("path", "problem")
        for given in (
            [photos],
            [photos / name for name in names],
            [photos / "list.csv"],
            [photos.parent / "held.parquet"],
            [photos.parent / "list.jsonl", "--root", photos.parent],
        )
    ]
    assert all(answers[0].equals(other) for other in answers[1:])


def test_json_is_one_document(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(capsys, model, photos)
    assert [row["path"] for row in found["rows"]] == sorted(map(str, photos.iterdir()))
    assert (found["images"], found["problems"]) == (6, 1)
    assert found["changed"] == sum(bool(row["changed"]) for row in found["rows"])
    assert found["calibration"]["images"] == 15 * 4
    written = document(capsys, model, photos, "--out", photos.parent / "out.csv")
    assert "rows" not in written
    assert written["out"] == str(photos.parent / "out.csv")


def test_people_read_lines(model: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(model, photos)
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 6
    assert f"{photos / '2b.jpg'}: not classified (" in said.out
    assert "answers differ from those of CLIP (zero-shot)" in said.err


def test_a_model_says_what_it_is_without(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str], small: Path
) -> None:
    saved = load_tensors(model, "")
    facts = {key: value for key, value in saved.facts.items() if key != "calibration"}
    missed = "without whitening: no two images of a class differ"
    facts["model"] = facts["model"] | {"left_out": [missed]}
    bare = photos.parent / "bare.safetensors"
    write_tensors(bare, saved.tensors, facts, saved.provenance)
    found = document(capsys, bare, photos)
    assert found["calibration"] is None
    assert found["left_out"] == [missed]
    assert {row["unsure"] for row in found["rows"]} == {None}
    calibrated = document(capsys, model, photos)["rows"]
    assert [row["prediction"] for row in found["rows"]] == [row["prediction"] for row in calibrated]
    run(bare, photos)
    said = capsys.readouterr().err
    assert "confidences are not calibrated" in said
    assert f"the model is {missed}" in said


class _Killed(BaseException):
    pass


def interrupted(monkeypatch: pytest.MonkeyPatch, blocks: int, *words: object) -> None:
    """Run the command until it has classified some blocks."""
    real = predict.__dict__["predict_blocks"]

    def until(*arguments: Any, **options: Any) -> Iterator[pl.DataFrame]:
        yield from islice(real(*arguments, **options), blocks)
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(predict, "predict_blocks", until)
        with pytest.raises(_Killed):
            run(*words)


@pytest.fixture
def classified(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Number of images that were classified since it was asked last."""
    seen = list[int]()

    def counting(*arguments: Any, **options: Any) -> Iterator[pl.DataFrame]:
        for answers in predict_blocks(*arguments, **options):
            seen.append(len(answers))
            yield answers

    monkeypatch.setattr(predict, "predict_blocks", counting)

    def since() -> int:
        count = sum(seen)
        seen.clear()
        return count

    return since


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    ending: str,
    model: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    classified: Callable[[], int],
) -> None:
    whole, parts = (photos.parent / f"{name}.{ending}" for name in ("whole", "parts"))
    run(model, photos, "--out", whole)
    assert classified() == 6
    interrupted(monkeypatch, 2, model, photos, "--out", parts)
    assert not parts.exists()
    assert classified() == 4
    run(model, photos, "--out", parts)
    assert classified() == 2
    assert "going on: 4 images are classified" in capsys.readouterr().out
    assert parts.read_bytes() == whole.read_bytes()
    assert not list(photos.parent.glob("*.partial"))


def test_shards_and_the_call_that_merges_them_write_the_same_bytes(
    model: Path, photos: Path, classified: Callable[[], int]
) -> None:
    whole, parts = (photos.parent / f"{name}.csv" for name in ("whole", "parts"))
    run(model, photos, "--out", whole)
    classified()
    # Of three blocks; the last shard has none.
    for shard, images in (("2/4", 2), ("1/4", 2), ("1/4", 0), ("4/4", 0)):
        run(model, photos, "--out", parts, "--shard", shard)
        assert classified() == images
        assert not parts.exists()
    run(model, photos, "--out", parts)
    assert classified() == 2
    assert parts.read_bytes() == whole.read_bytes()
    assert not [path for path in photos.parent.iterdir() if "parts." in path.name[:-4]]
    for words in (["--shard", "1/2"], ["--out", parts, "--shard", "3/2"], ["--shard", "a"]):
        with pytest.raises(CaptError, match="--shard"):
            run(model, photos, *words)


@pytest.mark.parametrize("change", ["images", "top", "model"])
def test_other_inputs_start_anew(
    change: str,
    model: Path,
    photos: Path,
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
    classified: Callable[[], int],
) -> None:
    out = photos.parent / "out.csv"
    interrupted(monkeypatch, 2, model, photos, "--out", out)
    classified()
    words: list[object] = [model, photos, "--out", out]
    if change == "images":
        shutil.copy(photos / "0.png", photos / "9.png")
    elif change == "top":
        words += ["--top", 3]
    else:
        words[0] = small / "proctex/seed1/clip/model.safetensors"
    run(*words)
    assert classified() == (7 if change == "images" else 6)


def finished_with_four(model: Path, photos: Path, out: Path, classified: Callable[[], int]) -> None:
    """An interrupted run is ended, with the bytes of one that was not.

    It classifies the changed image's block and the one that was missing; not that of the others.
    """
    classified()
    run(model, photos, "--out", out)
    assert classified() == 4
    fresh = photos.parent / "fresh.csv"
    run(model, photos, "--out", fresh)
    assert out.read_bytes() == fresh.read_bytes()


def test_an_image_that_was_changed_meanwhile_is_classified_again(
    model: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    classified: Callable[[], int],
) -> None:
    out = photos.parent / "out.csv"
    interrupted(monkeypatch, 2, model, photos, "--out", out)
    shutil.copy2(photos / "4.png", photos / "0.png")
    finished_with_four(model, photos, out, classified)


def test_an_image_that_is_changed_while_it_waits_is_classified_again(
    model: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    classified: Callable[[], int],
) -> None:
    out = photos.parent / "out.csv"
    write = Blocks.write

    def late(kept: Blocks, number: int, *arguments: Any) -> None:
        if number == 1:
            shutil.copyfile(photos / "4.png", photos / "2.png")
        write(kept, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Blocks, "write", late)
        interrupted(patch, 2, model, photos, "--out", out)
    finished_with_four(model, photos, out, classified)


def test_the_next_images_are_read_while_some_are_encoded(
    model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, asked = Event(), list[int]()
    real = predicting.__dict__["transformed_or_problem"]

    def noted(image: Path, **options: Any) -> Any:
        if image.name == "2.png":
            opened.set()
        return real(image, **options)

    monkeypatch.setattr(predicting, "transformed_or_problem", noted)

    def blocks() -> Iterator[list[Path]]:
        for number in range(5):
            asked.append(number)
            yield [photos / f"{number}.png"] * number  # the first is empty

    tables = predict_blocks(load_model(model), blocks(), on_bad_image="report", batch_size=2)
    assert [len(next(tables)) for _ in range(2)] == [0, 1]
    assert asked == [0, 1, 2, 3]
    assert opened.wait(60)
    assert [len(answers) for answers in tables] == [2, 3, 4]


def test_an_image_that_went_meanwhile_is_told(
    model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, out = photos / "list.csv", photos.parent / "out.csv"
    pl.DataFrame({"path": ["0.png", "1.png", "2.png"]}).write_csv(table)
    interrupted(monkeypatch, 1, model, table, "--out", out)
    (photos / "1.png").unlink()
    run(model, table, "--out", out)
    assert pl.read_csv(out)["problem"].is_null().to_list() == [True, False, True]


def test_only_bad_images_are_a_mistake(model: Path, photos: Path) -> None:
    out = photos.parent / "out.csv"
    message = refusal(run, model, photos / "2b.jpg", "--out", out)
    assert "none of 1 images could be used" in message
    assert f"see the column problem of {out}" in message
    assert pl.read_csv(out)["problem"].null_count() == 0


def test_what_is_read_is_not_written_over(model: Path, photos: Path) -> None:
    table = photos / "list.csv"
    pl.DataFrame({"path": ["0.png"]}).write_csv(table)
    text = table.read_bytes()
    (photos / "link.csv").symlink_to(table)
    for out in (table, photos / "link.csv"):
        assert "one of the files to read" in refusal(run, model, table, "--out", out)
    assert table.read_bytes() == text
    assert "ends in .csv or .parquet" in refusal(run, model, photos, "--out", "out.txt")
    (photos / "folder.csv").mkdir()
    assert "a folder" in refusal(run, model, photos, "--out", photos / "folder.csv")


def test_evaluate_writes_calibrated_confidences(small: Path) -> None:
    runs = small / "proctex/seed1"
    after = pl.read_parquet(runs / "capt/predictions.parquet")
    temperature = load_tensors(runs / "capt/model.safetensors", "").facts["calibration"][
        "temperature"
    ]
    assert after["calibrated_confidence"].null_count() == 0
    spread = (after["calibrated_confidence"] - after["confidence"]).to_numpy()
    # A temperature above 1 lowers every confidence, one below raises it.
    assert (spread * (temperature - 1) <= 1e-9).all()
    assert (abs(spread) > 1e-6).any()
