"""Machines of examples: each with a home of its own, and a state machine that sets limits of modules."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING
from unittest import mock

from hypothesis.stateful import RuleBasedStateMachine

from mopsjobs.cache.sync import mirror
from support.cli import Cli, Clock

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    import pytest


class SyncMachine(RuleBasedStateMachine):
    """A machine whose syncs of a small registry are as those of a large one, until it ends."""

    def __init__(self) -> None:
        super().__init__()
        self._limits = contextlib.ExitStack()
        self.limit(mirror, SMALL_REGISTRY=0, MAX_SHARE_READ=1e6)

    def limit(self, module: ModuleType, **values: float) -> None:
        """Set constants of a module."""
        self._limits.enter_context(mock.patch.multiple(module, **values))

    def teardown(self) -> None:
        """Set the constants back."""
        self._limits.close()


class Machines:
    """Gives each example a machine with a home of its own."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._home, self._capsys, self._numbers = home, capsys, itertools.count()

    def __call__(self, **env: str) -> Cli:
        home = self._home / str(next(self._numbers))
        home.mkdir()
        made = Cli(home, Clock(), self._capsys)
        made.env |= env
        return made
