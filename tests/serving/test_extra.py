"""Every module that the extra `[serve]` brings is missed before the service starts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stages.endings import EXTRAS


@pytest.mark.parametrize("module", [name for name, extra in EXTRAS.items() if extra == "serve"])
def test_a_missing_module_is_named_with_its_extra(module: str) -> None:
    lines = (
        "import sys",
        f"sys.modules[{module!r}] = None",
        "sys.argv = ['capt-stage', 'serve', 'no.safetensors', '--port', '0']",
        "from stages.cli import main",
        "main()",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    told = f"error: {module} is not installed; run: pip install 'capt-stage[serve]'"
    assert done.stderr.splitlines()[-1] == told
