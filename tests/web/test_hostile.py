"""A job whose every field, parameter and output has a hostile name or value, on each page: it is text, and fits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, expect

from mopsjobs.registry.job_id import MAX_JOB_ID_LENGTH
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.utils.times import utc_now
from support.browser import check_layout, open_tab, read_axe, shoot, unfold
from support.cli import Cli, Clock, key, put
from support.study_jobs import LONG, RTL, run_hostile
from support.web import BIDI, HOSTILE, HOSTILE_ID, Server, hostile_fields, hostile_record, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mopsjobs.store.base import VersionedStore

STUDY = "n" * MAX_JOB_ID_LENGTH
"""A job of this program, with the longest id that it gives."""

FOREIGN = HOSTILE_ID + LONG[len(HOSTILE_ID) :]
"""A job of another program, whose id has 500 characters, and markup."""


def _fill(store: VersionedStore) -> None:
    run_hostile(JobRegistry(store), STUDY, utc_now)
    found = store.get(key(STUDY))
    assert found is not None
    record, fields = json.loads(found.value), hostile_fields()
    record |= fields | {
        "metadata": {**record["metadata"], **fields["metadata"]},
        "owner": HOSTILE + LONG,
        "labels": {HOSTILE: HOSTILE + BIDI + LONG, LONG: RTL, RTL: LONG},
        "error_message": RTL + HOSTILE + BIDI + LONG,
        "note": HOSTILE + BIDI + LONG,
    }
    put(store, key(STUDY), json.dumps(record))
    put(store, key(FOREIGN), hostile_record(FOREIGN))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server that has synced an embedded registry with the two jobs."""
    cli = Cli(tmp_path_factory.mktemp("home"), Clock(), None)  # type: ignore[arg-type]
    _fill(open_store(cli.env["MOPS_JOBS_REGISTRY"], {}))
    with serving(cli, "--sync-every", "1h") as server:
        yield server.filled()


COLUMNS = "&".join(f"columns={name}" for name in ("study", "owner", "progress", "error", "done", "engine", "created"))

PAGES = {
    "jobs": f"/jobs?{COLUMNS}",
    "jobs-groups": "/jobs?group=owner",
    "jobs-filtered": f"/jobs?q={quote(HOSTILE)}&owner={quote(HOSTILE + LONG)}&label={quote(RTL)}&name={LONG}",
    "jobs-refused": f"/jobs?q={quote('ownr:' + HOSTILE + LONG)}&sort={quote(HOSTILE)}",
    "job": f"/jobs/{STUDY}",
    "tasks": f"/jobs/{STUDY}/tasks",
    "log": f"/jobs/{STUDY}/logs",
    "results": f"/jobs/{STUDY}/results",
    "foreign-job": f"/jobs/{quote(FOREIGN)}",
    "foreign-log": f"/jobs/{quote(FOREIGN)}/logs",
    "no-job": f"/jobs/{quote(HOSTILE_ID)}",
    "failures": "/failures",
    "charts": "/charts",
}
"""Each page that shows what a record, a study, a ledger or a URL holds."""

NARROW = 390
"""The width of the narrowest window, in pixels."""


@pytest.mark.parametrize("width", [1440, NARROW])
@pytest.mark.parametrize("name", PAGES)
def test_hostile_names_and_values_are_text_that_fits(browser: Browser, server: Server, name: str, width: int) -> None:
    """No script runs, no element comes of them, the page is as wide as its window, and axe-core finds nothing."""
    refused = {"jobs-refused": "400", "no-job": "404"}.get(name, "nothing")
    with open_tab(browser, width, expected_errors=refused) as page:
        page.goto(server.url + PAGES[name])
        main = page.locator("main")
        expect(main).not_to_contain_text("Being read")
        expect(main).to_contain_text("<img src=x onerror=alert(1)>")
        shoot(page, f"hostile-{name}", full_page=True)
        unfold(page)
        check_layout(page)
        assert "\u202e" not in page.content()
        if width == NARROW:  # its rules are about what is there, which is the same in each window
            assert read_axe(page) == []
