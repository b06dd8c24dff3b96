"""Errors that the user can correct."""

# Names of files may hold any character; a message stays one printable line.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_ESCAPES |= {ord("\n"): "\\n", ord("\t"): "\\t", ord("\r"): "\\r", 0x2028: "\\u2028"}
_ESCAPES |= {0x2029: "\\u2029"}


def one_line(text: str) -> str:
    """Text on one line: control characters escaped, undecodable bytes of file names shown."""
    return text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode("utf-8")


class CaptError(Exception):
    """A mistake in the user's input, settings or files.

    The message is one line: what is wrong, where, and the command or edit that corrects it.
    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))
