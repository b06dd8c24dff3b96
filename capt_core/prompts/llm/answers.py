"""The store of answers: one human-readable JSON file per question, kept through failures.

A file is named by its question's classes and key and holds the question and every attempt at it:
what was asked, the answer, tokens and date. Two stores are merged by copying their files together.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from capt_core.artifacts.files import write_text
from capt_core.errors import CaptError
from capt_core.prompts.llm.checks import Answer, Rules, judge
from capt_core.prompts.llm.instructions import EVERY_STEP
from capt_core.prompts.llm.questions import AnyQuestion, Question, checksum

LOCKS = 128  # a batch takes all of them; some systems give a process 256 open files


class Tokens(BaseModel):
    """Tokens of one call, as the service counts and bills them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0


class Attempt(BaseModel):
    """One answer of the language model.

    Attributes:
        asked: the last message to the model, line by line: the question, or what was wrong
            with its answer.
        answer: its JSON, or its text where it is none.
        stop_reason: why it stopped, as the service reports it.
        model: the model that answered, as the service reports it.
        parameters: what was sent besides the texts.
        tokens: what the call took.
        date: when the answer arrived, UTC.
        via: `live`, or the id of the batch.
        request_id: the service's id of the call or message.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: list[str]
    answer: Any
    stop_reason: str | None
    model: str
    parameters: dict[str, int | str]
    tokens: Tokens
    date: str
    via: str
    request_id: str | None = None


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1] = 1
    question: AnyQuestion
    attempts: tuple[Attempt, ...]
    sha256: str = ""

    def checksum(self) -> str:
        return checksum(self.model_dump(include={"question", "attempts"}))


@dataclass(frozen=True)
class Entry:
    """A question with the attempts at it so far."""

    question: Question
    attempts: Sequence[Attempt] = ()

    def accepted(self, rules: Rules) -> Answer | None:
        """The first answer that can be used, None if there is none."""
        for attempt in self.attempts:
            verdict = judge(self.question, attempt.answer, attempt.stop_reason, rules)
            if not isinstance(verdict, list):
                return verdict
        return None

    def problems(self, rules: Rules) -> Sequence[str]:
        """What is wrong with the last attempt, nothing if it can be used."""
        if not self.attempts:
            return ["not asked yet"]
        last = self.attempts[-1]
        verdict = judge(self.question, last.answer, last.stop_reason, rules)
        return verdict if isinstance(verdict, list) else []


@dataclass
class AnswerStore:
    """A folder of answers.

    Attributes:
        root: the folder; made when the first answer is written.
        warn: called with a message for every file that was set aside.
    """

    root: Path
    warn: Callable[[str], None] = field(default=lambda _: None)

    def path(self, question: Question) -> Path:
        return self.root / question.step / question.file_name

    def read(self, question: Question) -> Entry:
        """What is stored for a question; an entry without attempts if there is nothing.

        A damaged file is set aside, not deleted, and reported to `warn`.

        Raises:
            CaptError: there is a file that cannot be opened, which does not make it a damaged one.
        """
        path = self.path(question)
        try:
            return self._load(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise CaptError(f"{path}: cannot read ({error.strerror or error})") from error
        except ValueError as error:
            self._set_aside(path, str(error))
        return Entry(question)

    def add(self, entry: Entry, attempt: Attempt) -> Entry:
        """Write an attempt behind the earlier ones; it is on disk when this returns.

        Raises:
            CaptError: the folder cannot be written.
        """
        longer = Entry(entry.question, (*entry.attempts, attempt))
        write_text(self.path(entry.question), entry_text(longer))
        return longer

    def entries(self) -> Iterator[tuple[Path, Entry | str]]:
        """Every file with its entry, or with what is wrong with it; nothing is set aside."""
        for path in self.files():
            try:
                yield path, self._load(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                yield path, f"cannot be read ({error.strerror or error})"
            except ValueError as error:
                yield path, str(error)

    def files(self) -> Iterator[Path]:
        """Every file of an answer, in order."""
        for step in EVERY_STEP:
            yield from sorted((self.root / step).glob("*.json"))

    @contextlib.contextmanager
    def claim(self, question: Question) -> Iterator[bool]:
        """Whether this process may ask a question now; no other one may until the block ends.

        A killed process gives its claim back. Some questions share a lock, so a refusal means: try
        again later.

        Raises:
            CaptError: the folder cannot be written.
        """
        lock = self._lock(int(question.key[:8], 16) % LOCKS)
        try:
            with self.writable():
                lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    @contextlib.contextmanager
    def claim_all(self) -> Iterator[None]:
        """Wait for all claims; nothing is asked by others until the block ends.

        Raises:
            CaptError: the folder cannot be written.
        """
        with contextlib.ExitStack() as stack:
            with self.writable():
                for shard in range(LOCKS):
                    stack.enter_context(self._lock(shard))
            yield

    def batches(self) -> Path:
        """Folder of the records of batches that are under way."""
        return self._folder("batches")

    def _load(self, path: Path) -> Entry:
        entry = read_entry(path)
        if self.path(entry.question) != path:
            raise ValueError("answers another question than its name says")
        return entry

    def _lock(self, shard: int) -> FileLock:
        return FileLock(self._folder("locks") / f"{shard:02x}.lock")

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        with self.writable():
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def writable(self) -> Iterator[None]:
        """What fails to write in the block fails as a CaptError that names the setting."""
        try:
            yield
        except Timeout:
            raise
        except OSError as error:
            raise CaptError(
                f"{error.filename or self.root}: cannot write ({error.strerror or error}); set "
                "generate_prompts.answers to a folder for the answers"
            ) from error

    def _set_aside(self, path: Path, reason: str) -> None:
        folder = self._folder("set-aside")
        target = folder / f"{path.parent.name}-{path.name}"
        number = 1
        while target.exists():
            number += 1
            target = folder / f"{path.parent.name}-{path.stem}-{number}{path.suffix}"
        # Another process may be faster.
        with self.writable(), contextlib.suppress(FileNotFoundError):
            os.replace(path, target)
            self.warn(f"{path}: {reason}; set aside as {target}")


def entry_text(entry: Entry) -> str:
    """The file of an entry: one phrase a line, closed by a checksum of question and attempts."""
    file = _File(question=entry.question, attempts=tuple(entry.attempts))
    record = {**file.model_dump(mode="json"), "sha256": file.checksum()}
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


def read_entry(path: Path) -> Entry:
    """Read one file.

    Raises:
        OSError: no such file, or one that cannot be opened.
        ValueError: damaged; the message says how.
    """
    try:
        file = _File.model_validate_json(path.read_bytes())
    except IsADirectoryError as error:
        raise ValueError("a folder, no file") from error
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise ValueError(f"half-written or damaged ({(place or problem['msg'])[:100]})") from error
    if file.checksum() != file.sha256:
        raise ValueError("changed or damaged since it was written (checksum)")
    return Entry(file.question, file.attempts)


def default_root() -> Path:
    """``cache/llm`` in the project, also from the copies in which DVC runs experiments.

    It is no output of a stage: DVC deletes and rolls back outputs, answers must stay.
    """
    return Path(os.environ.get("DVC_ROOT") or ".") / "cache" / "llm"
