"""Checks of the installation and the inputs, each with the command that corrects what is wrong."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from capt_core.backbone.identity import backbone_identity
from capt_core.data.image_checks import REMARKS
from capt_core.data.inspection import FAILS, KINDS, NOTES, Inspection, list_files
from capt_core.data.layout_hints import layout_hints
from capt_core.data.registry import DatasetSpec, dataset_spec
from capt_core.data.splits import QUARANTINE, SplitData, prompt_name
from capt_core.errors import CaptError, one_line, reason
from capt_core.params import Settings
from capt_core.torchvision_ops import operators_declared
from capt_core.user_paths import brief

LOW_SPACE = 2 * 1024**3
_EXAMPLES = 3


State = Literal["ok", "note", "fail"]


@dataclass(frozen=True)
class Finding:
    """One check: its subject, its result, and what to do (empty if nothing)."""

    check: str
    state: State
    detail: str
    remedy: str = ""

    @property
    def failed(self) -> bool:
        return self.state == "fail"


def diagnose(settings: Settings, artifacts: Path) -> Iterator[Finding]:
    """Check an installation for the usual problems, one finding each."""
    yield check_torchvision()
    yield check_open_clip()
    yield check_gpu(settings)
    yield check_weights(settings)
    yield check_artifacts(artifacts)
    yield check_commands()
    yield check_api_key()


def check_torchvision() -> Finding:
    """Whether torch and torchvision fit together."""
    name = "torch and torchvision"
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        return _not_importable(name, "torch torchvision", error)
    detail = f"{metadata.version('torch')} and {metadata.version('torchvision')}"
    if operators_declared():
        detail += (
            "; torchvision was built for another torch: two of its operators (nms, qnms) are "
            "missing, which nothing here needs"
        )
    return Finding(name, "ok", detail)


def check_open_clip() -> Finding:
    """Whether open_clip can be imported."""
    try:
        importlib.import_module("open_clip")
    except Exception as error:
        return _not_importable("open_clip", "open_clip_torch", error)
    return Finding("open_clip", "ok", metadata.version("open_clip_torch"))


def _not_importable(name: str, packages: str, error: Exception) -> Finding:
    detail = f"cannot be imported: {reason(error)}"
    return Finding(name, "fail", detail, f"pip install -c constraints.txt {packages}")


def check_gpu(settings: Settings) -> Finding:
    """Whether torch sees a GPU, and whether the machine has one that it does not see."""
    import torch

    if torch.cuda.is_available():
        return Finding("GPU", "ok", torch.cuda.get_device_name())
    wanted = settings.runtime.device == "cuda"
    state: State = "fail" if wanted else "note"
    if shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists():
        return Finding(
            "GPU",
            state,
            f"the machine has one, torch {torch.__version__} does not see it",
            "check nvidia-smi; then install torch's CUDA build: "
            "pip install --force-reinstall torch torchvision",
        )
    remedy = "--set runtime.device=cpu" if wanted else ""
    return Finding("GPU", state, "none; everything runs on the CPU", remedy)


def check_weights(settings: Settings) -> Finding:
    """Whether the backbone's weights are there, fit the model and are sound."""
    from capt_core.backbone.loading import check_weights as check

    name = "backbone weights"
    try:
        check(settings.backbone)
        return Finding(name, "ok", backbone_identity(settings.backbone))
    except CaptError as error:
        remedy = "--set backbone.checkpoint=FILE, or --set backbone.name=tiny-clip"
        return Finding(name, "fail", str(error), remedy)


def check_artifacts(folder: Path) -> Finding:
    """Whether the artifacts folder can be written to and has room."""
    name = "artifacts folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(
            name, "fail", f"{folder}: {error.strerror}", "chmod u+w it, or --artifacts DIR"
        )
    if free < LOW_SPACE:
        return Finding(
            name, "note", f"{folder}: {free / 1024**3:.1f} GiB free", "free some space, or move it"
        )
    return Finding(name, "ok", f"{folder}: writable, {free / 1024**3:.0f} GiB free")


def check_data(
    settings: Settings, dataset: str
) -> tuple[list[Finding], tuple[SplitData, Path] | None]:
    """Whether the data set is where the settings say, or where it is instead.

    Returns:
        The findings; and what the data set lists with the folder of its images, if it is on disk
        and can be read.
    """
    name = "data set"
    spec = dataset_spec(dataset)
    if spec.reader == "proctex":
        return [Finding(name, "ok", f"{dataset} is drawn by the project itself")], None
    root = settings.data.root
    try:
        listed = list_files(spec, settings.data)
    except CaptError as error:
        findings = [Finding(name, "fail", str(error), "" if root else "--data-root DIR")]
        if root and spec.reader != "own":
            findings += _layout(spec, root)
        return findings, None
    detail = f"{len(listed[0].samples)} images listed, below {brief(listed[1])}"
    return [Finding(name, "ok", detail)], listed


