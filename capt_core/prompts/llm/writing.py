"""Have prompts written: live or in batches, what it would cost, and what is still missing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from capt_core.data.names import indistinguishable, told_apart
from capt_core.data.splits import prompt_name
from capt_core.errors import CaptError, cut, shown
from capt_core.prompts.llm.answers import Tokens
from capt_core.prompts.llm.asking import Asking, ConfusedPair, Task
from capt_core.prompts.llm.batches import BatchRun
from capt_core.prompts.llm.costs import Spending, price_of
from capt_core.prompts.llm.describing import Describing
from capt_core.prompts.llm.instructions import DESCRIPTIONS, STEPS, Step
from capt_core.prompts.llm.live import LiveRun
from capt_core.prompts.llm.questions import Question
from capt_core.prompts.llm.reasoning import Reasoning
from capt_core.prompts.llm.service import Service
from capt_core.prompts.llm.waiting import patience

SAMPLED = 3  # questions per step whose tokens are counted for an estimate
CHARACTERS_PER_TOKEN = 3.5
SHOWN_FAILURES = 10

Progress = Callable[
    [str, int, Callable[[], str]], contextlib.AbstractContextManager[Callable[[int], None]]
]
"""From a title, a total and a note to a context whose value is called with finished units."""


def estimate(
    reasoning: Reasoning, pairs: Sequence[ConfusedPair], service: Service | None
) -> Iterator[str]:
    """Calls, tokens and money for what is not answered yet, as lines for the user.

    Asks for token counts at most. The money is the list price with each question asked once and
    nothing kept by the service. Output tokens are the mean of stored answers of the same step, or a
    guess without any.

    Args:
        service: counts input tokens; None to guess them from the length of the texts.
    """
    _check_names(reasoning, pairs)
    steps = {step: list(reasoning.tasks(step, pairs, planned=True)) for step in STEPS}
    yield from _estimated(reasoning, steps, service, reasoning.settings.prompts)


def estimate_descriptions(
    describing: Describing, names: Sequence[str], service: Service | None
) -> Iterator[str]:
    """The same for descriptions of classes."""
    describing.check_names(names)
    steps: dict[Step, list[Task]] = {DESCRIPTIONS: list(describing.tasks(names))}
    phrases = describing.settings.sentences * len(describing.attributes)
    yield from _estimated(describing, steps, service, phrases)


def _estimated(
    asking: Asking, steps: Mapping[Step, Sequence[Task]], service: Service | None, texts: int
) -> Iterator[str]:
    settings = asking.settings
    spending = Spending(price_of(settings.model))
    batch = settings.provider == "anthropic-batch"
    written = _mean_output(asking)
    lines, calls = [], 0
    for step, tasks in steps.items():
        output = written.get(step) or _typical_output(step, texts)
        found = Tokens(
            input=round(_mean_input(asking, tasks, service) * len(tasks)),
            output=round(output * len(tasks)),
        )
        calls += len(tasks)
        spending.add(found, batch)
        lines.append(
            f"{step}: {len(tasks)} calls, {found.input:,} tokens in, about {found.output:,} out"
        )
    if not calls:
        yield "nothing is to be asked: 0 calls, 0 tokens, $0"
        return
    yield from lines
    how = "counted on samples" if service else "guessed from length (no key: not counted)"
    money = f"${spending.dollars:,.2f}" if spending.price else "price not known here"
    yield (
        f"in all {calls} calls, about {spending.tokens.input + spending.tokens.output:,} tokens, "
        f"{money} ({settings.model}{' in batches' if batch else ''}; input tokens {how}; every "
        "question asked once, no savings by prompt caching)"
    )


def write_prompts(
    reasoning: Reasoning,
    pairs: Sequence[ConfusedPair],
    key: str,
    progress: Progress,
    say: Callable[[str], None],
) -> Spending:
    """Ask everything about pairs that is not answered yet, and say what it cost.

    Raises:
        CaptError: no text can name the classes of a pair, the service refuses or keeps failing, or
            some answers cannot be used even after all attempts. Every answer is stored in any case.
    """
    _check_names(reasoning, pairs)
    # Tasks of a later step are listed once the earlier ones are answered: they build on those.
    return _asked(
        reasoning,
        STEPS,
        lambda step: list(reasoning.tasks(step, pairs)),
        lambda: reasoning.failures(pairs),
        key,
        progress,
        say,
    )


def write_descriptions(
    describing: Describing,
    names: Sequence[str],
    key: str,
    progress: Progress,
    say: Callable[[str], None],
) -> Spending:
    """Ask about every class that is not described yet, and say what it cost.

    Raises:
        CaptError: a name leaves no room for a description, or as `write_prompts`.
    """
    describing.check_names(names)
    return _asked(
        describing,
        (DESCRIPTIONS,),
        lambda _: list(describing.tasks(names)),
        lambda: describing.failures(names),
        key,
        progress,
        say,
    )


def _asked(
    asking: Asking,
    steps: Sequence[Step],
    tasks_of: Callable[[Step], Sequence[Task]],
    failures_of: Callable[[], Mapping[Question, str]],
    key: str,
    progress: Progress,
    say: Callable[[str], None],
) -> Spending:
    settings = asking.settings
    spending = Spending(price_of(settings.model))
    service = Service(key, settings)
    kind = BatchRun if settings.provider == "anthropic-batch" else LiveRun
    run = kind(service, asking, spending, say)
    try:
        for step in steps:
            with patience(say, lambda: "reading the answers that are there"):
                tasks = tasks_of(step)
            if tasks:
                with progress(f"{step} ({settings.model})", len(tasks), spending.text) as advance:
                    run.answer(tasks, advance)
    except KeyboardInterrupt:
        say("interrupted; every answer is kept: run the same command again to go on")
        raise
    finally:
        service.close()
        if spending.calls:
            say(f"{spending.calls} answers of {settings.model}, {spending.text()} at list price")
    with patience(say, lambda: "checking the answers"):
        failures = failures_of()
    if not failures:
        return spending
    failed = [
        f"{cut(question.title, 80)}: {cut(run.refused.get(question.key, why), 200)}"
        for question, why in failures.items()
    ]
    for line in failed[:SHOWN_FAILURES]:
        say(line)
    answered = [question for question in failures if question.key not in run.refused]
    again = (
        f"Raise generate_prompts.attempts ({settings.attempts}) to ask again"
        if answered
        else "Run again once that is mended"
    )
    raise CaptError(
        f"{len(failed)} questions have no usable answer, first {failed[0]}; all answers are "
        f"kept. {again}, or write these prompts into a file named by generate_prompts.store"
    )


def _check_names(reasoning: Reasoning, pairs: Sequence[ConfusedPair]) -> None:
    """Refuse pairs of classes of which no answer could be used, before anything is paid for."""
    rules = reasoning.rules
    for pair in pairs:
        if indistinguishable(pair.classes):
            raise CaptError(told_apart(*pair.classes))
        names = " or ".join(prompt_name(name) for name in pair.classes)
        tokens = rules.token_count(" ".join(["a", *rules.medium[:1], "of", names]))
        if tokens > rules.context_length:
            raise CaptError(
                f"a prompt that names {cut(' and '.join(map(shown, pair.classes)), 150)} has "
                f"{tokens} tokens, more than the {rules.context_length} of the text encoder; "
                "give these classes shorter names (data.classes takes a file of names)"
            )


def _mean_output(asking: Asking) -> Mapping[Step, float]:
    sums: dict[Step, list[int]] = {}
    for _, entry in asking.answers.entries():
        if isinstance(entry, str) or entry.question.model != asking.settings.model:
            continue
        for attempt in entry.attempts:
            sums.setdefault(entry.question.step, []).append(attempt.tokens.output)
    return {step: sum(values) / len(values) for step, values in sums.items()}


def _mean_input(asking: Asking, tasks: Sequence[Task], service: Service | None) -> float:
    if not tasks:
        return 0.0
    sample = tasks[:: max(1, len(tasks) // SAMPLED)][:SAMPLED]
    counts: list[float] = []
    for task in sample:
        entry = asking.answers.read(task.question)
        request, _ = asking.next_request(task, entry)
        if service is not None:
            counts.append(service.count_tokens(request))
        else:
            texts = (request["system"], request["messages"], request["output_config"])
            counts.append(len(str(texts)) / CHARACTERS_PER_TOKEN)
    return sum(counts) / len(counts)


def _typical_output(step: Step, texts: int) -> float:
    """A guess, with some room for models that think before they answer."""
    guesses: Mapping[Step, float] = {
        "attributes": 300,
        "reason": 300,
        "prompts": 400 + 3 * texts * 30,
        "descriptions": 400 + texts * 15,
    }
    return guesses[step]
