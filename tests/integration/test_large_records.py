"""Records of 1 MB: what `list` prints of them does not have to fit into memory."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import closing

import pytest

from mopsjobs.cache import database as cache_database
from support.cli import Cli, Remote, add, command, environment

JOBS = 100
BYTES = 1_000_000


@pytest.fixture
def large(cli: Cli, remote: Remote) -> Cli:
    for number in range(JOBS):
        add(remote.jobs, f"job-{number:03}", "failed")
    cli.ok("sync", "-q")
    with closing(cache_database.open_to_write(str(cli.cache), cli.ok("list", "--json").json["registry"])) as cache:
        filler = f',"filler":"{"x" * BYTES}"}}'
        cache.execute("UPDATE job SET record = substr(record, 1, length(record) - 1) || ?", (filler,))
    return cli


@pytest.mark.skipif(sys.platform != "linux", reason="Other systems do not bound the memory of a process.")
def test_memory_does_not_grow_with_records(large: Cli) -> None:
    """A hundred of them, 100 MB, are all printed in each form by a process that gets 200 MB of addresses."""
    for form in ((), ("--json",), ("--jsonl",), ("--tsv",), ("--csv",)):
        limited = ["sh", "-c", 'ulimit -v 200000 && exec "$@"', "sh", *command("list", *form, "--limit", "0")]
        ran = subprocess.run(limited, capture_output=True, env=environment(large), check=False)
        assert (ran.returncode, ran.stderr[:500].count(b"Memory")) == (0, 0), form
        assert {int(number) for number in re.findall(rb"job-(\d{3})", ran.stdout)} == set(range(JOBS)), form
