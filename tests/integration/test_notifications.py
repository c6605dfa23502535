"""Notifications at real servers: their forms, what a hostile record can put into them, and TLS."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest

from mopsjobs.app.following.notify import recipients
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.utils.times import record_time, utc_now
from support.certificates import self_signed
from support.cli import START, Cli, Remote, add, foreign, key
from support.notify import VARIABLE, Hook, hook_rule, serving_hook, serving_mail, write_rules
from support.runs import PATIENCE, until
from support.web import serving

INJECTION = "x\r\nBcc: eve@example.org\r\nX-Evil: 1\r\n\r\n<!channel> [click](http://evil.example) \u202egnp"
WORD = "hunter2"


@pytest.fixture(name="certificate", scope="module")
def _certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls"))


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def put_hostile(remote: Remote) -> None:
    """Write a record that another program made, in which each text tries to leave its place."""
    texts = {"owner": INJECTION, "error_code": INJECTION, "error_message": INJECTION, "engine": INJECTION}
    metadata = {"suspect": {"reason": INJECTION}}
    more = {"labels": {INJECTION: INJECTION}, "metadata": metadata, "updated_at": record_time(START)}
    record = foreign("job", "running", **texts, **more)
    remote.put(key("job"), record)


def mail_rule(cli: Cli, port: int, more: str = "") -> None:
    write_rules(
        cli,
        '[notify.me]\ntype = "email"\njobs = "all"\nto = ["me@example.org", "ada@example.org"]\n'
        f'from = "jobs@example.org"\nserver = "localhost:{port}"\n{more}',
    )


# --- forms ----------------------------------------------------------------------------------------------------------


def test_a_webhook_gets_json_of_the_schema(cli: Cli, remote: Remote, hook: Hook) -> None:
    """`mops-jobs schema notification` describes it."""
    import jsonschema

    add(remote.jobs, "job", "failed", owner="ada", tasks_total=3)
    assert cli("wait", "job").code == 100
    [told] = hook.received
    schema = cli.ok("schema", "notification").json
    jsonschema.validate(told, schema)
    assert set(told) == set(schema["properties"])
    assert hook.headers[0]["Content-Type"] == "application/json"


@pytest.mark.claim("No header or argument of a message has text of a record")
def test_nothing_of_a_record_is_in_a_header(cli: Cli, remote: Remote, hook: Hook) -> None:
    """The request has the same headers as that of any job; the texts are in the body, without control characters."""
    cli.ok("sync")
    add(remote.jobs, "plain", "failed")
    put_hostile(remote)
    cli.ok("sync", "--full", "-q")
    first, second = hook.headers
    assert first.keys() == second.keys() == {
        "Accept-Encoding", "Content-Length", "Host", "User-Agent", "Content-Type", "Connection",
    }  # fmt: skip
    assert INJECTION in json.dumps(hook.received, ensure_ascii=False).replace("\\r\\n", "\r\n")
    for told in hook.received:
        assert told["title"].isprintable()
        assert all(line.isprintable() for line in told["text"].split("\n"))


def test_slack_takes_no_text_for_a_link_or_a_name(cli: Cli, remote: Remote, hook: Hook) -> None:
    """Of a hostile record: `<!channel>` would call all people of a channel."""
    hook_rule(cli, hook, kind="slack")
    put_hostile(remote)
    cli.ok("sync", "--full", "-q")
    [told] = hook.received
    assert told.keys() == {"text"}
    assert told["text"].startswith("*job may be stuck: x  Bcc: eve@example.org")
    assert "&lt;!channel&gt;" in told["text"]
    assert not set("<>") & set(told["text"])


def test_teams_takes_no_text_for_markdown(cli: Cli, remote: Remote, hook: Hook) -> None:
    """A text run is shown as it is; a text block would make a link of it."""
    hook_rule(cli, hook, kind="teams")
    put_hostile(remote)
    cli.ok("sync", "--full", "-q")
    [told] = hook.received
    [attachment] = told["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    body = attachment["content"]["body"]
    assert {block["type"] for block in body} == {"RichTextBlock"}
    runs = [run for block in body for run in block["inlines"]]
    assert {run["type"] for run in runs} == {"TextRun"}
    assert any("[click](http://evil.example)" in run["text"] for run in runs)


# --- mail -----------------------------------------------------------------------------------------------------------


def test_a_mail_has_the_message(cli: Cli, remote: Remote) -> None:
    """To each address of the rule, with a subject that names job and outcome."""
    with serving_mail() as box:
        mail_rule(cli, box.port)
        add(remote.jobs, "job", "failed", error_message="Größe: no such file")
        assert cli("wait", "job").code == 100
    [mail] = box.mails
    assert (mail["Subject"], mail["From"], mail["To"], mail["Auto-Submitted"]) == (
        "job is failed", "jobs@example.org", "me@example.org, ada@example.org", "auto-generated",
    )  # fmt: skip
    assert box.recipients == ["me@example.org", "ada@example.org"]
    assert "Error: Größe: no such file" in mail.get_content()
    assert "Next: mops-jobs status job --json" in mail.get_content()


@pytest.mark.claim("No header or argument of a message has text of a record")
def test_a_hostile_record_adds_no_header_to_a_mail(cli: Cli, remote: Remote) -> None:
    """And no recipient. The subject is one line."""
    with serving_mail() as box:
        mail_rule(cli, box.port)
        put_hostile(remote)
        cli.ok("sync", "--full", "-q")
    [mail] = box.mails
    assert sorted(mail.keys()) == sorted(
        ["Subject", "From", "To", "Date", "Message-ID", "Auto-Submitted", "Content-Type", "Content-Transfer-Encoding",
         "MIME-Version"]
    )  # fmt: skip
    assert mail["Subject"].startswith("job may be stuck: x  Bcc: eve@example.org  X-Evil: 1")
    assert box.recipients == ["me@example.org", "ada@example.org"]


def test_a_mail_server_that_refuses_is_named_without_its_words(cli: Cli, remote: Remote) -> None:
    """They may repeat anything."""
    with serving_mail() as box:
        box.reply = f"554 no {WORD}"
        mail_rule(cli, box.port)
        add(remote.jobs, "job", "succeeded")
        ran = cli.ok("wait", "job")
    assert "The rule me has not told of job: the mail server answered 554." in ran.err
    assert WORD not in ran.err


@pytest.mark.claim("A message goes to the host that you named, over TLS")
def test_a_password_goes_over_tls_only(
    cli: Cli, remote: Remote, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server elsewhere has to offer TLS, with a certificate that is trusted; then it gets user and password."""
    monkeypatch.setattr(recipients, "is_loopback", lambda _: False)
    cli.env["MOPS_JOBS_NOTIFY_ME"] = WORD
    add(remote.jobs, "job", "succeeded")

    def said(port: int, **env: str) -> list[str]:
        mail_rule(cli, port, 'user = "me"\n')
        lines = cli.ok("wait", "job", **env).err.splitlines()
        cli.clock.advance(minutes=5)
        return [line for line in lines if "rule me" in line]

    with serving_mail() as plain:
        assert said(plain.port) == [
            "warning: The rule me has not told of job: the mail server offers no TLS, so nothing was sent."
        ]
    with serving_mail(server_context(certificate)) as box:
        assert said(box.port) == ["warning: The rule me has not told of job: its TLS certificate is not trusted."]
        assert box.users == []
        assert said(box.port, SSL_CERT_FILE=str(certificate)) == []
        assert (box.users, len(box.mails), plain.mails) == (["me"], 1, [])


