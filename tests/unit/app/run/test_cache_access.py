"""The access to the cache: one repair, wherever the damage is found."""

from __future__ import annotations

import contextlib
import io
import sqlite3
from pathlib import Path

import pytest

from mopsjobs.app.run import config
from mopsjobs.app.run.cache_access import CacheAccess
from mopsjobs.app.run.cache_location import CacheLocation
from mopsjobs.app.run.embedded_registry import EmbeddedRegistry
from mopsjobs.app.run.freshness import Freshness, FreshnessPolicy
from mopsjobs.cache.database import DamagedCacheError
from mopsjobs.console.printer import Printer
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.utils.times import utc_now
from support.cli import REMOTE_URL

REFRESH = FreshnessPolicy(refresh=True)


class Access(CacheAccess):
    """The access to a cache of a remote registry with one job; it counts syncs."""

    def __init__(self, directory: Path) -> None:
        env = {"HOME": str(directory), "MOPS_JOBS_REGISTRY": REMOTE_URL}
        settings = config.load({}, env, str(directory))
        self.err = io.StringIO()
        self.opened_registries = 0
        self.job_registry = JobRegistry(InMemoryVersionedStore())
        self.job_registry.register_job("a")
        out = Printer(None, self.err, env)
        location = CacheLocation(settings, out)
        embedded = EmbeddedRegistry(settings, location, out)
        super().__init__(
            settings, out, location=location, embedded=embedded, open_registry=self.open_registry, now=utc_now
        )

    def open_registry(self) -> JobRegistry:
        self.opened_registries += 1
        return self.job_registry

    def damage(self) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute("DROP TABLE job")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.fixture
def access(tmp_path: Path) -> Access:
    """Return the access to a cache that was synced once."""
    made = Access(tmp_path)
    made.sync(wait=None)
    made.opened_registries = 0
    return made


def count(connection: sqlite3.Connection, _: Freshness | None = None) -> int:
    return int(connection.execute("SELECT count(*) FROM job").fetchone()[0])


def test_a_view_that_finds_the_damage_is_called_again(access: Access) -> None:
    """Damage may be found in the middle of a query; the view is then called again over the rebuilt cache."""
    calls = []

    def view(connection: sqlite3.Connection, freshness: Freshness) -> int:
        calls.append(freshness.synced_at)
        if len(calls) == 1:
            access.damage()
        return count(connection)

    assert access.read(view, FreshnessPolicy()) == 1
    assert len(calls) == 2
    assert access.err.getvalue().count("Set aside as") == 1


def test_a_view_of_a_damaged_cache_repairs_once(access: Access) -> None:
    """A sync for a view that finds the damage leaves the repair to the view: two attempts, two syncs, one line."""
    access.damage()
    assert access.read(count, REFRESH) == 1
    assert access.opened_registries == 2
    assert len(access.err.getvalue().splitlines()) == 1


def test_damage_after_a_repair_is_an_error(access: Access) -> None:
    """A cache that is damaged again at once is not repaired for ever."""

    def view(connection: sqlite3.Connection, _: Freshness) -> int:
        access.damage()
        return count(connection)

    with pytest.raises(DamagedCacheError, match="is damaged"):
        access.read(view, REFRESH)
    assert access.err.getvalue().count("Set aside as") == 1


def test_a_read_of_the_damaged_cache_as_it_is_finds_none(access: Access) -> None:
    """Without a sync nothing rebuilds the cache: it is set aside, and there is none."""
    access.damage()
    assert access.read_cached(count) is None
    assert access.write(count) == 0
