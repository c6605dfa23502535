"""Read YAML of other programs within bounds: a few lines can stand for more values than the memory holds.

PyYAML's safe loader makes no objects of other classes, but it has no bounds. Aliases multiply ("billion laughs"), and
merge keys do so even while they are loaded. Depth ends with the stack. A value that does not fit its tag raises any
error of Python. So the document is composed first, measured with its aliases written out, and then constructed.
"""

from __future__ import annotations

import yaml

from mopsjobs.errors import RecordError
from mopsjobs.utils.json_strict import MAX_DEPTH

MAX_YAML_BYTES = 4 * 2**20
"""PyYAML reads 100 KB per second, so larger files belong in JSON, which has no such bound."""

MAX_EXPANDED = MAX_YAML_BYTES
"""Characters and values of a document, each alias counted with the values that it stands for."""

MAX_NUMBER_LENGTH = 1000
"""Characters of a number. The time to read some forms grows with their square."""

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_yaml(text: bytes) -> object:
    """Parse a document.

    Raises:
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
    """Refuse depth before the stack ends."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise RecordError("nested too deeply")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _measure(node: yaml.Node, known: dict[yaml.Node, int | None]) -> int:
    """Count the values and characters of a node, with those that its aliases stand for. Each node is visited once."""
    if node in known:
        size = known[node]
        if size is None:
            raise RecordError("nested too deeply: it contains itself")
        return size
    known[node] = None
    if isinstance(node, yaml.ScalarNode):
        if node.tag in _NUMBERS and len(node.value) > MAX_NUMBER_LENGTH:
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
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        if (key.tag, key.value) in seen:
            raise RecordError(f"not YAML (the key {key.value[:80]!r} comes twice at line {key.start_mark.line + 1})")
        seen.add((key.tag, key.value))
