"""What messages tell their reader to do next.

The command line installs an adviser that knows the running command, so that a command it names
carries the same options and can be copied. Elsewhere, in a program that calls the library,
commands stand for themselves and a setting is named as the argument that takes it.
"""

from __future__ import annotations

import contextlib
import difflib
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Axes:
    """What an artifact is of, as far as its path says."""

    dataset: str = ""
    seed: int | None = None
    method: str = ""


def axes_of(path: Path) -> Axes:
    """The data set, seed and method of an artifact: a `Layout` read backwards."""
    if path.parent.parent.name == "evaluations":
        method, _, number = path.stem.rpartition("-seed")
        return Axes(path.parent.name, int(number) if number.isdecimal() else None, method)
    parts = path.parts
    for index in range(len(parts) - 2, 0, -1):
        seed = parts[index].removeprefix("seed")
        if seed != parts[index] and seed.isdecimal():
            below = parts[index + 1 : -1]
            return Axes(parts[index - 1], int(seed), below[0] if below else "")
    if path.parent.name == "fewshot":
        number = path.stem.rpartition("-seed")[2]
        return Axes(path.parent.parent.name, int(number) if number.isdecimal() else None)
    return Axes(path.parent.name)


class Adviser:
    """Advice in a program that calls the library."""

    def stage(self, stage: str, path: Path, dataset: str | None = None) -> str:
        """Command for the first stage that must run before an artifact can be made.

        Args:
            stage: the stage that writes the artifact.
            path: the artifact; its data set, method and seed follow from where it lies.
            dataset: its data set, where the path does not say.
        """
        found = axes_of(path)
        return command(stage, dataset=dataset or found.dataset, seed=found.seed)

    def prepare(self, *settings: str) -> str:
        """What to do when the images have changed, perhaps with ``section.key=value`` settings."""
        changed = f" with {', '.join(text.rpartition('.')[2] for text in settings)}"
        return f"open the data set again{changed if settings else ''}"

    def tool(self, tool: str, **options: object) -> str:
        """Command for a tool, with options by their names; None leaves one out."""
        return command(tool, **options)

    def setting(self, key: str, value: str) -> str:
        """How a setting such as ``data.root`` is given."""
        return f"{key.rpartition('.')[2]}={value}"


_adviser = Adviser()


@contextlib.contextmanager
def advising(adviser: Adviser) -> Iterator[None]:
    """Let an adviser word the messages of the block, those of its threads included."""
    global _adviser
    before, _adviser = _adviser, adviser
    try:
        yield
    finally:
        _adviser = before


@dataclass(frozen=True)
class Remedy:
    """Which stage to run, found out when a message asks for its text; see `Adviser.stage`."""

    stage: str
    path: Path
    dataset: str | None = None

    def __str__(self) -> str:
        return f"run: {_adviser.stage(self.stage, self.path, self.dataset)}"


def run_stage(stage: str, path: Path, dataset: str | None = None) -> Remedy:
    """The remedy for an artifact that is missing or cannot be used; see `Adviser.stage`."""
    return Remedy(stage, path, dataset)


def prepare(*settings: str) -> str:
    """How a data set is prepared again; see `Adviser.prepare`."""
    return _adviser.prepare(*settings)


def tool(name: str, **options: object) -> str:
    """A tool's command; see `Adviser.tool`."""
    return _adviser.tool(name, **options)


def setting(key: str, value: str) -> str:
    """How a setting is given; see `Adviser.setting`."""
    return _adviser.setting(key, value)


def command(name: str, **options: object) -> str:
    """A command of the command line as it can be copied into a shell.

    Args:
        name: of the command.
        options: by their names; None and empty text leave one out, a list repeats it, True stands
            for an option without a value.
    """
    words = ["capt-stage", *name.split()]
    for key, value in options.items():
        option = f"--{key.rstrip('_').replace('_', '-')}"
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if each is True:
                words.append(option)
            elif each is not None and each != "":
                words += [option, str(each)]
    return " ".join(quoted(word) for word in words)


def quoted(word: str) -> str:
    """A word as a shell reads it, on one line even where the word holds control characters."""
    if word.isprintable():
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def _escaped(character: str) -> str:
    if character.isprintable() and character not in "\\'":
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def meant(name: str, known: Iterable[str]) -> str:
    """Which names are known, and which of them an unknown one was probably meant to be."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"known: {', '.join(names)}{hint}"
