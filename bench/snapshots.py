"""The first mirror of a large registry in Azurite: by snapshot, by listing, and downloading and unpacking alone."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from bench import azurite, registry_data
from bench.measure import Case, in_turn, progress
from bench.report import Line, at_most
from bench.sync_cases import Registry
from mopsjobs.cache.database import open_to_write
from mopsjobs.cache.snapshots.format import MANIFEST_KEY
from mopsjobs.cache.snapshots.publish import publish_snapshot
from mopsjobs.cache.sync.mirror import sync
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.store.urls import identity
from mopsjobs.utils.times import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.machine import Setup

LARGE = 10
"""Times `setup.jobs`."""

LISTING_RATIO, UNPACKING_RATIO = 0.2, 1.5
"""Goals, as multiples of the time of a first mirror by listing, and of downloading and unpacking the snapshot."""


def run(setup: Setup) -> list[Line]:
    """Measure first syncs of a registry of ten times `setup.jobs` records."""
    jobs = setup.jobs * LARGE
    # Writing them takes minutes, in which the server would look for garbage.
    with azurite.running(setup.directory, collects_garbage=False) as server:
        container = azurite.new_container()
        progress(f"writing {jobs:,} records")
        registry_data.fill(server, container, jobs, ours=True)
        registry = Registry(setup, server, container, jobs, "snapshot")
        published = _Published(registry)
        by_snapshot, by_listing = registry.first_sync_by_snapshot(), registry.full_sync()
        by_snapshot.prepare = published.before(by_snapshot, is_there=True)
        by_listing.prepare = published.before(by_listing, is_there=False)
        unpacking = registry.peer("unpack-snapshot")
        unpacking.prepare = published.before(unpacking, is_there=True)
        cases = [by_snapshot, by_listing, unpacking]
        progress(f"first syncs of {jobs:,} jobs, {setup.runs} rounds of {len(cases)} processes")
        in_turn(cases, setup.runs, setup.directory)
    what = f"first mirror of {jobs:,} by snapshot"
    return [
        _line(what, by_snapshot, "by listing", by_listing, LISTING_RATIO),
        _line(what, by_snapshot, "downloading and unpacking it", unpacking, UNPACKING_RATIO),
    ]


class _Published:
    """The snapshot of a registry, which can be hidden: without its manifest, no reader knows of it."""

    def __init__(self, registry: Registry) -> None:
        url, env = registry.server.url(registry.container), registry.server.env
        self._store = open_store(url, env)
        cache, registry_id = str(registry.setup.directory / "publisher.db"), identity(url, env)
        for _ in range(2):  # the second scan knows that all writers announce
            sync(JobRegistry(self._store), cache, registry_id, scan=True)
        with contextlib.closing(open_to_write(cache, registry_id)) as connection:
            publish_snapshot(self._store, connection, now=utc_now)
        manifest = self._store.get(MANIFEST_KEY)
        if manifest is None:
            raise RuntimeError("No snapshot was published.")
        self._manifest = manifest.value

    def before(self, case: Case, *, is_there: bool) -> Callable[[], None]:
        """Return what prepares a case: the snapshot, or none."""
        prepare = case.prepare

        def prepare_both() -> None:
            prepare()
            self._store.delete(MANIFEST_KEY)
            if is_there:
                self._store.create_if_absent(MANIFEST_KEY, self._manifest)

        return prepare_both


def _line(what: str, case: Case, against: str, other: Case, limit: float) -> Line:
    ratio, cpu_ratio = case.ratios_to(other)
    return Line(
        what, f"{case.seconds:.2f} s", f"{against}, {other.seconds:.2f} s", ratio, cpu_ratio,
        at_most(limit, ratio, " x"),
    )  # fmt: skip
