"""Tool fetch: get a benchmark's files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capt_core.advice import tool
from capt_core.data.fetching.fetch import Fetcher, read_files
from capt_core.data.registry import DATASETS, check_dataset_name
from capt_core.errors import CaptError
from capt_core.params import Data
from capt_core.user_paths import user_path

from .console import progress, say


def main(
    dataset: Annotated[str, typer.Option(help="Benchmark, e.g. dtd.")],
    root: Annotated[Path, typer.Option(help="Folder that holds the data sets' folders.")],
    only: Annotated[
        list[str] | None, typer.Option(help="Get this file alone, by its name. Repeatable.")
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(help="Get every file from this address, by its name.")
    ] = None,
    files: Annotated[
        Path | None, typer.Option(help="List of files (YAML) that replaces the declared one.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Unpack the archives though the images are there.")
    ] = False,
) -> None:
    check_dataset_name(dataset, Data(), listed=False)
    spec = DATASETS[dataset]
    if spec.reader == "proctex":
        raise CaptError(f"{dataset}: nothing to fetch, the project draws it itself")
    if files is not None:
        spec = spec.model_copy(update={"files": read_files(files)})
    fetcher = Fetcher(spec, user_path(root, "--root"), progress, say, mirror)
    fetcher.fetch(only or (), again)
    if not only:
        missing = fetcher.missing()
        if missing is not None:
            look = tool("doctor", dataset=dataset, data_root=root)
            raise CaptError(f"{dataset}: {missing}; run: {look}")
        say(f"{dataset}: complete in {fetcher.folder}")
