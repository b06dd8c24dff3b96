"""The files that follow from the stages' declarations: pipelines, and tables in documentation.

``make pipeline`` (``python -m stages.pipeline``) writes them; a test compares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from capt_core.artifacts import documentation
from capt_core.artifacts.files import write_text
from capt_core.artifacts.layout import StudyLayout
from capt_core.study import ABLATIONS, variants

from . import code_files
from .code_files import ROOT, code_list
from .commands import PIPELINE, STAGES, module_of
from .stage import Place, Stage
from .study import seeded_stages

ARTIFACTS = Path("artifacts")
STUDY_DATASET = "proctex"
SPLIT = "pipelines"
"""Folder of the pipelines of single data sets."""

_AXES = {"dataset": "${datasets}", "method": "${compare}", "seed": "${seeds}"}
_CODE = {
    "cmd": f"python -m {code_files.__name__}",
    "deps": ["capt_core", "stages"],
    "outs": [code_files.LISTS.as_posix()],
}
HEAD = "# Written by `make pipeline` from the declarations in stages/; changes here are lost.\n"
PROJECT_HEAD = "# Written by `capt-stage init`; yours to change.\n"
_TABLE = "<!-- The table is written by `make pipeline`. -->\n", "<!-- End of the table. -->\n"


def declared(name: str) -> Stage:
    """Declaration of a stage of `PIPELINE`."""
    stage: Stage = module_of(name).STAGE
    return stage


def dvc_yaml(with_code: bool = True) -> str:
    """The pipeline.

    Args:
        with_code: whether stages depend on the source files that they import, by the lists that a
            stage of its own writes; without, for a project beside an installed package.
    """
    return (HEAD if with_code else PROJECT_HEAD) + _dump(_pipeline(with_code))


def split_yaml(datasets: Sequence[str], with_code: bool = False) -> dict[str, str]:
    """The same pipeline as files of its own for every data set, by their paths in the project.

    DVC reads and writes the whole ``dvc.lock`` beside a file after every stage of it, so that the
    cost of one stage grows with the stages in its file.

    Args:
        datasets: names of the data sets.
        with_code: see `dvc_yaml`.
    """
    stages = _pipeline(with_code)
    above = {name: stage for name, stage in stages.items() if "matrix" not in stage}
    head = HEAD if with_code else PROJECT_HEAD
    files = {"dvc.yaml": head + _dump(above)}
    for dataset in datasets:
        own = {
            name: {"wdir": "../..", **stage, "matrix": {**stage["matrix"], "dataset": [dataset]}}
            for name, stage in stages.items()
            if "matrix" in stage
        }
        settings = yaml.safe_dump({"vars": ["../../params.yaml"]})
        files[f"{SPLIT}/{dataset}/dvc.yaml"] = f"{head}{settings}{_dump(own)}"
    return files


def _pipeline(with_code: bool) -> dict[str, dict[str, Any]]:
    at = Place.of(
        ARTIFACTS, "${item.dataset}", "${item.method}", "${item.seed}", "${fewshot.shots}"
    )
    stages = {"code": _CODE} if with_code else {}
    for name in PIPELINE:
        stage = declared(name)
        words = [f"--{axis} ${{item.{axis}}}" for axis in stage.per]
        code = [*_texts([code_list(name)]), *stage.sources] if with_code else []
        deps = [*code, *_texts(_inputs(at, stage.reads(at)))]
        entry: dict[str, Any] = {
            "matrix": {axis: _AXES[axis] for axis in stage.per},
            "cmd": " ".join(["capt-stage", name, *words]),
            "params": _params(stage),
            "deps": deps,
            "outs": _texts(stage.writes(at)),
            "metrics": [{path: {"cache": False}} for path in _texts(stage.metrics(at))],
            "plots": [{path.as_posix(): dict(of)} for path, of in stage.plots(at).items()],
        }
        stages[name] = {key: value for key, value in entry.items() if value}
    return stages


def _inputs(at: Place, read: Iterable[Path]) -> list[Path]:
    """What a stage depends on, of what it reads.

    The images are left out: their contents are in the fingerprint that `samples` carries, and DVC
    takes longer over a folder of thousands of files than over all else of a stage.
    """
    return [path for path in read if path != at.data.images]


def study_yaml() -> str:
    """The pipeline of the study: every variant from the bank to its results, then the tables."""
    names = tuple(seeded_stages())
    at = Place.of(ARTIFACTS, STUDY_DATASET, "${item.method}", "${item.seed}", "${fewshot.shots}")
    written = {path for name in names for path in declared(name).outputs(at)}
    read = dict.fromkeys(path for name in names for path in _inputs(at, declared(name).reads(at)))
    # A variant runs for every seed and for several methods.
    shared = [at.data.fewshot_lists if path == at.fewshot else path for path in read]
    params = {key for name in names for key in _params(declared(name))}
    params = {"methods" if key.startswith("methods.") else key for key in params}
    # Nothing is described for methods beside those of its variants.
    params = {key for key in params if not key.startswith("per_dataset.") and key != "compare"}
    own: list[Any] = ["seeds", f"per_dataset.{STUDY_DATASET}"]
    ablations = ABLATIONS.relative_to(ROOT).as_posix()
    own.append({ablations: ["ablations.${item.variant}.change"]})
    folder = StudyLayout(ARTIFACTS)
    return HEAD + _dump(
        {
            "variant": {
                "wdir": "..",
                "matrix": {"variant": list(variants())},
                "cmd": f"capt-stage study --dataset {STUDY_DATASET} --variant ${{item.variant}}",
                "params": [*_without_parts(params), *own],
                "deps": [
                    *_texts(map(code_list, [*names, "study"])),
                    *_texts(path for path in shared if path not in written),
                ],
                "outs": _texts([folder.variant("${item.variant}")]),
            },
            "tables": {
                "wdir": "..",
                "cmd": f"capt-stage study-report --dataset {STUDY_DATASET}",
                "deps": [
                    *_texts([code_list("study-report")]),
                    ablations,
                    *_texts(at.dataset),
                    *_texts(folder.variant(name) for name in variants()),
                ],
                "outs": _texts([folder.results, folder.markdown, folder.html]),
            },
        }
    )


def stage_table() -> str:
    """The README's table of the stages."""
    rows = [f"| `{name}` | {text} |" for name, text in STAGES.items()]
    return "\n".join(["| stage | what it does |", "|---|---|", *rows]) + "\n"


