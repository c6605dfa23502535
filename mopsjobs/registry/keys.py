"""The keys of a registry: each form, the job that it belongs to, who writes it, and which relay may carry it.

A relay is a process that moves values into the store for a process that does not reach it. What it reads may be written
by a model, which has no credentials. So it carries only keys of forms that name it here, and only of its own job. All
code builds and reads keys by these forms. See docs/decisions/0095-one-table-of-keys.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mopsjobs.registry.job_id import is_job_id
from mopsjobs.store.condition_probe import NOTES, PROBES

RECORDS = "jobs"
"""The prefix of records, unless a registry shares its store with another one."""

SHARD = "shard"
"""The relay of what the shards of a job left on a shared file system: their drops and their outboxes."""

MACHINE = "machine"
"""The relay of the outbox in the directory of a job, on the machine that submitted it or runs it."""

ANY_SHARD = (SHARD, MACHINE)

NAMES_NAME = "_outputs.json"
"""The output that lists the names of a task's other outputs, if the study does not. No other begins with `_`."""

LOGGED_NAME = "logged.json"
"""The output with the scalars that a task has logged. engines/worker.py writes it."""

_PARTS = {
    "bundle": "[0-9a-f]{64}",
    "claim": "[!-.0-~]{1,100}",
    "hour": r"\d{8}T\d\d",
    "job": ".+",
    "kind": "attempts|scalars",
    "note": "[0-9a-f]{16}",
    "number": r"\d{6,12}",
    "output": r"[A-Za-z0-9](?:[A-Za-z0-9._ -]{0,126}[A-Za-z0-9._-])?|" + re.escape(NAMES_NAME),
    "param": "[0-9a-f]{64}",
    "piece": r"\d{6}",
    "probe": "[0-9a-f]{32}",
    "run": "[0-9a-f]{1,32}",
    "seed": r"\d{1,20}",
    "set": "[0-9a-f]{64}|all",
    "shard": r"\d{1,6}",
    "slot": r"\d{8}T\d{4}",
    "source": r"[A-Za-z0-9._-]{1,80}",
    "tasks": r"[1-9]\d{0,8}",
}
"""The parts of keys, each as a regular expression. The id of a job of another program may have slashes."""


class KeyForm:
    """A form of keys, such as `ledger/{job}/…`.

    Args:
        name: what lies there, for documents.
        pattern: the key, with its parts in braces.
        writers: the roles that write such keys; see docs/reference/keys.md.
        relays: the relays that may carry them.
    """

    __slots__ = ("_regex", "name", "pattern", "prefix", "relays", "writers")

    def __init__(self, name: str, pattern: str, writers: str, relays: tuple[str, ...] = ()) -> None:
        self.name = name
        self.pattern = pattern
        self.writers = writers
        self.relays = relays
        self.prefix = pattern.partition("{")[0]
        """Begins all keys of the form."""
        pieces = re.split(r"\{(\w+)\}", pattern)
        pieces[::2] = map(re.escape, pieces[::2])
        pieces[1::2] = (f"(?P<{part}>{_PARTS[part]})" for part in pieces[1::2])
        self._regex = re.compile("".join(pieces), re.ASCII)

    def below(self, prefix: str) -> KeyForm:
        """Return this form for a registry whose records are below another prefix than `RECORDS`."""
        pattern = f"{prefix}/{self.pattern.partition('/')[2]}"
        return self if pattern == self.pattern else KeyForm(self.name, pattern, self.writers, self.relays)

    def key(self, **parts: object) -> str:
        """Return the key with these parts."""
        return self.pattern.format_map(parts)

    def prefix_of(self, job_id: str) -> str:
        """Return the beginning of all keys of a job, if the job is the first part of the form."""
        return f"{self.prefix}{job_id}/"

    def parse(self, key: str) -> dict[str, str] | None:
        """Return the parts of a key; None if it has another form."""
        match = self._regex.fullmatch(key) if key.startswith(self.prefix) else None
        if match is None:
            return None
        parts = match.groupdict()
        return parts if "job" not in parts or is_job_id(parts["job"]) else None


RECORD = KeyForm("record", "jobs/{job}/state.json", "submitter, reporter, runner")
MANIFEST = KeyForm("manifest", "jobs/{job}/manifest.json", "submitter", (MACHINE,))
ROUND = KeyForm("round of a growing job", "rounds/{job}/{number}.json", "submitter, runner")
TOLD = KeyForm("what a sampler was told of a round", "rounds/{job}/{number}.told.json", "submitter")
OFFERS = KeyForm("tasks that a shard offers to others", "offers/{job}/{shard}.json", "runner")
ANNOUNCEMENT = KeyForm("announcement", "changes/{slot}/{job}", "submitter, reporter, runner")
OUTPUT = KeyForm("output of a task", "results/{job}/{param}/{seed}/{output}", "runner", ANY_SHARD)
REDUCTION = KeyForm("output of a reduction", "results/{job}/{set}/reduced-{tasks}/{output}", "runner")
PACK = KeyForm("pack of small outputs", "results/{job}/.packs/{shard}-{number}", "runner, operator")
CHECKPOINT = KeyForm("checkpoint of a task", "checkpoints/{job}/{param}/{seed}/{number}.json", "runner")
CHECKPOINT_PIECE = KeyForm("piece of a checkpoint", "checkpoints/{job}/{param}/{seed}/{number}.{run}-{piece}", "runner")
EVENTS = KeyForm(
    "events", "events/{hour}/{job}/{source}-{number}.ndjson", "submitter, reporter, runner, watcher", ANY_SHARD
)
LEDGER = KeyForm("ledger", "ledger/{job}/{shard}.{run}-{number}.{kind}.gz", "runner, operator", ANY_SHARD)
ENVIRONMENT = KeyForm("environment", "environments/{job}/{note}.json", "runner", ANY_SHARD)
CLAIM = KeyForm("claim of a notification", "notified/{job}/{claim}", "watcher, runner")
BUNDLE = KeyForm("bundle", "bundles/sha256/{bundle}", "submitter", (MACHINE,))
PROBE = KeyForm("probe of conditional writes", PROBES + "{probe}", "each writer")
PROBE_NOTE = KeyForm("note that a probe has passed", NOTES + "{note}", "each writer")

FORMS = (
    RECORD, MANIFEST, ROUND, TOLD, OFFERS, ANNOUNCEMENT, OUTPUT, REDUCTION, PACK, CHECKPOINT, CHECKPOINT_PIECE, EVENTS,
    LEDGER, ENVIRONMENT, CLAIM, BUNDLE, PROBE, PROBE_NOTE,
)  # fmt: skip


def may_carry(relay: str, key: str, job_id: str) -> bool:
    """Return True if a relay may move a value under this key into the store for a job.

    A bundle belongs to no job. Its name is the digest of its bytes, which the relay has to compare.
    """
    forms = [form for form in FORMS if relay in form.relays]
    return belongs_to(key, job_id, forms) or (BUNDLE in forms and BUNDLE.parse(key) is not None)


def belongs_to(key: str, job_id: str, forms: Iterable[KeyForm]) -> bool:
    """Return True if the key has one of these forms, and belongs to the job."""
    return any(parts.get("job") == job_id for form in forms if (parts := form.parse(key)) is not None)
