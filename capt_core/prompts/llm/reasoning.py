"""The three steps (attributes, reason, prompts) for a set of confused pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from capt_core.params import GeneratePrompts
from capt_core.prompts.llm.answers import AnswerStore
from capt_core.prompts.llm.checks import Answer, Rules, difference_of
from capt_core.prompts.llm.instructions import STEPS, Instructions, Step
from capt_core.prompts.llm.questions import (
    AttributesAnswer,
    Background,
    Context,
    PromptsAnswer,
    Question,
    ReasonAnswer,
    wording,
)
from capt_core.prompts.llm.tasks import Attempting, Task
from capt_core.prompts.store import SCHEMA_VERSION, ClassEntry, PairEntry, PromptStore


@dataclass(frozen=True)
class ConfusedPair:
    """An unordered pair: class names in sorted order; how often each was taken for the other."""

    classes: tuple[str, str]
    counts: tuple[int, int]


Answerer = Callable[[Step, Sequence[Task]], None]
"""Has tasks of one step answered, as far as they can be."""


@dataclass
class Reasoning:
    """Questions, texts and answers of one data set.

    Attributes:
        dataset: its name, for the store of prompts made from the answers.
        domain: what its images show.
        context: fills the instruction texts.
        settings: model, number of prompts.
    """

    dataset: str
    domain: str
    context: Context
    settings: GeneratePrompts
    instructions: Instructions
    rules: Rules
    answers: AnswerStore
    attempting: Attempting = field(init=False)
    _found: dict[tuple[Step, tuple[str, ...]], Answer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.attempting = Attempting(self.settings, self.instructions, self.rules)

    @property
    def source(self) -> str:
        """What the table of prompts calls these answers."""
        return f"anthropic/{self.settings.model}"

    def question(self, step: Step, classes: Sequence[str]) -> Question:
        return Question(
            step=step,
            model=self.settings.model,
            instructions=self.instructions.version(step),
            domain=self.domain,
            classes=tuple(sorted(classes)),
            prompts=self.settings.prompts if step == "prompts" else 0,
        )

    def written(self, pairs: Sequence[ConfusedPair]) -> PromptStore:
        """What is answered about the pairs, in the form of a store of written prompts."""
        classes: dict[str, ClassEntry] = {}
        entries = []
        for pair in pairs:
            answer = self._prompts(pair)
            if answer is None:
                continue
            for name in pair.classes:
                attributes = self._attributes(name)
                if attributes:
                    classes[name] = ClassEntry(attributes=list(attributes))
            entries.append(
                PairEntry(
                    classes=pair.classes,
                    reason=self._reason(pair) or "",
                    commonality=answer.commonality,
                    difference={
                        name: list(texts)
                        for name, texts in difference_of(answer, pair.classes).items()
                    },
                )
            )
        return PromptStore(
            schema_version=SCHEMA_VERSION,
            dataset=self.dataset,
            domain=self.domain,
            source=self.source,
            classes=dict(sorted(classes.items())),
            pairs=entries,
        )

    def missing(self, pairs: Sequence[ConfusedPair]) -> list[ConfusedPair]:
        """Pairs without usable prompts."""
        return [pair for pair in pairs if self._prompts(pair) is None]

    def run(self, pairs: Sequence[ConfusedPair], answer: Answerer) -> None:
        """Ask what is missing, step by step. What cannot be had is left missing.

        Args:
            pairs: what is wanted.
            answer: asks the open tasks of one step.
        """
        for step in STEPS:
            tasks = list(self.tasks(step, pairs))
            if tasks:
                answer(step, tasks)

    def tasks(self, step: Step, pairs: Sequence[ConfusedPair]) -> Iterator[Task]:
        """Open tasks of a step for the pairs that have no prompts yet.

        A pair whose earlier steps are not answered has no task: nothing could be said of it.
        """
        seen: set[Question] = set()
        for pair in self.missing(pairs):
            if step == "attributes":
                subjects: list[tuple[str, ...]] = [(name,) for name in pair.classes]
            else:
                subjects = [pair.classes]
                if not all(self._attributes(name) for name in pair.classes):
                    continue
                if step == "prompts" and self._reason(pair) is None:
                    continue
            for subject in subjects:
                question = self.question(step, subject)
                if question in seen:
                    continue
                seen.add(question)
                if self.attempting.is_open(self.answers.read(question)):
                    yield Task(question, self._text_of(question, pair))

    def planned(self, pairs: Sequence[ConfusedPair]) -> Mapping[Step, list[Task]]:
        """Tasks that a run would take, with stand-ins for answers that are not there yet."""
        missing = self.missing(pairs)
        plan: dict[Step, list[Task]] = {step: [] for step in STEPS}
        names = sorted({name for pair in missing for name in pair.classes})
        subjects: list[tuple[Step, tuple[str, ...], ConfusedPair]] = [
            ("attributes", (name,), ConfusedPair((name, name), (0, 0))) for name in names
        ]
        subjects += [(step, pair.classes, pair) for step in STEPS[1:] for pair in missing]
        for step, classes, pair in subjects:
            question = self.question(step, classes)
            if self.attempting.is_open(self.answers.read(question)):
                plan[step].append(Task(question, self._text_of(question, pair)))
        return plan

    def failures(self, pairs: Sequence[ConfusedPair]) -> Iterator[tuple[Question, str]]:
        """For every pair without prompts the first question without a usable answer, and why."""
        told: set[Question] = set()
        for pair in self.missing(pairs):
            questions = [self.question("attributes", (name,)) for name in pair.classes]
            questions += [self.question(step, pair.classes) for step in STEPS[1:]]
            for question in questions:
                entry = self.answers.read(question)
                if entry.accepted(self.rules) is None:
                    if question not in told:
                        told.add(question)
                        yield question, "; ".join(entry.problems(self.rules)[:3])
                    break

    def _text_of(self, question: Question, pair: ConfusedPair) -> Callable[[], str]:
        def text() -> str:
            background = Background(
                {name: self._attributes(name) or _STAND_IN for name in question.classes},
                pair.counts,
                self._reason(pair) or _STAND_IN_REASON if question.step == "prompts" else "",
            )
            return wording(question, self.instructions, self.context, background)

        return text

    def _attributes(self, name: str) -> Sequence[str] | None:
        answer = self._accepted("attributes", (name,))
        return answer.attributes if isinstance(answer, AttributesAnswer) else None

    def _reason(self, pair: ConfusedPair) -> str | None:
        answer = self._accepted("reason", pair.classes)
        return answer.reason if isinstance(answer, ReasonAnswer) else None

    def _prompts(self, pair: ConfusedPair) -> PromptsAnswer | None:
        answer = self._accepted("prompts", pair.classes)
        return answer if isinstance(answer, PromptsAnswer) else None

    def _accepted(self, step: Step, classes: Sequence[str]) -> Answer | None:
        # What was accepted once stays so; what was not may have been asked meanwhile.
        key = (step, tuple(classes))
        if key not in self._found:
            answer = self.answers.read(self.question(step, classes)).accepted(self.rules)
            if answer is None:
                return None
            self._found[key] = answer
        return self._found[key]


# Of the length that answers have: only a dry run asks with these.
_STAND_IN = ("an attribute of about the length that such phrases have in answers",) * 6
_STAND_IN_REASON = " ".join(["a sentence about the shared traits and the conditions"] * 5)


def confused_pairs(rows: Sequence[tuple[str, str, int]]) -> list[ConfusedPair]:
    """Unordered pairs from rows (class, partner, images of the class taken for the partner).

    A direction that is not among the rows counts 0. Sorted by names.
    """
    counts: dict[tuple[str, str], list[int]] = {}
    for name, paired, count in rows:
        first, second = sorted((name, paired))
        counts.setdefault((first, second), [0, 0])[0 if name == first else 1] += count
    return [ConfusedPair(pair, (ab, ba)) for pair, (ab, ba) in sorted(counts.items())]
