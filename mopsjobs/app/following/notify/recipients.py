"""Where messages go: a command, a webhook, or a mail server. Each has one attempt, which says why it failed.

What a record holds is in a body of JSON, in the text of a mail, or on the standard input of a command. It is in no
header besides the subject, whose control characters are gone, and in no argument. Errors never repeat a URL or a
reply: both may hold the secret.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import smtplib
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mopsjobs.app.run.notify_rules import WEBHOOKS, Rule
from mopsjobs.errors import ConfigError, MopsJobsError
from mopsjobs.store.network import tls_authorities
from mopsjobs.utils.hosts import is_loopback
from mopsjobs.version import __version__

SECONDS = 10.0
"""Time for each step of a connection, and for a command."""

SMTPS_PORT = 465

Message = Mapping[str, Any]
"""A notification; see `mopsjobs.app.following.notify.message`."""


class SendError(MopsJobsError):
    """A message was not sent, or its recipient did not confirm it."""


class Recipient(NamedTuple):
    """The recipient of the messages of a rule."""

    digest: str
    """Tells recipients apart, and does not give away an address."""
    send: Callable[[Message], None]
    """Sends one message. Raises a `SendError` if it was not confirmed."""


def find_recipient(rule: Rule, env: Mapping[str, str]) -> Recipient:
    """Return the recipient of a rule.

    Raises:
        ConfigError: if its secret is missing, or is not what it should be.
    """
    secret = env.get(rule.variable, "")
    if rule.needs_secret and not secret:
        raise ConfigError(f"The rule {rule.name} sends nothing: {rule.variable} is not set.")
    if rule.type in WEBHOOKS:
        url = _check_url(rule, secret)
        form = _FORMS[rule.type]
        return Recipient(_digest(rule.type, url), lambda message: _post(url, form(message), env))
    if rule.type == "email":
        return Recipient(_digest("email", *rule.to), lambda message: _mail(rule, secret, message, env))
    return Recipient(_digest("command", *rule.command), lambda message: _run(rule.command, message, env))


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


# --- webhooks ----------------------------------------------------------------------------------------------------


def _check_url(rule: Rule, url: str) -> str:
    """Return the URL of a webhook.

    Raises:
        ConfigError: if it is not one, if it leads over a network in clear, or if it has a user name.
    """
    problem = None
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or parts.scheme not in ("http", "https") or not url.isascii() or not url.isprintable() or " " in url:
        problem = "expected a URL like https://host/path"
    elif parts.scheme == "http" and not is_loopback(host):
        problem = "expected https: a URL that is a secret does not go over a network in clear"
    elif "@" in parts.netloc:
        problem = "expected no user name or password in the URL"
    if problem is not None:
        raise ConfigError(f"invalid {rule.variable}: {problem}.")
    return url


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for the failure that it is: the message goes to the host that the user has named, or nowhere."""

    def redirect_request(self, *_: object) -> None:
        return None


