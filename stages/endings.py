"""How a command ends: well, by the user's mistake, by a signal, or by a fault of this project."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence

from capt_core import advice
from capt_core.addresses import without_secrets
from capt_core.errors import CaptError, cut, one_line, reason

from .console import discard, first_process, output

EXTRAS = {
    "anthropic": "llm",
    "captum": "explain",
    "huggingface_hub": "hub",
    "lightning_fabric": "distributed",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "fastapi": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "python_multipart": "serve",
    "submitit": "distributed",
}
"""Extra of this distribution that brings a module."""

MISTAKE = 2
FAULT = 1
MOST = 1000  # characters of a message

_SIGNALS = {
    getattr(signal, name): what
    for name, what in (
        ("SIGINT", "interrupted"),
        ("SIGTERM", "terminated"),
        ("SIGHUP", "ended because its terminal was closed"),
    )
    if hasattr(signal, name)
}

_ADVICE = {
    errno.ENOSPC: "free some space, then run again",
    errno.EDQUOT: "free some space, then run again",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "name a folder that can be written to",
    errno.ENAMETOOLONG: "choose a shorter one",
    errno.EMFILE: "allow more open files: ulimit -n 4096",
    errno.ENFILE: "close other programs, then run again",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of it is a file; check the path",
    errno.EISDIR: "name a file instead of a folder",
    errno.ELOOP: "its links lead in a circle; check the path",
    errno.ESTALE: "check the network folder that it is in",
    errno.EIO: "check the disk or network folder that it is in",
}


class _Signals:
    """Signals that end a command as Ctrl-C does, so that it can finish what it must."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        before = {}
        for number in _SIGNALS:
            # nohup and shells ignore some of them for the commands that they start.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, self._interrupt)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, _: object) -> None:
        self.received = self.received or number
        raise KeyboardInterrupt


def run_to_end(call: Callable[[], object], words: Sequence[str]) -> int:
    """Run a command; whatever stops it ends in one line on standard error.

    Args:
        call: of the command; may raise SystemExit.
        words: of the command line, without the program's name.

    Returns:
        The exit code: 2 for a mistake of the user or trouble of the machine, 1 for a fault of this
        project, 128 and the signal's number after a signal.
    """
    _open_standard_streams()
    signals = _Signals()
    try:
        with signals.caught():
            code = _code(call, signals)
    # A second signal may come at any time.
    except KeyboardInterrupt:
        code = 130
    if signals.received is None:
        return code
    _say(interruption(signals.received, words))
    return 128 + signals.received


def interruption(number: int, words: Sequence[str]) -> str:
    """What is said after a signal: what is kept, and how to go on."""
    again = " ".join(advice.quoted(without_secrets(word)) for word in ("capt-stage", *words))
    return f"{_SIGNALS[signal.Signals(number)]}; {kept(words)}; to go on, run: {again}"


def kept(words: Sequence[str]) -> str:
    """What an interrupted command leaves, for the one that takes it up."""
    known = {
        "run": "what its finished stages wrote is kept, and the last checkpoint of a training",
        "train": "what earlier stages wrote is kept, and the last checkpoint of this training",
        "generate-prompts": "answers of the language model are kept",
        "fetch": "what is downloaded is kept",
        "predict": "images that were classified for --out are kept",
        "study": "what its finished stages wrote is kept",
        "tables": "finished rows are kept and in the table, and the last checkpoint of a training",
        "serve": "no image was kept",
        "submit": "jobs of this machine are ended and what they finished is kept; Slurm's go on",
    }
    command = next((word for word in words if not word.startswith("-")), "")
    return known.get(command, "files that were finished are kept, none is half written")


def _code(call: Callable[[], object], signals: _Signals) -> int:
    try:
        # Some libraries end the process where there is no current folder.
        os.getcwd()
        call()
    except SystemExit as ended:
        return _flushed(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
    except KeyboardInterrupt:
        return 130
    except BaseException as error:
        if output.verbose:
            traceback.print_exc()
        # Libraries that are interrupted in a call of theirs end in errors of their own, which
        # blame a file or this project.
        if signals.received is not None:
            return 130
        told = explanation(error)
        if told is not None:
            _say(f"error: {told}")
            return _flushed(MISTAKE)
        where = "" if output.verbose else "; run again with --verbose for where it happened"
        _say(
            f"error: a fault of capt-stage itself ({type(error).__name__}: {reason(error)}){where}"
        )
        return _flushed(FAULT)
    return _flushed(0)


def explanation(error: BaseException) -> str | None:
    """One line about an error that the user or the machine can answer for; None for a fault."""
    if isinstance(error, CaptError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        extra = f"'capt-stage[{EXTRAS[module]}]'" if module in EXTRAS else ""
        return f"{module} is not installed; run: pip install {extra}" if extra else None
    if _out_of_memory(error):
        return (
            f"out of memory ({reason(error)}); close other programs or set a smaller batch_size "
            "(extract_features, evaluate, methods.<method>.train)"
        )
    if isinstance(error, RecursionError):
        return "a file or setting is nested too deeply to be read; --verbose shows where"
    if isinstance(error, OSError):
        return _of_system(error)
    text = str(error)
    if isinstance(error, UnicodeError):
        return f"a name or file is not UTF-8 text ({reason(error)}); --verbose shows where"
    if isinstance(error, ValueError) and ("null byte" in text or "null character" in text):
        return "a path holds a NUL character; check the paths in the settings and options"
    if isinstance(error, RuntimeError) and "home directory" in text:
        return "a path begins with ~, but there is no such home folder; write the path in full"
    return None


def _out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("out of memory" in text or "can't allocate memory" in text)
    )


def _of_system(error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and error.filename is None and not _has_folder():
        return "the current folder is gone; change to another one"
    places = [str(name) for name in (error.filename, error.filename2) if name is not None]
    where = f"{cut(' -> '.join(places), 200)}: " if places else ""
    what = one_line(error.strerror) if error.strerror else reason(error)
    return f"{where}{what}; {_ADVICE.get(error.errno or 0, '--verbose shows where')}"


def _has_folder() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _open_standard_streams() -> None:
    """Let closed streams lead nowhere, and no character stop an output."""
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken, so that no artifact gets that of a stream.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _flushed(code: int) -> int:
    """The exit code, once both streams have taken everything."""
    for stream in (sys.stderr, sys.stdout):
        try:
            stream.flush()
        except OSError as error:
            discard(stream)
            if stream is sys.stdout and code == 0:
                _say(f"error: standard output cannot be written ({error.strerror})")
                code = MISTAKE
    return code


def _say(line: str) -> None:
    if first_process():
        if len(line) > MOST:  # what is wrong stands first, what to do last
            line = f"{line[: MOST // 2]} ... {line[-MOST // 2 :]}"
        try:
            print(line, file=sys.stderr, flush=True)
        except OSError:
            discard(sys.stderr)
