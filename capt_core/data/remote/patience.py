"""How often a remote file is asked for, and how a failure reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from capt_core.addresses import without_secrets
from capt_core.errors import reason

_T = TypeVar("_T")


@dataclass(frozen=True)
class Patience:
    """How often a server is asked again, and how long it is waited for.

    Attributes:
        attempts: give up after so many.
        pause: seconds before the second attempt; doubled after each.
        timeout: seconds without any byte before an attempt is given up.
        slowest: bytes per second, averaged over an attempt, below which it is given up once
            `timeout` has passed: a server that sends a byte now and then would be waited for
            without end.
    """

    attempts: int = 4
    pause: float = 0.5
    timeout: float = 30.0
    slowest: float = 1024.0


PATIENCE = Patience()


class RemoteError(OSError):
    """A remote file that cannot be read; the message says why, without its address."""


class TemporaryError(RemoteError):
    """A failure that another attempt may not meet."""


def patiently(
    attempt: Callable[[Patience], _T], patience: Patience | None = None, *, once: bool = False
) -> _T:
    """What an attempt returns, made again after each temporary failure, unless only `once`.

    Raises:
        RemoteError: every attempt failed; the message says how often and how it failed last.
        FileNotFoundError, PermissionError: as the attempt raises them, at once.
    """
    patience = patience or PATIENCE
    for number in range(1, patience.attempts + 1):
        try:
            return attempt(patience)
        except TemporaryError as error:
            if once:
                raise RemoteError(str(error)) from None
            if number == patience.attempts:
                raise RemoteError(f"{error} ({number} attempts)") from None
        time.sleep(patience.pause * 2 ** (number - 1))
    raise RemoteError("no attempt was made")


def told(error: BaseException) -> str:
    """What a foreign error says, without secrets of the addresses it quotes."""
    inner = getattr(error, "reason", None)
    shown = inner if isinstance(inner, BaseException) else error
    return without_secrets(reason(shown, 400))[:160]
