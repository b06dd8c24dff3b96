"""What a service says instead of an answer, and what to do about it."""

from __future__ import annotations

import contextlib
import email.utils
import math
import re
import urllib.parse
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from capt_core.errors import CaptError
from capt_core.params import GeneratePrompts

KEY_VARIABLE: Final = "ANTHROPIC_API_KEY"
ADDRESS_VARIABLE: Final = "ANTHROPIC_BASE_URL"
RETRIED: Final = frozenset({408, 409, 429, *range(500, 600)})
WAIT_HEADERS: Final = (("retry-after-ms", 0.001), ("retry-after", 1.0))
DETAIL = 160  # characters of what a service says that a message quotes


class StoppedError(Exception):
    """The run is ending; nothing more is asked."""


class QuestionRefusedError(Exception):
    """The service does not take this one request; others may pass."""


class NotKnownError(CaptError):
    """The service does not know a model or a batch."""


class TransientError(Exception):
    """Worth another try."""


def of_status(
    status: int, detail: str, headers: Mapping[str, str], settings: GeneratePrompts
) -> Exception:
    """The error that a response with a status other than 2xx is, with advice of its own.

    Args:
        detail: what the response says, without credentials.
    """
    text = f"{status} {detail}"
    model = f"generate_prompts.model ({settings.model[:40]})"
    if 300 <= status < 400:
        return CaptError(redirection(status, headers))
    if status == 400:
        return QuestionRefusedError(
            f"{text}; look at {model} and generate_prompts.max_tokens ({settings.max_tokens})"
        )
    if status == 401:
        return CaptError(f"the service refuses the key in {KEY_VARIABLE}: {text}")
    if status == 402:
        return CaptError(f"the service wants payment: {text}")
    if status == 403:
        return CaptError(
            f"the service refuses the key in {KEY_VARIABLE}, or what it may do: {text}"
        )
    if status == 404:
        return NotKnownError(
            f"the service does not know what was asked for: {text}; is {model} right, and "
            f"{ADDRESS_VARIABLE} if it is set?"
        )
    if status == 413:
        return QuestionRefusedError(
            f"{text}; the question is too large: lower generate_prompts.prompts "
            f"({settings.prompts}), shorten the class names or the texts of "
            "generate_prompts.instructions"
        )
    if status not in RETRIED:
        return QuestionRefusedError(text)
    if headers.get("x-should-retry") == "false":
        return CaptError(f"the service failed and says not to try again: {text}")
    return TransientError(text + _WHEN_REPEATED.get(status, ""))


_WHEN_REPEATED: Final = {
    429: " (too many requests: a lower generate_prompts.concurrency helps)",
    529: " (the service is overloaded)",
}


def redirection(status: int, headers: Mapping[str, str]) -> str:
    """What to do about a redirect, which is never followed: prompts and key stay where they are."""
    host = host_of(headers.get("location", ""))
    target = f"to {host}" if host else "to another address"
    return (
        f"the service answers {status}, a redirect {target}; requests are never sent on to another "
        f"address: set {ADDRESS_VARIABLE} to the right one if you trust it, or unset it"
    )


def host_of(address: str) -> str:
    """Host and port of a URL without its user information; empty if it names none."""
    try:
        parts = urllib.parse.urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    host = re.sub(r"[^\w.:-]", "?", host)[:80]
    return f"{host}:{port}" if host and port is not None else host


def message_of(body: object, kind: str) -> str:
    """What the body of an error says, else the kind of the error.

    Args:
        body: its JSON, or its text where it is none.
    """
    if isinstance(body, str):
        # A page of a proxy: its words.
        return re.sub(r"<[^>]{0,500}>", " ", body[:20_000]).strip()[:5_000] or kind
    detail: Any = body.get("error") if isinstance(body, dict) else None
    for place in (detail, body):
        if isinstance(place, dict) and isinstance(text := place.get("message"), str) and text:
            return text
    return detail if isinstance(detail, str) and detail else kind


def asked_delay(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait, None if it does not say or says nonsense."""
    for name, unit in WAIT_HEADERS:
        with contextlib.suppress(KeyError, ValueError):
            seconds = float(headers[name]) * unit
            if math.isfinite(seconds) and seconds >= 0:
                return seconds
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    return None
