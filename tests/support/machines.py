"""A state machine of Hypothesis that sets limits of modules, so that few jobs reach what many do."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING
from unittest import mock

from hypothesis.stateful import RuleBasedStateMachine

from mopsjobs.cache.sync import mirror

if TYPE_CHECKING:
    from types import ModuleType


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
