"""Write docs/mops-jobs.1, the man page, from the parser; see generate_cli.py.

python docs/tools/generate_man.py && man docs/mops-jobs.1
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from generate_cli import (  # noqa: E402 - found by the line above
    build_parser,
    common_flags,
    exit_codes,
    meaning,
    own_arguments,
    value_of,
)

from mopsjobs import __version__  # noqa: E402 - as above
from mopsjobs.cli.parser import operand  # noqa: E402 - as above

HEAD = r""".\" Written by docs/tools/generate_man.py from the parser. Do not edit.
.TH MOPS\-JOBS 1 "" "mops\-jobs {version}" "User Commands"
.SH NAME
mops\-jobs \- {description}
.SH SYNOPSIS
.B mops\-jobs
.I COMMAND
.RI [ flags ]
.SH DESCRIPTION
The state of a job is one record in a registry. A local cache mirrors the records, so that views are instant and work
without a network. Every view shows its age. Data goes to standard output, messages go to standard error.
"""

ENVIRONMENT = {
    "MOPS_JOBS_REGISTRY, MOPS_JOBS_CACHE": "The registry, and its local cache.",
    "AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_ACCOUNT, AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN": (
        "The credentials of a registry in Azure (default: the sign-in of `az login`)."
    ),
    "NO_COLOR, CLICOLOR_FORCE, FORCE_COLOR": "Whether to use colour.",
}

FILES = {
    "~/.local/share/mops-jobs/registry.db": "The embedded registry.",
    "~/.cache/mops-jobs/": "Caches, one per registry. Each can be deleted at any time.",
    "~/.config/mops-jobs/config.toml, .mops-jobs.toml": "Settings of the user, and of a project.",
}


def render() -> str:
    """Return the whole page."""
    parser = build_parser()
    description = str(parser.description).rstrip(".")
    lines = [HEAD.format(version=__version__, description=_roff(description[0].lower() + description[1:])).rstrip()]
    lines += [".SH OPTIONS", "Every command takes these.", *_arguments(common_flags(parser)), ".SH COMMANDS"]
    for name, command, arguments in own_arguments(parser):
        words = " ".join(operand(action) for action in arguments if not action.option_strings)
        lines += [f".SS {_roff(f'{name} {words}'.strip())}", _roff(str(command.description)), *_arguments(arguments)]
        lines += _example(command.epilog)
    lines += [".SH EXIT STATUS", *_verbatim(exit_codes(parser).splitlines())]
    for title, entries in (("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        lines.append(f".SH {title}")
        for term, text in entries.items():
            lines += [".TP", f".B {_roff(term)}", _roff(text)]
    return "\n".join(lines) + "\n"


def _arguments(actions: list[argparse.Action]) -> Iterator[str]:
    for action in actions:
        value = value_of(action) if action.option_strings else ""
        words = (
            ", ".join(rf"\fB{_roff(option)}\fR" for option in action.option_strings)
            or rf"\fI{_roff(operand(action))}\fR"
        )
        yield from (".TP", words + (rf" \fI{_roff(value)}\fR" if value else ""), _roff(meaning(action)))


def _example(epilog: str | None) -> Iterator[str]:
    if epilog:
        yield ".PP"
        yield from _verbatim(str(epilog).splitlines())


def _verbatim(lines: list[str]) -> Iterator[str]:
    yield from (".nf", *(_roff(line) for line in lines), ".fi")


def _roff(text: str) -> str:
    """Escape a text for roff: nothing in it is a request or an escape, and a `-` is copied as `-`."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")
    text = re.sub(r"[^\x00-\x7f]", lambda match: rf"\[u{ord(match[0]):04X}]", text)
    return rf"\&{text}" if text.startswith(".") else text


if __name__ == "__main__":
    (HERE.parent / "mops-jobs.1").write_text(render(), encoding="utf-8")
