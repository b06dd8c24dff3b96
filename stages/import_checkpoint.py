"""Tool import-checkpoint: the base model read from a checkpoint of the Dassl toolbox.

It is the stage fit-teacher with ``fit_teacher.checkpoint``, and with the method told by the file.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from capt_core.advice import advising, quoted
from capt_core.backbone.loading import load_backbone
from capt_core.data.dataset import load_dataset
from capt_core.methods.fitting import base_method
from capt_core.methods.importing.model import checkpoint_method, imported_model
from capt_core.user_paths import user_path

from . import fit_teacher, options
from .advising import CommandAdviser
from .console import result
from .invocation import invocation, recorded
from .tracing import traced

_STAGE = "fit-teacher"


def main(
    file: Annotated[Path, typer.Argument(help="Such as model.pth.tar-50; no code of it is run.")],
    dataset: options.Dataset,
    method: Annotated[
        str | None, typer.Option(help="coop, maple or promptsrc; told by the file if not given.")
    ] = None,
    seed: options.Seed = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and show what would be read; write nothing.")
    ] = False,
    params: options.Params = options.PARAMS,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    path = user_path(file, "FILE")
    name = method or checkpoint_method(path)
    base_method(name, "--method")
    # The word alone stands for no file.
    given_as = "./null" if str(file) == "null" else str(file)
    chosen = {"fit_teacher.method": name, "fit_teacher.checkpoint": given_as}
    own = [f"{key}={text}" for key, text in chosen.items()]
    given = [*(set_ or ()), *own]
    adviser = CommandAdviser(dataset, params, artifacts, tuple(given), None, seed)
    with (
        advising(adviser),
        recorded(invocation(_STAGE, dataset, seed, params, artifacts, given)) as run,
        nullcontext() if dry_run else traced(run, _STAGE, fit_teacher.STAGE),
    ):
        prepared = load_dataset(run.layout)
        backbone = load_backbone(run.settings.backbone, run.settings.runtime)
        found = fit_teacher.read(run, prepared, backbone)
        model = imported_model(found, prepared, run.seed)
        if not dry_run:
            fit_teacher.keep(run, prepared, model)
        classes = [None if each is None else prepared.class_names[each] for each in found.classes]
        written = None if dry_run else str(run.seed_layout.base_model)
    words = " ".join(f"--set {quoted(each)}" for each in own)
    result(
        {
            "method": name,
            "settings": found.fitted.method.settings.model_dump(mode="json"),
            "sha256": found.digest,
            "classes": classes,
            "read": list(found.taken),
            "compared": found.compared,
            "unused": dict(found.unused),
            "warnings": list(found.warnings),
            "written": written,
            "set": chosen,
        },
        f"later stages want {words}, or both below fit_teacher in params.yaml",
    )
