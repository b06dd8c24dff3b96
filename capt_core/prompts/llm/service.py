"""The Messages and Batches interfaces of Anthropic, with retries that are ours to bound."""

from __future__ import annotations

import contextlib
import email.utils
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from capt_core.errors import CaptError
from capt_core.params import GeneratePrompts
from capt_core.prompts.llm.answers import Tokens
from capt_core.prompts.llm.redaction import Redaction

if TYPE_CHECKING:
    from anthropic.types import Message
    from anthropic.types.messages import MessageBatch

KEY_VARIABLE: Final = "ANTHROPIC_API_KEY"
FIRST_DELAY = 1.0  # seconds before the first retry; doubles from one to the next
LONGEST_DELAY = 60.0
LONGEST_ASKED_DELAY = 600.0  # a service that asks for more is left for later

REFUSED_MEMBERS = frozenset({"invalid_request_error", "not_found_error"})

_UNREADABLE = (ValueError, AttributeError, TypeError, RecursionError)

Request = Mapping[str, Any]
"""Arguments of one call of the Messages interface."""

_T = TypeVar("_T")


class StoppedError(Exception):
    """The run is ending; nothing more is asked."""


class QuestionRefusedError(Exception):
    """The service does not take this one request; others may pass."""


class NotKnownError(CaptError):
    """The service does not know a model or a batch."""


class TransientError(Exception):
    """Worth another try. `delay`: seconds the service asked to wait, None if it did not."""

    def __init__(self, what: str, delay: float | None = None) -> None:
        super().__init__(what)
        self.delay = delay


@dataclass(frozen=True)
class Reply:
    """One message of the model."""

    text: str
    stop_reason: str | None
    model: str
    tokens: Tokens
    request_id: str