# --- where it goes --------------------------------------------------------------------------------------------------


@pytest.mark.claim("A message goes to the host that you named, over TLS")
def test_a_redirect_is_not_followed(cli: Cli, remote: Remote, hook: Hook) -> None:
    """The message goes to the host that the user has named, or nowhere."""
    with serving_hook() as elsewhere:
        for code in (301, 302, 303, 307, 308):
            hook.code, hook.location = code, elsewhere.url
            add(remote.jobs, f"job-{code}", "succeeded")
            ran = cli.ok("wait", f"job-{code}")
            assert f"the server answered {code}, a redirect, which is not followed." in ran.err
        assert (len(hook.received), elsewhere.received) == (5, [])


@pytest.mark.claim("A message goes to the host that you named, over TLS")
def test_a_server_whose_certificate_is_not_trusted_gets_nothing(cli: Cli, remote: Remote, certificate: Path) -> None:
    """Its authority may be named, as for the registry."""
    with serving_hook(server_context(certificate)) as hook:
        hook.url = hook.url.replace("127.0.0.1", "localhost")
        hook_rule(cli, hook)
        add(remote.jobs, "job", "succeeded")
        ran = cli.ok("wait", "job")
        assert "The rule hook has not told of job: its TLS certificate is not trusted." in ran.err
        assert hook.received == []
        cli.clock.advance(minutes=5)
        cli.ok("wait", "job", REQUESTS_CA_BUNDLE=str(certificate))
        assert hook.titles == ["job is succeeded"]


