"""The Messages and Batches interfaces of Anthropic.

The client library retries and backs off. Added here, by a middleware that sees every attempt: a
limit on the wait that a server may ask for, retries after replies that are not usable, and an end
of the waiting when the run ends.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from capt_core.errors import CaptError
from capt_core.params import GeneratePrompts
from capt_core.prompts.llm.failures import (
    DETAIL,
    KEY_VARIABLE,
    RETRIED,
    WAIT_HEADERS,
    QuestionRefusedError,
    StoppedError,
    TransientError,
    asked_delay,
    host_of,
    message_of,
    of_status,
)
from capt_core.prompts.llm.redaction import Redaction, credentials
from capt_core.prompts.llm.replies import Reader, Reply

if TYPE_CHECKING:
    from anthropic import APIRequest, CallNext
    from anthropic.types.messages import MessageBatch

LONGEST_WAIT = 600.0  # seconds; a service that asks for more is left for later

LARGEST_ANSWER = 32 * 2**20  # bytes of a response other than the results of a batch

Request = Mapping[str, Any]
"""Arguments of one call of the Messages interface."""

_T = TypeVar("_T")


def api_key() -> str | None:
    """The key from the environment; None when it is unset or blank.

    Raises:
        CaptError: it cannot be a key. The message does not show it.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise CaptError(f"{KEY_VARIABLE} holds blanks or letters that no key has; set it anew")
    return key


