"""A user's directories, a project below them, and the settings that they lead to."""

from __future__ import annotations

from pathlib import Path

from mopsjobs.app.run import config

ACCOUNT = {"AZURE_STORAGE_ACCOUNT": "acct"}
CONNECTION_STRING = (
    "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=c2VjcmV0U0VDUkVU;EndpointSuffix=core.windows.net"
)


class Home:
    """A user's directories, and a project below them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.project = root / "project"
        self.below = self.project / "a" / "b"
        self.below.mkdir(parents=True)
        self.env = {"HOME": str(root)}

    def write_user(self, text: str) -> Path:
        path = self.root / ".config" / "mops-jobs" / "config.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def write_project(self, text: str) -> Path:
        path = self.project / ".mops-jobs.toml"
        path.write_text(text)
        return path

    def load(self, cwd: Path | None = None, env: dict[str, str] | None = None, **flags: str | None) -> config.Settings:
        return config.load(flags, {**self.env, **(env or {})}, str(cwd or self.project))
