"""The three steps (attributes, reason, prompts) for a set of confused pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from capt_core.data.splits import prompt_name
from capt_core.prompts.llm.asking import Asking, ConfusedPair, Task, listed
from capt_core.prompts.llm.checks import difference_of
from capt_core.prompts.llm.instructions import STEPS, Step
from capt_core.prompts.llm.questions import AttributesAnswer, PromptsAnswer, Question, ReasonAnswer
from capt_core.prompts.store import SCHEMA_VERSION, ClassEntry, PairEntry, PromptStore


class Reasoning(Asking):
    """Questions about pairs of classes of one data set, and their answers."""

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
        """The answers about the pairs in the form of a store of written prompts."""
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

    def tasks(
        self, step: Step, pairs: Sequence[ConfusedPair], planned: bool = False
    ) -> Iterator[Task]:
        """Open tasks of a step for the pairs that have no prompts yet, each question once.

        Args:
            planned: with placeholders for earlier answers that are not there yet; else a pair
                whose earlier steps are not answered has no task, since its text depends on them.
        """
        seen: set[Question] = set()
        for pair in self.missing(pairs):
            questions = self._questions(pair)
            earlier = [q for q in questions if STEPS.index(q.step) < STEPS.index(step)]
            if not planned and any(self.accepted(question) is None for question in earlier):
                continue
            for question in questions:
                if question.step != step or question in seen:
                    continue
                seen.add(question)
                if self.is_open(self.answers.read(question)):
                    yield Task(question, pair)

    def failures(self, pairs: Sequence[ConfusedPair]) -> Mapping[Question, str]:
        """For every pair without prompts the first question without a usable answer, and why."""
        found: dict[Question, str] = {}
        for pair in self.missing(pairs):
            for question in self._questions(pair):
                entry = self.answers.read(question)
                if entry.accepted(self.rules) is None:
                    found[question] = "; ".join(entry.problems(self.rules)[:3])
                    break
        return found

    def _questions(self, pair: ConfusedPair) -> list[Question]:
        """The questions about a pair, in the order of the steps."""
        attributes = [self.question("attributes", (name,)) for name in pair.classes]
        return attributes + [self.question(step, pair.classes) for step in STEPS[1:]]

    def text_of(self, task: Task) -> str:
        question, pair = task.question, task.pair
        assert pair is not None
        first, last = question.classes[0], question.classes[-1]
        values: dict[str, object] = {
            "domain": question.domain,
            "class_a": prompt_name(first),
            "class_b": prompt_name(last),
            "attributes_a": listed(self._attributes(first) or _ATTRIBUTES),
            "attributes_b": listed(self._attributes(last) or _ATTRIBUTES),
            "count_ab": pair.counts[0],
            "count_ba": pair.counts[1],
            "reason": self._reason(pair) or _REASON,
            "count": question.prompts,
            "words": self.words,
            "medium": ", ".join(self.rules.medium),
            "photo_a": self.templates[first].format(prompt_name(first)).rstrip("."),
        }
        return self.instructions.fill(question.step, values)

    def _attributes(self, name: str) -> Sequence[str] | None:
        answer = self.accepted(self.question("attributes", (name,)))
        return answer.attributes if isinstance(answer, AttributesAnswer) else None

    def _reason(self, pair: ConfusedPair) -> str | None:
        answer = self.accepted(self.question("reason", pair.classes))
        return answer.reason if isinstance(answer, ReasonAnswer) else None

    def _prompts(self, pair: ConfusedPair) -> PromptsAnswer | None:
        answer = self.accepted(self.question("prompts", pair.classes))
        return answer if isinstance(answer, PromptsAnswer) else None


# Placeholders of the length that answers have; only an estimate asks with them.
_ATTRIBUTES = ("an attribute of about the length that such phrases have in answers",) * 6
_REASON = " ".join(["a sentence about the shared traits and the conditions"] * 5)


def confused_pairs(rows: Sequence[tuple[str, str, int]]) -> list[ConfusedPair]:
    """Unordered pairs from rows (class, partner, images of the class taken for the partner).

    A direction that is not among the rows counts 0. Sorted by names.
    """
    counts: dict[tuple[str, str], list[int]] = {}
    for name, paired, count in rows:
        first, second = sorted((name, paired))
        counts.setdefault((first, second), [0, 0])[0 if name == first else 1] += count
    return [ConfusedPair(pair, (ab, ba)) for pair, (ab, ba) in sorted(counts.items())]
