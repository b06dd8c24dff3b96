"""The command line: one command per stage, in pipeline order, then the tools."""

from __future__ import annotations

import os
import sys

import typer

from . import (
    build_bank,
    cluster_prompts,
    doctor,
    evaluate,
    extract_features,
    fetch,
    fit_teacher,
    generate_prompts,
    infer_teacher,
    mine_pairs,
    mine_samples,
    prepare,
    prompts,
    report,
    study,
    study_report,
    train,
)

PIPELINE = (
    prepare,
    extract_features,
    fit_teacher,
    infer_teacher,
    build_bank,
    mine_pairs,
    generate_prompts,
    cluster_prompts,
    mine_samples,
    train,
    evaluate,
    report,
)
TOOLS = (fetch, doctor, study, study_report)

app = typer.Typer(
    help="Find the classes that CLIP confuses, and repair them with a few images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in PIPELINE:
    _name = _module.__name__.rpartition(".")[2].replace("_", "-")
    app.command(_name, rich_help_panel="Stages, in order")(_module.main)
for _module in TOOLS:
    _name = _module.__name__.rpartition(".")[2].replace("_", "-")
    app.command(_name, rich_help_panel="Tools")(_module.main)
app.add_typer(prompts.app, name="prompts", rich_help_panel="Tools")


def main() -> None:
    """Run a command; a user's mistake ends in one line and exit code 2."""
    # Spinning threads slow torch down several times when another process shares the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from capt_core.errors import CaptError

    try:
        app()
    except CaptError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
