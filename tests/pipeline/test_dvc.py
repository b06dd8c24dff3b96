"""The generated pipeline files are current and say what the stages do."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from capt_core.artifacts.schemas import ALL_TABLES
from capt_core.study import variants
from stages import code_files, pipeline
from stages.commands import PIPELINE
from stages.stage import Place
from stages.study import seeded_stages
from tests.conftest import PROJECT

DVC: dict[str, Any] = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
STUDY: dict[str, Any] = yaml.safe_load((PROJECT / "study" / "dvc.yaml").read_text())["stages"]


def test_generated_files_are_current() -> None:
    for name, text in pipeline.written_files().items():
        current = (PROJECT / name).read_text(encoding="utf-8") == text
        assert current, f"{name} is not current; run: make pipeline"


def test_one_word_names_stage_file_and_section() -> None:
    sections = yaml.safe_load((PROJECT / "params.yaml").read_text())
    names = [name.replace("-", "_") for name in PIPELINE]
    assert list(DVC) == ["code", *PIPELINE]
    assert [name for name in sections if name in names] == names


def test_every_input_is_an_output_or_a_file_of_the_project() -> None:
    outputs = {out for stage in DVC.values() for out in stage["outs"]}
    for name, stage in DVC.items():
        for dep in stage["deps"]:
            if dep.startswith("artifacts/"):
                produced = any(
                    out == dep or out.startswith(f"{dep}/") or dep.startswith(f"{out}/")
                    for out in outputs
                )
                assert produced, f"{name} reads {dep}, which no stage writes"
            else:
                assert (PROJECT / dep).exists(), f"{name} depends on {dep}, which is not there"


def test_every_table_is_written_by_the_stage_that_its_schema_names() -> None:
    at = Place.of(Path(), "<dataset>", "<method>", "<S>", "<K>")
    for table in ALL_TABLES:
        # A record of a run, and what an interrupted stage goes on from, are no artifacts.
        if table.name not in ("training_speed", "image_feature_parts"):
            outputs = pipeline.declared(table.stage).outputs(at)
            path = Path(table.path)
            assert {path, *path.parents} & set(map(Path, outputs)), table.name


def test_answers_of_language_models_are_no_outputs() -> None:
    # DVC deletes outputs before a stage runs and rolls them back with the lock file.
    for name, stage in DVC.items():
        assert not any("cache" in str(out) for out in stage["outs"]), name


def test_without_sources_a_stage_depends_on_artifacts_alone() -> None:
    stages = yaml.safe_load(pipeline.dvc_yaml(with_code=False))["stages"]
    assert list(stages) == list(PIPELINE)
    for name, stage in stages.items():
        assert all(
            dep.startswith("artifacts/${") for dep in stage.get("deps", ()) if name != "report"
        )
        sources = [f"artifacts/code/{name}.txt", *pipeline.declared(name).sources]
        assert {**stage, "deps": [*sources, *stage.get("deps", ())]} == DVC[name]


def test_imports_are_followed_in_every_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "capt_core/__init__.py": "from capt_core import errors\nNAMES = 'capt_core.api:fit'\n",
        "capt_core/errors.py": "class CaptError(Exception): ...\n",
        "capt_core/api.py": "x = 1\n",
        "capt_core/checked.py": "x = 1\n",
        "capt_core/data/__init__.py": '"""Only a docstring."""\n',
        "capt_core/data/images.py": "def f():\n    from ..text.words import x\n",
        "capt_core/text/words.py": "x = 1\n",
        "capt_core/methods/registry.py": "METHODS = ['capt_core.methods.clip:Clip']\n",
        "capt_core/methods/clip.py": "import capt_core.features.store\n",
        "capt_core/features/store.py": "x = 1\n",
        "capt_core/unused/part.py": "x = 1\n",
        "stages/__init__.py": "",
        "stages/invocation.py": "from capt_core.methods import registry\n",
        "stages/mine_pairs.py": (
            "from typing import TYPE_CHECKING\n"
            "from capt_core.data.images import f\n"
            "from .invocation import x\n"
            "if TYPE_CHECKING:\n    from capt_core import checked\n"
        ),
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(code_files, "ROOT", tmp_path)
    assert code_files.code_paths(["mine-pairs"]) == [
        "capt_core/__init__.py",
        "capt_core/data",
        "capt_core/errors.py",
        "capt_core/features",
        "capt_core/methods",
        "capt_core/text",
        "stages/invocation.py",
        "stages/mine_pairs.py",
    ]


def test_a_list_changes_with_what_its_command_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("errors.py", "data/images.py", "data/words.txt", "serving/app.py"):
        (tmp_path / "capt_core" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "capt_core" / name).write_text("x = 1\n")
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/train.py").write_text("from capt_core.data.images import x\n")
    monkeypatch.setattr(code_files, "ROOT", tmp_path)
    before = code_files.listed("train")
    digest = hashlib.sha256(b"x = 1\n").hexdigest()
    assert f"{digest}  capt_core/data/images.py\n{digest}  capt_core/data/words.txt\n" in before

    def change(name: str) -> str:
        (tmp_path / name).write_text("x = 2\n")
        code_files.digest.cache_clear()
        return code_files.listed("train")

    left_out = ("serving/app.py", "data/.images.py.swp", "data/images.pyc")
    assert {change(f"capt_core/{name}") for name in left_out} == {before}
    assert change("capt_core/data/words.txt") != before


def test_the_study_runs_every_variant_behind_the_frozen_features() -> None:
    variant, tables = STUDY["variant"], STUDY["tables"]
    assert variant["matrix"]["variant"] == list(variants())
    outputs = [path for path in tables["deps"] if path.startswith("artifacts/study/")]
    assert outputs == [f"artifacts/study/{name}" for name in variants()]
    written = {out for name in ("prepare", "extract-features") for out in DVC[name]["outs"]}
    lists = [f"artifacts/code/{name}.txt" for name in (*seeded_stages(), "study")]
    assert variant["deps"][: len(lists)] == lists
    for dep in variant["deps"][len(lists) :]:
        assert dep.replace("proctex", "${item.dataset}") in written


def test_a_run_leaves_nothing_in_git_and_follows_code_but_no_bytecode(tmp_path: Path) -> None:
    for name in (".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(PROJECT / name, tmp_path / name)
    (tmp_path / "code").mkdir()
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "code" / "module.py").write_text("")
    listing = {
        "cmd": "mkdir -p artifacts/code && cat code/module.py > artifacts/code/demo.txt",
        "deps": ["code"],
        "outs": ["artifacts/code"],
    }
    stage = {
        "cmd": "cd artifacts && mkdir -p demo && echo {} | tee demo/table > demo/m.json",
        "deps": ["artifacts/code/demo.txt"],
        "outs": ["artifacts/demo/table"],
        "metrics": [{"artifacts/demo/m.json": {"cache": False}}],
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"code": listing, "demo": stage}}))
    environment = {
        **os.environ,
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(tmp_path / ".dvc" / "tmp" / "site"),
    }

    def run(*words: str) -> str:
        return subprocess.run(
            words, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        ).stdout

    dvc = (sys.executable, "-m", "dvc")
    run("git", "init", "--quiet")
    run("git", "add", "--all")
    before = run("git", "status", "--porcelain")
    run(*dvc, "repro")
    assert (tmp_path / "artifacts" / "demo" / "table").is_file()
    assert run("git", "status", "--porcelain") == before
    (tmp_path / "code" / "__pycache__").mkdir()
    (tmp_path / "code" / "__pycache__" / "module.pyc").write_bytes(b"bytecode")
    assert "up to date" in run(*dvc, "status")
    assert "m.json" in run(*dvc, "metrics", "show")
    # What a stage does not import leads to a new list, which is as before.
    (tmp_path / "code" / "other.py").write_text("x = 1")
    told = run(*dvc, "repro")
    assert "Running stage 'code'" in told
    assert "Running stage 'demo'" not in told
    (tmp_path / "code" / "module.py").write_text("x = 1")
    assert "Running stage 'demo'" in run(*dvc, "repro")
