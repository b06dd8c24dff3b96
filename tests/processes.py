"""Processes of their own that start quickly: forked from one that has imported everything."""

from __future__ import annotations

import multiprocessing

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["anthropic", "tests.learning.train_toy", "tests.prompts.write_once"]
)
