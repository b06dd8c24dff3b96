"""Asking many questions at half the price: hand in a batch, wait, collect; across restarts.

A record of each batch is written before the batch is handed in, and removed when all of it is
collected. Whoever finds a record goes on from there.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from capt_core.artifacts.files import write_json
from capt_core.errors import CaptError
from capt_core.prompts.llm.answers import AnswerStore
from capt_core.prompts.llm.costs import Spending
from capt_core.prompts.llm.questions import Question
from capt_core.prompts.llm.service import (
    NotKnownError,
    QuestionRefusedError,
    Reply,
    Request,
    Service,
    TransientError,
)
from capt_core.prompts.llm.tasks import Attempting, Task, attempt_of

if TYPE_CHECKING:
    from anthropic.types.messages import MessageBatch

LARGEST = 10_000  # members of a batch; the service's limits are 100,000 and 256 MB
FIRST_LOOK = 1.0  # seconds until a batch is looked at; doubles up to `RAREST_LOOK`
RAREST_LOOK = 60.0
CLOCKS_DIFFER = timedelta(minutes=10)
_KINDS = ("processing", "succeeded", "errored", "canceled", "expired")
OTHER_PROCESS = 2.0  # seconds between looks whether another process has finished its batches


class Member(BaseModel):
    """One question of a batch; `number` counts the attempts at it before this one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: dict[str, Any]
    number: int
    asked: str
    parameters: dict[str, int | str]


class Record(BaseModel):
    """A batch that is being handed in (`batch_id` is null) or under way."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    created: datetime
    batch_id: str | None
    members: dict[str, Member]


def read_records(folder: Path) -> Iterator[tuple[Path, Record]]:
    """Records of batches, oldest first.

    Raises:
        CaptError: a record is damaged; it is left for a person, as it stands for paid answers.
    """
    found = []
    for path in folder.glob("*.json"):
        try:
            found.append((path, Record.model_validate_json(path.read_bytes())))
        except FileNotFoundError:
            continue
        except (ValidationError, OSError) as error:
            raise CaptError(
                f"{path}: a damaged record of a batch; its answers can be had again only by asking "
                "anew: remove the file to do so"
            ) from error
    yield from sorted(found, key=lambda item: (item[1].created, item[0].name))


class UnderWay:
    """Questions in batches that are not collected yet; cheap to look at again and again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: tuple[tuple[str, int], ...] = ()
        self._records: dict[str, Path] = {}

    def record_of(self, question: Question) -> Path | None:
        """The record of the batch that asks a question, None if none does.

        Raises:
            CaptError: a record is damaged.
        """
        found = []
        for path in self._folder.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):
                found.append((path.name, path.stat().st_mtime_ns))
        if tuple(sorted(found)) != self._seen:
            self._records = {
                Question.from_dict(member.question).key: path
                for path, record in read_records(self._folder)
                for member in record.members.values()
            }
            self._seen = tuple(sorted(found))
        return self._records.get(question.key)


