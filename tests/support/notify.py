"""Recipients of notifications for tests: a web server and a mail server, and rules that lead to them."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from email import message_from_bytes, policy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult

from bench.servers import free_port
from support.replies import serving

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from email.message import EmailMessage

    from support.cli import Cli

VARIABLE = "MOPS_JOBS_NOTIFY_HOOK"


class Hook:
    """A web server on a free port of this machine, which keeps what it is sent."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.code = 200
        """The status of each reply."""
        self.location = ""
        """Where a redirect leads."""
        self.hangs = False
        """Whether a reply is held back until the server ends."""
        self.holds = threading.Event()
        """Set when a reply is held back."""
        self.released = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/secret-path"

    @property
    def titles(self) -> list[str]:
        return [document["title"] for document in self.received]

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.headers.append(dict(self.headers))
                hook.received.append(json.loads(body))
                if hook.hangs:
                    hook.holds.set()
                    hook.released.wait()
                with contextlib.suppress(OSError):
                    self.send_response(hook.code)
                    if hook.location:
                        self.send_header("Location", hook.location)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@contextlib.contextmanager
def serving_hook(tls: ssl.SSLContext | None = None) -> Iterator[Hook]:
    """Yield a web server; with TLS if a context is given."""
    hook = Hook()
    if tls is not None:
        hook.server.socket = tls.wrap_socket(hook.server.socket, server_side=True)
        hook.url = hook.url.replace("http:", "https:")
    with serving(hook.server):
        try:
            yield hook
        finally:
            hook.released.set()


def write_rules(cli: Cli, text: str) -> None:
    """Write the user's configuration file, with these rules."""
    path = Path(cli.env["HOME"]) / ".config" / "mops-jobs" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def hook_rule(cli: Cli, hook: Hook, more: str = 'jobs = "all"', kind: str = "webhook") -> None:
    """Give the user one rule, `hook`, which sends to a server."""
    write_rules(cli, f'[notify.hook]\ntype = "{kind}"\n{more}\n')
    cli.env[VARIABLE] = hook.url


class Mailbox:
    """A mail server on a free port of this machine, which keeps what it is sent."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        """Make it; with a context, it takes mails over TLS from users with a password only."""
        options: dict[str, Any] = {}
        if tls is not None:
            options = {"tls_context": tls, "require_starttls": True, "auth_required": True}
            options["authenticator"] = self.authenticate
        self.mails: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.users: list[str] = []
        self.reply = "250 OK"
        self.port = free_port()
        self.server = Controller(self, "127.0.0.1", self.port, **options)

    async def handle_DATA(self, _server: SMTP, _session: object, envelope: Any) -> str:  # noqa: N802 - its name
        """Keep a mail."""
        if self.reply.startswith("250"):
            self.mails.append(message_from_bytes(envelope.content, policy=policy.default))  # type: ignore[arg-type]
            self.recipients += envelope.rcpt_tos
        return self.reply

    def authenticate(self, _server: SMTP, _session: object, _envelope: object, _how: str, data: Any) -> AuthResult:
        """Take the password `hunter2`."""
        self.users.append(data.login.decode())
        return AuthResult(success=data.password == b"hunter2")


@contextlib.contextmanager
def serving_mail(tls: ssl.SSLContext | None = None) -> Iterator[Mailbox]:
    """Yield a mail server; see `Mailbox`."""
    box = Mailbox(tls)
    box.server.start()
    try:
        yield box
    finally:
        box.server.stop()
