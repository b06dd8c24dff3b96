"""Asking many questions at half the price: submit a batch, wait, collect; across restarts.

A record of each batch is written before the batch is submitted, and removed when all of its
results are collected. A run that finds a record continues from there.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from capt_core.artifacts.files import write_json
from capt_core.errors import CaptError
from capt_core.prompts.llm.asking import Pending, Task
from capt_core.prompts.llm.failures import NotKnownError, QuestionRefusedError, TransientError
from capt_core.prompts.llm.questions import Question
from capt_core.prompts.llm.replies import Reply
from capt_core.prompts.llm.run import Run
from capt_core.prompts.llm.waiting import patience

if TYPE_CHECKING:
    from anthropic.types.messages import MessageBatch

LARGEST = 10_000  # members of a batch; the service's limits are 100,000 and 256 MB
FIRST_LOOK = 1.0  # seconds until a batch is looked at; doubles up to `RAREST_LOOK`
RAREST_LOOK = 60.0
RAREST_LINE = 600.0  # seconds until the state of a batch is said again
CLOCKS_DIFFER = timedelta(minutes=10)
_KINDS = ("processing", "succeeded", "errored", "canceled", "expired")
OTHER_PROCESS = 2.0  # seconds between looks whether another process has finished its batches


class Record(BaseModel):
    """A batch that is being submitted (`batch_id` is null) or under way."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    created: datetime
    batch_id: str | None
    members: dict[str, Pending]


def read_records(folder: Path) -> list[tuple[Path, Record]]:
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
                f"{path}: a damaged record of a batch; its answers can only be replaced by asking "
                "again: remove the file to do so"
            ) from error
    return sorted(found, key=lambda item: (item[1].created, item[0].name))


def record_of(folder: Path, question: Question) -> Path | None:
    """The record of the batch that asks a question, None if none does.

    Raises:
        CaptError: a record is damaged.
    """
    for path, record in read_records(folder):
        if any(pending.question == question for pending in record.members.values()):
            return path
    return None