@pytest.mark.claim("A message goes to the host that you named, over TLS")
@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (f"http://hooks.example.org/{WORD}", "expected https: a URL that is a secret does not go over a network in"),
        (f"https://me:{WORD}@hooks.example.org/x", "expected no user name or password in the URL."),
        (f"file:///etc/{WORD}", "expected a URL like https://host/path."),
        (f"https://hooks.example.org/{WORD}\r\nX-Evil: 1", "expected a URL like https://host/path."),
        (f"https://hooks.example.org:{WORD}/x", "expected a URL like https://host/path."),
        (WORD, "expected a URL like https://host/path."),
    ],
)  # fmt: skip
def test_an_unsafe_url_is_refused_and_not_repeated(cli: Cli, remote: Remote, url: str, problem: str) -> None:
    """Nothing is sent, and nothing claimed."""
    write_rules(cli, '[notify.hook]\ntype = "slack"\njobs = "all"')
    add(remote.jobs, "job", "succeeded")
    ran = cli.ok("wait", "job", **{VARIABLE: url})
    assert f"warning: invalid {VARIABLE}: {problem}" in ran.err
    assert WORD not in ran.err + ran.out
    assert list(remote.store.inner.list_keys("notified/")) == []


@pytest.mark.claim("A secret of a rule is not shown")
def test_no_secret_is_shown(cli: Cli, remote: Remote, hook: Hook) -> None:
    """Neither by `config show`, nor by a failure, also with -vv, nor in a claim."""
    hook.code = 500
    add(remote.jobs, "job", "failed")
    shown = [cli("config", "show"), cli("config", "show", "--json"), cli("-vv", "wait", "job"), cli("-vv", "sync")]
    assert "notify.hook" in shown[0].out
    assert len(hook.received) == 1
    assert not [ran for ran in shown if "secret-path" in ran.out + ran.err]
    kept = [remote.store.inner.get(name) for name in remote.store.inner.list_keys("notified/")]
    assert [one for one in kept if one is None or b"secret-path" in one.value] == []
    assert len(kept) == 1


# --- a server that goes on -------------------------------------------------------------------------------------------


def test_a_page_server_tells_after_each_sync(cli: Cli, jobs: JobRegistry, hook: Hook) -> None:
    """A recipient that hangs holds up neither a sync nor the page. What was refused is said once, and sent again."""
    cli.clock.moment = utc_now()  # as in the other process
    add(jobs, "first", "running", owner="ada")
    with serving(cli, "--sync-every", "1s") as server:
        until(lambda: '"first"' in server.ask("/api/v1/jobs").text, "the first job")
        hook.hangs = True
        jobs.update_status("first", "succeeded")
        assert hook.holds.wait(PATIENCE)
        add(jobs, "second", "failed", owner="ada")
        until(lambda: '"second"' in server.ask("/api/v1/jobs").text, "the next sync")
        hook.released.set()
        until(lambda: len(hook.received) == 2, "both messages")
        hook.code = 500
        add(jobs, "third", "failed", owner="ada")
        until(lambda: len(hook.received) == 3, "the third message")
        _, said = server.stop()
    assert hook.titles == ["first is succeeded", "second is failed", "third is failed"]
    assert said.count("the server answered 500") <= 1
