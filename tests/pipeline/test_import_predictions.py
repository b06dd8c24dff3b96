"""Predictions of another classifier: from a table to bank and statistics, without any model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from capt_core.artifacts.layout import Layout
from capt_core.artifacts.schemas import (
    CLASSES,
    CONFUSION_BANK,
    CONFUSION_STATISTICS,
    PREDICTIONS,
    REJECTED,
    SAMPLES,
)
from capt_core.artifacts.tables import read_provenance, read_table
from capt_core.data.dataset import load_dataset
from tests.pipeline.commands import capt, contents
from tests.processes import python
from tests.refusals import refusal

ONE_EACH = [f"prepare.proctex_{split}=1" for split in ("train", "val", "test")]
Import = Callable[..., Layout]
ROWS = "path,true,predicted,confidence\n"
FIVE = (
    ROWS + "a/1.jpg,cat,dog,0.9\na/2.jpg,cat,cat,0.8\nb/3.jpg,dog,cat,\n"
    "b/4.jpg,dog,dog,1.0\nc/5.jpg,bird,dog,0.4\n"
)


def run(words: Sequence[str], artifacts: Path) -> None:
    from stages.cli import app

    app([*words, "--artifacts", str(artifacts)], standalone_mode=False)


@pytest.fixture
def imported(tmp_path: Path) -> Import:
    """Import a table, given as its text or a frame, for a data set that has no images."""

    def call(table: str | pl.DataFrame, *words: str, name: str = "table.csv") -> Layout:
        path = tmp_path / name
        if isinstance(table, str):
            path.write_text(table, encoding="utf-8")
        else:
            table.write_parquet(path)
        run(["import-predictions", str(path), "--dataset", "mine", *words], tmp_path / "artifacts")
        return Layout(tmp_path / "artifacts", "mine")

    return call


def test_a_table_alone_gives_the_bank_and_its_statistics(imported: Import) -> None:
    layout = imported(FIVE)
    dataset = load_dataset(layout)
    assert dataset.class_names == ["bird", "cat", "dog"]
    assert dataset.classes["group"].to_list() == ["base"] * 3
    assert dataset.samples["split"].to_list() == ["test"] * 5
    assert len(read_table(REJECTED, layout.rejected)) == 0
    seed = layout.seed(1)
    predictions = read_table(PREDICTIONS, seed.predictions)
    assert predictions["correct"].to_list() == [False, True, False, True, False]
    assert predictions["confidence"].to_list() == [0.9, 0.8, None, 1.0, 0.4]
    assert predictions["true_confidence"].to_list() == [None, 0.8, None, 1.0, None]
    assert predictions["top_classes"].to_list() == [["dog"], ["cat"], ["cat"], ["dog"], ["dog"]]
    assert predictions["top_confidences"].to_list() == [[0.9], [0.8], None, [1.0], [0.4]]
    bank = read_table(CONFUSION_BANK, seed.confusion_bank)
    assert bank["path"].to_list() == ["c/5.jpg", "a/1.jpg", "b/3.jpg"]
    statistics = read_table(CONFUSION_STATISTICS, seed.confusion_statistics)
    told = statistics.select("true_class", "predicted_class", "count", "rate").rows()
    assert told == [("bird", "dog", 1, 1.0), ("cat", "dog", 1, 0.5), ("dog", "cat", 1, 0.5)]
    assert read_provenance(seed.predictions).backbone.startswith("imported:")
    assert "test images" in read_provenance(seed.confusion_bank).note


def test_the_bank_is_of_training_images_where_the_table_has_some(imported: Import) -> None:
    layout = imported(
        "file,Label,SET,Prediction\n1.jpg,cat,test,dog\n2.jpg,cat,train,dog\n"
        "3.jpg,dog,training,dog\n4.jpg,dog,val,cat\n"
    )
    samples = load_dataset(layout).samples
    assert samples["path"].to_list() == ["2.jpg", "3.jpg", "4.jpg", "1.jpg"]
    bank = read_table(CONFUSION_BANK, layout.seed(1).confusion_bank)
    assert bank["path"].to_list() == ["2.jpg"]
    predictions = read_table(PREDICTIONS, layout.seed(1).predictions)
    assert predictions.filter(~pl.col("correct"))["path"].to_list() == ["2.jpg", "4.jpg", "1.jpg"]
    assert read_provenance(layout.seed(1).confusion_bank).note == ""


def test_build_bank_finds_the_same_and_nothing_is_mined(imported: Import) -> None:
    layout = imported(FIVE)
    paths = layout.seed(1)
    tables = (
        (CONFUSION_BANK, paths.confusion_bank),
        (CONFUSION_STATISTICS, paths.confusion_statistics),
    )
    before = [read_table(*table) for table in tables]
    for _, path in tables:
        path.unlink()
    run(["build-bank", "--dataset", "mine"], layout.root)
    assert [read_table(*table).equals(b) for table, b in zip(tables, before, strict=True)]
    assert "test images" in read_provenance(paths.confusion_bank).note
    for stage in ("mine-pairs", "generate-prompts", "mine-samples", "train", "evaluate"):
        said = refusal(run, [stage, "--dataset", "mine"], layout.root)
        assert "without a model to mine pairs from or to train" in said
        assert "test images" in said
    other = imported(FIVE.replace("c/5", "c/6"))
    assert load_dataset(other).samples["path"][4] == "c/6.jpg"


def test_equal_tables_give_equal_bytes_and_seeds_lie_side_by_side(imported: Import) -> None:
    layout = imported(FIVE)
    before = contents(layout.root)
    imported(FIVE)
    assert contents(layout.root) == before
    imported(FIVE.replace("a/1.jpg,cat,dog", "a/1.jpg,cat,bird"), "--seed", "2")
    for seed in (1, 2):
        read_table(PREDICTIONS, layout.seed(seed).predictions, load_dataset(layout).provenance())


def test_no_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(FIVE)
    program = (
        "import sys; from stages.cli import app;"
        f"app(['import-predictions', {str(tmp_path / 'table.csv')!r}, '--dataset', 'mine',"
        f"'--artifacts', {str(tmp_path / 'artifacts')!r}, '--json'], standalone_mode=False);"
        "sys.exit(bool({'torch', 'open_clip'} & set(sys.modules)))"
    )
    done = python("-c", program)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["images"], document["errors"], document["without_prediction"]) == (5, 3, 0)
    assert document["pairs"][0] == {"true_class": "bird", "predicted_class": "dog", "count": 1}


SCORED = {"a": [0.2, 0.7, 0.1], "b": [0.5, 0.3, 0.2]}


@pytest.mark.parametrize("form", ["columns", "object", "list", "jsonl", "parquet", "parquet_list"])
def test_scores_in_every_form(imported: Import, form: str) -> None:
    names = ("bird", "cat", "dog")
    objects = {path: dict(zip(names, row, strict=True)) for path, row in SCORED.items()}
    head, name = "path,true,predicted", "table.csv"
    true, predicted = {"a": "dog", "b": "bird"}, {"a": "cat", "b": "bird"}
    plain = {path: f"{path},{true[path]},{predicted[path]}" for path in SCORED}
    table: str | pl.DataFrame
    if form == "columns":
        columns = ",".join(f"Score_{each}" for each in names)
        lines = [f"{plain[path]},{','.join(map(str, row))}" for path, row in SCORED.items()]
        table = "\n".join([f"{head},{columns}", *lines])
    elif form in ("object", "list"):
        given = objects if form == "object" else SCORED
        table = f"{head},scores\n"
        for path, scores in given.items():
            quoted = json.dumps(scores).replace('"', '""')
            table += f'{plain[path]},"{quoted}"\n'
    elif form == "jsonl":
        name = "table.jsonl"
        rows = [
            {"path": path, "true": true[path], "pred": predicted[path], "probs": objects[path]}
            for path in SCORED
        ]
        table = "\n".join(map(json.dumps, rows))
    else:
        name = "table.parquet"
        listed: list[Any] = [*(objects if form == "parquet" else SCORED).values()]
        table = pl.DataFrame(
            {"path": ["a", "b"], "true": ["dog", "bird"], "predicted": ["cat", "bird"]}
        ).with_columns(pl.Series("scores", listed))
    layout = imported(table, "--set", "infer_teacher.top_classes=2", name=name)
    predictions = read_table(PREDICTIONS, layout.seed(1).predictions)
    assert predictions["confidence"].to_list() == [0.7, 0.5]
    assert predictions["true_confidence"].to_list() == [0.1, 0.5]
    assert predictions["top_classes"].to_list() == [["cat", "bird"], ["bird", "cat"]]
    assert predictions["top_confidences"].to_list() == [[0.7, 0.2], [0.5, 0.3]]


def test_paths_of_another_machine_or_none(imported: Import) -> None:
    layout = imported(ROWS + "/data/photos/a/1.jpg,a,a,\n/data/photos/b/2.jpg,b,a,\n")
    assert load_dataset(layout).samples["path"].to_list() == ["a/1.jpg", "b/2.jpg"]
    assert b"/data/photos" not in layout.samples.read_bytes()
    layout = imported(ROWS + "a\\1.jpg,a,a,\n.\\b\\2.jpg,b,a,\n")
    assert load_dataset(layout).samples["path"].to_list() == ["a/1.jpg", "b/2.jpg"]
    layout = imported(ROWS + "photos/1.jpg,a,a,\nphotos/2.jpg,b,a,\n", "--set", "data.root=photos")
    assert load_dataset(layout).samples["path"].to_list() == ["1.jpg", "2.jpg"]


def test_numbers_are_labels_however_they_are_written(imported: Import) -> None:
    frame = pl.DataFrame(
        {"path": ["1", "2", "3"], "true": [10.0, 2.0, 1.0], "predicted": ["2", "2", "10"]}
    )
    layout = imported(frame, name="table.parquet")
    assert load_dataset(layout).class_names == ["1", "2", "10"]
    statistics = read_table(CONFUSION_STATISTICS, layout.seed(1).confusion_statistics)
    told = statistics.select("true_class", "predicted_class").rows()
    assert told == [("1", "10"), ("10", "2")]


PROBLEMS = {
    "no rows": (ROWS, "a table without rows"),
    "no column": ("path,true\na,b\n", "no column predicted (or prediction, pred"),
    "no true": ("path,predicted\na,b\n", "no column true, and mine is not prepared"),
    "two columns": (
        "path,label,target,pred\na,b,c,d\n",
        "columns label and target may both be what is called true here",
    ),
    "twice": ("path,true,True,pred\na,b,c,d\n", "two columns are called 'true'"),
    "no class": (ROWS + "a.jpg,cat,,0.5\n", "line 2: column predicted holds '', expected a class"),
    "no path": (ROWS + ",cat,cat,0.5\n", "line 2: column path holds '', expected the path"),
    "percent": (ROWS + "a.jpg,cat,cat,93\n", "line 2: column confidence holds '93', expected a"),
    "word": (ROWS + "a.jpg,cat,cat,high\n", "column confidence holds 'high', expected a share"),
    "split": ("path,true,pred,split\na,b,b,fold1\n", "column split holds 'fold1', expected train"),
    "one image twice": (ROWS + "a,b,b,\n./a,b,c,\n", "line 3: './a' has a prediction in line 2"),
    "outside": (ROWS + "../a.jpg,b,b,\n", "line 2: the path '../a.jpg' leads out"),
    "alike": (ROWS + "a,Cat,cat,\n", "prompts could not tell them apart, write them alike"),
    "one number": (ROWS + "a,007,7,\n", "'007' and '7' are one number, but two classes"),
    "behind a quote": (ROWS + 'a,"b"c,b,\n', "line 2: 'bc' goes on behind its closing quotation"),
    "a key twice": (
        'path,true,pred,scores\na,b,b,"{""b"":0.1, ""b"":0.9}"\n',
        "(a key stands there twice)",
    ),
    "a class twice": (
        'path,true,pred,scores\na,b,b,"{""b"":0.1, ""b "":0.9}"\n',
        "two scores of one class",
    ),
    "lists": ('path,true,pred,scores\na,b,b,"[0.5]"\nc,d,d,"[0.5]"\n', "lists of 1 scores, but 2"),
    "order": (
        'path,true,pred,scores\na,b,b,"[0.1, 0.9]"\nc,d,d,"[0.1, 0.9]"\n',
        "line 2: its list of scores is highest for 'd', but 'b' is predicted",
    ),
    "logits": ("path,true,pred,score_b\na,b,b,7.5\n", "line 2: column score_b holds '7.5'"),
    "no JSON": ("path,true,pred,scores\na,b,b,{'b': 1}\n", "expected a JSON object of classes"),
    "both": ("path,true,pred,scores,score_b\na,b,b,[1],1\n", "scores are given twice"),
    "fields": (ROWS + "a.jpg,cat\n", "line 2: fields: 2, the header has 4"),
    "several": (ROWS + 'a.jpg,"[1, 2]",1,\n', "2 labels (multi-label)"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_cannot_be_meant_is_refused(imported: Import, problem: str) -> None:
    table, said = PROBLEMS[problem]
    assert said in refusal(imported, table)


def test_names_in_one_column_and_numbers_in_the_other_are_noticed(
    imported: Import, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(ROWS + "a,cat,0,\nb,dog,1,\n")
    assert "are names in one column and numbers in the other?" in capsys.readouterr().out
    imported(FIVE)
    assert "numbers in the other" not in capsys.readouterr().out


def test_run_does_not_replace_an_import(imported: Import, tmp_path: Path) -> None:
    layout = imported(FIVE)
    before = contents(layout.root)
    words = ["run", "--dataset", "mine", "--set", f"data.root={tmp_path}"]
    said = refusal(run, words, layout.root)
    assert "predictions.parquet: imported (imported:" in said
    assert "give --run NAME to keep both" in said
    assert contents(layout.root) == before


def test_results_of_trained_models_are_not_made_stale(copy: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(FIVE)
    before = contents(copy)
    words = ["import-predictions", str(table), "--dataset", "proctex"]
    said = refusal(run, words, copy)
    assert "models of proctex were trained and tested" in said
    assert "give --run NAME" in said
    words[-1] = "mine"
    run([*words, "--run", "other"], copy)
    assert Layout(copy / "kept/other", "mine").seed(1).predictions.is_file()
    assert {name: contents(copy)[name] for name in before} == before


def test_files_that_are_no_tables(imported: Import, tmp_path: Path) -> None:
    assert "ends in one of .csv, .tsv" in refusal(imported, FIVE, name="table.txt")
    assert "not a readable Parquet file" in refusal(imported, FIVE, name="table.parquet")
    words = ["import-predictions", str(tmp_path / "none.csv"), "--dataset", "mine"]
    assert "none.csv: no such file" in refusal(run, words, tmp_path)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    words[1] = str(tmp_path / "binary.csv")
    assert "binary.csv" in refusal(run, words, tmp_path)
    words = ["import-predictions", str(tmp_path / "table.csv"), "--dataset", "dtd"]
    (tmp_path / "table.csv").write_text(FIVE)
    said = refusal(run, words, tmp_path / "artifacts")
    assert "dtd is a benchmark with classes and splits of its own; first run: capt-stage" in said


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Artifacts of proctex, prepared with few images."""
    capt("prepare", "proctex", tmp_path / "artifacts", ONE_EACH)
    return tmp_path / "artifacts"