class BatchRun(Run):
    """Answers tasks with batches."""

    def answer(self, tasks: Sequence[Task], advance: Callable[[int], None]) -> None:
        """Collect what is under way, then ask what is open, in as many rounds as it takes.

        A second process waits for the first one to end, since both would ask the same.

        Raises:
            CaptError: the service refuses, or too many rounds brought nothing.
        """
        folder = self.store.batches()
        lock = FileLock(folder / "batches.lock")
        with self.store.writable():
            try:
                lock.acquire(timeout=0)
            except Timeout:
                self.say("another process has batches under way; waiting for it to finish")
                lock.acquire(poll_interval=OTHER_PROCESS)
        try:
            self._rounds(list(tasks), folder, advance)
        finally:
            lock.release()

    def _rounds(self, waiting: list[Task], folder: Path, advance: Callable[[int], None]) -> None:
        """Each round collects the batches that have records, or else submits what is open."""
        fruitless, failure = 0, ""
        while True:
            still = [task for task in waiting if self._is_open(task)]
            advance(len(waiting) - len(still))
            waiting, records = still, read_records(folder)
            if not waiting and not records:
                return
            if fruitless > self.asking.settings.retries:
                raise CaptError(
                    f"{failure}, {fruitless} times in a row; run again later, nothing that was "
                    "answered is asked again"
                    if failure
                    else f"{fruitless} batches in a row brought no answer ({len(waiting)} questions"
                    f" are open, such as {waiting[0].question.title}); run again later"
                )
            if fruitless:
                pause = min(RAREST_LOOK, FIRST_LOOK * 2**fruitless)
                self.say(
                    f"{failure or 'no answer in the last batch'}; trying again in {pause:.0f} s"
                )
                self.service.sleep(pause)
            before, failure = self.spending.calls, ""
            for path, record in records:
                failure = self._finish(path, record) or failure
            if not records:
                for start in range(0, len(waiting), LARGEST):
                    failure = self._submit(waiting[start : start + LARGEST], folder) or failure
            if self.spending.calls > before:
                fruitless = 0
            elif failure or any(record.batch_id for _, record in records):
                fruitless += 1

    def _is_open(self, task: Task) -> bool:
        if task.question.key in self.refused:
            return False
        return self.asking.is_open(self.store.read(task.question))

    def _submit(self, tasks: Sequence[Task], folder: Path) -> str:
        """Submit the open ones of some tasks; what failed, or nothing.

        After a failure the service may have taken the batch all the same. Its record stays, and the
        next round looks for it.
        """
        members, requests = {}, []
        now, mark = datetime.now(UTC), uuid.uuid4().hex[:8]
        path = folder / f"{now:%Y%m%dT%H%M%S}-{mark}.json"
        # Live runs look for the record once they hold a claim, so none can ask the same.
        with (
            patience(self.say, lambda: "waiting for other processes to finish their calls"),
            self.store.claim_all(),
        ):
            for task in filter(self._is_open, tasks):
                entry = self.store.read(task.question)
                request, pending = self.asking.next_request(task, entry)
                name = f"{task.question.key[:40]}-{pending.number}-{mark}"
                members[name] = pending
                requests.append((name, request))
            if not members:
                return ""
            record = Record(created=now, batch_id=None, members=members)
            _write(path, record)
        try:
            with patience(self.say, lambda: f"submitting a batch of {len(requests)} questions"):
                batch_id = self.service.submit(requests)
            self._numbered(path, record, batch_id)
        except TransientError as error:
            return f"submitting a batch: {error} (if the service took it, a later run finds it)"
        except (QuestionRefusedError, CaptError) as error:
            path.unlink(missing_ok=True)
            raise CaptError(f"the batch was not taken: {error}") from None
        return ""

    def _numbered(self, path: Path, record: Record, batch_id: str) -> Record:
        numbered = record.model_copy(update={"batch_id": batch_id})
        _write(path, numbered)
        self.say(f"batch {batch_id}: {len(record.members)} questions submitted")
        return numbered

    def _finish(self, path: Path, record: Record) -> str:
        """Wait for a batch, store its answers, remove its record; what failed, or nothing."""
        title = f"batch {record.batch_id or 'that may have been taken'}"
        give_up = f"to give it up and ask anew, remove {path}"
        try:
            batch_id = record.batch_id or self._find_taken(record)
            if batch_id:
                if record.batch_id is None:
                    record = self._numbered(path, record, batch_id)
                if self._ended(batch_id):
                    self._collect(batch_id, record)
        except TransientError as error:
            return f"{title}: {error} ({give_up})"
        except CaptError as error:
            raise CaptError(f"{title}: {error}; {give_up}") from None
        path.unlink(missing_ok=True)
        return ""

    def _ended(self, batch_id: str) -> bool:
        """Wait until a batch has ended; False if the service no longer knows it."""
        pause, last, said = FIRST_LOOK, "", time.monotonic()
        while True:
            try:
                with patience(self.say, lambda: self._asking(batch_id)):
                    batch = self.service.batch(batch_id)
            except NotKnownError:
                self.say(f"batch {batch_id}: the service does not know it any more; asking again")
                return False
            if getattr(batch, "archived_at", None) is not None:
                self.say(f"batch {batch_id}: its results are no longer kept; asking again")
                return False
            if batch.processing_status == "ended":
                return True
            left = _count(batch, "processing")
            state = str(batch.processing_status) + ("" if left is None else f", {left} open")
            if state != last or time.monotonic() - said > RAREST_LINE:
                self.say(f"batch {batch_id}: {state}")
                said = time.monotonic()
            if not last:
                self.say(
                    f"batch {batch_id}: it may take hours and is looked at every "
                    f"{RAREST_LOOK:.0f} s; after Ctrl-C, the same command goes on with it"
                )
            last = state
            self.service.sleep(pause)
            pause = min(RAREST_LOOK, pause * 2)

    def _asking(self, batch_id: str) -> str:
        trouble = self.service.trouble
        return f"batch {batch_id}: asking for its state" + (
            f"; last attempt: {trouble}" if trouble else ""
        )

    def _collect(self, batch_id: str, record: Record) -> None:
        """Store every answer as it arrives.

        Raises:
            TransientError: the results broke off. A connection may end without a sign that it is
                early, so results that lack members are incomplete.
        """
        before = self.spending.calls
        seen: set[str] = set()
        with patience(
            self.say,
            lambda: f"batch {batch_id}: results of {len(seen)} of {len(record.members)} fetched",
        ):
            for name, outcome in self.service.results(batch_id):
                if name in record.members and name not in seen:
                    seen.add(name)
                    self._keep(record.members[name], outcome, batch_id)
        if len(seen) < len(record.members):
            raise TransientError(f"results of {len(seen)} of {len(record.members)} members")
        stored = self.spending.calls - before
        self.say(f"batch {batch_id}: {stored} answers of {len(record.members)} stored")

    def _keep(self, pending: Pending, outcome: Reply | Exception, batch_id: str) -> None:
        if isinstance(outcome, QuestionRefusedError):
            self.refused[pending.question.key] = str(outcome)
        if isinstance(outcome, Reply):
            entry = self.store.read(pending.question)
            if len(entry.attempts) == pending.number:  # else it was stored before a restart
                self.keep(entry, pending, outcome, batch_id)

    def _find_taken(self, record: Record) -> str | None:
        """The batch that a record without an id stands for, if the service has taken it.

        Only results tell what a batch was about, so one of the same size from the same minutes is
        waited for and looked into.

        Raises:
            TransientError: results broke off before the first one.
        """
        known = {other.batch_id for _, other in read_records(self.store.batches())}
        with patience(self.say, lambda: "looking for a batch that may have been taken"):
            near = self.service.batches_between(
                record.created - CLOCKS_DIFFER, record.created + CLOCKS_DIFFER
            )
        for batch in near:
            if batch.id in known or _size(batch) not in (0, len(record.members)):
                continue
            if self._ended(batch.id) and self._holds(batch.id, record):
                return batch.id
        return None

    def _holds(self, batch_id: str, record: Record) -> bool:
        """Whether a batch is the record's, by one name, since names carry the record's mark."""
        for name, _ in self.service.results(batch_id):
            return name in record.members
        raise TransientError("the results are empty")


def _size(batch: MessageBatch) -> int:
    """Members of a batch as the service counts them, 0 if it does not."""
    return sum(_count(batch, kind) or 0 for kind in _KINDS)


def _count(batch: MessageBatch, kind: str) -> int | None:
    """A count that a batch may lack: it is only for messages and for a first guess."""
    count = getattr(getattr(batch, "request_counts", None), kind, None)
    return count if isinstance(count, int) else None


def _write(path: Path, record: Record) -> None:
    write_json(path, record.model_dump(mode="json"))
