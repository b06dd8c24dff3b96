"""Tables in text files: what Python's csv module reads as so many rows is read as so many."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest

from capt_core.data.readers import text_tables
from tests.data.own_images import read_mine, split_of
from tests.refusals import refusal

WHOLE = {"test_share": 0, "val_share": 0}


def classes(
    root: Path, content: str | bytes, name: str = "labels.csv", **settings: object
) -> dict[str, str]:
    """Path to class of what is listed."""
    (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    data = read_mine(root, **{**WHOLE, **settings})
    return {path: data.class_names[label] for path, label, _ in data.samples.iter_rows()}


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ('path,label\na.png,5" nail\nb.png,8" bolt\n', ['5" nail', '8" bolt']),
        ('path,label,note\na.png,x,5" screen\nb.png,y,"7" screen\n', ["x", "y"]),
        ('path,label,note\na.png,x,ok\nb.png,y,"never closed\n', ["x", "y"]),
        ('path,label,note\na.png,x,"two\nlines, really"\nb.png,y,\n', ["x", "y"]),
        ('path,label\na.png,"x, ""y"" and z"\nb.png,w\n', ['x, "y" and z', "w"]),
        ("path,label\ra.png,x\rb.png,y", ["x", "y"]),
        ("path,label\r\na.png,x\nb.png,y\r\n", ["x", "y"]),
        ("\ufeffPath;Label;Size\na.png;x;1,5\nb.png;y;2,5\n", ["x", "y"]),
        ("sep=;\r\npath;label\r\na.png;x\r\nb.png;y\r\n", ["x", "y"]),
        ("path|label\na.png|x\nb.png|y\n", ["x", "y"]),
        ('path, label\na.png , "x"\n b.png,  y \n', ["x", "y"]),
        ("# made by hand\n#path,label\na.png,x\nb.png,y\n", ["x", "y"]),
        ("\npath,label\n\na.png,x\n  \n,\nb.png,y\n\n", ["x", "y"]),
        ("path,label,,\na.png,x\nb.png,y,,,\n", ["x", "y"]),
        (",path,label\n0,a.png,x\n1,b.png,y\n", ["x", "y"]),
        ("path,label,x,x\na.png,x,1,2\nb.png,y,3,4\n", ["x", "y"]),
        ("path,label\na.png,10.0\nb.png,5.0\n", ["10", "5"]),
        ("path,label\na.png,['x']\nb.png,[y]\n", ["x", "y"]),
        ("path,label,class_name\na.png,0,x\nb.png,1,y\n", ["x", "y"]),
        ("path,label,class_name\na.png,b,x\nb.png,a,y\n", ["b", "a"]),
        ("path,label\na.png,caf\u00e9\nb.png,y\n".encode("utf-16"), ["caf\u00e9", "y"]),
    ],
)
def test_a_table_is_read_row_by_row(
    tmp_path: Path, content: str | bytes, labels: list[str]
) -> None:
    assert classes(tmp_path, content) == dict(zip(["a.png", "b.png"], labels, strict=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('path,label\na.png,x\nb.png,"x\nc.png,x\nd.png,x"\n', "line 3: a quotation mark takes in"),
        ('path,label,n\na.png,x,"wide\nb.png,y,wide"\n', "line 2: a quotation mark takes in the"),
        ('path,label,n\na.png,x,"wide\nb.png,y,wide\n', "and all up to line 3; remove it"),
        ('path,label\n"a\n.png",x\n', "line 2: a quotation mark takes in"),
        ("path,label,n\na.png,x,1\nb.png,y\n", "line 3: fields: 2, the header has 3"),
        ("path,label\na.png,x,1\n", "line 2: fields: 3, the header has 2; quote a field that"),
        ("path;label\na.png;x;1\n", "holds the delimiter ;"),
        ("path,label,Label\na.png,x,y\n", "two columns are called 'label'"),
        ("path,label\n\0.png,x\n", "line 2 holds NUL characters"),
        (b"path,label\na.png,x\nb.png,\xe9\n", "line 3 is not valid UTF-8; save it as UTF-8"),
        (b"\xff\xfep", "not valid UTF-16; save it as UTF-8"),
        ("a.png,x\nb.png,y\n", "no header, its first line is a row ('a.png', ...); put"),
        ("a.png\tx\ttrain\n", "such as path,label,split"),
        ("# a comment\n", "an empty table"),
        ("path,label\n# a.png\n", "line 2: fields: 1"),
        (
            "path,label,n\na.png,x," + 140_000 * "x",
            "line 2: a field of more than 131072 characters",
        ),
        ("path,label\n" + 5_000_000 * "x", "line 2 is longer than"),
        ("version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not the table"),
        ("path,label\na.png,\"['x', 'y']\"\n", "line 2: 2 labels (multi-label)"),
        ("path,label\na.png,nan\nb.png,1.0\n", "line 2: 'a.png' has no label"),
        (
            "path,label\nftp://x.org/a.png,x\n",
            "ftp://x.org/a.png: an address that is not read from a list",
        ),
        (f"path,label\n{5000 * 'a'},x\n", "line 2: column 'path' holds the image as text"),
        ("path,fine_label,coarse_label\na.png,x,y\n", "--set data.label_column=fine_label"),
        ("path,label,class_name\na.png,0,x\nb.png,1,x\n", "do not go together one to one"),
        ("name,label\na.bin,x\n", "name it with --set data.image_column=COLUMN"),
    ],
)
def test_what_is_refused_names_its_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    refused = refusal(classes, tmp_path, content)
    assert message in refused
    assert f"{tmp_path}/labels.csv" in refused
    assert len(refused) - len(str(tmp_path)) < 300


def test_a_quotation_mark_takes_no_row_into_quarantine(tmp_path: Path) -> None:
    content = 'path,label\na.png,x\nb.png,"x\nc.png,x"\nd.png,x\n'
    refused = refusal(classes, tmp_path, content, on_bad_image="quarantine")
    assert "line 3: a quotation mark takes in the line end and all up to line 4" in refused


def test_settings_name_the_columns(tmp_path: Path) -> None:
    content = "id,fine,coarse\na.png,rose,flower\nb.png,oak,tree\n"
    meant = {"a.png": "flower", "b.png": "tree"}
    found = classes(tmp_path, content, image_column="ID", label_column="coarse")
    assert found == meant
    refused = refusal(classes, tmp_path, content, image_column="id", label_column="course")
    assert "data.label_column='course', but its columns are id, fine, coarse" in refused


def test_rows_of_which_none_is_left_say_why(tmp_path: Path) -> None:
    content = "path,label\na.png,nan\nb.png,\n"
    refused = refusal(classes, tmp_path, content, on_bad_image="quarantine")
    assert "all 2 are left out, the first as 'a.png' has no label" in refused


def test_the_table_of_a_later_split_is_named(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("path,label\na.png,x\nb.png,x\n")
    content = "path,label\nc.png,x\n\na.png,x\n"
    refused = refusal(classes, tmp_path, content, "train.csv")
    assert f"{tmp_path}/train.csv: line 4: 'a.png' is listed a second time" in refused


def test_splits_are_the_first_folders_of_the_paths(tmp_path: Path) -> None:
    lines = ["file_name,label", "train/a.png,x", "train/b.png,y", "test/c.png,x", "test/d.png,y"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    data = read_mine(tmp_path, **WHOLE)
    assert split_of(data) == {line.partition(",")[0]: line.partition("/")[0] for line in lines[1:]}
    assert any("splits are the first folders of the paths" in note for note in data.notes)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"file_name": "a.png", "label": "x", "box": {"a": [1]}}', "", "{}"], "line 3: an empty"),
        (['{"file_name": "a.png", "label": "x"}', "{"], "line 2: not a JSON object"),
        (["[1]"], "line 1: expected a JSON object, found [1]"),
        (["[" * 100_000], "line 1: not a JSON object (maximum recursion"),
        (['{"label": ' + 5000 * "1" + "}"], "line 1: not a JSON object (Exceeds the limit"),
        (['{"label": "x", "label": "y"}'], "a key stands there twice"),
        (['{"file_name": "a.png", "label": ["x", "y"]}'], "line 1: 2 labels (multi-label)"),
        (['{"file_name": "a.png", "label": 0.5}'], "line 1: label 0.5 is neither text nor a"),
        (['{"file_name": ["a.png"], "label": 1}'], "line 1: column 'file_name' holds a list"),
        (
            [r'{"path": "a.png", "label": "\ud800"}'],
            "line 1: not a JSON object (escapes that are no",
        ),
        (["{}"], "it has no columns"),
    ],
)
def test_json_lines_are_refused_by_their_line(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    gc.collect()  # finalizers of other tests' garbage cannot run where the stack is full
    assert message in refusal(classes, tmp_path, "\n".join(lines), "metadata.jsonl")


def test_json_lines_are_a_table(tmp_path: Path) -> None:
    rows = [{"file_name": "a.png", "label": 1.0}, {"label": [3], "file_name": "b.png", "x": None}]
    content = "\n".join(json.dumps(row) for row in rows)
    assert classes(tmp_path, content, "metadata.jsonl") == {"a.png": "1", "b.png": "3"}


def test_a_table_without_permission_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("path,label\na.png,x\n")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    refused = refusal(text_tables.text_columns, path)
    assert "cannot be read (Permission denied); check its permissions" in refused
