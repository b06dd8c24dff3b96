"""Packages are imported without others, which come when they are used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from capt_core.lazy_import import import_without
from tests.processes import python

OPTIONAL = """\
try:
    import lazily_heavy
    from lazily_heavy import Kind, double
    from lazily_heavy.deep import triple
except ImportError:
    lazily_heavy = None

def is_kind(value: Kind, of: Kind = None) -> bool:
    return isinstance(value, (int, Kind))
"""


@pytest.fixture
def heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package beside which others are written."""
    package = tmp_path / "lazily_heavy"
    package.mkdir()
    code = "class Kind:\n    name = 'kind'\n\ndef double(x):\n    return 2 * x\n"
    (package / "__init__.py").write_text(code)
    (package / "deep.py").write_text("def triple(x):\n    return 3 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [each for each in sys.modules if each.startswith("lazily_")]:
        del sys.modules[name]


def test_others_are_imported_when_they_are_used(heavy: Path) -> None:
    (heavy.parent / "lazily_light.py").write_text(OPTIONAL)
    light = import_without("lazily_light", ["lazily_heavy"])
    assert light is sys.modules["lazily_light"]
    assert "lazily_heavy" not in sys.modules
    assert not light.is_kind("text")
    real = importlib.import_module("lazily_heavy")
    assert light.is_kind(real.Kind())
    assert light.Kind.name == light.lazily_heavy.Kind.name == "kind"
    assert type(light.Kind()) is real.Kind
    assert (light.double(2), light.triple(2)) == (4, 6)
    with pytest.raises(AttributeError, match="absent"):
        _ = light.lazily_heavy.absent


def test_submodules_of_imported_packages_are_put_off_too(heavy: Path) -> None:
    real = importlib.import_module("lazily_heavy")
    program = "from lazily_heavy.deep import triple\nfrom lazily_heavy import double\n"
    (heavy.parent / "lazily_light.py").write_text(program)
    light = import_without("lazily_light", ["lazily_heavy.deep"])
    assert "lazily_heavy.deep" not in sys.modules
    assert not hasattr(real, "deep")
    assert light.double is real.double
    assert light.triple(1) == 3
    assert real.deep.triple(1) == 3


def test_what_is_there_already_or_not_installed_is_left_as_it_is(heavy: Path) -> None:
    (heavy.parent / "lazily_light.py").write_text(OPTIONAL.replace("lazily_heavy", "lazily_none"))
    with pytest.raises(NameError):  # as without us: the name that failed to be imported
        import_without("lazily_light", ["lazily_none"])
    real = importlib.import_module("lazily_heavy")
    (heavy.parent / "lazily_light.py").write_text(OPTIONAL)
    importlib.invalidate_caches()
    assert import_without("lazily_light", ["lazily_heavy"]).double is real.double


def test_a_base_class_is_imported_at_once(heavy: Path) -> None:
    package = heavy.parent / "lazily_light"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from lazily_light.first import double\nimport lazily_light.kinds\n"
    )
    (package / "first.py").write_text("from lazily_heavy import double\n")
    (package / "kinds.py").write_text("from lazily_heavy import Kind\nclass Own(Kind): pass\n")
    light = import_without("lazily_light", ["lazily_heavy"])
    real = sys.modules["lazily_heavy"]
    assert issubclass(light.kinds.Own, real.Kind)
    assert light.double is real.double


def test_the_embedded_model_runs_without_what_other_models_need() -> None:
    program = """
import sys, torch
from capt_core.library import load_backbone
backbone = load_backbone("tiny-clip")
backbone.clip.encode_text(backbone.tokenizer(["a photo of a plaid."]))
backbone.clip.encode_image(torch.zeros(1, 3, 64, 64))
print({"transformers", "timm", "torch._dynamo", "sympy"} & set(sys.modules))
"""
    done = python("-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "set()\n"
