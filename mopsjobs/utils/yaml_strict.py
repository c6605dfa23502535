"""Read YAML of other programs within bounds, and write it: a few lines can stand for more values than the memory holds.

PyYAML's safe loader makes no objects of other classes, but it has no bounds. Aliases multiply ("billion laughs"), and
merge keys do so even while they are loaded. Depth ends with the stack. A value that does not fit its tag raises any
error of Python. So the document is composed first, measured with its aliases written out, and then constructed.

What a plain value means is decided by `yaml_scalars`. What is written has quotes where readers might disagree.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from mopsjobs.errors import RecordError, shorten
from mopsjobs.utils import yaml_scalars
from mopsjobs.utils.json_strict import MAX_DEPTH

MAX_YAML_BYTES = 4 * 2**20
"""PyYAML reads 100 KB per second, so larger files belong in JSON, which has no such bound."""

MAX_EXPANDED = MAX_YAML_BYTES
"""Characters and values of a document, each alias counted with the values that it stands for."""

MAX_QUOTED = 60
"""Characters of an ambiguous value in a message."""

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._/:@+=-]+", re.ASCII)
"""Texts that are written without quotes, unless PyYAML takes them for another value, such as `null` and `yes`."""

MERGE = "tag:yaml.org,2002:merge"


class AmbiguousValuesError(RecordError):
    """Plain values that readers of YAML understand in two ways. `problems` has a sentence for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def read_yaml(text: bytes) -> object:
    """Parse a document.

    Raises:
        AmbiguousValuesError: if it has plain values that readers understand in two ways.
        RecordError: if the text is not YAML, or beyond one of the bounds above.
    """
    if len(text) > MAX_YAML_BYTES:
        raise RecordError(f"longer than {MAX_YAML_BYTES:,} bytes, the limit for YAML: write it as JSON")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        if loader.ambiguous:
            raise AmbiguousValuesError(loader.ambiguous)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" at line {mark.line + 1}"
        raise RecordError(f"not YAML ({getattr(error, 'problem', None) or 'malformed'}{where})") from None
    except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        if isinstance(error, RecordError):
            raise
        # Such as a month of 13, or `!!int ""`.
        raise RecordError(f"not YAML (a value does not fit its tag: {error})") from None


class _Loader(yaml.SafeLoader):
    """Read plain values by the core schema, note the ambiguous ones, and refuse depth before the stack ends."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.ambiguous: list[str] = []
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise RecordError("nested too deeply")
        event = self.peek_event()  # type: ignore[no-untyped-call]
        is_key = isinstance(parent, yaml.MappingNode) and index is None
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and not is_key:
            self._check(event)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def _check(self, event: yaml.ScalarEvent) -> None:
        instead = yaml_scalars.ambiguity(event.value)
        if instead is not None:
            text = shorten(event.value, MAX_QUOTED)
            line = 0 if event.start_mark is None else event.start_mark.line + 1
            self.ambiguous.append(f'line {line}: {text} is ambiguous: write {instead}, or "{text}" for a text')

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: object) -> str:
        if kind is yaml.ScalarNode and isinstance(implicit, tuple) and implicit[0] and value is not None:
            return MERGE if value == "<<" else yaml_scalars.core_tag(value)
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]


def _construct_constant(loader: _Loader, node: yaml.ScalarNode) -> bool | None:
    return yaml_scalars.read_constant(str(loader.construct_scalar(node)), node.tag)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return yaml_scalars.read_int(str(loader.construct_scalar(node)))


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return yaml_scalars.read_float(str(loader.construct_scalar(node)))


for _tag, _construct in (
    (yaml_scalars.BOOL, _construct_constant),
    (yaml_scalars.NULL, _construct_constant),
    (yaml_scalars.INT, _construct_int),
    (yaml_scalars.FLOAT, _construct_float),
):
    _Loader.add_constructor(_tag, _construct)


def _measure(node: yaml.Node, known: dict[yaml.Node, int | None]) -> int:
    """Count the values and characters of a node, with those that its aliases stand for. Each node is visited once."""
    if node in known:
        size = known[node]
        if size is None:
            raise RecordError("nested too deeply: it contains itself")
        return size
    known[node] = None
    if isinstance(node, yaml.ScalarNode):
        if node.tag in (yaml_scalars.INT, yaml_scalars.FLOAT) and len(node.value) > yaml_scalars.MAX_NUMBER_LENGTH:
            raise RecordError("not YAML (a number with too many digits)")
        size = 1 + len(node.value)
    else:
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        inner = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        size = 1 + sum(_measure(part, known) for part in inner)
    if size > MAX_EXPANDED:
        raise RecordError(f"more than {MAX_EXPANDED:,} values and characters with its aliases written out")
    known[node] = size
    return size


def _check_keys(node: yaml.MappingNode) -> None:
    """Refuse a key that comes twice, as `json_strict` does: one of them is a mistake, and PyYAML takes the last."""
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
            continue
        if (key.tag, key.value) in seen:
            raise RecordError(f"not YAML (the key {key.value[:80]!r} comes twice at line {key.start_mark.line + 1})")
        seen.add((key.tag, key.value))


def format_yaml(document: object) -> str:
    """Return JSON types as YAML that readers of YAML 1.1 and 1.2 understand alike, with members in their order."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=120)
    return text


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _PLAIN.fullmatch(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
