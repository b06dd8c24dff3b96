"""The toy task of the methods' tests."""

from __future__ import annotations

from tests.methods.conftest import backbone as backbone
from tests.methods.conftest import task as task
