"""Which stages lead to a report, and whether one must run again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from capt_core import __version__
from capt_core.addresses import is_remote
from capt_core.artifacts.digests import content_digest
from capt_core.artifacts.files import write_json
from capt_core.data.dataset import image_root
from capt_core.data.registry import dataset_spec
from capt_core.data.remote.braces import is_pattern, shards_of
from capt_core.data.remote.state import state_of
from capt_core.errors import CaptError, reason
from capt_core.methods.registry import method_class

from .commands import PIPELINE, module_of
from .invocation import Run
from .stage import Place, Stage
from .tracing import all_settings, below, declared

_NOT_SHAPING = ("runtime.workers",)
_UNREADABLE = (CaptError, OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)
_OUTSIDE = (
    "backbone.checkpoint",
    "data.classes",
    "data.table",
    "generate_prompts.instructions",
    "generate_prompts.store",
    "teacher.backbone.checkpoint",
    "teacher.checkpoint",
)
"""Settings that name a file or folder, whose content matters, too."""


@dataclass(frozen=True)
class Step:
    """One stage of the way; method and seed where it is run per method and seed."""

    stage: str
    method: str = ""
    seed: int | None = None

    @property
    def label(self) -> str:
        seed = "" if self.seed is None else f"seed {self.seed}"
        return " ".join(filter(None, (self.stage, self.method, seed)))


def steps_to(until: str, methods: Sequence[str], seeds: Sequence[int], drawn: bool) -> list[Step]:
    """The stages up to one of them, in order, as far as the methods need them; then the report.

    Args:
        until: last stage.
        methods: that are trained and evaluated.
        seeds: few-shot draws.
        drawn: whether `prepare` draws the lists of these seeds without being told.
    """
    last = PIPELINE.index(until)
    per_method = [name for name in PIPELINE[: last + 1] if "method" in module_of(name).STAGE.per]
    wanted = {until}
    for method in methods if per_method else ("",):
        at = Place.of(Path(), "", method, "", "")
        wanted |= set(_leading_to(per_method[-1] if per_method else until, at, method))
    steps = []
    for name in PIPELINE[: last + 1]:
        per = module_of(name).STAGE.per
        if name not in wanted or name == "report" or "method" in per:
            continue
        seeded = "seed" in per or (name == "prepare" and not drawn)
        steps += [Step(name, seed=seed) for seed in (seeds if seeded else [None])]
    for seed in seeds:
        steps += [Step(name, method, seed) for method in methods for name in per_method]
    if last >= PIPELINE.index("infer-teacher"):
        steps.append(Step("report"))
    return steps


def _leading_to(stage: str, at: Place, method: str) -> Iterator[str]:
    yield stage
    needs = method_class(method).needs if method else ()
    for path in module_of(stage).STAGE.needed(at, needs):
        for name in PIPELINE[: PIPELINE.index(stage)]:
            outputs = module_of(name).STAGE.outputs(at)
            if any(path.is_relative_to(each) for each in outputs):
                yield from _leading_to(name, at, method)


def is_current(run: Run, name: str) -> bool:
    """Whether a stage has run with these settings and inputs, and its outputs are as it left them.

    Args:
        run: that the stage would be run with.
        name: of the stage.
    """
    try:
        remembered = json.loads(_stamp(run).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(remembered == _state(run, module_of(name).STAGE))


def was_told(run: Run, name: str) -> bool:
    """Whether a stage ran last with these settings; its inputs and outputs are not looked at."""
    try:
        remembered = json.loads(_stamp(run).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    told = json.loads(json.dumps(_told(run, module_of(name).STAGE)))
    return isinstance(remembered, dict) and remembered.get("settings") == told


def files_outside(run: Run, name: str) -> dict[str, str]:
    """Digests of the user's own files and folders that a stage reads, by setting."""
    return _outside(run, module_of(name).STAGE)


def remember(run: Run, name: str, outside: Mapping[str, str]) -> None:
    """Note what a stage that has just run was told, read and wrote.

    Args:
        run: that it was run with.
        name: of the stage.
        outside: `files_outside` before it ran, because what changed meanwhile may be unread.
    """
    state = _state(run, module_of(name).STAGE)
    write_json(_stamp(run), state | {"outside": state["outside"] | dict(outside)})


