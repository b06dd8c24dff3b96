"""What each class looks like, attribute by attribute, asked for once and without any pair."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from capt_core.data.splits import prompt_name
from capt_core.errors import CaptError, cut, shown
from capt_core.prompts.llm.asking import Asking, Task, listed
from capt_core.prompts.llm.checks import by_attribute, in_template
from capt_core.prompts.llm.instructions import DESCRIPTIONS
from capt_core.prompts.llm.questions import DescriptionsAnswer, DescriptionsQuestion, Question
from capt_core.prompts.store import SCHEMA_VERSION, ClassPrompts, PromptStore

MOST_WORDS: Final = 20  # of a phrase
SHORTEST: Final = "of one even colour"  # a phrase for which there must be room


@dataclass
class Describing(Asking):
    """Questions about single classes of one data set, and their answers.

    A model is told the name of a class and what the images show, never an image, so that novel
    classes may be asked about.

    Attributes:
        attributes: that are asked for, the same for every class.
    """

    attributes: Sequence[str] = ()

    def question(self, name: str) -> DescriptionsQuestion:
        return DescriptionsQuestion(
            step=DESCRIPTIONS,
            model=self.settings.model,
            instructions=self.instructions.version(DESCRIPTIONS),
            domain=self.domain,
            classes=(name,),
            prompts=self.settings.sentences,
            attributes=tuple(self.attributes),
        )

    def text_of(self, task: Task) -> str:
        question = task.question
        assert isinstance(question, DescriptionsQuestion)
        (name,) = question.classes
        photo = self.templates[name].format(prompt_name(name)).rstrip(".")
        values: dict[str, object] = {
            "domain": question.domain,
            "class_a": prompt_name(name),
            "attributes": listed(question.attributes),
            "count": question.prompts,
            "words": max(4, min(MOST_WORDS, self.words - len(photo.split()))),
            "photo_a": photo,
        }
        return self.instructions.fill(question.step, values)

    def missing(self, names: Iterable[str]) -> list[str]:
        """Classes without a usable answer."""
        return [name for name in names if self.accepted(self.question(name)) is None]

    def tasks(self, names: Iterable[str]) -> Iterator[Task]:
        """Questions about classes that have no usable answer and may be asked (again)."""
        for name in names:
            task = Task(self.question(name))
            if self.is_open(self.answers.read(task.question)):
                yield task

    def failures(self, names: Iterable[str]) -> Mapping[Question, str]:
        """The questions about classes without a usable answer, and why there is none."""
        found: dict[Question, str] = {}
        for name in self.missing(names):
            question = self.question(name)
            problems = self.answers.read(question).problems(self.rules)
            found[question] = "; ".join(problems[:3])
        return found

    def written(self, names: Iterable[str]) -> PromptStore:
        """The answers about classes in the form of a store of written prompts."""
        prompts = {}
        for name in names:
            question = self.question(name)
            answer = self.accepted(question)
            if isinstance(answer, DescriptionsAnswer):
                prompts[name] = ClassPrompts(by_attribute=by_attribute(question, answer))
        return PromptStore(
            schema_version=SCHEMA_VERSION,
            dataset=self.dataset,
            domain=self.domain,
            source=self.source,
            classes={},
            pairs=[],
            class_prompts=dict(sorted(prompts.items())),
        )

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse classes behind whose name no phrase has room, before anything is paid for.

        Raises:
            CaptError: names the class, and what to do.
        """
        limit = self.rules.context_length
        for name in names:
            tokens = self.rules.token_count(in_template(name, SHORTEST, self.rules))
            if tokens > limit:
                raise CaptError(
                    f"class {shown(cut(name))}: its name leaves no room for a description in the "
                    f"{limit} tokens of the text encoder; give it a shorter name (data.classes "
                    "takes a file of names)"
                )
