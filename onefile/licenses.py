"""Collect the licences of the packages in the file: `unzip -p mops-jobs.pyz THIRD_PARTY_LICENSES` prints them.

All of it comes from the wheels. METADATA has name, version and licence. The licence files beside it have the texts. A
package without a text fails the build.
"""

import re
from collections.abc import Iterable
from email.message import Message
from email.parser import Parser
from pathlib import PurePosixPath

TEXT = re.compile(r"^(?:licen[cs]es?/.*|(?:LICEN[CS]E|COPYING|NOTICE|AUTHORS)[^/]*)$")
"""A licence file, by its path below the .dist-info directory."""

RULE = "=" * 100
HEAD = """THIRD-PARTY LICENCES

mops-jobs.pyz holds mops-jobs, which is under the MIT licence (see LICENSE), and the packages below, unchanged except
that files which are not needed at run time are left out. Their files in the archive are their sources.
"""


def third_party_licenses(files: Iterable[tuple[str, bytes]]) -> str:
    """Return the licences of all distributions among the files of site-packages, as one text.

    Raises:
        SystemExit: if a distribution has no licence text.
    """
    distributions: dict[str, dict[str, str]] = {}
    for name, content in files:
        directory, _, inside = name.partition("/")
        if directory.endswith(".dist-info"):
            distributions.setdefault(directory, {})[inside] = content.decode("utf-8", "replace")
    entries = [_entry(inside) for _, inside in sorted(distributions.items())]
    return "\n".join([HEAD, *entries])


def _entry(inside: dict[str, str]) -> str:
    """Return the part about one distribution."""
    metadata = Parser().parsestr(inside["METADATA"])
    name = metadata["Name"]
    texts = {path: text for path, text in sorted(inside.items()) if TEXT.match(path)}
    if not texts:
        raise SystemExit(f"{name} has no licence text.")
    lines = [RULE, f"{name} {metadata['Version']}", f"Licence: {_licence(metadata)}", RULE]
    for path, text in texts.items():
        lines += ["", f"--- {PurePosixPath(path).name} ---", "", text.replace("\r\n", "\n").strip("\n")]
    return "\n".join(lines) + "\n"


def _licence(metadata: Message) -> str:
    """Return the licence as the metadata names it: an expression, else the classifiers, else the old short field."""
    if expression := metadata["License-Expression"]:
        return str(expression)
    classifiers = [text for text in metadata.get_all("Classifier", []) if text.startswith("License ::")]
    if classifiers:
        return ", ".join(text.rpartition(" :: ")[2] for text in classifiers)
    old = str(metadata["License"] or "")
    return old if old and "\n" not in old else "see the text"
