"""The command line: one command per stage, in pipeline order, then the tools."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from capt_core import __version__
from capt_core.advice import advising
from capt_core.errors import cut
from capt_core.reporter import reporting_to

from . import activity, options
from .commands import STAGES, TOOLS, module_of
from .console import Output, output, reporter, silence_broken
from .endings import run_to_end


class LazyGroup(TyperGroup):
    """Commands whose modules are imported when they are called; help needs only their names."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=text) for name, text in _help().items()}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        vars(output).update(vars(Output()))
        with _quoted_in_part():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _quoted_in_part():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None:
            if name in STAGES and not {"-h", "--help"}.intersection(rest):
                _check(rest)
            command = _load(name)
            # -q and --verbose are accepted after the command's name, too.
            flags = [each for each in self.params if each.name in ("quiet", "verbose")]
            for each in (command, *getattr(command, "commands", {}).values()):
                each.params += flags
                each.callback = each.callback and _attended(each.callback)
        return name, command, rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for heading, commands in (("Stages, in order", STAGES), ("Tools", TOOLS)):
            with formatter.section(heading):
                formatter.write_dl(list(commands.items()))


# Typer has it under no public name: what it raises for words that it cannot make sense of.
_UsageError: Any = typer.BadParameter.__base__


@contextlib.contextmanager
def _quoted_in_part() -> Iterator[None]:
    """Bound what Typer's own messages quote of an argument, however long that is."""
    try:
        yield
    except _UsageError as error:
        error.message = cut(error.message, 300)
        raise


def _help() -> dict[str, str]:
    return STAGES | TOOLS


def _attended(call: Callable[..., Any]) -> Callable[..., Any]:
    """A command's function with advice and progress of the command line."""

    @functools.wraps(call)
    def attended(**values: Any) -> Any:
        from .advising import CommandAdviser

        with advising(CommandAdviser.of(values)), reporting_to(reporter()):
            return call(**values)

    return attended


def _check(words: list[str]) -> None:
    from .command import check_settings

    check_settings(words)


def _load(name: str) -> Any:
    from .command import stage_command

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
    """Run a command; whatever stops it ends in one line, see `endings`."""
    # Spinning threads slow torch down several times when another process shares the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    def call() -> None:
        with activity.broken_silence(silence_broken), activity.doing("loading libraries"):
            app(prog_name="capt-stage")

    sys.exit(run_to_end(call, sys.argv[1:]))


if __name__ == "__main__":
    main()
