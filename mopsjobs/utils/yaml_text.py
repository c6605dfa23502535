"""Write YAML that readers of YAML 1.1 and 1.2 understand alike: each text that may be another value has quotes."""

from __future__ import annotations

import re
from typing import Any

import yaml

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._/:@+=-]+", re.ASCII)
"""Texts that need no quotes, unless PyYAML takes them for another value, such as `null` and `yes`."""


def format_yaml(document: object) -> str:
    """Return JSON types as YAML, with the members of objects in their order."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=120)
    return text


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _PLAIN.fullmatch(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
