"""Tool run: every stage from a folder of photographs to the report, where it is out of date."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer

from capt_core.addresses import absence, address_of, is_remote
from capt_core.advice import command, quoted
from capt_core.artifacts.layout import Layout, ReportLayout
from capt_core.artifacts.report_tables import PAIR_RESULTS, SUMMARY
from capt_core.artifacts.tables import read_table
from capt_core.backbone.loading import shared_backbones
from capt_core.confusion.imported import refuse_replacing
from capt_core.data.registry import DATASETS, TAKEN
from capt_core.data.remote.braces import is_pattern
from capt_core.errors import CaptError, shown
from capt_core.methods.method import Method
from capt_core.methods.registry import BASE_METHOD, check_methods, configured_methods
from capt_core.methods.suitability import (
    check_described,
    prepared_facts,
    unstartable,
    unsuited,
)
from capt_core.methods.teaching import check_teacher
from capt_core.params import Backbone, check_seed, load_settings
from capt_core.user_paths import user_path

from . import options
from .commands import PIPELINE
from .console import inner_results, result
from .describing import may_ask
from .steps import Step, steps_to
from .updating import bring_up_to_date

_SHOWN_PAIRS = 3


def main(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PHOTOS]",
            help="Folder, table or shards of images, or their address: data.root, for short.",
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Data set; named after the folder if not given.")
    ] = None,
    until: Annotated[
        str, typer.Option(help="Last stage before the report: build-bank shows confusions only.")
    ] = "report",
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Method to compare with zero-shot CLIP; `compare` in the settings if not "
            "given. Repeatable."
        ),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(help="Few-shot draw; the first of the settings if not given. Repeatable."),
    ] = None,
    kept: options.Kept = None,
    params: options.Params = options.PARAMS,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    if until not in PIPELINE:
        raise CaptError(f"--until {shown(until)}: no stage; stages: {', '.join(PIPELINE)}")
    overrides = list(set_ or ())
    if folder is not None:
        user_path(folder, "PHOTOS")
        known = is_remote(folder) or is_pattern(str(folder)) or folder.expanduser().exists()
        if not known:
            raise CaptError(f"{folder}: {absence(folder)}; name the folder of the photographs")
        # Text as it stands, whatever it looks like; only `null` would mean none.
        overrides.append(f"data.root={_in_folder(folder)}")
    if dataset is None:
        if folder is None:
            raise CaptError("name a folder of photographs, or --dataset with a known data set")
        dataset = _named_after(folder)
    artifacts = options.kept_in(artifacts, kept)
    settings, matrix = load_settings(params, dataset, overrides)
    methods = list(dict.fromkeys([BASE_METHOD, *(method or matrix.compare)]))
    check_methods(methods, "--method")
    fitted = [settings.fit_teacher.method]
    if until in ("train", "evaluate", "report"):
        fitted += methods
    check_described(fitted, settings.generate_prompts, dataset)
    check_teacher(fitted, settings.teacher, settings.backbone)
    _check_usable(configured_methods(fitted, params, dataset, overrides), settings.backbone)
    seeds = list(dict.fromkeys(check_seed(each, "--seed") for each in seed or matrix.seeds[:1]))
    for each in seeds:
        refuse_replacing(Layout(artifacts, dataset).seed(each).predictions)
    steps = steps_to(until, methods, seeds, set(seeds) <= set(matrix.seeds))
    with shared_backbones(), inner_results():
        _bring_up_to_date(steps, fitted, dataset, params, artifacts, overrides, min(seeds))
    if steps[-1].stage == "report":
        last = next((step for step in reversed(steps) if step.stage == "train"), None)
        following = None
        if last is not None and last.seed is not None:
            model = Layout(artifacts, dataset).seed(last.seed).run(last.method).model
            following = _predicting(model, params, overrides)
        _finish(dataset, artifacts, seeds, following)


def _check_usable(methods: Sequence[Method], backbone: Backbone) -> None:
    """Refuse methods that the backbone or the base model, the first of them, does not do for."""
    for remark in (*unstartable(methods, methods[0]), *unsuited(methods, backbone)):
        raise CaptError(remark)


def _predicting(model: Path, params: Path | None, overrides: Sequence[str]) -> str:
    """The command that uses a trained model."""
    needed = [each for each in overrides if each.startswith("runtime.")]
    given = None if params == options.PARAMS_HERE else params
    start = command("predict")
    rest = command("predict", params=given, set=needed).removeprefix(start)
    return f"{start} {quoted(str(model))} NEW_PHOTOS{rest}"


def _in_folder(folder: Path) -> str:
    if (address := address_of(folder)) is not None:
        return address
    return str(folder) if folder.name != "null" else f"{folder.parent}/{folder.name}"


def _bring_up_to_date(
    steps: Sequence[Step],
    methods: Sequence[str],
    dataset: str,
    params: Path | None,
    artifacts: Path,
    overrides: list[str],
    current: int,
) -> None:
    settings, _ = load_settings(params, dataset, overrides)
    configured = configured_methods(methods, params, dataset, overrides)
    again = prepared = False
    for number, step in enumerate(steps, start=1):
        place = f"[{number}/{len(steps)}] {step.label}"
        if not prepared and step.stage != "prepare":
            _check_data(methods, dataset, params, artifacts, overrides)
            prepared = True
        # The report shows more than it declares: whatever there is. Only what fits this run is
        # shown: other methods and draws may be older.
        report = step.stage == "report"
        given = {"current": current} if report else None
        # Classes are described for these methods, which the stage's settings do not name.
        asks = step.stage == "generate-prompts" and may_ask(settings, configured)
        again |= bring_up_to_date(
            step,
            place,
            dataset,
            params,
            artifacts,
            overrides,
            given={"for_": methods} if asks else given,
            at_once=asks or (report and again),
        )


def _check_data(
    methods: Sequence[str],
    dataset: str,
    params: Path | None,
    artifacts: Path,
    overrides: list[str],
) -> None:
    """Refuse methods that the data set does not do for before anything is computed from it."""
    settings, _ = load_settings(params, dataset, overrides)
    facts = prepared_facts(Layout(artifacts, dataset), settings.generate_prompts)
    for method in configured_methods(methods, params, dataset, overrides):
        method.check_data(facts)


def _finish(dataset: str, artifacts: Path, drawn: Sequence[int], following: str | None) -> None:
    """Print the few lines that matter: numbers of errors are means over the draws of this run."""
    layout = ReportLayout(artifacts)
    summary = read_table(SUMMARY, layout.table(dataset, SUMMARY.name))
    summary = summary.filter(pl.col("seed").is_in(drawn))
    pairs = read_table(PAIR_RESULTS, layout.table(dataset, PAIR_RESULTS.name))
    seeds = summary["seed"].n_unique()
    images, before, after = (
        _mean(summary, column, seeds) for column in ("images", "errors_before", "errors_after")
    )
    page = layout.html
    found: dict[str, Any] = {
        "dataset": dataset,
        "images": images,
        "errors_before": before,
        "errors_after": after,
    }
    lines = [f"{before:g} of {images:g} test images wrong before"]
    if after is not None:
        repaired, broken = (_mean(summary, each, seeds) for each in ("repaired", "newly_wrong"))
        found |= {"repaired": repaired, "newly_wrong": broken}
        lines[0] += f", {after:g} after: {repaired:g} repaired, {broken:g} newly wrong"
    column = "before" if after is None else "after"
    worst = pairs.filter(pl.col(column) > 0).sort(column, descending=True, maintain_order=True)
    shown = worst.head(_SHOWN_PAIRS)
    for true, taken, count, number in shown.select(
        "true_class", "taken_class", column, "images"
    ).iter_rows():
        lines.append(f"  {true} taken for {taken}: {count:g} of {number}")
    lines.append(f"report: {page}")
    if following is not None:
        lines.append(f"next: {following}")
    document = {"pairs": shown.to_dicts(), "report": str(page), "next": following}
    result(found | document, *lines)


def _mean(summary: pl.DataFrame, column: str, seeds: int) -> float | None:
    """Sum over halves, mean over seeds; None where it was not measured."""
    if summary[column].null_count():
        return None
    return round(float(summary[column].sum()) / seeds, 1)


def _named_after(folder: Path) -> str:
    """A name for a data set of one's own, from that of its folder."""
    named = Path(address_of(folder) or folder.resolve()).stem
    name = re.sub(r"[^a-z0-9]+", "-", named.lower()).strip("-") or "images"
    return f"{name}-images" if name in DATASETS or name in TAKEN else name