def api_key() -> str | None:
    """The key, from the environment and from nowhere else; None when it is unset or blank.

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

    Every text that comes back, answers and error messages alike, is freed of the key before
    anything is done with it.
    """

    def __init__(self, key: str, settings: GeneratePrompts, stop: threading.Event) -> None:
        import anthropic

        self._redaction = Redaction(key)
        self._settings = settings
        self._stop = stop
        self._not_before = 0.0
        http = anthropic.DefaultHttpxClient(
            event_hooks={"response": [lambda found: _limit_duration(found, settings.timeout)]}
        )
        try:
            self._client = anthropic.Anthropic(
                api_key=key,
                # Retries are made here: the client's own obey any waiting time and ignore `stop`.
                max_retries=0,
                timeout=anthropic.Timeout(settings.timeout, connect=min(10.0, settings.timeout)),
                http_client=http,
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
            CaptError: the service refuses the key or the model, or stays away.
        """
        return self.retrying(lambda: self.reply(self._client.messages.create(**request)))

    def count_tokens(self, request: Request) -> int:
        """Input tokens of a request, as the service counts them; raises like `ask`."""
        counted = {k: request[k] for k in ("model", "system", "messages", "output_config")}

        def call() -> int:
            count = getattr(self._client.messages.count_tokens(**counted), "input_tokens", None)
            if not isinstance(count, int):
                raise TransientError("the answer holds no token count")
            return count

        return self.retrying(call)

    def submit(self, requests: Sequence[tuple[str, Request]]) -> str:
        """Hand in a batch of (custom id, request), once; its id.

        Raises:
            TransientError: nobody knows whether the batch was taken.
            QuestionRefusedError, CaptError: it was not.
        """
        members: Any = [{"custom_id": name, "params": request} for name, request in requests]
        with self._translated():
            batch = self._client.messages.batches.create(requests=members)
            return self._checked(batch).id

    def batch(self, batch_id: str) -> MessageBatch:
        """State of a batch; raises like `ask`."""
        return self.retrying(
            lambda: self._checked(self._client.messages.batches.retrieve(batch_id))
        )

    def batches_between(self, first: datetime, last: datetime) -> list[MessageBatch]:
        """Batches that were created between two moments, newest first; raises like `ask`."""

        def call() -> list[MessageBatch]:
            found = []
            for batch in self._client.messages.batches.list(limit=100):
                created = self._checked(batch).created_at
                if created < first:
                    break
                if created <= last:
                    found.append(batch)
            return found

        return self.retrying(call)

    def results(self, batch_id: str) -> Iterator[tuple[str, Reply | Exception]]:
        """Members of an ended batch as they arrive: custom id, and the reply or what went wrong.

        A failed member is a TransientError (expired, canceled, a fault of the service) or a
        QuestionRefusedError.

        Raises:
            TransientError: the results broke off; what was yielded before is good.
            CaptError: the service refuses.
        """
        with self._translated():
            for member in self._client.messages.batches.results(batch_id):
                name = getattr(member, "custom_id", None)
                kind = getattr(getattr(member, "result", None), "type", None)
                if not isinstance(name, str):
                    raise TransientError("a line of the results is no result")
                if kind == "succeeded":
                    try:
                        yield name, self.reply(member.result.message)  # type: ignore[union-attr]
                    except TransientError as error:
                        yield name, error
                elif kind == "errored":
                    detail = getattr(getattr(member.result, "error", None), "error", None)
                    text = self._redaction.line(getattr(detail, "message", "no reason given"))
                    refused = getattr(detail, "type", "") in REFUSED_MEMBERS
                    yield name, (QuestionRefusedError if refused else TransientError)(text)
                else:
                    yield name, TransientError(f"the batch left it {kind or 'without a result'}")

    def reply(self, message: Message) -> Reply:
        """A message as a reply.

        Raises:
            TransientError: it is none; proxies and half-broken servers answer so.
        """
        try:
            usage = getattr(message, "usage", None)
            blocks = list(message.content)
            text = "".join(block.text for block in blocks if block.type == "text")
            if not isinstance(message.stop_reason, str) or not isinstance(message.model, str):
                raise TypeError("no stop reason")
            return Reply(
                text=self._redaction.clean(text),
                stop_reason=self._redaction.clean(message.stop_reason),
                model=self._redaction.clean(message.model),
                tokens=Tokens(
                    input=_count(usage, "input_tokens"),
                    output=_count(usage, "output_tokens"),
                    cache_read=_count(usage, "cache_read_input_tokens"),
                    cache_write=_count(usage, "cache_creation_input_tokens"),
                ),
                request_id=self._redaction.clean(str(message.id)),
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise TransientError("the answer is not a message") from error

    def retrying(self, call: Callable[[], _T]) -> _T:
        """Call until it works; wait longer each time, or as long as the service asks.

        Raises:
            QuestionRefusedError, StoppedError, CaptError: as `ask`.
        """
        for tries in range(self._settings.retries + 1):
            self._wait_for_turn()
            try:
                with self._translated():
                    return call()
            except TransientError as error:
                if tries == self._settings.retries:
                    raise CaptError(
                        f"the service failed {tries + 1} times in a row, last: {error}; run again "
                        "later, nothing that was answered is asked again"
                    ) from None
                self.back_off(tries, error.delay)
        raise AssertionError

    def back_off(self, tries: int, asked: float | None) -> None:
        """Hold all calls back after a failure.

        Raises:
            CaptError: the service asks for a longer wait than `LONGEST_ASKED_DELAY`.
        """
        if asked is not None and asked > LONGEST_ASKED_DELAY:
            raise CaptError(
                f"the service asks to wait {asked:.0f} s; run again then, nothing that was "
                "answered is asked again"
            )
        if asked is not None:
            delay = max(asked, FIRST_DELAY)  # "0" from a full service would use all retries at once
        else:
            delay = min(LONGEST_DELAY, FIRST_DELAY * 2**tries) * random.uniform(0.75, 1)
        # A full service is full for every thread.
        self._not_before = max(self._not_before, time.monotonic() + delay)

    def sleep(self, seconds: float) -> None:
        """Wait, but not past the end of the run.

        Raises:
            StoppedError: the run is ending.
        """
        if self._stop.wait(seconds):
            raise StoppedError

    def _wait_for_turn(self) -> None:
        if self._stop.is_set():
            raise StoppedError
        while (left := self._not_before - time.monotonic()) > 0:
            self.sleep(min(left, 1.0))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn whatever a call may raise into one of our errors, without the key."""
        import anthropic
        import httpx2

        try:
            yield
        except (TransientError, QuestionRefusedError, CaptError, StoppedError):
            raise
        except anthropic.APIStatusError as error:
            raise self._of_status(error) from None
        except (anthropic.APIConnectionError, httpx2.HTTPError, httpx2.StreamError) as error:
            raise TransientError(f"no connection ({self._redaction.line(error)})") from None
        except (anthropic.AnthropicError, *_UNREADABLE) as error:
            # Broken JSON, JSON nested without end and answers of another kind surface as such.
            raise TransientError(f"an unreadable answer ({self._redaction.line(error)})") from None

    def _of_status(self, error: Any) -> Exception:
        status = int(error.status_code)
        text = f"{status} {self._redaction.line(_message_of(error))}"
        if status in (401, 403):
            return CaptError(f"the service refuses the key in {KEY_VARIABLE}: {text}")
        if status == 402:
            return CaptError(f"the service wants payment: {text}")
        if status == 404:
            return NotKnownError(
                f"the service does not know what was asked for: {text}; is "
                "generate_prompts.model right?"
            )
        told_not_to = error.response.headers.get("x-should-retry") == "false"
        if status < 400 or status in (408, 409, 429) or status >= 500:
            if told_not_to:
                return CaptError(f"the service failed and says not to try again: {text}")
            return TransientError(text, asked_delay(error.response.headers))
        return QuestionRefusedError(text)

    def _checked(self, batch: Any) -> MessageBatch:
        status = getattr(batch, "processing_status", None)
        if not isinstance(getattr(batch, "id", None), str) or not batch.id or status is None:
            raise TransientError("the answer is not a batch")
        if self._redaction.found_in(f"{batch.id} {status}"):
            raise TransientError("the batch has the key in its name")
        if not isinstance(getattr(batch, "created_at", None), datetime):
            raise TransientError("the batch has no date")
        return batch  # type: ignore[no-any-return]


def asked_delay(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait, None if it does not say or says nonsense."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(TypeError, ValueError):
            seconds = float(headers[name]) * unit if name in headers else math.nan
            if math.isfinite(seconds) and seconds >= 0:
                return seconds
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    return None


def _count(usage: object, name: str) -> int:
    """A token count; 0 where the service gives none, for an answer is worth keeping without."""
    value = getattr(usage, name, None)
    return value if isinstance(value, int) else 0


def _message_of(error: Any) -> str:
    body = error.body
    detail = body.get("error") if isinstance(body, dict) else None
    text = detail.get("message") if isinstance(detail, dict) else None
    return str(text or type(error).__name__)


def _limit_duration(response: Any, seconds: float) -> None:
    """Let a response's body take no longer than given in all.

    The client's own time-out is per piece, so a server that sends a byte now and then never ends.
    Results of batches may be long and are stored while they arrive; the time-out per piece has to
    do for them.
    """
    import httpx2

    if response.request.url.path.endswith("/results"):
        return

    class Limited(httpx2.SyncByteStream):
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        def __iter__(self) -> Iterator[bytes]:
            deadline = time.monotonic() + seconds
            for piece in self._stream:
                yield piece
                if time.monotonic() > deadline:
                    raise httpx2.ReadTimeout("the answer took too long", request=response.request)

        def close(self) -> None:
            self._stream.close()

    response.stream = Limited(response.stream)
