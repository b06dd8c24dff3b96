"""What torch's archives hold, read without running anything of theirs.

`torch.save`, before and since torch 1.6, and `torch.jit.save` all write a pickle beside raw tensor
data. The pickle is read here with a table of the few functions that put tensors together; an
object of any other class becomes a `Record` of its attributes, and its class is named as foreign.
No class is imported, no function of the file's choosing is called, and the code in TorchScript
archives is not looked at.
"""

from __future__ import annotations

import contextlib
import io
import math
import mmap
import pickle
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch

from capt_core.backbone.weights_file import LEGACY_MAGIC

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}

_CONSTANTS = (torch.dtype, torch.layout, torch.memory_format, torch.qscheme)

_PLAIN = re.compile(
    r"(builtins|__builtin__)\."
    r"(dict|list|tuple|set|frozenset|str|unicode|int|long|float|bool|complex|bytes|bytearray)"
    r"|_codecs\.encode"
    r"|torch\.(Size|device|Tensor|nn\.parameter\.(Parameter|Buffer)|serialization\._get_layout)"
    r"|torch\.((cuda|storage)\.)?\w*Storage|torch\.(_utils|_tensor)\._rebuild_\w+"
    r"|torch\.jit\._pickle\.\w+|__torch__\..+"
)
"""What makes tensors, of whatever kind, and plain values; ``__torch__`` is TorchScript's own."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file: its shape and type are known, its values are read by `load`."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], torch.Tensor]


class Record:
    """An object of whatever class: what its pickle says of it, without its behaviour."""

    contents: dict[Any, Any]

    def __new__(cls, *_: object, **__: object) -> Record:
        self = object.__new__(cls)
        self.contents = {}
        return self

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        self.contents[key] = value

    def append(self, _: object) -> None:
        """Elements of unknown sequences are dropped."""


@dataclass(frozen=True)
class Contents:
    """What an archive holds.

    Attributes:
        document: with a `StoredTensor` per tensor.
        foreign: names of the classes and functions that make neither tensors nor plain values.
    """

    document: object
    foreign: list[str]


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[Contents]:
    """What a file of `torch.save` or `torch.jit.save` holds.

    The tensors can be loaded until the block ends.

    Raises:
        Exception: of any kind, where the file is damaged or of another form.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[: len(LEGACY_MAGIC)] == LEGACY_MAGIC:
            yield _read_legacy(data)
        else:
            with zipfile.ZipFile(file) as archive:
                yield _read_zip(archive)


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    count: int
    values: Callable[[], torch.Tensor]


def _read_zip(archive: zipfile.ZipFile) -> Contents:
    entries = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("a zip file, but none of torch's: it has no data.pkl")
    root = pickles[0].removesuffix("data.pkl")

    def record(name: str) -> bytes:
        info = entries[f"{root}{name}"]
        # Only what is stored as it is can be no larger than the file; torch compresses no tensors.
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed, which torch never does")
        return archive.read(info)

    if f"{root}byteorder" in entries and record("byteorder").strip() != sys.byteorder.encode():
        raise ValueError("written on a machine of the other byte order")

    @lru_cache(maxsize=1)  # tensors that share a storage mostly stand beside each other
    def read(key: str, dtype: torch.dtype) -> torch.Tensor:
        data = record(f"data/{key}")
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype)

    def storage(dtype: torch.dtype, key: str, count: int) -> _Storage:
        stored = entries[f"{root}data/{key}"].file_size
        if stored != count * dtype.itemsize:
            raise ValueError(f"data/{key} has {stored} bytes in place of {count * dtype.itemsize}")
        return _Storage(dtype, count, lambda: read(key, dtype))

    unpickler = _Unpickler(io.BytesIO(record("data.pkl")), storage)
    return Contents(unpickler.load(), list(unpickler.foreign))


