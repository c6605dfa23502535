"""`watch` shows jobs as they change, and ends when its reader leaves."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from contextlib import closing

from mopsjobs.cache import database as cache_database
from mopsjobs.cache import job_json
from mopsjobs.cache.queries import filters
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.registry.job_registry import JobRegistry
from support.cli import REMOTE_URL, Cli, Remote, add, command, environment, foreign, key
from support.runs import PATIENCE, until


def _watch(cli: Cli, *steps: object, flags: tuple[str, ...] = ("--json",)) -> list[dict[str, object]]:
    """Return what `watch` prints while the steps are done, one in each pause; then it is interrupted."""

    def meanwhile(count: int) -> None:
        if count > len(steps):
            raise KeyboardInterrupt
        step = steps[count - 1]
        assert callable(step)
        step()

    cli.clock.on_sleep = meanwhile
    ran = cli("watch", *flags)
    assert (ran.code, ran.err) == (130, "")
    return ran.objects


def test_each_change_is_told_once(cli: Cli, remote: Remote) -> None:
    """First the active jobs, then a line for each change that a sync has brought, the end included."""
    add(remote.jobs, "ended", "failed")
    add(remote.jobs, "a", "running", tasks_total=2)
    cli.ok("sync", "-q")
    told = _watch(
        cli,
        lambda: remote.jobs.update_progress("a", 1),
        lambda: None,
        lambda: add(remote.jobs, "b"),
        lambda: remote.jobs.update_status("a", "succeeded"),
        lambda: remote.put(key("a2"), foreign("a2")),
        flags=("--json", "--refresh"),
    )
    assert [(job["job_id"], job["status"], job["tasks_completed"]) for job in told] == [
        ("a", "running", 0), ("a", "running", 1), ("b", "pending", 0), ("a", "succeeded", 1), ("a2", "running", 0),
    ]  # fmt: skip


def test_own_writes_are_told_once(cli: Cli, remote: Remote) -> None:
    """What a command on this machine wrote shows at once; the sync that follows does not tell it again."""
    add(remote.jobs, "a", "running", tasks_total=4)
    cli.ok("sync", "-q")
    path, told = str(cli.cache), []
    for done in (None, 1, None, 2, None):
        if done is None:
            cli.ok("sync", "-q")
        else:
            cli.ok("progress", "a", f"{done}/4")
        connection = cache_database.open_to_read(path, REMOTE_URL)
        assert connection is not None
        with closing(connection):
            news, mark = job_queries.changed_jobs(connection, filters.Filter(), told[-1][1] if told else None)
        told.append(([job_json.job_json(facts, now=0)["tasks_completed"] for facts in news], mark))
    assert [news for news, _ in told] == [[0], [1], [], [2], []]


def test_without_a_terminal_each_change_is_a_line(cli: Cli, jobs: JobRegistry) -> None:
    """Tab-separated, with whole times, nothing drawn."""
    add(jobs, "a", tasks_total=4)
    cli.clock.on_sleep = lambda count: _interrupt() if count > 1 else add(jobs, "b", "running", tasks_total=2)
    ran = cli("watch", "--interval", "5s")
    assert [line.split("\t")[:3] for line in ran.lines] == [["a", "pending", "0/4"], ["b", "running", "0/2"]]
    assert "\x1b" not in ran.out
    assert cli.clock.slept[0] == 5


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_the_network_is_left_alone_unless_asked(cli: Cli, remote: Remote) -> None:
    """Without --max-age the cache alone is read; with it, the registry when that is older. A failure is said once."""
    add(remote.jobs, "a")
    cli.ok("sync", "-q")
    remote.store.calls.clear()
    _watch(cli, lambda: None, lambda: None)
    assert not remote.store.calls
    _watch(cli, lambda: None, lambda: None, flags=("--json", "--max-age", "3s", "--interval", "2s"))
    assert remote.store.calls["scan"] == 1
    remote.store.down = True
    cli.clock.on_sleep = lambda count: _interrupt() if count > 3 else None
    ran = cli("watch", "--json", "--refresh")
    assert (ran.code, ran.err.count("warning: ")) == (130, 1)


def test_a_terminal_is_drawn_anew(cli: Cli, jobs: JobRegistry) -> None:
    """On a terminal the table is there, changes with the job, and Ctrl-C ends it with 130.

    It names the project file that named the registry, which the first line on stderr does only until it is drawn.
    """
    add(jobs, "a", tasks_total=4)
    (cli.cache.parent / ".mops-jobs.toml").write_text(f'registry = "{cli.env.pop("MOPS_JOBS_REGISTRY")}"')
    ours, theirs = pty.openpty()
    words = command("watch", "--interval", "0.1s")
    with subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(cli, TERM="xterm"), start_new_session=True
    ) as process:
        os.close(theirs)
        told = b""

        def shows(text: bytes) -> bool:
            nonlocal told
            told += os.read(ours, 65536)
            return text in told

        try:
            until(lambda: shows(b"0/4"), "the job")
            jobs.update_progress("a", 1)
            until(lambda: shows(b"1/4"), "its progress")
            assert b"registry named by" in told.partition(b"\x1b[H")[2]  # a long path is in the next line
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
        finally:
            process.kill()
    os.close(ours)
