"""Hooks of mkdocs: add the documents of the root to the site, and resolve links that lead out of docs/."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent.parent
HOME = "README.md"

_LINK = re.compile(r"(?P<mark>!?)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s#]+)(?P<anchor>#[^()\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents of the root: README.md as the home page, the others by their names."""
    for path in sorted(ROOT.glob("*.md")):
        name = "index.md" if path.name == HOME else path.name
        files.append(File.generated(config, name, content=path.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point each link to its page of the site; a link to a file that is not in the site becomes its text."""
    source = page.file.src_uri
    is_root = files.get_file_from_path(source) is not None and not (Path(config.docs_dir) / source).exists()
    folder = "" if is_root else posixpath.join("docs", posixpath.dirname(source))

    def resolve(match: re.Match[str]) -> str:
        target = match["target"]
        if ":" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        name = "index.md" if path == HOME else path.removeprefix("docs/")
        if not path.startswith("docs/") and files.get_file_from_path(name) is None:
            return match["text"]
        relative = posixpath.relpath(name, posixpath.dirname(source) or ".")
        return f"{match['mark']}[{match['text']}]({relative}{match['anchor'] or ''})"

    return _LINK.sub(resolve, markdown)