def written_files() -> dict[str, str]:
    """Every file that follows from declarations, by its path in the project, with its text."""
    before, start, rest = (ROOT / "README.md").read_text(encoding="utf-8").partition(_TABLE[0])
    _, end, after = rest.partition(_TABLE[1])
    return {
        "dvc.yaml": dvc_yaml(),
        "study/dvc.yaml": study_yaml(),
        "README.md": f"{before}{start}\n{stage_table()}\n{end}{after}",
        "artifacts/README.md": documentation.render(),
    }


def _params(stage: Stage) -> list[str]:
    """Settings of a stage, with what a data set may change of them."""
    own = "per_dataset.${item.dataset}" if "dataset" in stage.per else "per_dataset"
    params = (*stage.params, *stage.params_for)
    parts = {key.partition(".")[0] for key in params} & {"data", "methods"}
    changed = [f"{own}.{part}" for part in sorted(parts)] if stage.per else [own] * bool(parts)
    return [*params, *changed]


def _without_parts(keys: Iterable[str]) -> list[str]:
    """Sorted keys, less those inside another one."""
    known = set(keys)
    return sorted(key for key in known if key.partition(".")[0] not in known - {key})


def _texts(paths: Iterable[Path]) -> list[str]:
    return [path.as_posix() for path in paths]


def _dump(stages: Mapping[str, Any]) -> str:
    parts = [
        yaml.safe_dump({name: stage}, sort_keys=False, width=1000, indent=2)
        for name, stage in stages.items()
    ]
    indented = re.sub(r"^(?=.)", "  ", "\n".join(parts), flags=re.MULTILINE)
    return f"stages:\n{indented}"


def main() -> None:
    """Write every generated file anew."""
    for name, text in written_files().items():
        write_text(ROOT / name, text)


if __name__ == "__main__":
    main()
