"""Atomic writing: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capt_core.artifacts import locks
from capt_core.errors import CaptError, reason

if TYPE_CHECKING:
    from capt_core.advice import Remedy

_TEMPORARY = ".capt-"
_LOCK = ".lock"
_SUFFIX = ".tmp"


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path in a temporary folder beside the target; on success it replaces the target.

    The file is flushed to disk before the rename. The temporary folder is removed in any case, and
    after a success so are those that killed processes left in the same place.

    Raises:
        CaptError: the folder cannot be written, the name is too long or the disk is full.
    """
    folder: Path | None = None
    lock: int | None = None
    try:
        _check_possible(target)
        if target.is_dir() and not target.is_symlink():
            raise CaptError(
                f"{target}: cannot write, a folder is in its place; move it away, then run again"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        folder, lock = _temporary_folder(target)
        temporary = folder / f"new{target.suffix}"
        temporary.touch()
        yield temporary
        # Some writers replace the file by a private one; artifacts get the permissions of any new
        # file.
        temporary.chmod(0o666 & ~_umask())
        _fsync(temporary)
        temporary.replace(target)
        _fsync(target.parent)
        _remove_abandoned(target.parent)
    except Exception as error:
        if not isinstance(error, _errors_of_the_disk()):
            raise
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise CaptError(
                f"{target}: cannot write, a file is in the place of its folder; move it away, "
                "then run again"
            ) from error
        raise CaptError(
            f"{target}: cannot write ({_cause(error)}); "
            "check the permissions and free space of its folder, then run again"
        ) from error
    finally:
        if lock is not None:
            os.close(lock)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def check_file(path: Path, remedy: str | Remedy) -> None:
    """Refuse what is no file that can be looked at.

    Raises:
        CaptError: nothing there, a folder, an impossible name, or no permission; the message of a
            missing file ends with the remedy.
    """
    try:
        _check_possible(path)
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CaptError(f"{path}: missing; {remedy}") from error
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
        raise CaptError(f"{path}: {kind}, not a file; move it away, then {remedy}")


def unreadable(path: Path, error: OSError) -> CaptError:
    """The error of a file that is there and that the system does not let be read."""
    return CaptError(
        f"{path}: cannot read ({_cause(error)}); "
        "check its name, permissions and disk, then run again"
    )


def write_text(target: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write JSON atomically, with sorted keys so that equal values give equal bytes."""
    write_text(target, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def time_in(folder: Path) -> int:
    """Time in ns by the clock of a folder's file system, which may not be that of the machine."""
    clock = folder / f".clock-{os.getpid()}"
    with atomic_path(clock):
        pass
    try:
        return clock.stat().st_mtime_ns
    finally:
        clock.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """First 12 hex digits of the SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]


def _errors_of_the_disk() -> tuple[type[Exception], ...]:
    """What writing raises when the disk fails; the values that are written were checked before."""
    from polars.exceptions import PolarsError
    from safetensors import SafetensorError

    return OSError, PolarsError, SafetensorError


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or reason(error)


def _check_possible(path: Path) -> None:
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "the name holds a NUL character")


def _temporary_folder(target: Path) -> tuple[Path, int]:
    """A new folder beside the target, and the open lock of it, which says that it is in use."""
    while True:
        prefix = f".{target.name}{_TEMPORARY}"
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=_SUFFIX, dir=target.parent))
        # Another writer may take it for abandoned before it is locked.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT)
            if locks.take(lock) is not False and (folder / _LOCK).exists():
                return folder, lock
            os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    """Remove the temporary folders that no living process has locked."""
    for folder in parent.glob(f".*{_TEMPORARY}*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT)
            try:
                if locks.take(lock):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
