"""`submit --notify`: the runner on this machine tells of the job, and no record makes another machine do so."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mopsjobs.app.following.notify import claims
from mopsjobs.app.following.notify.notifier import telling_of_run
from mopsjobs.engines import runner_process
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, add, sentences
from support.desk import Desk
from support.notify import VARIABLE, Hook, hook_rule, serving_hook, write_rules
from support.runs import PATIENCE, record, sets_of, until


@pytest.fixture(name="hook")
def _hook(cli: Cli) -> Iterator[Hook]:
    """Yield a server that only jobs which name the rule are told to, at their end."""
    with serving_hook() as hook:
        hook_rule(cli, hook, more='on = ["end"]')
        yield hook


def test_the_runner_tells_of_a_job_that_names_the_rule(hook: Hook, desk: Desk) -> None:
    """With its failed tasks in groups and what to type, and once, though `wait` and `sync` see the end too."""
    desk.submit([*sets_of(3), *sets_of(2, fail=True)], "--notify", "hook")
    assert desk("wait", "job").code == 104
    assert desk.ended() == "partial"
    desk.ok("sync")
    assert hook.titles == ["job is partial: 3 of 5 tasks done, 2 failed"]
    [told] = hook.received
    assert [(group["count"], group["type"]) for group in told["failures"]] == [(2, "ValueError")]
    assert "2 x ValueError in model.py" in told["text"]
    assert told["next"].startswith("mops-jobs failures ")
    assert told["job"]["max_rss_bytes"] > 0


def test_a_server_that_refuses_changes_no_job(hook: Hook, desk: Desk) -> None:
    """The end is in the record, and the exit code is that of the job."""
    hook.code = 500
    path = desk.write(sets_of(1))
    ran = desk("submit", path, "--auto", "--job-id", "job", "--wait", "--notify", "hook", "--workers", "1")
    assert (ran.code, record(desk.jobs).status) == (0, "succeeded")
    assert "The rule hook has not told of job: the server answered 500 Internal Server Error." in ran.err


def test_a_rule_that_is_not_there_submits_nothing(cli: Cli, hook: Hook, desk: Desk) -> None:
    """Nor does one whose secret is missing: no message would tell of the job."""
    words = ("submit", desk.write(sets_of(1)), "--auto", "--job-id", "job", "--notify")
    ran = desk(*words, "hok")
    assert (ran.code, sentences(ran.err)) == (
        2,
        ["error: invalid rule 'hok': expected one of hook. Did you mean 'hook'?"],
    )
    ran = desk(*words, "hook", **{VARIABLE: ""})
    assert (ran.code, sentences(ran.err)) == (2, [f"error: The rule hook needs a secret, and {VARIABLE} is not set."])
    assert desk.jobs.get_job("job") is None


@pytest.mark.claim("No record chooses who is told of a job")
def test_neither_record_nor_manifest_has_the_rules(hook: Hook, desk: Desk) -> None:
    """They stay in the directory of the job on this machine. Claims have a digest, and events the type of the rule."""
    desk.run("succeeded", sets_of(1), "--notify", "hook")
    until(lambda: len(hook.received) == 1, "the message")
    values = {name: desk.store.get(name) for name in desk.store.list_keys()}
    texts = {name: b"" if value is None else value.value for name, value in values.items()}
    assert any(name.startswith(claims.PREFIX) for name in texts)
    assert any(b'"notified"' in value for value in texts.values())
    texts = {name: value.replace(b'"webhook"', b"") for name, value in texts.items()}
    assert [name for name, value in texts.items() if b"hook" in value or "hook" in name or b"secret" in value] == []


HOSTILE_METADATA = {"notify": ["hook"], "local_notify": "hook", "k8s_notify": "hook", "command": ["touch", "here"]}


@pytest.mark.claim("No record chooses who is told of a job")
def test_no_record_makes_a_machine_tell(cli: Cli, jobs: JobRegistry, hook: Hook, tmp_path: Path) -> None:
    """Whatever it says, in metadata and labels: only the user's configuration and directory of jobs count."""
    words = json.dumps(["touch", str(tmp_path / "ran")])
    write_rules(cli, f'[notify.desk]\ntype = "command"\ncommand = {words}\n[notify.hook]\ntype = "webhook"\n')
    cli.ok("sync")
    labels = {"notify": "hook", "rule": "desk"}
    add(jobs, "job", "succeeded", metadata=HOSTILE_METADATA, labels=labels, owner="hook")
    cli.ok("sync")
    assert cli("wait", "job").code == 0
    assert hook.received == []
    assert not (tmp_path / "ran").exists()


