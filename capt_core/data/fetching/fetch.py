"""Fetching a benchmark: which files, from where, and whether it is complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from capt_core.data.dataset import iter_values
from capt_core.data.fetching.download import (
    Patience,
    check_room,
    content_problem,
    download,
    exclusive,
    reading,
    writing,
)
from capt_core.data.fetching.imagenet import sort_validation
from capt_core.data.fetching.unpack import unpack, unpack_class_archives
from capt_core.data.readers import read_split
from capt_core.data.registry import DatasetSpec, RemoteFile
from capt_core.errors import CaptError, cut, shown
from capt_core.params import Data
from capt_core.yaml_file import load_yaml

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class Fetcher:
    """Fetches the files of one data set.

    Attributes:
        spec: the data set.
        root: folder that holds the data sets' folders.
        mirror: address below which every file is found by its name, in place of its own address.
        patience: how often servers are asked again.
        progress: makes a progress bar from a caption and a total.
        say: called with each line for the user.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        root: Path,
        progress: Progress,
        say: Callable[[str], None],
        mirror: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.spec, self.root, self.mirror = spec, root, mirror
        self.progress, self.say = progress, say
        self.patience = patience or Patience()

    @property
    def folder(self) -> Path:
        return self.root / self.spec.folder

    def fetch(self, only: Sequence[str] = (), again: bool = False) -> None:
        """Fetch what is missing: lists first, then archives, which are unpacked into the layout.

        Args:
            only: names of the files to fetch; all if empty.
            again: unpack archives even if the images are there.

        Raises:
            CaptError: a file cannot be obtained, or another process fetches the same data set; what
                has arrived is kept, and the same command continues.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder):
            self._fetch(self._chosen(only), everything=not only, again=again)

    def _fetch(self, files: Sequence[RemoteFile], everything: bool, again: bool) -> None:
        if everything:
            self.say(f"{self.spec.name}: licence: {self.spec.licence}")
        lost: list[str] = []
        for file in (file for file in files if not _is_archive(file)):
            self._get(file, lost)
        archives = [file for file in files if _is_archive(file) and file.inside is None]
        if archives and not (again or self.missing() is None):
            self._check_room(archives)
        for file in archives:
            if not again and self.missing() is None:
                self.say(f"{file.name}: not needed, the images are in place")
            elif self._get(file, lost):
                self._unpack(file)
        self._sort_validation()
        if lost:
            for line in lost:
                self.say(line)
            names = ", ".join(line.split()[1] for line in lost)
            raise CaptError(
                f"{self.spec.name}: {names} must be got by hand (see above); then run the same "
                "command again"
            )

    def missing(self) -> str | None:
        """What is missing from the data set, or None if every image of its split is there."""
        try:
            split, images = read_split(self.spec, Data(root=str(self.root)))
        except CaptError as error:
            return str(error)
        if split.notes and self.spec.reader == "class_folders":
            return split.notes[0]
        lost = [
            path for path in iter_values(split.samples["path"]) if not _has_bytes(images / path)
        ]
        if lost:
            return f"{len(lost)} of {len(split.samples)} images are missing, such as {lost[0]}"
        return None

    def _chosen(self, only: Sequence[str]) -> list[RemoteFile]:
        known = {file.name: file for file in self.spec.files}
        for name in only:
            if name not in known:
                raise CaptError(
                    f"{self.spec.name}: no file {shown(name)}; known: {', '.join(known) or 'none'}"
                )
        if not known:
            raise CaptError(
                f"{self.spec.name}: no files are declared for it; give a list with --files FILE"
            )
        return [known[name] for name in only] if only else list(self.spec.files)

    def _get(self, file: RemoteFile, lost: list[str]) -> bool:
        """Put a file into the data set's folder; False if the user must get it."""
        target = self.folder / file.name
        for place in (target, self.root / file.name):
            with reading(place):
                if not place.is_file():
                    continue
                problem = content_problem(file, place)
            if problem is None:
                self.say(f"{place}: verified" if _verifiable(file) else f"{place}: is there")
                with writing(target):
                    place.replace(target)
                return True
            raise CaptError(f"{place}: {problem}; delete it, then run the same command again")
        if self.mirror is not None:
            url = f"{self.mirror.rstrip('/')}/{file.name}"
        elif file.url is not None:
            url = file.url
        else:
            lost.append(_by_hand(file, target))
            return False
        with self.progress(f"{file.name} (MiB)", (file.size or 0) >> 20) as advance:
            download(file, url, target, self.patience, _in_mebibytes(advance))
        if not _verifiable(file):
            self.say(f"{target}: downloaded; no checksum is published for it")
        return True

    def _unpack(self, file: RemoteFile) -> None:
        archive = self.folder / file.name
        with self.progress(f"files of {file.name}", 0) as advance:
            if file.class_archives is not None:
                count = unpack_class_archives(archive, self.folder, file.class_archives, advance)
            else:
                count = unpack(archive, self.folder, file.unpack, advance)
        self.say(f"{archive}: {count} files unpacked; it can be deleted")
        for inner in (other for other in self.spec.files if other.inside == file.name):
            with reading(self.folder / inner.name):
                problem = content_problem(inner, self.folder / inner.name)
            if problem is not None:
                raise CaptError(f"{self.folder / inner.name}: {problem}; get {file.name} again")
            self._unpack(inner)

    def _sort_validation(self) -> None:
        for file in self.spec.files:
            folder = self.folder / next(iter(file.unpack.values()), "")
            kit = self.folder / str(file.labelled_by)
            if file.labelled_by and kit.is_file() and any(folder.glob("ILSVRC2012_val_*.JPEG")):
                self.say(f"{folder}: {sort_validation(folder, kit)} images sorted into classes")

    def _check_room(self, archives: Sequence[RemoteFile]) -> None:
        """An archive of images takes its size twice: packed and unpacked."""
        needed = sum(
            (file.size or 0) * (1 if (self.folder / file.name).is_file() else 2)
            for file in archives
            if self.mirror or file.url or (self.folder / file.name).is_file()
        )
        check_room(self.folder, needed, f"{self.spec.name} with its archives")


def read_files(path: Path) -> list[RemoteFile]:
    """Read a list of files to fetch, written like ``files`` of a benchmark's entry.

    Raises:
        CaptError: not such a list.
    """
    try:
        document = load_yaml(path).value
        return TypeAdapter(list[RemoteFile]).validate_python(document)
    except ValidationError as error:
        problem = error.errors()[0]
        where = "".join(f"{part}: " for part in problem["loc"])
        found = shown(problem["input"])
        raise CaptError(f"{path}: {cut(where)}{problem['msg']}, found {found}") from error


def _is_archive(file: RemoteFile) -> bool:
    return bool(file.unpack or file.class_archives)


def _verifiable(file: RemoteFile) -> bool:
    return bool(file.md5 or file.sha256)


def _by_hand(file: RemoteFile, target: Path) -> str:
    facts = [f"{file.size} bytes"] if file.size is not None else []
    facts += [f"sha256 {file.sha256}"] if file.sha256 else []
    facts += [f"md5 {file.md5}"] if file.md5 and not file.sha256 else []
    where = file.by_hand or "its entry says nowhere where it comes from"
    return f"put {file.name} ({', '.join(facts) or 'not checked'}) at {target}: {where}"


def _has_bytes(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _in_mebibytes(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Report bytes in mebibytes."""
    done = 0

    def count(size: int) -> None:
        nonlocal done
        before, done = done, done + size
        advance((done >> 20) - (before >> 20))

    return count
