"""A key of each form that a registry has, for any job."""

from __future__ import annotations

from mopsjobs.registry.keys import FORMS, KeyForm

PARTS = {
    "bundle": "b" * 64,
    "claim": "end-0123456789abcdef",
    "hour": "20260301T12",
    "kind": "attempts",
    "note": "0" * 16,
    "number": "000000",
    "output": "result.json",
    "param": "a" * 64,
    "piece": "000000",
    "probe": "0" * 32,
    "run": "abc",
    "seed": "7",
    "set": "all",
    "shard": "0",
    "slot": "20260301T1200",
    "source": "run",
    "tasks": "4",
}

LONGEST = {
    **dict.fromkeys(("bundle", "param", "set"), "a" * 64),
    "claim": "c" * 100,
    "hour": PARTS["hour"],
    "kind": "attempts",
    "note": "0" * 16,
    "number": "0" * 12,
    "output": "x" * 128,
    "piece": "0" * 6,
    "probe": "0" * 32,
    "run": "0" * 32,
    "seed": "1" * 20,
    "shard": "0" * 6,
    "slot": PARTS["slot"],
    "source": "x" * 80,
    "tasks": "1" * 9,
}
"""The longest text of each part but the job."""


def key_of(form: KeyForm, job_id: str) -> str:
    """Return a key of a form, of a job if the form has one."""
    return form.key(**PARTS, job=job_id)


def keys_of(job_id: str) -> dict[str, str]:
    """Return a key of each form, by the name of the form."""
    return {form.name: key_of(form, job_id) for form in FORMS}
