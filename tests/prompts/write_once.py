"""Has prompts written as a process of its own: `write_once FOLDER PROVIDER PAIRS`."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

from capt_core.prompts.llm import batches
from capt_core.prompts.llm.reasoning import ConfusedPair
from capt_core.prompts.llm.service import KEY_VARIABLE
from capt_core.prompts.llm.writing import write_prompts
from tests.prompts.conftest import Desk, quiet


def pairs_of(count: int) -> list[ConfusedPair]:
    """Each class beside the next, so that attributes are shared."""
    names = [f"texture{i:02d}" for i in range(count + 1)]
    return [ConfusedPair((a, b), (1, 2)) for a, b in itertools.pairwise(names)]


def main() -> None:
    folder, provider, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    batches.FIRST_LOOK = batches.OTHER_PROCESS = 0.02
    pairs = pairs_of(count)
    desk = Desk(folder, [name for pair in pairs for name in pair.classes])
    reasoning = desk.reasoning(provider=provider, concurrency=3, timeout=20.0)
    write_prompts(reasoning, pairs, os.environ[KEY_VARIABLE], quiet, print)


if __name__ == "__main__":
    main()
