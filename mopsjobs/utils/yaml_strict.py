"""YAML from elsewhere, read within bounds: a few lines of it can stand for more values than there is memory.

PyYAML's safe loader makes no objects of strange classes, but it bounds nothing: aliases, and merge keys even while they
are loaded, multiply ("billion laughs"), depth ends with the stack, and some tags on values that do not fit them raise
whatever Python raises. So the document is composed first, measured with its aliases written out, and then made.
"""

from __future__ import annotations

import yaml

from mopsjobs.errors import RecordError
from mopsjobs.utils.json_strict import MAX_DEPTH

MAX_YAML_BYTES = 4 * 2**20
"""Read at some 100 KB a second, so that more is hardly meant. JSON has no such bound."""


MAX_EXPANDED = MAX_YAML_BYTES
"""Characters and values of a document, each alias counted as what it stands for."""


MAX_NUMBER_LENGTH = 1000
"""Characters of a number. YAML has forms of numbers whose reading takes time that grows with the square."""


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_yaml(text: bytes) -> object:
    """What the document says.

    Raises:
        RecordError: it is no YAML, or beyond one of the bounds above.
    """
    if len(text) > MAX_YAML_BYTES:
        raise RecordError(f"longer than {MAX_YAML_BYTES:,} bytes, too much for YAML: write it as JSON")
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
        raise RecordError(f"no YAML ({getattr(error, 'problem', None) or 'malformed'}{where})") from None
    except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        if isinstance(error, RecordError):
            raise
        # Such as a month of 13, or `!!int ""`.
        raise RecordError(f"no YAML (a value that its tag does not fit: {error})") from None


class _Loader(yaml.SafeLoader):
    """Refuses depth before the stack does."""

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
    """Values and characters of a node, with what its aliases stand for; each node is looked at once."""
    if node in known:
        size = known[node]
        if size is None:
            raise RecordError("nested too deeply: it holds itself")
        return size
    known[node] = None
    if isinstance(node, yaml.ScalarNode):
        if node.tag in _NUMBERS and len(node.value) > MAX_NUMBER_LENGTH:
            raise RecordError("no YAML (a number of very many digits)")
        size = 1 + len(node.value)
    else:
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        inner = node.value if isinstance(node, yaml.SequenceNode) else [one for pair in node.value for one in pair]
        size = 1 + sum(_measure(one, known) for one in inner)
    if size > MAX_EXPANDED:
        raise RecordError(f"more than {MAX_EXPANDED:,} values and characters with its aliases written out")
    known[node] = size
    return size


def _check_keys(node: yaml.MappingNode) -> None:
    """Refuse a key that stands twice, as our JSON does: one of the two is a mistake, and PyYAML takes the last."""
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        if (key.tag, key.value) in seen:
            raise RecordError(f"no YAML (the key {key.value[:80]!r} stands twice at line {key.start_mark.line + 1})")
        seen.add((key.tag, key.value))
