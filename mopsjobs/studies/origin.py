"""The origin of a job: which mops-jobs submitted it, and from which git commit its code was packed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mopsjobs.bundles.git_state import GitState, is_commit

MAX_VERSION_CHARACTERS = 100


class Origin(NamedTuple):
    """The origin of a job, as its manifest has it."""

    mops_jobs: str | None
    """The version of mops-jobs that submitted it."""
    git: GitState | None
    """The commit of its code; None if the code was not in a git repository, or if that is unknown."""

    def to_json(self) -> dict[str, object]:
        """Return the origin in its JSON form."""
        commit, is_dirty = (None, None) if self.git is None else self.git
        return {"mops_jobs": self.mops_jobs, "git_commit": commit, "git_dirty": is_dirty}

    @classmethod
    def from_json(cls, value: object) -> Origin | None:
        """Decode an origin. A manifest that a job runs by must not fail because of it: what is invalid is left out."""
        if not isinstance(value, Mapping):
            return None
        version, commit, is_dirty = value.get("mops_jobs"), value.get("git_commit"), value.get("git_dirty")
        return cls(
            version[:MAX_VERSION_CHARACTERS] if isinstance(version, str) else None,
            GitState(commit, is_dirty if isinstance(is_dirty, bool) else None) if is_commit(commit) else None,
        )
