"""Time and memory of a store of answers as large as ImageNet's, against one a tenth of the size.

    python -m benchmarks.large_prompt_store

Makes up answers about 1,000 classes with 5 partners each (5,000 pairs, 11,000 files) and about 100
classes (500 pairs), and measures each step in a process of its own: finding that nothing is
missing, verifying every file, making the table of prompts, clustering made-up embeddings of 512
dimensions, and the separation of the pairs. What should be read is the ratio per pair of the two
sizes (1 means: linear) and the growth of the peak memory; seconds depend on the machine.

One run on two shared cores: missing 2.4 s, verify 3.2 s, table 3.0 s, cluster 1.2 s, separation
0.8 s for 5,000 pairs; ratios 1.07, 1.15, 0.68, 0.14, 1.18; memory grew by 37 MB at most.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from capt_core.data.dataset import Dataset
from capt_core.data.splits import class_groups
from capt_core.params import Backbone, GeneratePrompts
from capt_core.prompts.llm.answers import Attempt, Entry, Tokens
from capt_core.prompts.llm.reasoning import ConfusedPair, Reasoning
from capt_core.prompts.llm.setup import reasoning_for

SIZES = (100, 1000)
PARTNERS = 5
WIDTH = 512
STEPS = ("fill", "missing", "verify", "table", "cluster", "separate")


def class_names(count: int) -> list[str]:
    """Names of two words, as many of ImageNet's are."""
    first = [f"{a}{b}" for a in ("brown", "red", "old", "tall", "wild") for b in "abcdefghij"]
    second = [f"{a}{b}" for a in ("dog", "cup", "bird", "ship", "tree") for b in "klmno"]
    return [f"{a}_{b}" for a in first for b in second][:count]


def prepared(count: int) -> Dataset:
    names = class_names(count)
    classes = pl.DataFrame(
        {
            "class_id": range(count),
            "class_name": names,
            "group": class_groups(count),
            "template": ["a photo of a {}."] * count,
        },
        schema_overrides={"class_id": pl.Int64},
    )
    return Dataset("caltech101", pl.DataFrame(), classes, "0" * 16)


def pairs_of(names: list[str]) -> list[ConfusedPair]:
    """Each class with its next five, in a ring."""
    found = set()
    for index, name in enumerate(names):
        for step in range(1, PARTNERS + 1):
            first, second = sorted((name, names[(index + step) % len(names)]))
            found.add((first, second))
    return [ConfusedPair(pair, (3, 1)) for pair in sorted(found)]


def reasoning(count: int, folder: Path) -> Reasoning:
    settings = GeneratePrompts(answers=str(folder))
    return reasoning_for(prepared(count), settings, Backbone(name="ViT-B-16"), print)


def answers(pairs: list[ConfusedPair]) -> Iterator[tuple[str, tuple[str, ...], dict[str, object]]]:
    for name in sorted({name for pair in pairs for name in pair.classes}):
        spoken = name.replace("_", " ")
        phrases = [f"a {spoken} part of kind {i} with clear edges" for i in range(6)]
        yield "attributes", (name,), {"class_name": spoken, "attributes": phrases}
    for pair in pairs:
        a, b = (name.replace("_", " ") for name in pair.classes)
        yield "reason", pair.classes, {"reason": f"Both {a} and {b} are seen from afar."}
        difference = [
            {"class_name": own, "prompts": [f"a photo of a {own} with mark {j}{i}" for i in "kl"]}
            for j, own in enumerate((a, b))
        ]
        shared = [f"a photo of a {a} or a {b} in view {i}" for i in "kl"]
        yield "prompts", pair.classes, {"commonality": shared, "difference": difference}


