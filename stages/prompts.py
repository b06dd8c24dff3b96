"""Tools around prompts: read what is written, check it, exchange it with other programs."""

from __future__ import annotations

import os
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from capt_core.advice import quoted, run_stage, setting
from capt_core.artifacts.files import write_json, write_text
from capt_core.artifacts.layout import Layout
from capt_core.data.dataset import load_dataset
from capt_core.data.registry import dataset_spec
from capt_core.errors import CaptError
from capt_core.params import load_settings
from capt_core.prompts.exchange import exported, imported_store, merged, read_class_lists
from capt_core.prompts.exchange_shapes import read_attribute_trees, read_names, read_pairs
from capt_core.prompts.generation import COMMONALITY, DIFFERENCE
from capt_core.prompts.inspection import answer_findings, answered_pairs, class_page, store_findings
from capt_core.prompts.llm.answers import AnswerStore
from capt_core.prompts.llm.setup import answers_root, describing_for, reasoning_for, rules_for
from capt_core.prompts.sources import asked_attributes, written_store
from capt_core.prompts.store import PromptStore, load_store, store_text

from . import options
from .console import progress, result, say, warn

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)


class Format(StrEnum):
    store = "store"
    release = "release"
    cupl = "cupl"
    tap = "tap"


@app.command()
def show(
    dataset: options.Dataset,
    class_: Annotated[str, typer.Option("--class", help="Class to read about.")],
    partner: Annotated[str | None, typer.Option(help="Only with this other class.")] = None,
    params: options.Params = None,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
) -> None:
    """Read what is written about a class and its partners."""
    stores = _stores(dataset, params, artifacts, set_)
    result(None, *class_page(stores, class_, partner))