def _layout(spec: DatasetSpec, root: str) -> list[Finding]:
    hints = layout_hints(spec, Path(os.path.expanduser(root)))
    return [Finding("layout", "fail", hint.problem, hint.command) for hint in hints]


def check_files(inspection: Inspection, spec: DatasetSpec, data_root: str) -> Iterator[Finding]:
    """A finding per kind of problem with the files of a data set."""
    again = f"capt-stage fetch --dataset {spec.name} --root {shlex.quote(data_root)}"
    for (kind,), rows in inspection.findings.group_by("kind", maintain_order=True):
        examples = [
            f"{path}: {detail}" if kind in ("listing", "unreadable", "in two splits") else path
            for path, detail in rows.select("path", "detail").head(_EXAMPLES).iter_rows()
        ]
        more = f" and {len(rows) - _EXAMPLES} more" if len(rows) > _EXAMPLES else ""
        detail = f"{len(rows)}: {one_line('; '.join(examples))}{more}"
        kind = str(kind)
        if kind in FAILS:
            remedy = FAILS[kind].format(again=again)
            if not spec.files:
                remedy = f"get the file again, or --set {QUARANTINE}"
            yield Finding(kind, "fail", detail, remedy)
        elif kind in REMARKS:
            used, remedy = REMARKS[kind]
            yield Finding(f"{kind} images", "note", f"{detail}; {used}", remedy)
        else:
            yield Finding(kind, "note", detail, NOTES[kind])
    if inspection.count("missing") and spec.reader != "own":
        yield from _layout(spec, data_root)
    for note in inspection.split.notes:
        yield Finding("listing", "note", note)


def files_summary(dataset: str, inspection: Inspection) -> str:
    """One line: how many images can be used, and how many of each kind of problem."""
    counts = {kind: inspection.count(kind) for kind in KINDS}
    parts = [f"{kind} {count}" for kind, count in counts.items() if count]
    notes = len(inspection.split.notes)
    return (
        f"{dataset}: {inspection.sound} of {inspection.images} images in "
        f"{len(inspection.split.class_names)} classes can be used"
        + (f"; {', '.join(parts)}" if parts else "" if notes else "; nothing to report")
        + (f"; {notes} note{'s' * (notes > 1)} on the listing" if notes else "")
    )


def check_prompts(settings: Settings, spec: DatasetSpec, split: SplitData) -> Finding:
    """Whether every class name fits the context of the backbone's text tower."""
    from capt_core.backbone.loading import load_tokenizer

    name = "class names"
    try:
        tokenizer = load_tokenizer(settings.backbone)
    except CaptError as error:
        return Finding(name, "fail", str(error))
    template = split.template or spec.template
    lengths = {
        label: tokenizer.token_count(template.format(prompt_name(label)))
        for label in split.class_names
    }
    longest = max(lengths, key=lengths.__getitem__)
    detail = f"longest prompt: {lengths[longest]} of {tokenizer.context_length} tokens"
    if lengths[longest] > tokenizer.context_length:
        return Finding(
            name, "fail", f"{detail} ({longest!r})", "shorten the name (data.classes, classes.yaml)"
        )
    return Finding(name, "ok", detail)


def check_commands() -> Finding:
    """Whether the commands that dvc.yaml calls are found; the stages run without them."""
    remedies = {
        "capt-stage": "activate the virtual environment that it is installed in",
        "dvc": "pip install 'capt-stage[pipeline]'",
        "git": "install git, or use dvc init --no-scm",
    }
    missing = [command for command in remedies if not shutil.which(command)]
    if missing:
        return Finding(
            "commands",
            "note",
            f"not found: {', '.join(missing)}; dvc repro needs them",
            "; ".join(remedies[command] for command in missing),
        )
    return Finding("commands", "ok", "dvc, capt-stage and git are found")


def check_api_key() -> Finding:
    """Whether an API key for prompt generation is set; its value is never shown."""
    if os.environ.get("ANTHROPIC_API_KEY"):
        return Finding("API key", "ok", "ANTHROPIC_API_KEY is set")
    return Finding(
        "API key",
        "note",
        "ANTHROPIC_API_KEY is not set; stored and template prompts need none",
        "export ANTHROPIC_API_KEY=... once prompts are to be written by an LLM",
    )