class Service:
    """Calls of the language model.

    Credentials are removed from every text that comes back, answers and error messages alike,
    before anything is done with it. Requests go to the address of the service alone: redirects are
    not followed.

    Attributes:
        stop: set it to end the run: calls under way end, later ones raise StoppedError.
        trouble: why the last attempt of a call failed, empty after one that did not.

    Raises:
        CaptError: the client library is missing or cannot be set up.
    """

    def __init__(self, key: str, settings: GeneratePrompts) -> None:
        try:
            import anthropic
        except ImportError:
            raise CaptError(
                f"generate_prompts.provider={settings.provider} needs the extra [llm]; run: "
                'pip install "capt-stage[llm]"'
            ) from None
        self.stop = threading.Event()
        self._library = anthropic
        self.trouble = ""
        self._settings = settings
        self._redaction = Redaction(key, credentials())
        self._reader = Reader(self._redaction)
        self._tries = settings.retries + 1

        def limit_duration(response: Any) -> None:
            # The client's time-out is per read, which a server that sends a byte now and then
            # never exceeds. Results of batches may be long; the time-out per read serves them.
            if not response.request.url.path.endswith("/results"):
                response.iter_raw = lambda read=response.iter_raw: _within(read(), settings.timeout)

        try:
            self._client = anthropic.Anthropic(
                api_key=key,
                max_retries=settings.retries,
                timeout=anthropic.Timeout(settings.timeout, connect=min(10.0, settings.timeout)),
                http_client=anthropic.DefaultHttpxClient(
                    event_hooks={"response": [limit_duration]}, follow_redirects=False
                ),
                middleware=[self._attempt],
                open_telemetry=False,
            )
        except Exception as error:
            raise CaptError(f"the client cannot be set up: {self._redaction.line(error)}") from None
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(self._redaction.logs())

    def close(self) -> None:
        self._quiet.close()
        self._client.close()

    def ask(self, request: Request) -> Reply:
        """One message.

        Raises:
            QuestionRefusedError: the service refuses this request.
            StoppedError: the run is ending.
            CaptError: the service refuses the key or the model, or failed in every retry.
        """
        return self._called(lambda: self._reader.reply(self._client.messages.create(**request)))

    def count_tokens(self, request: Request) -> int:
        """Input tokens of a request, as the service counts them.

        Raises:
            StoppedError: the run is ending.
            CaptError: the service refuses, or failed in every retry.
        """
        counted = {k: request[k] for k in ("model", "system", "messages", "output_config")}
        return self._general(lambda: self._client.messages.count_tokens(**counted).input_tokens)

    def submit(self, requests: Sequence[tuple[str, Request]]) -> str:
        """Submit a batch of (custom id, request) once, without retries; its id.

        Raises:
            TransientError: nobody knows whether the batch was taken.
            QuestionRefusedError, CaptError: it was not.
        """
        members: Any = [{"custom_id": name, "params": request} for name, request in requests]
        with self._translated():
            once = self._client.with_options(max_retries=0)
            return once.messages.batches.create(requests=members).id

    def batch(self, batch_id: str) -> MessageBatch:
        """State of a batch; raises like `count_tokens`."""
        return self._general(lambda: self._client.messages.batches.retrieve(batch_id))

    def batches_between(self, first: datetime, last: datetime) -> list[MessageBatch]:
        """Batches that were created between two moments, newest first.

        Raises like `count_tokens`.
        """

        def call() -> list[MessageBatch]:
            found = []
            for batch in self._client.messages.batches.list(limit=100):
                if batch.created_at < first:
                    break
                if batch.created_at <= last:
                    found.append(batch)
            return found

        return self._general(call)

    def results(self, batch_id: str) -> Iterator[tuple[str, Reply | Exception]]:
        """Members of an ended batch as they arrive: custom id, and the reply or what went wrong.

        A failed member is a TransientError (expired, canceled, a fault of the service) or a
        QuestionRefusedError.

        Raises:
            TransientError: the results broke off; what was yielded before is good.
            CaptError: the service refuses.
        """
        with _for_all(), self._translated():
            for member in self._client.messages.batches.results(batch_id):
                yield str(member.custom_id), self._reader.outcome(member.result)

    def sleep(self, seconds: float) -> None:
        """Wait, but not past the end of the run.

        Raises:
            StoppedError: the run is ending.
        """
        if self.stop.wait(seconds):
            raise StoppedError

    def _attempt(self, request: APIRequest, call_next: CallNext) -> Any:
        """One attempt at a call; the client library calls this and decides on the next one."""
        if self.stop.is_set():
            raise StoppedError
        self._check_address(request.url)
        try:
            response = call_next(request)
            status = response.status_code
            if status < 300 and not request.stream:
                self._reader.check(response.parse())
        except (TransientError, ValueError, TypeError, RecursionError) as error:
            # Proxies and half-broken servers answer with anything.
            self._note(error)
            raise self._library.RetryableError(self.trouble) from None
        except self._library.APIConnectionError as error:
            self._note(error.__cause__ or error)
            raise
        self.trouble = ""
        if 300 <= status < 400:
            raise of_status(status, "", response.headers, self._settings)
        if status in RETRIED:
            self.trouble = f"status {status}"
            if (seconds := asked_delay(response.headers)) is not None:
                self._wait_as_asked(seconds, request.retries_taken)
        # The client library obeys these without a limit and sleeps through the end of the run.
        for name, _ in WAIT_HEADERS:
            response.headers.pop(name, None)
        return response

    def _wait_as_asked(self, seconds: float, retries_taken: int) -> None:
        if seconds > LONGEST_WAIT:
            raise CaptError(
                f"the service asks to wait {min(seconds, 1e9):.0f} s; run again then, nothing that "
                "was answered is asked again"
            )
        self.trouble += f", asks to wait {seconds:.0f} s"
        # Not after the last try, except of a submission, which is looked for afterwards.
        if retries_taken + 1 < self._tries:
            self.sleep(seconds)

    def _note(self, error: object) -> None:
        self.trouble = self._redaction.line(error, DETAIL)

    def _check_address(self, url: str) -> None:
        """Raise CaptError for an address that a response named outside of the service.

        Results of a batch are fetched from where the service says, with the key.
        """
        own = self._client.base_url
        target = own.join(url)
        if (target.scheme, target.host, target.port) != (own.scheme, own.host, own.port):
            raise CaptError(
                f"the service sends to {host_of(str(target)) or 'another address'} for results; "
                f"the key is only sent to {host_of(str(own))}"
            )

    def _general(self, call: Callable[[], _T]) -> _T:
        with _for_all():
            return self._called(call)

    def _called(self, call: Callable[[], _T]) -> _T:
        try:
            with self._translated():
                return call()
        except TransientError as error:
            raise CaptError(
                f"the service failed {self._tries} times in a row, last: {error}; run again "
                "later, nothing that was answered is asked again"
            ) from None

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the errors of the client library into those above, without the key."""
        try:
            yield
        except (TransientError, QuestionRefusedError, CaptError, StoppedError):
            raise
        except self._library.APIStatusError as error:
            raise self._of_status(error) from None
        except self._library.APIConnectionError as error:
            cause = self._redaction.line(error.__cause__ or error, DETAIL)
            raise TransientError(f"no connection ({cause})") from None
        except Exception as error:
            # A stream of results that breaks raises errors of the HTTP library or of JSON.
            raise TransientError(
                f"an unreadable answer ({self._redaction.line(error, DETAIL)})"
            ) from None

    def _of_status(self, error: Any) -> Exception:
        detail = self._redaction.line(message_of(error.body, type(error).__name__), DETAIL)
        return of_status(int(error.status_code), detail, error.response.headers, self._settings)


@contextlib.contextmanager
def _for_all() -> Iterator[None]:
    """A refusal of what is not about one question is one of the whole run."""
    try:
        yield
    except QuestionRefusedError as error:
        raise CaptError(f"the service refuses: {error}") from None


def _within(pieces: Iterator[bytes], seconds: float) -> Iterator[bytes]:
    """Pieces of a body, as long as they arrive in the given time in all and are not too many."""
    deadline, size = time.monotonic() + seconds, 0
    for piece in pieces:
        yield piece
        size += len(piece)
        if size > LARGEST_ANSWER:
            raise ValueError("the answer is too large")
        if time.monotonic() > deadline:
            raise TimeoutError("the answer took too long")
