"""A printer that prints nothing: what a command would say becomes messages of the logger `mopsjobs`."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from mopsjobs.console.printer import Printer
from mopsjobs.utils.text import strip_control_characters

LOGGER = logging.getLogger("mopsjobs")
"""Warnings have the level WARNING, which Python shows on stderr by default. Notes have INFO, which it hides."""


class LogPrinter(Printer):
    """A printer without streams. It asks no questions, so choices of records need `trust`."""

    def __init__(self, env: Mapping[str, str]) -> None:
        super().__init__(None, None, env)

    def note(self, text: str) -> None:
        """Log a message about progress."""
        LOGGER.info("%s", strip_control_characters(text))

    def warn(self, text: str) -> None:
        """Log a warning."""
        LOGGER.warning("%s", strip_control_characters(text))

    def debug(self, text: str) -> None:
        """Log a detail."""
        LOGGER.debug("%s", strip_control_characters(text))
