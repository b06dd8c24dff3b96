"""The command line: one command per stage, in pipeline order, then the tools."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from capt_core import __version__
from capt_core.errors import CaptError

from . import options
from .commands import STAGES, TOOLS
from .console import Output, output

EXTRAS = {
    "anthropic": "llm",
    "lightning_fabric": "distributed",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
}
"""Extra of this distribution that brings a module."""


class LazyGroup(TyperGroup):
    """Commands whose modules are imported when they are called; help needs only their names."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=text) for name, text in _help().items()}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        vars(output).update(vars(Output()))
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None:
            command = _load(name)
            # -q and --verbose are accepted after the command's name, too.
            flags = [each for each in self.params if each.name in ("quiet", "verbose")]
            for each in (command, *getattr(command, "commands", {}).values()):
                each.params += flags
        return name, command, rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for heading, commands in (("Stages, in order", STAGES), ("Tools", TOOLS)):
            with formatter.section(heading):
                formatter.write_dl(list(commands.items()))


def _help() -> dict[str, str]:
    return STAGES | TOOLS


def _load(name: str) -> Any:
    from .command import module_of, stage_command

    module = module_of(name)
    commands = getattr(module, "app", None)
    if commands is None:
        commands = typer.Typer(add_completion=False, rich_markup_mode=None)
        call = stage_command(name, module) if name in STAGES else module.main
        commands.command(name, help=_help()[name])(call)
    else:
        commands.info.help = _help()[name]
    return typer.main.get_command(commands)


# Plain help: drawing boxes with rich costs more than all else that `--help` does.
app = typer.Typer(
    cls=LazyGroup,
    help="Find the classes that CLIP confuses, and repair them with a few images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(given: bool) -> None:
    if given:
        print(f"capt-stage {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    pass


def main() -> None:
    """Run a command; a user's mistake ends in one line and exit code 2."""
    # Spinning threads slow torch down several times when another process shares the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(prog_name="capt-stage")
    except CaptError as error:
        if output.verbose:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        if output.verbose:
            traceback.print_exc()
        extra = f"capt-stage[{EXTRAS[module]}]"
        print(f"error: {module} is not installed; run: pip install '{extra}'", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