class BatchRun:
    """Answers tasks with batches.

    Attributes:
        refused: questions that the service did not take, with its words.
    """

    def __init__(
        self,
        service: Service,
        store: AnswerStore,
        attempting: Attempting,
        spending: Spending,
        say: Callable[[str], None],
    ) -> None:
        self.refused: dict[str, str] = {}
        self._service = service
        self._store = store
        self._attempting = attempting
        self._spending = spending
        self._say = say

    def answer(self, tasks: Sequence[Task], advance: Callable[[int], None]) -> None:
        """Collect what is under way, then ask what is open, in as many rounds as it takes.

        A second process waits for the first one to end, since both would ask the same.

        Raises:
            CaptError: the service refuses or stays away, or too many rounds brought nothing.
        """
        folder = self._store.batches()
        lock = FileLock(folder / "batches.lock", timeout=0)
        told = False
        while True:
            try:
                with self._store.writable():
                    lock.acquire()
                break
            except Timeout:
                if not told:
                    self._say("another process has batches under way; waiting for it to finish")
                told = True
                self._service.sleep(OTHER_PROCESS)
        try:
            for path, record in list(read_records(folder)):
                self._finish(path, record)
            self._answer_all(tasks, folder, advance)
        finally:
            lock.release()

    def _answer_all(
        self, tasks: Sequence[Task], folder: Path, advance: Callable[[int], None]
    ) -> None:
        waiting, fruitless = list(tasks), 0
        while True:
            still = [task for task in waiting if self._is_open(task)]
            advance(len(waiting) - len(still))
            waiting = still
            if not waiting:
                return
            if fruitless > self._attempting.settings.retries:
                raise CaptError(
                    f"{fruitless} batches in a row brought no answer ({len(waiting)} questions are "
                    "open, such as " + waiting[0].question.title + "); run again later"
                )
            parts = [waiting[i : i + LARGEST] for i in range(0, len(waiting), LARGEST)]
            handed_in = [found for part in parts if (found := self._hand_in(part, folder))]
            stored = sum(self._finish(path, record) for path, record in handed_in)
            fruitless = 0 if stored or not handed_in else fruitless + 1

    def _is_open(self, task: Task) -> bool:
        if task.question.key in self.refused:
            return False
        return self._attempting.is_open(self._store.read(task.question))

    def _hand_in(self, tasks: Sequence[Task], folder: Path) -> tuple[Path, Record] | None:
        """Hand the open ones of some tasks in; None if others have answered them all meanwhile."""
        members, requests = {}, []
        now, mark = datetime.now(UTC), uuid.uuid4().hex[:8]
        path = folder / f"{now:%Y%m%dT%H%M%S}-{mark}.json"
        # Live runs look for the record once they hold a claim, so none can ask the same.
        with self._store.claim_all():
            for task in filter(self._is_open, tasks):
                entry = self._store.read(task.question)
                request, asked, parameters = self._attempting.next_request(task, entry)
                number = len(entry.attempts)
                name = f"{task.question.key[:40]}-{number}-{mark}"
                members[name] = Member(
                    question=task.question.as_dict(),
                    number=number,
                    asked=asked,
                    parameters=parameters,
                )
                requests.append((name, request))
            if not members:
                return None
            record = Record(created=now, batch_id=None, members=members)
            _write(path, record)
        return path, self._submit(path, record, requests)

    def _submit(
        self, path: Path, record: Record, requests: Sequence[tuple[str, Request]]
    ) -> Record:
        for tries in range(self._attempting.settings.retries + 1):
            try:
                batch_id = self._service.submit(requests)
            except (QuestionRefusedError, CaptError) as error:
                path.unlink(missing_ok=True)
                raise CaptError(f"the batch was not taken: {error}") from None
            except TransientError as error:
                if tries == self._attempting.settings.retries:
                    raise CaptError(
                        f"handing in a batch failed {tries + 1} times, last: {error}; run again "
                        "later: if the service has taken it after all, it is found then"
                    ) from None
                self._service.back_off(tries, error.delay)
                # Whatever broke may have broken after the service took the batch.
                try:
                    taken = self._find_taken(record)
                except CaptError as fault:
                    raise CaptError(
                        f"nobody knows whether the batch was taken ({error}; {fault}); run again "
                        f"to look for it, or remove {path} to ask anew"
                    ) from None
                if taken:
                    return self._numbered(path, record, taken)
            else:
                return self._numbered(path, record, batch_id)
        raise AssertionError

    def _numbered(self, path: Path, record: Record, batch_id: str) -> Record:
        numbered = record.model_copy(update={"batch_id": batch_id})
        _write(path, numbered)
        self._say(f"batch {batch_id}: {len(record.members)} questions handed in")
        return numbered

    def _finish(self, path: Path, record: Record) -> int:
        """Wait for a batch, store its answers, remove its record; how many answers were stored."""
        stored, title = 0, f"batch {record.batch_id}"
        try:
            if record.batch_id is None:
                title = "looking for a batch that may have been taken"
            batch_id = record.batch_id or self._find_taken(record)
            if batch_id and self._ended(batch_id):
                title = f"batch {batch_id}"
                stored = self._collect(batch_id, record)
        except CaptError as error:
            raise CaptError(
                f"{title}: {error}; to give it up and ask anew, remove {path}"
            ) from None
        path.unlink(missing_ok=True)
        return stored

    def _ended(self, batch_id: str) -> bool:
        """Wait until a batch has ended; False if the service no longer knows it."""
        pause, told = FIRST_LOOK, ""
        while True:
            try:
                batch = self._service.batch(batch_id)
            except NotKnownError:
                self._say(f"batch {batch_id}: the service does not know it any more; asking again")
                return False
            if getattr(batch, "archived_at", None) is not None:
                self._say(f"batch {batch_id}: its results are no longer kept; asking again")
                return False
            if batch.processing_status == "ended":
                return True
            left = _count(batch, "processing")
            state = str(batch.processing_status) + ("" if left is None else f", {left} open")
            if state != told:
                self._say(f"batch {batch_id}: {state}")
            told = state
            self._service.sleep(pause)
            pause = min(RAREST_LOOK, pause * 2)

    def _collect(self, batch_id: str, record: Record) -> int:
        """Store every answer as it arrives; look again for the rest when the results break off.

        Raises:
            CaptError: they never come whole. A connection may end without a sign that it is early,
                so results that lack members are no whole results.
        """
        stored = 0
        seen: set[str] = set()

        def read() -> None:
            nonlocal stored
            for name, outcome in self._service.results(batch_id):
                member = record.members.get(name)
                if member is None or name in seen:
                    continue
                seen.add(name)
                stored += self._keep(member, outcome, batch_id)
            if len(seen) < len(record.members):
                raise TransientError(f"results of {len(seen)} of {len(record.members)} members")

        self._service.retrying(read)
        self._say(f"batch {batch_id}: {stored} answers of {len(record.members)} stored")
        return stored

    def _keep(self, member: Member, outcome: Reply | Exception, batch_id: str) -> bool:
        question = Question.from_dict(member.question)
        if isinstance(outcome, QuestionRefusedError):
            self.refused[question.key] = str(outcome)
        if not isinstance(outcome, Reply):
            return False
        entry = self._store.read(question)
        if len(entry.attempts) != member.number:
            return False  # stored before a restart
        self._store.add(entry, attempt_of(member.asked, member.parameters, outcome, batch_id))
        self._spending.add(outcome.tokens, batch=True)
        return True

    def _find_taken(self, record: Record) -> str | None:
        """The batch that a record without an id stands for, if the service has taken it.

        Only results tell what a batch was about, so one of the same size from the same minutes is
        waited for and looked into.
        """
        known = {other.batch_id for _, other in read_records(self._store.batches())}
        near = self._service.batches_between(
            record.created - CLOCKS_DIFFER, record.created + CLOCKS_DIFFER
        )
        for batch in near:
            if batch.id in known or _size(batch) not in (0, len(record.members)):
                continue
            if self._ended(batch.id) and self._service.retrying(
                partial(self._holds, batch.id, record)
            ):
                return batch.id
        return None

    def _holds(self, batch_id: str, record: Record) -> bool:
        """Whether a batch is the record's: one name tells, since names carry the record's mark."""
        for name, _ in self._service.results(batch_id):
            return name in record.members
        raise TransientError("the results are empty")


def _size(batch: MessageBatch) -> int:
    """Members of a batch as the service counts them, 0 if it does not."""
    return sum(_count(batch, kind) or 0 for kind in _KINDS)


def _count(batch: MessageBatch, kind: str) -> int | None:
    """A count that a batch may lack: it is only for people and for a first guess."""
    count = getattr(getattr(batch, "request_counts", None), kind, None)
    return count if isinstance(count, int) else None


def _write(path: Path, record: Record) -> None:
    write_json(path, record.model_dump(mode="json"))