def run(step: str, count: int, folder: Path) -> None:
    """One step; everything it needs is made before the clock starts."""
    asked = reasoning(count, folder / "answers")
    pairs = pairs_of(class_names(count))
    work: Callable[[], object]
    if step == "fill":

        def work() -> None:
            for name, classes, answer in answers(pairs):
                question = asked.question(name, classes)  # type: ignore[arg-type]
                attempt = Attempt(
                    asked=["What?"] * 20,
                    answer=answer,
                    stop_reason="end_turn",
                    model="made-up",
                    parameters={},
                    tokens=Tokens(),
                    date="2026-01-01T00:00:00+00:00",
                    via="live",
                )
                asked.answers.add(Entry(question), attempt)

    elif step == "missing":

        def work() -> None:
            assert asked.missing(pairs) == []

    elif step == "verify":
        from capt_core.prompts.inspection import answer_findings

        def work() -> None:
            assert not any(answer_findings(asked.answers, asked.domain, asked.rules))

    elif step == "table":
        work = lambda: table(asked, pairs, count).write_parquet(folder / "prompts.parquet")  # noqa: E731
    else:
        prompts = pl.read_parquet(folder / "prompts.parquet")
        generator = np.random.default_rng(0)
        embeddings = generator.standard_normal((len(prompts), WIDTH), dtype=np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        work = lambda: (cluster if step == "cluster" else separate)(prompts, embeddings)  # noqa: E731
    before = peak()
    started = time.perf_counter()
    work()
    print(f"{time.perf_counter() - started:.3f} {before:.0f} {peak():.0f} {len(pairs)}")


def table(asked: Reasoning, pairs: list[ConfusedPair], count: int) -> pl.DataFrame:
    from capt_core.prompts.generation import pair_prompts

    number = {name: index for index, name in enumerate(class_names(count))}
    rows = [
        (number[a], a, number[b], b)
        for pair in pairs
        for a, b in (pair.classes, pair.classes[::-1])
    ]
    columns = ["class_id", "class_name", "paired_class_id", "paired_class"]
    directed = pl.DataFrame(rows, schema=columns, orient="row")
    templates = dict.fromkeys(number, "a photo of a {}.")
    return pair_prompts(directed, templates, [asked.written(pairs)], 2, fill=False)


def cluster(prompts: pl.DataFrame, embeddings: np.ndarray) -> None:
    from capt_core.prompts.clustering import class_means, cluster_centres, cluster_table

    for kind in ("commonality", "difference"):
        rows = (prompts["kind"] == kind).arg_true().to_numpy()
        texts = prompts[rows]
        described, means = class_means(embeddings[rows], texts["class_id"].to_numpy())
        centres, labels = cluster_centres(means, 5, 10, 1)
        cluster_table(kind, texts, described, means, centres, labels)


def separate(prompts: pl.DataFrame, embeddings: np.ndarray) -> None:
    from capt_core.prompts.separation import separation_table

    images = {int(c): embeddings[:16] for c in prompts["class_id"].unique()}
    separation_table(prompts, embeddings, images)


def peak() -> float:
    """Most memory this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure all steps at both sizes and print a table."""
    if len(sys.argv) == 4:
        run(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
        return
    found: dict[tuple[str, int], list[float]] = {}
    for count in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            for step in STEPS:
                words = [sys.executable, "-m", "benchmarks.large_prompt_store"]
                done = subprocess.run(
                    [*words, step, str(count), folder], check=True, capture_output=True, text=True
                )
                found[step, count] = [float(word) for word in done.stdout.split()[-4:]]
    small, large = SIZES
    print("step      seconds  peak MB (before)  time per pair, large : small  growth of memory, MB")
    for step in STEPS:
        a, b = found[step, small], found[step, large]
        ratio = (b[0] / b[3]) / (a[0] / a[3])
        growth = (b[2] - b[1]) - (a[2] - a[1])
        print(f"{step:9} {b[0]:7.2f}  {b[2]:7.0f} ({b[1]:.0f})      {ratio:10.2f} {growth:30.0f}")
    print(f"{int(found['table', small][3])} and {int(found['table', large][3])} pairs")


if __name__ == "__main__":
    main()
