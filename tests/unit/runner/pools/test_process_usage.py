"""The text of this module runs on Dask workers, without mops-jobs. Its numbers: see test_worker_process.py."""

from __future__ import annotations

import ast
from pathlib import Path

from mopsjobs.runner.pools import process_usage


def test_the_text_that_dask_workers_get_needs_nothing_else() -> None:
    parsed = ast.parse(Path(process_usage.__file__).read_text(), feature_version=(3, 8))
    imported = [node.module for node in ast.walk(parsed) if isinstance(node, ast.ImportFrom)]
    assert set(imported) <= {"__future__", "typing", "collections.abc"}
