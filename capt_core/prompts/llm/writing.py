"""Having prompts written: which client asks, what it would cost, and what could not be had."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from capt_core.errors import CaptError
from capt_core.params import GeneratePrompts
from capt_core.prompts.llm.answers import Tokens
from capt_core.prompts.llm.batches import BatchRun
from capt_core.prompts.llm.costs import Spending, price_of
from capt_core.prompts.llm.instructions import Step
from capt_core.prompts.llm.live import LiveRun
from capt_core.prompts.llm.reasoning import ConfusedPair, Reasoning
from capt_core.prompts.llm.service import Service, api_key
from capt_core.prompts.llm.tasks import Task

SAMPLED = 3  # questions per step whose tokens are counted for an estimate
CHARACTERS_PER_TOKEN = 3.5
SHOWN_FAILURES = 10

Progress = Callable[
    [str, int, Callable[[], str]], contextlib.AbstractContextManager[Callable[[int], None]]
]
"""From a title, a total and a note to a context that is told of finished units."""


@dataclass(frozen=True)
class StepEstimate:
    """Calls of one step with the tokens of all of them."""

    calls: int
    input: int
    output: int


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Attributes:
        steps: per step.
        dollars: at list price, each question asked once and nothing kept by the service; None for
            a model whose price is not known.
        counted: whether the service counted the input tokens; else they are guessed from length.
    """

    steps: Mapping[Step, StepEstimate]
    dollars: float | None
    counted: bool


def estimate(
    reasoning: Reasoning, pairs: Sequence[ConfusedPair], service: Service | None
) -> Estimate:
    """Calls, tokens and money for what is not answered yet. Asks nothing but token counts.

    Output tokens are the mean of stored answers of the same step, or a guess without any.
    """
    spending = Spending(price_of(reasoning.settings.model))
    batch = reasoning.settings.provider == "anthropic-batch"
    written = _mean_output(reasoning)
    steps: dict[Step, StepEstimate] = {}
    for step, tasks in reasoning.planned(pairs).items():
        each = _mean_input(reasoning, tasks, service)
        output = written.get(step) or _typical_output(step, reasoning.settings.prompts)
        found = StepEstimate(len(tasks), round(each * len(tasks)), round(output * len(tasks)))
        steps[step] = found
        spending.add(Tokens(input=found.input, output=found.output), batch)
    known = spending.price is not None
    return Estimate(steps, spending.dollars if known else None, service is not None)


def write_prompts(
    reasoning: Reasoning,
    pairs: Sequence[ConfusedPair],
    key: str,
    progress: Progress,
    say: Callable[[str], None],
) -> Spending:
    """Have everything asked that is not answered yet, and say what it cost.

    Raises:
        CaptError: the service refuses or stays away, or some answers cannot be used even after all
            attempts. Every answer is stored in any case.
    """
    settings = reasoning.settings
    spending = Spending(price_of(settings.model))
    stop = threading.Event()
    service = Service(key, settings, stop)
    run: LiveRun | BatchRun
    if settings.provider == "anthropic-batch":
        run = BatchRun(service, reasoning.answers, reasoning.attempting, spending, say)
    else:
        run = LiveRun(service, reasoning.answers, reasoning.attempting, spending, stop)

    def answer(step: Step, tasks: Sequence[Task]) -> None:
        with progress(f"{step} ({settings.model})", len(tasks), spending.told) as advance:
            run.answer(tasks, advance)

    try:
        reasoning.run(pairs, answer)
    finally:
        service.close()
        if spending.calls:
            say(f"{spending.calls} answers of {settings.model}, {spending.told()} at list price")
    failed = [
        f"{question.title}: {run.refused.get(question.key, why)}"
        for question, why in reasoning.failures(pairs)
    ]
    if failed:
        for line in failed[:SHOWN_FAILURES]:
            say(line)
        raise CaptError(
            f"{len(failed)} questions have no usable answer, first {failed[0]}; all answers are "
            f"kept. Raise generate_prompts.attempts ({settings.attempts}) to ask again, or write "
            "these prompts into a file named by generate_prompts.store"
        )
    return spending


def _mean_output(reasoning: Reasoning) -> Mapping[Step, float]:
    sums: dict[Step, list[int]] = {}
    for _, entry in reasoning.answers.entries():
        if isinstance(entry, str) or entry.question.model != reasoning.settings.model:
            continue
        for attempt in entry.attempts:
            sums.setdefault(entry.question.step, []).append(attempt.tokens.output)
    return {step: sum(values) / len(values) for step, values in sums.items()}


def _mean_input(reasoning: Reasoning, tasks: Sequence[Task], service: Service | None) -> float:
    if not tasks:
        return 0.0
    sample = tasks[:: max(1, len(tasks) // SAMPLED)][:SAMPLED]
    counts: list[float] = []
    for task in sample:
        entry = reasoning.answers.read(task.question)
        request, _, _ = reasoning.attempting.next_request(task, entry)
        if service is not None:
            counts.append(service.count_tokens(request))
        else:
            texts = (request["system"], request["messages"], request["output_config"])
            counts.append(len(str(texts)) / CHARACTERS_PER_TOKEN)
    return sum(counts) / len(counts)


def _typical_output(step: Step, prompts: int) -> float:
    """A guess, with some room for models that think before they answer."""
    return {"attributes": 300, "reason": 300, "prompts": 400 + 3 * prompts * 30}[step]


@contextlib.contextmanager
def optional_service(settings: GeneratePrompts) -> Iterator[Service | None]:
    """The service if there is a key, else None."""
    key = api_key()
    if key is None:
        yield None
        return
    service = Service(key, settings, threading.Event())
    try:
        yield service
    finally:
        service.close()


def describe(found: Estimate, settings: GeneratePrompts) -> Iterator[str]:
    """An estimate in lines for people."""
    calls = sum(step.calls for step in found.steps.values())
    if not calls:
        yield "nothing is to be asked: 0 calls, 0 tokens, $0"
        return
    for name, step in found.steps.items():
        yield f"{name}: {step.calls} calls, {step.input:,} tokens in, about {step.output:,} out"
    batch = " in batches" if settings.provider == "anthropic-batch" else ""
    how = "counted on samples" if found.counted else "guessed from length (no key: not counted)"
    money = f"${found.dollars:,.2f}" if found.dollars is not None else "price not known here"
    yield (
        f"in all {calls} calls, about "
        f"{sum(s.input + s.output for s in found.steps.values()):,} tokens, {money} "
        f"({settings.model}{batch}; input tokens {how}; every question asked once, "
        "no savings by prompt caching)"
    )
