"""Session: the registry, the environment, the clocks and the messages of a caller."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from datetime import datetime

from mopsjobs.errors import NoManifestError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.manifest import Manifest, load_manifest
from mopsjobs.utils.times import utc_now

Progress = contextlib.AbstractContextManager[Callable[[int], None] | None]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """The registry, environment and output of submit, resume and cancel.

    The first three fields are enough for a program without a terminal.
    """

    registry_url: str
    """What runners open. It holds no secret."""
    open_registry: Callable[[], JobRegistry]
    """Returns the registry, the same at each call. Called when the registry is first needed."""
    env: Mapping[str, str]
    """The environment: where engines find their configuration, and runners their secrets."""
    note: Callable[[str], object] = lambda _text: None
    """Called with each line about progress."""
    warn: Callable[[str], object] = lambda _text: None
    """Called with each warning."""
    progress: Callable[[], Progress] = contextlib.nullcontext
    """Opens a progress bar for packing, which is called with the bytes of files packed so far."""
    now: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @property
    def registry(self) -> JobRegistry:
        """Return the registry."""
        return self.open_registry()

    @property
    def store(self) -> VersionedStore:
        """Return the store of the registry."""
        return self.registry.store

    def load_manifest(self, job_id: str) -> Manifest:
        """Return the manifest of a job.

        Raises:
            JobNotFoundError: if the job does not exist.
            NoManifestError: if mops-jobs did not submit it.
            RecordError, StoreError: if the manifest cannot be read.
        """
        try:
            return load_manifest(self.store, job_id)
        except NoManifestError:
            self.registry.require_job(job_id)  # usually the job does not exist
            raise
