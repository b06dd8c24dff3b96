"""However a command ends, it says so in one line: signals, trouble of the machine, own faults."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from capt_core.errors import CaptError
from stages import endings
from stages.console import output
from stages.endings import explanation, interruption, run_to_end
from tests.conftest import PROJECT
from tests.pipeline.commands import SMALL, arguments
from tests.processes import environment, python


@pytest.mark.parametrize(
    ("stage", "method", "begun", "number", "kept"),
    [
        ("prepare", None, "drawn: ", signal.SIGINT, "none is half written"),
        ("extract-features", None, "encoded: ", signal.SIGHUP, "none is half written"),
        ("train", "capt", "steps: ", signal.SIGTERM, "the last checkpoint"),
    ],
)
def test_a_signal_ends_a_stage_in_one_line(
    copy: Path, stage: str, method: str | None, begun: str, number: signal.Signals, kept: str
) -> None:
    overrides: tuple[str, ...] = (
        *SMALL,
        "prepare.proctex_train=900",
        "methods.capt.train.epochs=900",
    )
    if stage != "prepare":
        overrides = (*overrides, "extract_features.batch_size=1", "extract_features.part_images=1")
    words = arguments(stage, "proctex", copy, overrides, method)
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.cli", *words],
        cwd=PROJECT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(begun):
            process.send_signal(number)
            break
    last = process.stderr.read().splitlines()[-1]
    assert process.wait() == 128 + number
    assert kept in last
    assert last.endswith(f"; to go on, run: capt-stage {shlex.join(words)}")


def test_a_request_to_terminate_ends_a_command() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert run_to_end(lambda: signal.raise_signal(signal.SIGTERM), ["train"]) == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_interrupted_library_blames_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "verbose", False)

    def call() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise CaptError("samples.parquet: not a readable Parquet table") from error

    assert run_to_end(call, ["train"]) == 143
    assert capsys.readouterr().err.startswith("terminated; ")


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_to_end(lambda: signal.raise_signal(signal.SIGHUP), ["train"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_how_to_go_on_is_quoted() -> None:
    told = interruption(signal.SIGINT, ["-q", "fetch", "--root", "a b"])
    assert told.startswith("interrupted; what is downloaded is kept; ")
    assert told.endswith("run: capt-stage -q fetch --root 'a b'")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (CaptError("said before"), "said before"),
        (OSError(errno.ENOSPC, "No space left", "a/b"), "a/b: No space left; free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a: Permission denied; check"),
        (OSError("loose words"), "loose words; --verbose shows where"),
        (ValueError("embedded null byte"), "a path holds a NUL character"),
        (ValueError("open: embedded null character in path"), "a path holds a NUL character"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates"), "is not UTF-8 text"),
        (RecursionError("maximum"), "nested too deeply"),
        (MemoryError(), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "smaller batch_size"),
        (RuntimeError("Could not determine home directory."), "begins with ~"),
        (ModuleNotFoundError("", name="onnx.helper"), "pip install 'capt-stage[export]'"),
        (ModuleNotFoundError("", name="numpy"), None),
        (ValueError("shapes do not match"), None),
        (KeyError("logit"), None),
    ],
)
def test_what_the_user_can_answer_for(error: BaseException, told: str | None) -> None:
    found = explanation(error)
    assert (found is None) == (told is None)
    assert (told or "") in (found or "")


def test_a_fault_says_how_to_see_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise KeyError("logit")

    assert run_to_end(fail, []) == endings.FAULT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a fault of capt-stage itself (KeyError: 'logit')")
    assert line.endswith("run again with --verbose for where it happened")
    monkeypatch.setattr(output, "verbose", True)
    assert run_to_end(fail, []) == endings.FAULT
    assert "Traceback" in capsys.readouterr().err


def test_a_long_message_is_cut_in_its_middle(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise CaptError(f"what is wrong {'x' * 5000}; run: this")

    assert run_to_end(refuse, []) == endings.MISTAKE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: what is wrong")
    assert line.endswith("; run: this")
    assert len(line) < 1010


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which $CAPT is the command line."""
    command = shlex.join([sys.executable, "-m", "stages.cli"])
    return subprocess.run(
        ["bash", "-c", f'CAPT="{command}"; {line}'],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("$CAPT fetch --dataset dtd --root $(printf 'x%.0s' {1..300})", "longer than a path"),
        ("$CAPT init --dataset dtd > /dev/full", "o space left"),
        ("mkdir a && cd a && rmdir ../a && $CAPT init --dataset dtd", "current folder is gone"),
        ("$CAPT init --dataset dtd --root '~nobody-of-that-name/x'", "no such user's home folder"),
    ],
)
def test_trouble_of_the_machine_is_one_line(tmp_path: Path, line: str, told: str) -> None:
    done = shell(line, tmp_path)
    assert told in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.returncode == endings.MISTAKE


def test_closed_streams_stop_no_work(tmp_path: Path) -> None:
    done = shell("$CAPT init --dataset dtd a >&- 2>&- <&- && echo ended", tmp_path)
    assert (done.stdout, done.stderr) == ("ended\n", "")
    # No file took the number of a closed stream, so nothing was printed into one.
    assert "next:" not in "".join(path.read_text() for path in (tmp_path / "a").iterdir())


def test_a_reader_that_has_gone_is_named(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "stages.cli", "init", "--dataset", "dtd"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert done.returncode == endings.MISTAKE
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("error: standard output cannot be written (Broken pipe)")


def test_names_are_printed_where_the_encoding_lacks_their_letters(tmp_path: Path) -> None:
    done = python(
        *("-m", "stages.cli", "init", "--dataset", "dtd", tmp_path / "bäum"),
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 0
    assert "b\\xe4um" in done.stdout
