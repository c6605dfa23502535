"""The small tools: texts, sizes, strict JSON and YAML, CSV and tables, delays, file systems."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.errors import RecordError, UsageError
from mopsjobs.events.format import parse_chunk
from mopsjobs.utils import file_systems
from mopsjobs.utils.backoff import FULL_JITTER, HALF_JITTER, NO_JITTER, Backoff, sleep_unless
from mopsjobs.utils.csv_safe import csv_header, csv_text
from mopsjobs.utils.file_systems import network_file_system
from mopsjobs.utils.json_strict import MAX_DEPTH, read_json
from mopsjobs.utils.sizes import format_size, parse_factor, parse_size
from mopsjobs.utils.table_files import Column, csv_pieces, form_of, free_name, kind_of, write_table_file
from mopsjobs.utils.text import cut_in_the_middle, last_line, parse_whole_number
from mopsjobs.utils.yaml_strict import AmbiguousValuesError, is_ambiguous, read_yaml
from support.doubles import RecordingSleep


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), ("99", 99), ("100", None), ("9" * 5000, None)])
def test_a_number_is_read_if_it_lies_between_the_limits(text: str, number: int | None) -> None:
    assert parse_whole_number(text, 0, 99) == number


@pytest.mark.parametrize(("text", "cut"), [("", ""), ("abcdef", "abcdef"), ("abcdefg", "ab…efg")])
def test_a_message_keeps_both_ends(text: str, cut: str) -> None:
    """Its end has the cause."""
    assert cut_in_the_middle(text, 6) == cut


@pytest.mark.parametrize(
    ("printed", "line"), [(b"", ""), (b" \n\n", ""), (b"a\n b \r\n \n", "b"), (b"a", "a"), (b"\xff", "\ufffd")]
)
def test_the_last_line_of_an_output_is_one_with_words(printed: bytes, line: str) -> None:
    assert last_line(printed) == line


# --- Sizes of memory and factors of growth, as texts -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 * 2**30),
        ("2 gib", 2 * 2**30),
        ("1.5GiB", 3 * 2**29),
        ("4G", 4_000_000_000),
        ("1000B", 1000),
    ],
)
def test_a_size_has_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "2", "GiB", "-1GiB", "0GiB", "0.0001B", "2GiBs", "1e3MB", "x2", "٢GiB", "9" * 15 + "TiB"]
)
def test_other_texts_are_no_sizes(text: str) -> None:
    assert parse_size(text) is None


def test_a_size_is_written_in_its_largest_whole_unit() -> None:
    """Of 1,000 or of 1,024, whichever takes fewer characters: as it was typed."""
    sizes = (2**31, 3 * 2**29, 200_000_000, 1_500_000_000, 300_000_001)
    assert [format_size(size) for size in sizes] == ["2GiB", "1536MiB", "200MB", "1500MB", "300000001B"]


@pytest.mark.parametrize(("text", "factor"), [("x2", 2.0), ("x1.5", 1.5), ("x1000", 1000.0)])
def test_a_factor_is_above_one(text: str, factor: float) -> None:
    assert parse_factor(text) == factor


# --- JSON from elsewhere: what two readers would take differently, or what fails in the next encoder, is refused -----

REFUSED = [
    (b'{"a":1,"a":2}', "not JSON: 'a' comes twice in one object"),
    (b'{"a":NaN}', "not JSON: invalid number NaN"),
    (b'{"a":1e400}', "not JSON: invalid number 1e400"),
    (b'{"a":' + b"9" * 5000 + b"}", "not JSON: a number with too many digits"),
    (b'{"a":"\\uD800"}', "has half a surrogate pair in a text"),
    (b'{"\\udfff":1}', "has half a surrogate pair in a text"),
    (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested too deeply"),
    (b"[" * 100_000, "nested too deeply"),
    ("{}".encode("utf-16"), "not UTF-8 text"),
    (b'"\xed\xa0\x80"', "not UTF-8 text"),
]


@pytest.mark.parametrize(("value", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_what_readers_take_differently_is_refused(value: bytes, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        read_json(value)
    assert caught.value.reason == reason


@pytest.mark.parametrize("value", [b"\xef\xbb\xbf{}", b'"\\ud83d\\ude00"', b"[" * MAX_DEPTH + b"]" * MAX_DEPTH])
def test_what_is_unusual_and_sound_is_read(value: bytes) -> None:
    """A byte order mark, both halves of a character, lists up to the bound."""
    read_json(value)


def test_half_a_character_in_an_event_is_replaced() -> None:
    """An error message may quote a path that is not UTF-8: the chunk is not lost for that."""
    line = b'{"at":"2026-03-01T10:00:00Z","job_id":"a","kind":"log","source":"s","seq":1,"text":"/x\\udcff"}\n'
    assert parse_chunk(line)[0]["text"] == "/x?"


# --- Plain values of YAML: the core schema of YAML 1.2, and what to write instead of an ambiguous value --------------

AMBIGUOUS = "010 -012 0b101 -0x1F 0O17 12:30 1:02:03.5 1_000 1_000.25 1.5D-3 1,5 2024-01-01 No off ON y None nan -inf"


def test_a_value_that_readers_disagree_about_is_ambiguous() -> None:
    assert [text for text in AMBIGUOUS.split() if not is_ambiguous(text)] == []


@pytest.mark.parametrize("text", ["0", "-0", "1e5", "0x1F", "0o10", "true", "~", "99:99", "1.2.3", "a,b", "yEs", "1_a"])
def test_a_value_that_all_readers_agree_about_is_not_ambiguous(text: str) -> None:
    assert not is_ambiguous(text)


def test_all_ambiguous_values_are_named_with_their_lines() -> None:
    with pytest.raises(AmbiguousValuesError) as caught:
        read_yaml(b"a: &x no\nb: [1, 12:30]\nc: *x\nd: 'no'\n")
    assert caught.value.problems == [
        'line 1: no is ambiguous: write a value of JSON, or "no" for a text',
        'line 2: 12:30 is ambiguous: write a value of JSON, or "12:30" for a text',
    ]


def test_names_are_texts_where_yaml_1_2_has_them_so() -> None:
    assert read_yaml(b"{no: 1, on: 2, y: 3, 12:30: 4, 2024-01-01: 5}") == {
        "no": 1, "on": 2, "y": 3, "12:30": 4, "2024-01-01": 5
    }  # fmt: skip


@pytest.mark.parametrize("value", ["!!int 010", "!!int 1.5", "!!float no", "!!bool no", "!!null 0"])
def test_a_value_with_a_tag_fits_the_core_schema(value: str) -> None:
    with pytest.raises(RecordError, match="a value does not fit its tag"):
        read_yaml(f"x: {value}".encode())


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70))
def test_each_number_of_json_is_the_same_in_yaml(number: float) -> None:
    text = json.dumps(number)
    read = read_yaml(f"x: {text}".encode())
    assert read == {"x": number}
    assert isinstance(read, dict)
    assert type(read["x"]) is type(number)


@given(st.from_regex(r"[-+0-9_.:,eExobdD]{1,9}", fullmatch=True))
def test_no_number_of_yaml_1_1_is_silently_another_value(text: str) -> None:
    """A text that PyYAML reads as a number is that number, or refused."""
    document = f"x: {text}"
    try:
        old = yaml.safe_load(document)["x"]
        new = read_yaml(document.encode())
    except (AmbiguousValuesError, yaml.YAMLError, TypeError, ValueError):
        return
    assert isinstance(new, dict)
    if isinstance(old, (int, float)) and math.isfinite(old):
        assert new["x"] == old


# --- CSV that a spreadsheet and a terminal may have: no cell is a formula, and no text moves a cursor ----------------


def _cells(*row: object) -> list[str]:
    (cells,) = csv.reader(io.StringIO(csv_text([row])))
    return cells


@pytest.mark.claim("CSV has no formulas")
@pytest.mark.parametrize(
    "text", ["=1", "+1", "-1", "@A", "\t=1", "\r=1", "\n=1", " =1", "\u200b=1", "\x00=1", "\ufeff-1", "\uff1d1"]
)
def test_no_text_begins_a_formula(text: str) -> None:
    """Not after blanks, which some programs skip, nor after what is left out."""
    assert _cells(text)[0].startswith("'")


def test_numbers_are_numbers() -> None:
    """A negative number is not a formula, and a spreadsheet is to reckon with it."""
    assert csv_text([[-5, -0.5, 1e22]]) == "-5,-0.5,1e+22\n"


@pytest.mark.parametrize("text", ["a\x1b[31mb", "a\x9b31mb", "a\u202eb", "a\u200bb", "a\x00b", "a\x7fb", "\ud800"])
def test_no_text_has_characters_that_a_terminal_obeys(text: str) -> None:
    assert _cells(text)[0].isprintable()


def test_names_of_columns_stay_different() -> None:
    """Names that differ only in what CSV loses get numbers, and no number makes a name that another column has."""
    names = ["a", "a\x00", "a\x1b", "a.2", "=b", "'=b", "", "\x07"]
    (cells,) = csv.reader(io.StringIO(csv_header(names)))
    assert cells == ["a", "a.2", "a.3", "a.2.2", "'=b", "'=b.2", "", ".2"]


# --- Tables as files: one type per column, and files that appear whole -----------------------------------------------


def _columns(rows: list[list[object]]) -> list[Column]:
    kinds = [frozenset(kind_of(value) for value in values if value is not None) for values in zip(*rows, strict=True)]
    return [Column(f"c{place}", one) for place, one in enumerate(kinds)]


def test_a_column_of_csv_has_one_type() -> None:
    """Integers among floats are floats; among texts, numbers and truth values are texts. A null has no quotes."""
    rows = [[1, 1, True, None], [0.5, "x", None, "a"], [None, 0.5, False, ""]]
    assert "".join(csv_pieces(_columns(rows), rows)).splitlines() == [
        '"c0","c1","c2","c3"',
        '1.0,"1",true,',
        '0.5,"x",,"a"',
        ',"0.5",false,""',
    ]


def test_a_negative_number_among_texts_is_no_formula() -> None:
    """Only a text that begins like a formula gets a quote in front."""
    rows = [[-1.5], ["x"], ["-1.5"], [None], [[-1]], [False]]
    lines = "".join(csv_pieces(_columns(rows), rows)).splitlines()
    assert lines == ['"c0"', '"-1.5"', '"x"', '"\'-1.5"', "", '"[-1]"', '"false"']


def test_json_lines_keep_the_types(tmp_path: Path) -> None:
    """Except for integers among floats: a reader that sees the first rows would refuse the later ones."""
    rows = [[1, 1, [1], 2**70], [0.5, "x", None, 0]]
    write_table_file(str(tmp_path / "t.jsonl"), _columns(rows), rows)
    text = (tmp_path / "t.jsonl").read_text().splitlines()
    assert text[0] == f'{{"c0":1.0,"c1":1,"c2":[1],"c3":{2**70}}}'
    assert json.loads(text[1]) == {"c0": 0.5, "c1": "x", "c2": None, "c3": 0}


def test_a_table_that_fails_leaves_the_earlier_one(tmp_path: Path) -> None:
    def fail() -> Iterator[list[object]]:
        yield [1]
        raise UsageError("as asked")

    path = tmp_path / "t.csv"
    path.write_text("earlier")
    with pytest.raises(UsageError, match="as asked"):
        write_table_file(str(path), _columns([[1]]), fail())
    assert [one.read_text() for one in tmp_path.iterdir()] == ["earlier"]


@pytest.mark.parametrize("path", ["", "x", "x.txt", ".csv/x", "csv"])
def test_a_name_has_to_tell_the_form(path: str) -> None:
    with pytest.raises(UsageError, match=r"expected a name that ends in .* on stdout\.$"):
        form_of(path)
    assert form_of("-") == form_of("a.b/X.CSV") == "csv"


def test_no_two_columns_get_one_name() -> None:
    """The prefix stands in front as often as it takes."""
    taken = {"peak", "params.peak"}
    assert [free_name("peak", "params", taken) for _ in range(2)] == ["params.params.peak", "params.params.params.peak"]
    assert free_name("day", "params", taken) == "day"


# --- Delays between attempts grow, stay below their cap, and spread as the jitter says -------------------------------


def test_delays_grow_up_to_the_cap_and_begin_again_after_a_success() -> None:
    """Each delay is `factor` times the one before; `reset` forgets the failures."""
    backoff = Backoff(0.5, 3.0, jitter=NO_JITTER)
    assert [backoff.next_delay() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff.failures == 5
    backoff.reset()
    assert backoff.next_delay() == 0.5
    backoff = Backoff(0.2, 3.0, factor=5.0, jitter=NO_JITTER)
    assert [backoff.next_delay() for _ in range(3)] == [0.2, 1.0, 3.0]


@pytest.mark.parametrize(
    ("jitter", "lowest"), [(FULL_JITTER, 0.0), (HALF_JITTER, 1.0), (NO_JITTER, 2.0)], ids=["full", "half", "none"]
)
def test_jitter_is_the_share_that_is_drawn(jitter: float, lowest: float) -> None:
    """The lowest draw leaves the rest of the delay, the highest draw all of it."""
    assert Backoff(2.0, 9.0, jitter=jitter, random=lambda: 0.0).next_delay() == lowest
    assert Backoff(2.0, 9.0, jitter=jitter, random=lambda: 1.0).next_delay() == 2.0


def test_a_sleep_in_steps_ends_with_its_time_or_its_flag() -> None:
    """The last step is the rest of the time; no step begins once the flag is set."""
    sleep = RecordingSleep()
    sleep_unless(lambda: False, 0.5, sleep, 0.2)
    assert sleep.requested == [0.2, 0.2, pytest.approx(0.1)]
    sleep = RecordingSleep()
    sleep_unless(lambda: len(sleep.requested) == 1, 10.0, sleep, 0.2)
    assert sleep.requested == [0.2]


# --- Which file system holds a path, by a table of mounts ------------------------------------------------------------

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
auto.home /home autofs rw 0 0
server:/home /home nfs4 rw 0 0
tmpfs /home/ada/scratch tmpfs rw 0 0
beegfs /my\\040work beegfs rw 0 0
fs /gpfs gpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/registry.db", None),
        ("/home/ada/registry.db", "nfs4"),
        ("/home/ada/scratch/registry.db", None),
        ("/my work/registry.db", "beegfs"),
        ("/gpfs", "gpfs"),
    ],
)
def test_the_innermost_mount_decides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str, kind: str | None
) -> None:
    """Of two mounts at one point, the later one covers the other."""
    table = tmp_path / "mounts"
    table.write_text(MOUNTS)
    monkeypatch.setattr(file_systems, "MOUNTS", str(table))
    assert network_file_system(path) == kind