@app.command()
def verify(
    dataset: options.Dataset,
    store: Annotated[
        Path | None, typer.Option(help="A store file; the one of the settings if not given.")
    ] = None,
    params: options.Params = None,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    """Check the written store and the language model's answers."""
    spec = dataset_spec(dataset)
    settings = load_settings(params, dataset, set_ or ())[0]
    rules = rules_for(dataset, settings.backbone)
    layout = Layout(artifacts, dataset)
    names = load_dataset(layout).class_names if layout.classes.is_file() else None
    chosen = settings.generate_prompts
    written = load_store(store, dataset) if store else written_store(chosen, dataset)
    findings = [] if written is None else list(store_findings(written, rules, names))
    lines = (
        []
        if written is None
        else [
            f"store ({written.source}): {len(written.pairs)} pairs, {len(written.classes)} classes"
        ]
    )
    answers = AnswerStore(answers_root(chosen))
    count = sum(1 for _ in answers.files())
    with progress("answers", count) as advance:
        for found in answer_findings(answers, spec.domain, rules):
            advance(1)
            findings += [found] if found is not None else []
    problems = sum(finding.severity == "problem" for finding in findings)
    result(
        {
            "dataset": dataset,
            "findings": [asdict(finding) for finding in findings],
            "problems": problems,
            "pairs": None if written is None else len(written.pairs),
            "answers": count,
        },
        *(f"{finding.severity}: {finding.text}" for finding in findings),
        *lines,
        f"answers ({answers.root}): {count} files",
    )
    if problems:
        raise CaptError(f"{problems} problems in the prompts of {dataset}, listed above")


@app.command("import")
def import_(
    dataset: options.Dataset,
    output: Annotated[Path, typer.Option(help="Store file to write; must not exist.")],
    common: Annotated[
        Path | None, typer.Option(help="The release's *_prompt_common.json: commonality prompts.")
    ] = None,
    distinct: Annotated[
        Path | None, typer.Option(help="The release's *_prompt_distinct.json: difference prompts.")
    ] = None,
    cupl: Annotated[
        Path | None,
        typer.Option(
            help="Class -> sentences, of CuPL, TAC or LwEIB (.py); taken as difference prompts."
        ),
    ] = None,
    tree: Annotated[
        Path | None, typer.Option(help="TAP's class -> attribute -> sentences.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="FuDD's *_prompt_pairs.json: what tells pairs apart.")
    ] = None,
    pair_names: Annotated[
        Path | None,
        typer.Option(
            help="FuDD's *_class_names.json: the classes that its numbers stand for; the data "
            "set's own order if not given."
        ),
    ] = None,
    keep_sound: Annotated[
        bool, typer.Option("--keep-sound", help="Leave out what is wrong instead of stopping.")
    ] = False,
    params: options.Params = None,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
) -> None:
    """Make a store of files in the formats of CuPL, TAC, LwEIB, TAP, FuDD and the release."""
    if cupl and distinct:
        raise CaptError("--cupl and --distinct both give difference prompts; choose one")
    if not (common or distinct or cupl or tree or pairs):
        raise CaptError(
            "nothing to import; give --common, --distinct, --cupl, --tree or --pairs FILE"
        )
    if pair_names and not pairs:
        raise CaptError("--pair-names: names the classes of --pairs FILE, which is not given")
    if os.path.lexists(output):
        raise CaptError(f"{output}: exists already; name another file")

    given = {COMMONALITY: common, DIFFERENCE: distinct or cupl}
    files = {kind: path for kind, path in given.items() if path is not None}
    spec = dataset_spec(dataset)
    rules = rules_for(dataset, load_settings(params, dataset, set_ or ())[0].backbone)
    names = load_dataset(Layout(artifacts, dataset)).class_names
    lists = {kind: read_class_lists(path, names, rules) for kind, path in files.items()}
    trees = read_attribute_trees(tree, names, rules) if tree else None
    numbered = read_names(pair_names) if pair_names else None
    told = read_pairs(pairs, names, rules, numbered) if pairs else None
    read = [*lists.values(), *filter(None, (trees, told))]
    findings = [finding for entry in read for finding in entry.findings]
    for finding in findings:
        say(f"{finding.severity}: {finding.text}")
    problems = sum(finding.severity == "problem" for finding in findings)
    if problems and not keep_sound:
        raise CaptError(
            f"{problems} problems, listed above; nothing was written. Correct the files, or give "
            "--keep-sound to leave out what is wrong"
        )
    store = imported_store(
        dataset,
        spec.domain,
        [*files.values(), *filter(None, (tree, pairs))],
        lists,
        names,
        trees.trees if trees else None,
        told.pairs if told else (),
    )
    if not store.class_prompts and not store.pairs:
        raise CaptError("no sound prompt is left; nothing was written")
    write_text(output, store_text(store))
    if store.pairs:
        say(f"{len(store.pairs)} pairs -> {output}")
    if store.class_prompts:
        say(f"{len(store.class_prompts)} of {len(names)} classes -> {output}")
    for kind in (COMMONALITY, DIFFERENCE):
        if kind not in files and not (told and kind == DIFFERENCE):
            say(f"no {kind} prompts: they must come from elsewhere")
    say(f"use it with {setting('generate_prompts.store', quoted(str(output)))}")


@app.command()
def export(
    dataset: options.Dataset,
    output: Annotated[Path, typer.Option(help="Folder to write into.")],
    format_: Annotated[
        Format, typer.Option("--format", help="store: one file of this project's own kind.")
    ] = Format.store,
    params: options.Params = None,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
) -> None:
    """Write what is written and answered to files of a known format."""
    stores = _stores(dataset, params, artifacts, set_)
    if not any(store.pairs or store.class_prompts for store in stores):
        remedy = run_stage("generate-prompts", Layout(artifacts, dataset).folder, dataset)
        raise CaptError(f"nothing is written about {dataset}; {remedy}")
    if format_ is Format.store:
        path = output / f"{dataset}.json"
        write_text(path, store_text(merged(stores, dataset, dataset_spec(dataset).domain)))
        say(f"-> {path}")
        return
    if format_ is Format.tap and not any(
        prompts.by_attribute for store in stores for prompts in store.class_prompts.values()
    ):
        raise CaptError(
            f"nothing is written about attributes of {dataset}; --format store or release writes "
            "what there is"
        )
    for name, content in exported(stores, format_.value, dataset):
        write_json(output / name, content)
        lists = [
            texts
            for own in content.values()
            for texts in (own.values() if isinstance(own, dict) else [own])
        ]
        count = sum(map(len, lists))
        say(f"{count} prompts of {len(content)} classes -> {output / name}")


def _stores(
    dataset: str, params: Path | None, artifacts: Path, set_: list[str] | None
) -> list[PromptStore]:
    """The written store and, for a prepared data set, what is answered with these settings."""
    dataset_spec(dataset)
    settings = load_settings(params, dataset, set_ or ())[0]
    layout = Layout(artifacts, dataset)
    written = written_store(settings.generate_prompts, dataset)
    stores = [written] if written else []
    if not layout.classes.is_file():
        warn(f"{dataset} is not prepared, so only the written store is looked at")
    else:
        prepared = load_dataset(layout)
        reasoning = reasoning_for(prepared, settings.generate_prompts, settings.backbone, warn)
        answered = reasoning.written(answered_pairs(reasoning))
        stores += [answered] if answered.pairs else []
        described = describing_for(
            prepared,
            settings.generate_prompts,
            settings.backbone,
            warn,
            asked_attributes(written, settings.generate_prompts),
        ).written(prepared.class_names)
        stores += [described] if described.class_prompts else []
    return stores
