"""Has prompts written in a process of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

from capt_core.prompts.llm import batches
from capt_core.prompts.llm.asking import ConfusedPair
from capt_core.prompts.llm.failures import KEY_VARIABLE
from capt_core.prompts.llm.writing import write_prompts
from tests.prompts.conftest import Desk, quiet
from tests.prompts.llm_server import KEY


def pairs_of(count: int) -> list[ConfusedPair]:
    """Each class beside the next, so that attributes are shared."""
    names = [f"texture{i:02d}" for i in range(count + 1)]
    return [ConfusedPair((a, b), (1, 2)) for a, b in itertools.pairwise(names)]


def main(url: str, folder: Path, provider: str, count: int, output: Path) -> None:
    """Write prompts for so many pairs with the service at `url`; what is said goes to a file."""
    os.environ.update({"ANTHROPIC_BASE_URL": url, KEY_VARIABLE: KEY})
    batches.FIRST_LOOK = batches.OTHER_PROCESS = 0.02
    pairs = pairs_of(count)
    desk = Desk(folder, [name for pair in pairs for name in pair.classes])
    reasoning = desk.reasoning(provider=provider, concurrency=3, timeout=20.0)
    with output.open("w", buffering=1) as file, contextlib.redirect_stdout(file):
        write_prompts(reasoning, pairs, KEY, quiet, print)
