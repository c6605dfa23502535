"""The study file: all that is wrong is reported at once; a study survives its own JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.errors import UsageError
from mopsjobs.studies.field_values import MAX_TASKS
from mopsjobs.studies.study import ParameterSet, Study, param_id
from mopsjobs.studies.study_parser import StudyError, load_study, parse_study

GOOD = {"model": "m:f", "scenario": "s", "parameter_sets": [{"params": {"x": 1}}]}


def _problems(document: object) -> tuple[str, ...]:
    with pytest.raises(StudyError) as caught:
        parse_study(document, "s.json")
    assert caught.value.message.startswith("invalid study s.json: ")
    return caught.value.problems


# --- what is wrong -------------------------------------------------------------------------------------------------

SEEDS = 'seeds: expected mops-jobs, modelops, common, a list of different seeds, or {"base": seed}'


def until(**target: object) -> dict[str, object]:
    return {"min": 3, "max": 9, "until": {"peak": target}}


WRONG = [
    ("model", None, "model: expected a text, not null"),
    ("model", "a\nb", 'model: expected a text, not "a\\nb"'),
    ("scenario", [], "scenario: expected a text, not a list"),
    ("sampling_method", False, "sampling_method: expected a text, not true or false"),
    ("n_replicates", 0, "n_replicates: expected a whole number from 1 to 10,000,000, not 0"),
    ("n_replicates", True, "n_replicates: expected a whole number from 1 to 10,000,000, not true or false"),
    ("n_replicates", until(relative=0.1) | {"min": 1}, "n_replicates.min: expected a whole number from 2 to 10"),
    ("n_replicates", until(relative=0.1) | {"max": 2}, "n_replicates.max: expected at least min, 3, not 2"),
    ("n_replicates", until(relative=0.1) | {"until": {}}, "n_replicates.until: expected an object of scalars, not an"),
    ("n_replicates", until(relative=0.1) | {"within": 1}, "n_replicates.within: unknown field, expected min, max and"),
    ("n_replicates", until(relative=0.1, absolute=1), 'n_replicates.until.peak: expected {"confidence": 0.95'),
    ("n_replicates", until(absolute=0), "n_replicates.until.peak.absolute: expected a number above 0, not 0"),
    ("n_replicates", until(absolute=1, confidence=1), "n_replicates.until.peak.confidence: expected a number above 0 "),
    ("n_replicates", until(within=0.1), "n_replicates.until.peak.within: unknown field, expected quantile, "),
    ("n_replicates", until(relative=5), "n_replicates.until.peak.relative: expected a number above 0 and below 1, not"),
    ("n_replicates", until(relative=0.1, quantile=1), "n_replicates.until.peak.quantile: expected a number above 0 "),
    (
        "n_replicates",
        until(relative=0.1, quantile=0.9) | {"max": 69},
        "n_replicates.max: expected at least 70 for the 95 % interval of peak q0.9, not 69",
    ),
    ("parameter_sets", None, "parameter_sets: expected a list of at least one object of parameters, but it is missing"),
    ("parameter_sets", [], "parameter_sets: expected a list of at least one object of parameters, not an empty list"),
    ("parameter_sets", [4], "parameter_sets[0]: expected an object of parameters, not 4"),
    ("parameter_sets", [{"a": float("inf")}], "parameter_sets[0].a: expected a finite number"),
    ("parameter_sets", [{"params": {"a": [{"b": float("nan")}]}}], "parameter_sets[0].params.a[0].b: expected"),
    ("parameter_sets", [{3: 1}], "parameter_sets[0]: expected texts as names, not 3"),
    ("parameter_sets", [{"a": "\ud800"}], "parameter_sets[0].a: expected a text, not '\\ud800'"),
    ("parameter_sets", [{"\ud800": 1}], "parameter_sets[0]: expected texts as names, not '\\ud800'"),
    ("parameter_sets", [{"params": {}, "seed": -1}], "parameter_sets[0].seed: expected a whole number from 0 and"),
    ("parameter_sets", [{"params": {}, "seed": True}], "parameter_sets[0].seed: expected a whole number from 0"),
    ("parameter_sets", [{"params": {"a": 1}, "sede": 7}], "parameter_sets[0].sede: unknown field beside params, did"),
    ("parameter_sets", [{"params": {"a": 1}, "name": "A"}], "parameter_sets[0].name: unknown field beside params, exp"),
    ("parameter_sets", [{"params": {}, "param_id": "x"}], f'parameter_sets[0].param_id: expected "{param_id({})}", '),
    ("outputs", "x", "outputs: expected a list of texts, or null"),
    ("outputs", ["a/b"], "outputs: expected names of up to 128 letters, digits, spaces and . _ -, not 'a/b'"),
    ("outputs", ["x" * 129], "outputs: expected names of up to 128 letters, digits, spaces and . _ -, not 'xxx"),
    ("outputs", ["_a.json"], "outputs: expected names of up to 128 letters, digits, spaces and . _ -, not '_a.json'"),
    ("outputs", ["a", "a"], "outputs: expected each name once"),
    ("targets", {}, "targets: expected a list of texts, or null"),
    ("reduce", "model.py:f", 'reduce: expected package.module:function, not "model.py:f"'),
    ("reduce", ["m:f"], "reduce: expected package.module:function, not a list"),
    ("scratch", 1, "scratch: expected true or false, not 1"),
    ("allow_nan", None, "allow_nan: expected true or false, not null"),
    ("seeds", "modelop", f'{SEEDS}, not "modelop"'),
    ("seeds", [], "seeds: expected"),
    ("seeds", [1, 1], f"{SEEDS}, not [1, 1]"),
    ("seeds", [True], "seeds: expected"),
    ("seeds", {"base": -1}, "seeds: expected"),
    ("seeds", {"base": 2**64}, "seeds: expected"),
    ("seeds", {"bas": 1}, f'{SEEDS}, not {{"bas": 1}}'),
    ("seeds", {"base": 1, "step": 2}, "seeds: expected"),
    ("metadata", [], "metadata: expected an object, not a list"),
    ("modle", "x", "modle: unknown field, did you mean model?"),
    ("until", {"peak": {"relative": 0.1}}, "until: unknown field, did you mean n_replicates.until?"),
    ("replicates", 2, "replicates: unknown field, did you mean n_replicates?"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "told"), WRONG)
def test_a_wrong_field_is_named_with_what_it_should_be(field: str, value: object, told: str) -> None:
    (problem,) = _problems(GOOD | {field: value})
    assert problem.startswith(told)
    problem.encode()  # can be printed


def test_all_that_is_wrong_is_told_at_once() -> None:
    problems = _problems({"parameter_sets": [{}, 4], "n_replicates": 0, "outputs": 3, "metadata": 3, "modell": "m"})
    assert len(problems) == 6
    for start in ("modell:", "model:", "parameter_sets[1]", "n_replicates", "outputs", "metadata"):
        assert any(problem.startswith(start) for problem in problems), start


def test_a_long_list_of_problems_is_cut_and_counted() -> None:
    with pytest.raises(UsageError) as caught:
        parse_study(GOOD | {"parameter_sets": [1] * 500}, "s.json")
    assert caught.value.message.endswith("; and 490 more.")
    assert len(caught.value.message) < 2000


def test_what_is_no_object_is_told_what_it_should_be() -> None:
    (problem,) = _problems([])
    assert problem.startswith("expected an object with model, scenario, parameter_sets, ")


def test_more_tasks_than_a_job_takes_are_refused() -> None:
    document = GOOD | {"parameter_sets": [{"x": 1}, {"x": 2}], "n_replicates": MAX_TASKS}
    (problem,) = _problems(document)
    assert "20,000,000 tasks: expected at most 10,000,000" in problem


# --- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "source", "told"),
    [
        (b"{", "s.json", "not JSON"),
        (b"\n", "s.json", "invalid study s.json: empty: expected an object with model and parameter_sets."),
        (b"\xff\xfe", "s.json", "not UTF-8 text"),
        (b"[" * 100_000, "s.json", "nested too deeply"),
        (b"!!python/object/apply:os.getcwd []", "s.yml", "not YAML"),
        (b"a: &a [*a]\nmodel: m", "s.yaml", "nested too deeply"),
        (b"model: m\nparameter_sets: [{x: &a [*a]}]", "s.yaml", "nested too deeply"),
        (b"model: m\nx: {<<: {a: 1}, <<: {b: 2}, y: 1, y: 2}", "s.yaml", "the key 'y' comes twice at line 2"),
        (b"model: m\nparameter_sets: [{x: 1, y: 2, x: 3}]", "s.yaml", "the key 'x' comes twice at line 2"),
        (b"", "s.yaml", "expected an object with model"),
    ],
)
def test_a_file_that_is_no_study_is_refused_in_words(text: bytes, source: str, told: str) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(text, source)
    assert told in caught.value.message


def test_a_file_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mopsjobs.studies.study_parser.MAX_STUDY_BYTES", 10)
    with pytest.raises(StudyError, match="11 bytes"):
        load_study(b"x" * 11, "s.json")


def test_yaml_and_json_give_the_same_study() -> None:
    yaml = b"model: m:f\nscenario: s\nparameter_sets:\n- params: {x: 1}\n"
    assert load_study(yaml, "-") == load_study(yaml, "S.YAML")
    assert load_study(json.dumps(GOOD).encode(), "-") == load_study(yaml, "-")
    assert load_study(yaml, "S.YAML") == load_study(b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), "s.json")


def test_what_is_left_out_has_the_defaults() -> None:
    study = parse_study({"model": "m", "parameter_sets": [{}]})
    assert study == Study(model="m", scenario="baseline", parameter_sets=(ParameterSet(param_id({}), {}, None),))
    assert (study.sampling_method, study.n_replicates, study.outputs, study.targets) == ("manual", 1, None, None)
    assert study.entrypoint == "m/baseline"
    assert parse_study(GOOD | {"outputs": []}).outputs is None, "else no task would ever be complete"


@pytest.mark.parametrize(
    ("item", "params", "seed"),
    [
        ({"beta": 0.3, "seed": 4}, {"beta": 0.3, "seed": 4}, None),
        ({"params": {"a": 1}}, {"a": 1}, None),
        ({"params": {"a": 1}, "seed": 2**64 - 1}, {"a": 1}, 2**64 - 1),
        ({"params": 3, "b": 2}, {"params": 3, "b": 2}, None),
        ({"params": {"x": 1}, "param_id": param_id({"x": 1}), "seed": 3}, {"x": 1}, 3),
        ({"params": {"params": {"a": 1}}}, {"params": {"a": 1}}, None),
    ],
)
def test_a_parameter_set_may_stand_bare_or_with_a_seed(item: object, params: object, seed: int | None) -> None:
    (one,) = parse_study(GOOD | {"parameter_sets": [item]}).parameter_sets
    assert (one.params, one.seed) == (params, seed)


# --- there and back --------------------------------------------------------------------------------------------------


_texts = st.text(st.characters(codec="utf-8"), max_size=5)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=5,
)


# ModelOps counts the seeds of replicates from that of the set, so this leaves room for five.
_sets = st.fixed_dictionaries(
    {"params": st.dictionaries(_texts, _values, max_size=4)}, optional={"seed": st.none() | st.integers(0, 2**64 - 6)}
)


_documents = st.fixed_dictionaries(
    {
        "model": st.from_regex(r"[a-z.]{1,9}:[a-z]{1,5}", fullmatch=True),
        "parameter_sets": st.lists(_sets, min_size=1, max_size=4),
    },
    optional={
        "scenario": st.from_regex(r"\w{1,9}", fullmatch=True),
        "n_replicates": st.integers(1, 5),
        "outputs": st.none() | st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z_.-]{0,9}", fullmatch=True), unique=True),
        "targets": st.none() | st.lists(_texts, max_size=3),
        "scratch": st.booleans(),
        "allow_nan": st.booleans(),
        "seeds": st.sampled_from(["mops-jobs", "modelops", "common", [7, 2**63, 0, 1, 2], {"base": 2**32 - 2}]),
        "reduce": st.none() | st.from_regex(r"[a-z]{1,5}(\.[a-z_]{1,5})?:[a-z]{1,5}", fullmatch=True),
        "metadata": st.dictionaries(_texts, _values, max_size=3),
    },
)


@given(_documents)
def test_a_study_survives_its_own_json(document: dict[str, object]) -> None:
    study = parse_study(document)
    again = load_study(json.dumps(study.to_dict()).encode(), "s.json")
    assert again == study
    assert list(again.tasks()) == list(study.tasks())


_names = st.sampled_from([*GOOD, "n_replicates", "outputs", "targets", "metadata", "params", "seed", "x"])


_anything = st.recursive(
    _values | st.floats() | st.text(),
    lambda inner: st.dictionaries(_names, inner) | st.lists(inner, max_size=2),
    max_leaves=12,
)


@given(_anything)
def test_anything_is_a_study_or_an_error_that_can_be_printed(document: object) -> None:
    told = "nothing"
    try:
        study = parse_study(document)
    except StudyError as error:
        told = str(error)
    else:
        assert study.tasks_total >= 1
    assert told.encode()


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("x: !!int ''", "a value does not fit its tag"),
        ('x: "\\UFFFFFFFF"', "a value does not fit its tag"),
        ("x: 0x" + "f" * 5000, "a number with too many digits"),
        ("x: 1" + ":59" * 100_000, "is ambiguous: write a value of JSON"),
        ("x: 0" + "1" * 100_000, "a number with too many digits"),
        ("x: " + "[" * 500, "nested too deeply"),
    ],
)
def test_yaml_that_would_crash_or_hang_its_reader_is_refused(lines: str, problem: str) -> None:
    with pytest.raises(StudyError, match=problem):
        load_study(f"model: m\nparameter_sets:\n- {lines}\n".encode(), "s.yaml")


@pytest.mark.parametrize("line", ["&a{} [{}]", "&a{} {{<<: [{}]}}"])
def test_a_few_lines_of_yaml_do_not_fill_memory(line: str) -> None:
    """Aliases of aliases, and merged ones, that stand for 10^12 values."""
    first = "- &a0 {x: 1}\n"
    lines = "".join("- " + line.format(number, ", ".join([f"*a{number - 1}"] * 10)) + "\n" for number in range(1, 13))
    with pytest.raises(StudyError, match="with its aliases written out"):
        load_study(f"model: m\nparameter_sets:\n{first}{lines}".encode(), "s.yaml")


def test_yaml_may_share_parameters() -> None:
    """Anchors, aliases and merge keys within bounds are what YAML is written for."""
    study = load_study(b"model: m\nparameter_sets:\n- &a {x: 1, y: 2}\n- {<<: *a, y: 3}\n- {z: *a}\n", "s.yaml")
    assert [dict(one.params) for one in study.parameter_sets] == [
        {"x": 1, "y": 2},
        {"x": 1, "y": 3},
        {"z": {"x": 1, "y": 2}},
    ]
