"""Errors that the user can correct, and how messages quote values."""

import reprlib

# Names of files may hold any character; a message stays one printable line.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_ESCAPES |= {ord("\n"): "\\n", ord("\t"): "\\t", ord("\r"): "\\r", 0x2028: "\\u2028"}
_ESCAPES |= {0x2029: "\\u2029"}

# repr alone writes out all of a value, however large, before it can be cut.
_BOUNDED = reprlib.Repr()
_BOUNDED.maxlevel, _BOUNDED.maxstring, _BOUNDED.maxother = 6, 400, 400
_BOUNDED.maxlist = _BOUNDED.maxtuple = _BOUNDED.maxdict = _BOUNDED.maxset = 60


def one_line(text: str) -> str:
    """Text on one line: control characters escaped, undecodable bytes of file names shown."""
    return text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode("utf-8")


def shown(value: object, limit: int = 100) -> str:
    """A value as a message may quote it: its repr on one line, at most `limit` characters."""
    try:
        text = _BOUNDED.repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        return f"a {type(value).__name__} too large to show"
    return cut(text, limit)


def cut(text: str, limit: int = 100) -> str:
    """A key or an argument as messages name it, without quotes, at most `limit` characters."""
    text = one_line(text)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def reason(error: BaseException, limit: int = 160) -> str:
    """What another library's error says, as one line of at most `limit` characters."""
    return cut(" ".join(str(error).split()) or type(error).__name__, limit)


class CaptError(Exception):
    """A mistake in the user's input, settings or files.

    The message is one line: what is wrong, where, and the command or edit that corrects it.
    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))
