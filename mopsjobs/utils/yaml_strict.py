"""Read YAML of other programs within bounds, and write it: a few lines can stand for more values than the memory holds.

PyYAML's safe loader makes no objects of other classes, but it has no bounds. Aliases multiply ("billion laughs"), and
merge keys do so even while they are loaded. Depth ends with the stack. A value that does not fit its tag raises any
error of Python. So the document is composed first, measured with its aliases written out, and then constructed.

PyYAML reads plain values by YAML 1.1, where `12:30` is 750, `010` is 8, `no` is false and `1e-3` a text. Here they mean
what YAML 1.2's core schema says (https://yaml.org/spec/1.2.2/, section 10.3), which reads numbers as JSON does. A value
that the two versions read differently is refused as ambiguous. So is a text that Python, Fortran or a spreadsheet would
read as a number. See docs/decisions/0040-plain-yaml-values.md. What is written has quotes where readers might disagree.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

import yaml

from mopsjobs.errors import RecordError, shorten
from mopsjobs.utils.json_strict import MAX_DEPTH

MAX_YAML_BYTES = 4 * 2**20
"""PyYAML reads 100 KB per second, so larger files belong in JSON, which has no such bound."""

MAX_EXPANDED = MAX_YAML_BYTES
"""Characters and values of a document, each alias counted with the values that it stands for."""

MAX_QUOTED = 60

MAX_NUMBER_LENGTH = 1000
"""Characters of a number. The time to read some forms grows with their square."""

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._/:@+=-]+", re.ASCII)
"""Texts that are written without quotes, unless PyYAML takes them for another value, such as `null` and `yes`."""

TAG = "tag:yaml.org,2002:"
INT, FLOAT, BOOL, NULL, TEXT, MERGE = (TAG + name for name in ("int", "float", "bool", "null", "str", "merge"))

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
}

INSTEAD = "a value of JSON"

_LEADING_ZERO = re.compile("[-+]?0[0-9]+", re.ASCII)

_BASE_60 = re.compile("[-+]?[0-9]+(:[0-5]?[0-9])+", re.ASCII)

_OLD_KINDS = (INT, FLOAT, BOOL, TAG + "timestamp")

_WORDS = ("y", "Y", "n", "N", "none", "None", "NONE")
"""Texts that YAML 1.1 or Python takes for constants, and PyYAML does not."""


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


def core_tag(text: str) -> str:
    """Return the tag of a plain value by the core schema of YAML 1.2."""
    if text in _CONSTANTS:
        return NULL if _CONSTANTS[text] is None else BOOL
    if _INT.fullmatch(text):
        return INT
    return FLOAT if _FLOAT.fullmatch(text) or _NOT_FINITE.fullmatch(text) else TEXT


def is_ambiguous(text: str) -> bool:
    """Return whether readers disagree about a plain value: YAML 1.2, and YAML 1.1, Python, Fortran or a spreadsheet."""
    if core_tag(text) != TEXT:
        return _LEADING_ZERO.fullmatch(text) is not None
    old: list[tuple[str, re.Pattern[str]]] = yaml.SafeLoader.yaml_implicit_resolvers.get(text[:1], [])
    is_old = any(tag in _OLD_KINDS and pattern.match(text) for tag, pattern in old)
    is_old = is_old or text in _WORDS or _BASE_60.fullmatch(text) is not None
    return is_old or _is_number(re.sub("[dD]", "e", text.replace(",", "")))


def _is_number(text: str) -> bool:
    """Return whether Python reads a number."""
    for read in (float, lambda digits: int(digits, 0)):
        with contextlib.suppress(ValueError):
            read(text)
            return True
    return False


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
        if is_ambiguous(event.value):
            text = shorten(event.value, MAX_QUOTED)
            line = 0 if event.start_mark is None else event.start_mark.line + 1
            self.ambiguous.append(f'line {line}: {text} is ambiguous: write {INSTEAD}, or "{text}" for a text')

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: object) -> str:
        if kind is yaml.ScalarNode and isinstance(implicit, tuple) and implicit[0] and value is not None:
            return MERGE if value == "<<" else core_tag(value)
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]


def _construct(loader: _Loader, node: yaml.ScalarNode) -> bool | int | float | None:
    """Return the value of a scalar with the tag of a constant or a number.

    Raises:
        ValueError: if it does not fit the tag.
    """
    text = str(loader.construct_scalar(node))
    kind = core_tag(text)
    if kind not in (node.tag, INT if node.tag == FLOAT else node.tag) or (
        kind == INT and _LEADING_ZERO.fullmatch(text)
    ):
        raise ValueError(f"{text[:40]!r} is not {'a number' if node.tag in (INT, FLOAT) else 'true, false or null'}")
    if node.tag in (BOOL, NULL):
        return _CONSTANTS[text]
    if node.tag == INT:
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    return float(text.replace(".", "")) if _NOT_FINITE.fullmatch(text) else float(text)


for _tag in (BOOL, NULL, INT, FLOAT):
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
        if node.tag in (INT, FLOAT) and len(node.value) > MAX_NUMBER_LENGTH:
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


_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar(TEXT, text, style=None if _PLAIN.fullmatch(text) else '"')
)