def _stamp(run: Run) -> Path:
    return run.artifacts / "runs" / f"{run.name}-step.json"


def _state(run: Run, stage: Stage) -> dict[str, Any]:
    told = _told(run, stage)
    shots = run.settings.fewshot.shots
    at = _place(run)
    needs = method_class(run.method).needs if run.method else ()
    outside = _outside(run, stage)
    root = run.settings.data.root
    if "data.root" in outside and root and Path(root).expanduser().is_file():
        outside["images"] = _listed_in_table(run)
    lists = {at.data.fewshot_lists: [at.data.fewshot(shots, seed) for seed in run.seeds]}
    written = [path for each in stage.outputs(at) for path in lists.get(each, [each])]
    state = {
        "version": __version__,
        "settings": told,
        "seeds": list(run.seeds),
        "outside": outside,
        "read": {_below(run, path): _digest(path) for path in stage.needed(at, needs)},
        "written": {_below(run, path): _digest(path) for path in written},
    }
    plain: dict[str, Any] = json.loads(json.dumps(state))
    return plain


def _told(run: Run, stage: Stage) -> dict[str, Any]:
    settings = all_settings(run)
    names = declared(run, stage, settings)
    return {
        key: value
        for key, value in settings.items()
        if below(key, names) and not below(key, _NOT_SHAPING)
    }


def _place(run: Run) -> Place:
    shots = run.settings.fewshot.shots
    return Place.of(run.layout.root, run.dataset, run.entry, run.seed, shots, run.layout.shared)


def _outside(run: Run, stage: Stage) -> dict[str, str]:
    told = _told(run, stage)
    outside = {key: _files(Path(told[key]).expanduser()) for key in _OUTSIDE if told.get(key)}
    if run.dataset and not stage.reads(_place(run)) and run.settings.data.root:
        outside["data.root"] = _data_state(run.settings.data.root, dataset_spec(run.dataset).folder)
    return outside


def _data_state(root: str, folder: str) -> str:
    """Digest of the names and times of a data set's files, wherever they are."""
    if is_remote(root):
        try:
            return state_of(root, folder)
        except (CaptError, OSError) as error:
            return f"unknown: {reason(error)}"
    if is_pattern(root):
        return _digest_of(line for path in shards_of(root) for line in _listed(path))
    return _files(Path(root).expanduser() / folder)


def _below(run: Run, path: Path) -> str:
    return Path(os.path.relpath(path, run.artifacts)).as_posix()


def _digest(path: Path) -> str:
    if path.is_dir():
        return _digest_of(_listed(path, times=_WRITTEN))
    return content_digest(path) if path.is_file() else "missing"


def _listed_in_table(run: Run) -> str:
    """Digest of the images that a table listed when it was read last, wherever they lie."""
    lines: list[str] = []
    with contextlib.suppress(*_UNREADABLE):
        folder = image_root(run.layout, run.settings.data.root)
        for name in pl.read_parquet(run.layout.samples, columns=["path"])["path"]:
            lines += (f"{name} {line}" for line in _listed(folder / name))
    return _digest_of(lines)


def _files(path: Path) -> str:
    """Digest of names, sizes and times of a file or of all files below a folder."""
    return _digest_of(_listed(path))


def _digest_of(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in sorted(lines):
        digest.update(f"{line}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


_WRITTEN = ("st_mtime_ns",)
# Copying tools set the time of the content; that of the change is the file system's own.
_CHANGED = (*_WRITTEN, "st_ctime_ns")


def _listed(path: Path, times: Sequence[str] = _CHANGED) -> Iterator[str]:
    if not path.is_dir():
        if path.is_file():
            yield _state_of(path.name, path.stat(), times)
        return
    seen = set()
    for folder, folders, files in os.walk(path, followlinks=True):
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()  # a link that leads back
            continue
        seen.add((here.st_dev, here.st_ino))
        for file in files:
            place = os.path.join(folder, file)
            name = os.path.relpath(place, path)
            try:
                yield _state_of(name, os.stat(place), times)
            except OSError:
                yield f"{name} unreadable"


def _state_of(name: str, found: os.stat_result, times: Sequence[str]) -> str:
    return " ".join([name, str(found.st_size), *(str(getattr(found, each)) for each in times)])