def _read_legacy(data: mmap.mmap) -> Contents:
    storages: dict[str, _Storage] = {}
    starts: dict[str, int] = {}

    def storage(dtype: torch.dtype, key: str, count: int) -> _Storage:
        def read() -> torch.Tensor:
            start = starts[key]
            raw = bytearray(data[start : start + count * dtype.itemsize])
            return torch.frombuffer(raw, dtype=torch.uint8).view(dtype)

        return storages.setdefault(key, _Storage(dtype, count, read))

    foreign: dict[str, None] = {}

    def part() -> Any:
        unpickler = _Unpickler(data, storage)
        loaded = unpickler.load()
        foreign.update(unpickler.foreign)
        return loaded

    part(), part()  # the magic number, the version
    if part().get("little_endian") is not (sys.byteorder == "little"):
        raise ValueError("written on a machine of the other byte order")
    document = part()
    for key in part():
        known = storages.get(key)
        if known is None:
            raise ValueError("tensor data of a kind that is not read")
        count = int.from_bytes(data.read(8), sys.byteorder)
        starts[key] = data.tell()
        if count != known.count or starts[key] + count * known.dtype.itemsize > len(data):
            raise ValueError(f"tensor data {key} is cut off or of another size")
        data.seek(count * known.dtype.itemsize, io.SEEK_CUR)
    return Contents(document, list(foreign))


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler with nothing to call but what is defined here.

    Python's, not its C twin: that one sets aside memory for positions that a damaged file names.
    """

    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]

    def __init__(self, file: Any, storage: Callable[[torch.dtype, str, int], _Storage]) -> None:
        super().__init__(file)
        self._storage = storage
        self.foreign: dict[str, None] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        full = f"{module}.{name}"
        if full == "collections.OrderedDict":
            return OrderedDict
        if full in _FUNCTIONS:
            return _FUNCTIONS[full]
        # Not getattr: some of torch's names import modules when they are asked for.
        constant = vars(torch).get(name) if module == "torch" else None
        if isinstance(constant, _CONSTANTS):
            return constant
        if not _PLAIN.fullmatch(full):
            self.foreign[full] = None
        return _record_class(full)

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":  # legacy: a class with its source text
            return pid[1]
        _, kind, key, _, count, *view = pid
        dtype = _DTYPES.get(getattr(kind, "__name__", "").rpartition(".")[2])
        if dtype is None or any(view):
            return Record()
        if type(key) is not str or type(count) is not int or count < 0:
            raise ValueError("tensor data without a name or size")
        return self._storage(dtype, key, count)

    def load_build(self) -> None:
        """Attributes go into records alone: no `__setstate__`, no `setattr`."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Record):
            for attributes in state if isinstance(state, tuple) else (state,):
                if isinstance(attributes, dict):
                    target.contents.update(attributes)

    def load_call(self) -> None:
        raise ValueError("calls by older pickles than torch's")

    def load_bytearray8(self) -> None:
        # Python's own sets aside as many bytes as the file says, before it reads any.
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.INST[0]: load_call,
        pickle.OBJ[0]: load_call,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


@lru_cache(maxsize=10_000)
def _record_class(name: str) -> type[Record]:
    return type(name, (Record,), {})


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: object) -> Any:
    if not isinstance(storage, _Storage):
        return Record()  # of a kind that holds no plain numbers, such as quantised ones
    return _strided(storage, storage.dtype, offset, shape, stride)


def _tensor_of_type(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> Any:
    if not isinstance(storage, _Storage) or not isinstance(dtype, torch.dtype):
        return Record()
    return _strided(storage, dtype, offset, shape, stride)


def _strided(
    storage: _Storage, dtype: torch.dtype, offset: Any, shape: Any, stride: Any
) -> StoredTensor:
    numbers = (offset, *shape, *stride)
    if len(shape) != len(stride) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError("a tensor whose shape makes no sense")
    count = storage.count * storage.dtype.itemsize // dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    # A tensor may share its values with others, but has no more of them than are stored.
    if math.prod(shape) > count or (math.prod(shape) and last >= count):
        raise ValueError("a tensor that is larger than its data")

    def load() -> torch.Tensor:
        return storage.values().view(dtype).as_strided(shape, stride, offset).clone()

    return StoredTensor(tuple(shape), dtype, load)


def _same(value: Any, *_: object) -> Any:
    return value


def _mapping(*_: object) -> dict[Any, Any]:
    return {}


def _of_subclass(rebuild: Any, _type: Any, arguments: Any, *_: object) -> Any:
    return rebuild(*arguments) if rebuild in _FUNCTIONS.values() else Record()


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections.defaultdict": _mapping,  # its items follow
    "collections.Counter": _mapping,
    "builtins.dict": _mapping,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": _same,
    "torch._utils._rebuild_parameter_with_state": _same,
    "torch._tensor._rebuild_from_type_v2": _of_subclass,
    "torch.jit._pickle.restore_type_tag": _same,
}
