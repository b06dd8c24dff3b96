"""Importing a package without some of what it imports, until that is used."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any


def import_without(name: str, later: Sequence[str]) -> ModuleType:
    """Import a package; what it imports of others on the way is imported when it is used.

    In the package, names of the others are bound to stand-ins, which import the real thing when
    they are called, when an attribute of theirs is asked for, and in ``isinstance``. No other
    module sees stand-ins. Others that are not installed or already imported are left as they
    are. A package that needs more of them while it is imported, such as a base class, is
    imported with them.

    Args:
        name: of the package.
        later: full names of the other packages.
    """
    if name not in sys.modules:
        before = set(sys.modules)
        try:
            with _standing_in(later):
                return importlib.import_module(name)
        except Exception:
            for each in set(sys.modules) - before:
                if each.partition(".")[0] == name:
                    del sys.modules[each]
    return importlib.import_module(name)


class _Name:
    """What stands in the place of a class or function."""

    def __init__(self, module: str, name: str) -> None:
        self._place = module, name

    def _real(self) -> Any:
        module, name = self._place
        found = importlib.import_module(module)
        if isinstance(found, _Module):
            raise ImportError(f"{module}.{name} is used while it is put off")
        return getattr(found, name)

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self._real()(*given, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by Python itself
            raise AttributeError(name)
        return getattr(self._real(), name)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._real())


class _Module(ModuleType):
    """What stands in the place of a module."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            return _Name(self.__name__, name)
        return getattr(importlib.import_module(self.__name__), name)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = packages

    def find_spec(
        self, fullname: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if any(f"{fullname}.".startswith(f"{each}.") for each in self.packages):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextlib.contextmanager
def _standing_in(packages: Sequence[str]) -> Iterator[None]:
    """Within the block, imports of the packages give stand-ins, of which none is left after it."""
    finder = _Finder(
        [each for each in packages if each not in sys.modules and importlib.util.find_spec(each)]
    )
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if isinstance(module, _Module):
                del sys.modules[name]
                parent, _, child = name.rpartition(".")
                if parent in sys.modules and vars(sys.modules[parent]).get(child) is module:
                    delattr(sys.modules[parent], child)