@pytest.mark.claim("No header or argument of a message has text of a record")
def test_a_command_gets_the_message_and_no_argument(cli: Cli, jobs: JobRegistry, tmp_path: Path) -> None:
    """What a record holds is on the standard input, so it cannot be taken for a flag or a word of a shell."""
    told = tmp_path / "told.json"
    words = json.dumps(["sh", "-c", f'echo "$#" >"{tmp_path}/count"; cat >"{told}"', "sh"])
    write_rules(cli, f'[notify.desk]\ntype = "command"\njobs = "all"\ncommand = {words}\n')
    cli.ok("sync")
    add(jobs, "job", "failed", error_message="$(touch here); --flag\r\nX: y")
    assert sentences(cli.ok("sync", "-q").err) == []
    assert json.loads(told.read_text())["job"]["error_message"] == "$(touch here); --flag\r\nX: y"
    assert (tmp_path / "count").read_text() == "0\n"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["false"], "false ended with exit code 1"),
        (["/nowhere/notify"], "/nowhere/notify cannot be started: No such file or directory"),
    ],
)
def test_a_command_that_fails_is_named(cli: Cli, jobs: JobRegistry, words: list[str], problem: str) -> None:
    """With its word and its exit code. The sync is done all the same."""
    write_rules(cli, f'[notify.desk]\ntype = "command"\njobs = "all"\ncommand = {json.dumps(words)}\n')
    cli.ok("sync")
    add(jobs, "job", "failed")
    ran = cli.ok("sync", "-q")
    assert sentences(ran.err) == [f"warning: The rule desk has not told of job: {problem}."]


def test_the_end_is_in_the_record_before_it_is_told(hook: Hook, desk: Desk) -> None:
    """A server that hangs holds up neither the record nor a wait without rules."""
    hook.hangs = True
    desk.submit(sets_of(1), "--notify", "hook")
    assert hook.holds.wait(PATIENCE)
    assert record(desk.jobs).status == "succeeded"


def launched_here(cli: Cli, job_id: str) -> None:
    """Note this process as the one that an engine has launched for a job."""
    directory = JobDir.for_job(job_id, cli.env)
    directory.path.mkdir(parents=True)
    directory.runner.write_text(json.dumps(runner_process.note_of(os.getpid())))


def test_the_runner_of_the_last_job_stays_to_tell_of_the_sweep(cli: Cli, jobs: JobRegistry, hook: Hook) -> None:
    """Without a sync of any other process. The runner of another job leaves, and so does a run in the foreground."""
    hook_rule(cli, hook)
    for job_id in ("a", "b", "c"):
        add(jobs, job_id, "running", labels={"sweep": "night"})
        launched_here(cli, job_id)
    for job_id, slept in (("a", 0), ("b", 0), ("c", 60)):
        with telling_of_run(job_id, cli.app()):
            jobs.update_status(job_id, "succeeded")
        assert sum(cli.clock.slept) == slept
    assert hook.titles == ["sweep night has ended: 3 succeeded"]
    add(jobs, "d", "running", labels={"sweep": "night"})
    with telling_of_run("d", cli.app()):
        jobs.update_status("d", "succeeded")
    assert sum(cli.clock.slept) == 60


def test_a_child_is_told_as_its_parent(hook: Hook, desk: Desk) -> None:
    """`resume` repeats the rules, as it repeats the other options of the launch."""
    mended = desk.home.with_name("mended")
    desk.submit(sets_of(1, needs=str(mended)), "--notify", "hook")
    desk.ended()
    mended.touch()
    child = desk.ok("resume", "job", "--json").json["job_id"]
    assert desk.ended(child) == "succeeded"
    assert [document["job"]["job_id"] for document in hook.received] == ["job", child]
