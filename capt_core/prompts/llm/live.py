"""Asking one call at a time, several at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from capt_core.errors import CaptError
from capt_core.prompts.llm.asking import Task
from capt_core.prompts.llm.batches import record_of
from capt_core.prompts.llm.failures import QuestionRefusedError, StoppedError
from capt_core.prompts.llm.run import LIVE, Run
from capt_core.prompts.llm.waiting import patience

REFUSALS_IN_A_ROW = 5  # refused requests without a success between them end the run
CLAIMED_ELSEWHERE = 0.2  # seconds until another process's question is looked at again


class LiveRun(Run):
    """Answers tasks with single calls."""

    _refusals_in_a_row = 0
    _elsewhere = False  # whether the last question looked at is asked by another process

    def answer(self, tasks: Sequence[Task], advance: Callable[[int], None]) -> None:
        """Ask every task until its answer can be used or its attempts are used up.

        An answer is on disk before the same thread asks the next question. When a thread fails or
        the user interrupts, the calls under way are waited for, because they are paid for.

        Raises:
            CaptError: the service refuses or keeps failing; every answer so far is stored.
        """
        waiting = deque(tasks)
        failures: list[BaseException] = []
        answered = self.spending.calls

        def state() -> str:
            if self._elsewhere:
                return f"another process asks what is open here ({len(waiting)}); waiting for it"
            trouble = self.service.trouble
            return (
                f"waiting for answers of {self.asking.settings.model}: "
                f"{self.spending.calls - answered} here, {len(waiting)} questions not asked yet"
                + (f"; last attempt: {trouble}" if trouble else "")
            )

        def work(ended: threading.Event) -> None:
            try:
                work_through()
            finally:
                ended.set()

        def work_through() -> None:
            while not self.service.stop.is_set():
                try:
                    task = waiting.popleft()
                except IndexError:
                    return
                try:
                    done = self._answer_one(task)
                except BaseException as error:
                    if not isinstance(error, StoppedError):
                        failures.append(error)
                    self.service.stop.set()
                    return
                if done:
                    advance(1)
                    self._elsewhere = False
                else:
                    self._elsewhere = True
                    waiting.append(task)
                    self.service.stop.wait(CLAIMED_ELSEWHERE)

        count = min(self.asking.settings.concurrency, len(tasks))
        ends = [threading.Event() for _ in range(count)]
        threads = [threading.Thread(target=work, args=(end,), daemon=True) for end in ends]
        try:
            with patience(self.say, state):
                for thread in threads:
                    thread.start()
                # Not Thread.join: where Ctrl-C interrupts that, Python 3.11 takes the thread for
                # ended, and the answer on its way would be lost (bpo-45274).
                for ended in ends:
                    while not ended.wait(0.2):
                        pass
        except KeyboardInterrupt:
            self.service.stop.set()
            self.store.warn("interrupted; waiting for the calls under way, which are paid for")
            for thread, ended in zip(threads, ends, strict=True):
                while thread.is_alive() and not ended.wait(0.2):
                    pass
            raise
        if failures:
            raise failures[0]

    def _answer_one(self, task: Task) -> bool:
        """Whether the task is done with; False if another process holds its question."""
        with self.store.claim(task.question) as mine:
            if not mine:
                return False
            entry = self.store.read(task.question)
            while self.asking.is_open(entry):
                record = record_of(self.store.batches(), task.question)
                if record is not None:
                    raise CaptError(
                        f"{task.question.title} is in a batch that is not collected yet; run with "
                        "generate_prompts.provider=anthropic-batch to collect it, or remove "
                        f"{record} to forget it"
                    )
                request, pending = self.asking.next_request(task, entry)
                try:
                    reply = self.service.ask(request)
                except QuestionRefusedError as error:
                    self._note_refusal(task, str(error))
                    return True
                entry = self.keep(entry, pending, reply, LIVE)
                self._refusals_in_a_row = 0
        return True

    def _note_refusal(self, task: Task, text: str) -> None:
        self.refused[task.question.key] = text
        self._refusals_in_a_row += 1
        if self._refusals_in_a_row >= REFUSALS_IN_A_ROW:
            raise CaptError(
                f"the service refused {REFUSALS_IN_A_ROW} requests in a row, last: {text}; "
                "every answer so far is stored"
            )