def test_rows_are_matched_with_a_prepared_data_set(prepared: Path, tmp_path: Path) -> None:
    layout = Layout(prepared, "proctex")
    samples = read_table(SAMPLES, layout.samples)
    names = read_table(CLASSES, layout.classes)["class_name"].to_list()
    fewshot = {path.name: path.read_bytes() for path in layout.fewshot_lists.iterdir()}
    rows = [
        {
            "image": str(layout.images / path) if row % 2 else path,
            "class": name.upper(),
            # Across the halves, too: each class is taken for the next one.
            "pred": names[(class_id + 1) % len(names)],
        }
        for row, path, class_id, name in samples.with_row_index("row")
        .select("row", "path", "class_id", "class_name")
        .iter_rows()
    ]
    table = tmp_path / "table.jsonl"

    def take(given: list[dict[str, str]]) -> None:
        table.write_text("\n".join(map(json.dumps, given)))
        run(["import-predictions", str(table), "--dataset", "proctex"], prepared)

    take(rows[:-3][::-1])
    assert {path.name: path.read_bytes() for path in layout.fewshot_lists.iterdir()} == fewshot
    assert read_table(SAMPLES, layout.samples).equals(samples)
    predictions = read_table(PREDICTIONS, layout.seed(1).predictions)
    assert predictions["sample_id"].to_list() == list(range(len(samples) - 3))
    bank = read_table(CONFUSION_BANK, layout.seed(1).confusion_bank)
    assert len(bank) == (samples["split"] == "train").sum()
    assert len(read_table(CONFUSION_STATISTICS, layout.seed(1).confusion_statistics)) == len(names)
    other = [*rows[:3], {**rows[3], "image": "nowhere/1.png"}]
    said = refusal(take, other)
    assert "1 of 4 rows are of no image of proctex, the first line 4: 'nowhere/1.png'" in said
    said = refusal(take, [rows[0], {**rows[1], "pred": "tabby"}])
    assert "1 of 2 rows name a class that proctex does not have, the first line 2: 'tabby'" in said
    said = refusal(take, [rows[0], {**rows[1], "class": names[7]}])
    assert f"is {names[7]!r} here and" in said
    said = refusal(take, [rows[1], {**rows[1], "image": samples["path"][1]}])
    assert "has a prediction in line 1 already" in said
    assert len(read_table(PREDICTIONS, layout.seed(1).predictions)) == len(samples) - 3
    # A data set that was prepared anew asks for the table again.
    capt("prepare", "proctex", prepared, [*ONE_EACH, "prepare.proctex_seed=1"])
    said = refusal(run, ["build-bank", "--dataset", "proctex"], prepared)
    assert "imported for other images or classes than there are now" in said
    assert "capt-stage import-predictions FILE --dataset proctex" in said
