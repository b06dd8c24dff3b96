"""Sending a model's repository to the Hub, and fetching a model from it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from capt_core.artifacts.files import atomic_path
from capt_core.errors import CaptError, shown
from capt_core.hub.layout import CARD, CONFIG, MODEL, check_repository
from capt_core.methods.model_file import open_model
from capt_core.params import Runtime
from capt_core.prompts.llm.redaction import Redaction

LARGEST = 20 * 10**9
"""Bytes of a model that is fetched: more than any CLIP has."""

TOKEN = "HF_TOKEN"


def push(
    folder: Path, repository: str, *, private: bool = False, endpoint: str | None = None
) -> str:
    """Send a folder that `write_repository` wrote; the token is in the environment (HF_TOKEN).

    Args:
        folder: of the files.
        repository: ``owner/name``; made if it is not there.
        private: whether a new repository is.
        endpoint: address of the service; None takes that of ``huggingface_hub``.

    Returns:
        Address of the commit.

    Raises:
        CaptError: no token, or the service refuses; the message does not hold the token.
        ModuleNotFoundError: the extra ``[hub]`` is not installed.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    token = token_for(check_repository(repository))
    with _told(f"push to {repository}", token):
        api = HfApi(endpoint=endpoint, token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        names = (MODEL, CONFIG, CARD)
        added = [CommitOperationAdd(name, str(folder / name)) for name in names]
        done = api.create_commit(repository, added, commit_message="Model written by capt-stage")
        return str(done.commit_url)


def token_for(repository: str) -> str:
    """The token in the environment, to write to a repository with.

    Raises:
        CaptError: there is none.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise CaptError(
            f"no token: export {TOKEN}=... with one that may write to {repository}, or write the "
            "files to a folder with --folder DIR"
        )
    return token


def pull(
    source: str, path: Path, *, revision: str | None = None, endpoint: str | None = None
) -> None:
    """Fetch a model into a file, and only if it loads.

    Nothing but the model's safetensors file is asked for, and nothing in it is run.

    Args:
        source: ``owner/name``, or a folder that `write_repository` wrote.
        path: the file to write, atomically.
        revision: branch, tag or commit; None takes the main branch.
        endpoint: address of the service; None takes that of ``huggingface_hub``.

    Raises:
        CaptError: there is no such model, it is too large, or it is none of this project's.
        ModuleNotFoundError: the extra ``[hub]`` is not installed.
    """
    folder = Path(source).expanduser()
    with atomic_path(path) as temporary:
        if folder.is_dir():
            if revision is not None:
                raise CaptError(f"--revision {shown(revision)}: {folder} is a folder, without any")
            _copy(folder / MODEL, temporary)
        else:
            _download(check_repository(source), revision, temporary, endpoint)
        _check(source, temporary)


def _copy(file: Path, target: Path) -> None:
    if not file.is_file():
        raise CaptError(f"{file}: missing; give a folder that push --folder wrote, or owner/name")
    _check_size(str(file), file.stat().st_size)
    shutil.copyfile(file, target)


def _download(repository: str, revision: str | None, target: Path, endpoint: str | None) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    # Without one in the environment, none that lies in a file of the user's is sent.
    secret = os.environ.get(TOKEN, "").strip()
    token = secret or False
    with _told(f"pull from {repository}", secret):
        address = hf_hub_url(repository, MODEL, revision=revision, endpoint=endpoint)
        found = get_hf_file_metadata(address, token=token, endpoint=endpoint)
        _check_size(repository, found.size or 0)
        got = hf_hub_download(
            repository,
            MODEL,
            revision=found.commit_hash or revision,
            local_dir=target.parent / "fetched",
            token=token,
            endpoint=endpoint,
        )
    _check_size(repository, Path(got).stat().st_size)
    Path(got).replace(target)


def _check_size(what: str, size: int) -> None:
    if size > LARGEST:
        raise CaptError(
            f"{what}: {MODEL} has {size / 1e9:.0f} GB, more than the {LARGEST / 1e9:.0f} GB of any "
            "model that capt-stage writes; it was not fetched"
        )


def _check(source: str, file: Path) -> None:
    """Refuse a file that is no model of this project's, or not what it says it is."""
    try:
        model = open_model(file, remedy="nothing was written")
        if model.has_backbone:
            model.model(model.own_backbone(Runtime(device="cpu")))
    except CaptError as error:
        told = str(error).replace(str(file), f"{source}, {MODEL}")
        raise CaptError(told) from error


@contextmanager
def _told(what: str, token: str) -> Iterator[None]:
    """Say in one line, without the token, what the service or the network refuses.

    Raises:
        CaptError: for whatever is raised in the block.
    """
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        yield
    except CaptError:
        raise
    except Exception as error:
        said = Redaction(token).line(error, 200)
        raise CaptError(f"{what}: {type(error).__name__}: {said}; {_advice(error)}") from error


def _advice(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"check {TOKEN} and what it may do"
    if status == 404:
        return f"check the name and the revision, and {TOKEN} if the repository is private"
    return "check the network and HF_ENDPOINT, then run again"
