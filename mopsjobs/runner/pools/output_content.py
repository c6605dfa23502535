"""Take the outputs of a task from an answer of engines/worker.py. It is sent as text to Dask workers, too."""

from __future__ import annotations

import base64
import os


def output_content(content: str | dict[str, str]) -> bytes:
    """Return an output from the answer of engines/worker.py. The file of a large one is removed."""
    if isinstance(content, str):
        return base64.b64decode(content)
    with open(content["file"], "rb") as file:
        value = file.read()
    os.unlink(content["file"])
    return value
