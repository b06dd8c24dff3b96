"""Locks between processes, which the system lets go of when their holder dies."""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from capt_core.errors import CaptError, reason

_BETWEEN_LOOKS = 0.2  # seconds

fcntl: ModuleType | None
try:
    fcntl = importlib.import_module("fcntl")
except ImportError:  # only Unix has it
    fcntl = None


def take(descriptor: int) -> bool | None:
    """Lock an open file without waiting.

    Returns:
        Whether it is this process's now; None where the system or the file system knows no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def exclusive(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold a lock while the block runs, such as that of a stage: two would write the same files.

    On a file system that knows no locks nothing is locked.

    Args:
        path: the lock's file, which holds the process id meanwhile and is removed at the end.
        what: what is run, for the message.
        wait: until another process that holds the lock has let go of it.

    Raises:
        CaptError: another process holds the lock, or its file cannot be written.
    """
    descriptor = _taken(path, what, wait)
    try:
        yield
    finally:
        # Before the lock is let go of: whoever opens the file until then finds it held or gone.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _taken(path: Path, what: str, wait: bool) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise _not_writable(path, error) from error
        try:
            if take(descriptor) is False:
                if not wait:
                    raise _refused(descriptor, path, what)
                time.sleep(_BETWEEN_LOOKS)
            # The one who held the lock has removed the file that was opened here.
            elif _same_file(descriptor, path):
                # Who holds it matters to a message only: a full disk is told by what needs it.
                with contextlib.suppress(OSError):
                    os.truncate(descriptor, 0)
                    os.write(descriptor, f"{os.getpid()}\n".encode())
                return descriptor
        except OSError as error:
            os.close(descriptor)
            raise _not_writable(path, error) from error
        except CaptError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _refused(descriptor: int, path: Path, what: str) -> CaptError:
    holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
    by = f"process {holder}" if holder.isdecimal() else "another process"
    return CaptError(
        f"{what} is running already ({by} holds {path}); wait until it ends, or stop it"
    )


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _not_writable(path: Path, error: OSError) -> CaptError:
    return CaptError(
        f"{path}: cannot write ({error.strerror or reason(error)}); "
        "check the permissions and free space of its folder, then run again"
    )
