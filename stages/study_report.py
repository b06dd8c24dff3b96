"""Command study-report: the study's tables beside the paper's."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from capt_core import advice
from capt_core.artifacts.files import write_text
from capt_core.artifacts.layout import StudyLayout
from capt_core.artifacts.schemas import EVALUATION, RESULTS
from capt_core.artifacts.tables import read_provenance, read_table, write_table
from capt_core.data.dataset import load_dataset
from capt_core.errors import CaptError
from capt_core.reporting.study import to_html, to_markdown
from capt_core.study import tables, variants

from . import options
from .invocation import invocation, recorded, say


def main(
    dataset: options.Dataset,
    seed: options.NoSeed = None,
    params: options.Params = options.PARAMS,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
) -> None:
    """Write the study's tables and charts."""
    with recorded(invocation("study-report", dataset, seed, params, artifacts, set_)) as run:
        study = StudyLayout(artifacts)
        records = [path for name in variants() for path in study.evaluations(name, dataset)]
        if not records:
            study_file = Path("study/dvc.yaml")
            every = f" (dvc repro {study_file} runs them all)" if study_file.is_file() else ""
            run_one = advice.tool("study", dataset=dataset, variant=next(iter(variants())))
            raise CaptError(
                f"{study.folder}: no variant has been evaluated on {dataset}{every}; run: {run_one}"
            )
        results = pl.concat([read_table(EVALUATION, path) for path in records]).sort(EVALUATION.key)
        images = load_dataset(run.layout).samples.filter(pl.col("split") == "test").height
        write_text(study.markdown, to_markdown(results, tables(), images))
        write_text(study.html, to_html(results, tables(), images))
        write_table(RESULTS, results, study.results, read_provenance(records[0]))
        say(f"{len(records)} runs -> {study.markdown}, {study.html}")