def _post(url: str, document: object, env: Mapping[str, str]) -> None:
    """Send a document.

    Raises:
        SendError: if the reply does not confirm it.
    """
    request = urllib.request.Request(  # noqa: S310 - its scheme was checked
        url,
        json.dumps(document).encode(),
        {"Content-Type": "application/json", "User-Agent": f"mops-jobs/{__version__}"},
    )
    opener = urllib.request.build_opener(_NoRedirects, urllib.request.HTTPSHandler(context=_tls(env)))
    try:
        with opener.open(request, timeout=SECONDS):
            pass  # any 2xx; the reply is not read
    except urllib.error.HTTPError as error:
        error.close()
        raise SendError(f"the server answered {error.code}{_meaning(error.code)}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SendError(_reason(error)) from None


def _meaning(code: int) -> str:
    if 300 <= code < 400:
        return ", a redirect, which is not followed"
    with contextlib.suppress(ValueError):
        return f" {http.HTTPStatus(code).phrase}"
    return ""


def _reason(error: Exception) -> str:
    """Return why there was no reply, in words without the URL."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "its TLS certificate is not trusted"
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    words = getattr(cause, "strerror", None)
    return str(words).lower() if words else f"the connection broke ({type(cause).__name__})"


def _tls(env: Mapping[str, str]) -> ssl.SSLContext:
    """Return what checks the certificates of servers. Nothing switches that off."""
    authorities = tls_authorities(env)
    return ssl.create_default_context(cafile=authorities if isinstance(authorities, str) else None)


def _slack(message: Message) -> object:
    # Slack takes `<…>` for links and for names that call people.
    escaped = f"*{_escape(message['title'])}*\n{_escape(message['text'])}"
    return {"text": escaped}


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _teams(message: Message) -> object:
    # A RichTextBlock shows text as it is; a TextBlock would take it for Markdown, with links.
    lines = [{"text": message["title"], "weight": "bolder"}, *({"text": line} for line in message["text"].splitlines())]
    body = [{"type": "RichTextBlock", "inlines": [{"type": "TextRun", **line}]} for line in lines if line["text"]]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    }
    kind = "application/vnd.microsoft.card.adaptive"
    return {"type": "message", "attachments": [{"contentType": kind, "contentUrl": None, "content": card}]}


_FORMS: dict[str, Callable[[Message], object]] = {"webhook": dict, "slack": _slack, "teams": _teams}


# --- mail --------------------------------------------------------------------------------------------------------


def _mail(rule: Rule, password: str, message: Message, env: Mapping[str, str]) -> None:
    """Send a mail. A server elsewhere has to speak TLS, before anything is sent.

    Raises:
        SendError: if the server does not take it for every recipient.
    """
    mail = EmailMessage()
    mail["Subject"] = message["title"]  # one line; EmailMessage refuses two
    mail["From"] = rule.sender
    mail["To"] = ", ".join(rule.to)
    mail["Date"] = formatdate()
    mail["Message-ID"] = make_msgid(domain=rule.sender.rpartition("@")[2])
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation reply comes back
    mail.set_content(f"{message['text']}\n")
    host, port = rule.server
    try:
        with _connect(host, port, env) as server:
            if rule.user:
                server.login(rule.user, password)
            refused = server.send_message(mail)
    except smtplib.SMTPResponseException as error:  # its text may repeat anything
        raise SendError(f"the mail server answered {error.smtp_code}") from None
    except smtplib.SMTPRecipientsRefused:
        raise SendError("the mail server refused every recipient") from None
    except smtplib.SMTPException as error:
        raise SendError(f"the mail server cannot be used ({type(error).__name__})") from None
    except (OSError, ValueError) as error:
        raise SendError(_reason(error)) from None
    if refused:
        raise SendError(f"the mail server refused {len(refused)} of {len(rule.to)} recipients")


@contextlib.contextmanager
def _connect(host: str, port: int, env: Mapping[str, str]) -> Any:
    if port == SMTPS_PORT:
        connection: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=SECONDS, context=_tls(env))
    else:
        connection = smtplib.SMTP(host, port, timeout=SECONDS)
    with connection as server:
        if port != SMTPS_PORT and not is_loopback(host):
            server.ehlo()
            if not server.has_extn("starttls"):
                raise SendError("the mail server offers no TLS, so nothing was sent")
            server.starttls(context=_tls(env))
        yield server


# --- commands ----------------------------------------------------------------------------------------------------


def _run(words: tuple[str, ...], message: Message, env: Mapping[str, str]) -> None:
    """Run a command of the user with the message on its standard input.

    Raises:
        SendError: if it cannot be started, takes too long, or ends with another exit code than 0.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own choice, and nothing of a record is in it
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(env),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise SendError(f"{words[0]} cannot be started: {getattr(error, 'strerror', None) or 'invalid'}") from None
    try:
        process.communicate(json.dumps(message).encode() + b"\n", timeout=SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise SendError(f"{words[0]} did not end within {SECONDS:g} s, and was ended") from None
    if process.returncode:
        raise SendError(f"{words[0]} ended with exit code {process.returncode}")
