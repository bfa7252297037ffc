from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.errors import InvalidTaskError, UsageError
from steps.options import OUTPUTS, Options

TEXTS = {
    "fps": ("12.5", 12.5),
    "start_seconds": ("1.5", 1.5),
    "end_seconds": ("60", 60),
    "max_frames": ("100", 100),
    "min_score": ("0.25", 0.25),
    "labels": ("person, bicycle,", ["person", "bicycle"]),
    "model": ("ssd-v2", "ssd-v2"),
    "chunk_seconds": ("7", 7),
    "outputs": ("frames,coco", ["frames", "coco"]),
    "force": ("true", True),
    "priority": ("9", 9),
}


def test_the_table_of_these_tests_has_every_option() -> None:
    assert set(TEXTS) == set(Options.model_fields)


def test_without_anything_the_defaults_of_the_contract_hold() -> None:
    assert Options.from_message({}, {}) == Options()
    assert Options().model_dump() == {
        "fps": 5, "start_seconds": 0, "end_seconds": None, "max_frames": None, "min_score": 0.5, "labels": None,
        "model": None, "chunk_seconds": "auto", "outputs": ["frames", "parquet", "coco", "rekognition"],
        "force": False, "priority": 0,
    }  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_an_option_means_the_same_in_a_message_as_text_and_as_a_variable(name: str) -> None:
    text, value = TEXTS[name]
    expected = Options(**{name: value})

    assert getattr(expected, name) == value
    assert Options.from_message({name: value}, {}) == expected
    assert Options.from_text({name: text}, {}) == expected
    assert Options.from_message({}, {f"REELSCAN_{name.upper()}": text}) == expected
    assert Options.from_text({name: None}, {f"REELSCAN_{name.upper()}": text}) == expected
    assert Options.from_text({name: ""}, {f"REELSCAN_{name.upper()}": text}) == expected


def test_a_message_wins_over_a_variable_and_so_does_a_flag() -> None:
    environment = {"REELSCAN_FPS": "1", "REELSCAN_MIN_SCORE": "0.1"}

    assert Options.from_message({"fps": 2}, environment) == Options(fps=2, min_score=0.1)
    assert Options.from_text({"fps": "3"}, environment) == Options(fps=3, min_score=0.1)


# What is allowed just so, and what just not.
BOUNDS: dict[str, tuple[list[Any], list[Any]]] = {
    "fps": ([0, 1000, 0.001], [-0.001, 1000.1, float("inf"), float("nan"), "5", True, None, [5]]),
    "start_seconds": ([0, 1e7], [-1, 1.1e7, float("nan"), "0", None]),
    "end_seconds": ([0.001, 1e7, None], [0, -1, 1.1e7, float("inf"), "60"]),
    "max_frames": ([1, 10**9, None], [0, -1, 10**9 + 1, 1.5, 2.0, "5", True]),
    "min_score": ([0, 1, 0.5], [-0.1, 1.1, float("nan"), "0.5", None]),
    "labels": (
        [["person"], ["x" * 128], ["ü 🚦"], ["a"] * 1000, None],
        [[], [""], ["x" * 129], ["a"] * 1001, "person", [1], [None], {"a": 1}, ["\ud800"]],
    ),
    "model": (["ssd", "a.b_c-d", "x" * 128, None], ["", ".ssd", "../ssd", "a b", "x" * 129, "ssd\n", 5, "mödel"]),
    "chunk_seconds": (["auto", 0.001, 1e7], [0, -1, 1.1e7, float("inf"), "7", "AUTO", None]),
    "outputs": (
        [["frames"], list(OUTPUTS), ["coco", "coco"]],
        [[], ["report"], ["preview"], ["video"], [""], "frames", None, ["frames"] * 21, [1]],
    ),
    "force": ([True, False], [0, 1, "true", None]),
    "priority": ([0, 9], [-1, 10, 1.5, "1", True, None]),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BOUNDS for value in BOUNDS[name][0]])
def test_a_value_within_the_bounds_is_taken(name: str, value: Any) -> None:
    assert getattr(Options.from_message({name: value}, {}), name) == value


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BOUNDS for value in BOUNDS[name][1]])
def test_a_value_outside_the_bounds_is_refused_in_one_line_that_names_it(name: str, value: Any) -> None:
    with pytest.raises(InvalidTaskError, match=name) as caught:
        Options.from_message({name: value}, {})

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "value"), [("5", 5), ("05", 5), (".5", 0.5), ("5.", 5), ("+5", 5), ("1e2", 100), ("2.5E1", 25), ("-0", 0)]
)
def test_numbers_may_be_written_in_any_usual_way(text: str, value: float) -> None:
    assert Options.from_text({"fps": text}, {}).fps == value


@pytest.mark.parametrize(
    "text", ["five", "1,5", "0x10", "1_000", "NaN", "Infinity", "inf", "true", "٥", "5 s", "9" * 5000]
)
def test_what_is_no_number_is_a_usage_error_that_names_the_flag(text: str) -> None:
    with pytest.raises(UsageError, match=r"--fps: '.*' is not a number") as caught:
        Options.from_text({"fps": text}, {})

    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"fps": "-1.0"}, "--fps: '-1.0' is not allowed; allowed is a number from 0 to 1000"),
        ({"start_seconds": "-1"}, "--start: '-1' is not allowed; allowed is a number from 0 to 10000000"),
        ({"end_seconds": "0"}, "--end: '0' is not allowed; allowed is a number above 0 and of at most 10000000"),
        ({"max_frames": "1.5"}, "--max-frames: '1.5' is not allowed; allowed is a whole number from 1 to 1000000000"),
        ({"min_score": "2"}, "--min-score: '2' is not allowed; allowed is a number from 0 to 1"),
        ({"model": "../x"}, "--model: '../x' is not allowed; allowed is a letter or digit, then at most 127 letters"),
        ({"priority": "10"}, "--priority: '10' is not allowed; allowed is a whole number from 0 to 9"),
        ({"force": "maybe"}, "--force: 'maybe' is not true or false"),
        (
            {"outputs": "frames,report"},
            "--outputs: 'report' cannot be written yet; allowed is a list of frames, parquet",
        ),
        (
            {"outputs": "video"},
            "--outputs: 'video' is not known; allowed is a list of frames, parquet, coco, rekognition",
        ),
        ({"outputs": ","}, "--outputs: ',' is not allowed; allowed is a list of frames, parquet, coco, rekognition"),
        ({"labels": ","}, "--labels: ',' is not allowed; allowed is a list of 1 to 1000 labels"),
        ({"start_seconds": "5", "end_seconds": "5"}, "--end 5 is not after --start 5"),
        (
            {"chunk_seconds": "0"},
            "--chunk-seconds: '0' is not allowed; allowed is a number above 0 and of at most .*auto",
        ),
        ({"chunk_seconds": "often"}, "--chunk-seconds: 'often' is not a number"),
    ],
)
def test_a_wrong_flag_is_a_usage_error_that_says_what_is_allowed(texts: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        Options.from_text(texts, {})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fps": "5"}, "fps: '5' is not allowed; allowed is a number from 0 to 1000"),
        ({"force": 1}, "force: 1 is not allowed; allowed is true or false"),
        ({"labels": ["a", 5]}, "labels: 5 is not allowed; allowed is a list of 1 to 1000 labels, each of 1 to 128"),
        ({"chunk_seconds": "AUTO"}, "chunk_seconds: 'AUTO' is not allowed; allowed is a number above 0 .*, or auto"),
        ({"start_seconds": 5, "end_seconds": 4}, "end_seconds 4 is not after start_seconds 5"),
    ],
)
def test_a_wrong_field_is_named_as_the_message_has_it(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidTaskError, match=f"^{message}"):
        Options.from_message(fields, {})


def test_of_a_range_each_end_is_named_where_it_was_set() -> None:
    environment = {"REELSCAN_END_SECONDS": "4"}
    with pytest.raises(UsageError, match=r"^REELSCAN_END_SECONDS 4 is not after --start 5$"):
        Options.from_text({"start_seconds": "5"}, environment)
    with pytest.raises(InvalidTaskError, match=r"^REELSCAN_END_SECONDS 4 is not after start_seconds 5$"):
        Options.from_message({"start_seconds": 5}, environment)


@pytest.mark.parametrize("build", [lambda env: Options.from_message({}, env), lambda env: Options.from_text({}, env)])
@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("REELSCAN_FPS", "fast", "REELSCAN_FPS: 'fast' is not a number"),
        ("REELSCAN_MIN_SCORE", "2", "REELSCAN_MIN_SCORE: '2' is not allowed; allowed is a number from 0 to 1"),
        ("REELSCAN_FORCE", "perhaps", "REELSCAN_FORCE: 'perhaps' is not true or false"),
    ],
)
def test_a_wrong_variable_is_a_usage_error_and_not_the_task_s_fault(
    build: Any, variable: str, text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build({variable: text})


@pytest.mark.parametrize("text", ["true", "1", "yes", "TRUE", "Yes"])
def test_force_can_be_said_in_several_ways(text: str) -> None:
    assert Options.from_text({"force": text}, {}).force
    assert not Options.from_text({"force": "no"}, {}).force


def test_unknown_fields_are_named_with_those_that_are_known() -> None:
    with pytest.raises(
        InvalidTaskError, match=r"'fpss' is not a known field; known are fps, start_seconds, .*priority"
    ):
        Options.from_message({"fpss": 5}, {})


@given(st.dictionaries(st.text(max_size=300), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
), max_size=4))  # fmt: skip
def test_any_fields_make_options_or_one_line(fields: dict[str, Any]) -> None:
    try:
        made: Options | str = Options.from_message(fields, {})
    except InvalidTaskError as error:
        made = str(error)

    if isinstance(made, str):
        assert "\n" not in made
        assert len(made) < 600
    else:
        assert set(fields) <= set(Options.model_fields)
        assert Options.from_message(made.model_dump(), {}) == made


class TestDigest:
    @pytest.mark.parametrize(
        "changes",
        [{"outputs": ["coco"]}, {"chunk_seconds": 7}, {"priority": 3}, {"force": True}, {"model": "other"}],
    )
    def test_what_changes_neither_frames_nor_detections_is_not_digested(self, changes: dict[str, Any]) -> None:
        # The model's name enters the digest with its version, from elsewhere.
        assert Options(**changes).digested() == Options().digested()

    @pytest.mark.parametrize(
        "changes",
        [
            {"fps": 6},
            {"start_seconds": 1},
            {"end_seconds": 9},
            {"max_frames": 4},
            {"min_score": 0.6},
            {"labels": ["a"]},
        ],
    )
    def test_what_changes_frames_or_detections_is_digested(self, changes: dict[str, Any]) -> None:
        assert Options(**changes).digested() != Options().digested()

    def test_the_same_meaning_gives_the_same_digest(self) -> None:
        one = Options(fps=5, labels=["b", "a", "b"], end_seconds=60)
        other = Options(fps=5.0, labels=["a", "b"], end_seconds=60.0)

        assert json.dumps(one.digested()) == json.dumps(other.digested())


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (29.97, Fraction(2997, 100)),
        (12.5, Fraction(25, 2)),
        (5, Fraction(5)),
        (0.1, Fraction(1, 10)),
        (1e-5, Fraction(1, 10**5)),
    ],
)
def test_decimal_numbers_are_taken_as_written(fps: float, expected: Fraction) -> None:
    options = Options(fps=fps, start_seconds=fps, end_seconds=fps * 2 + 1)

    assert options.fps_fraction == options.start_fraction == expected
    assert options.end_fraction == Fraction(repr(fps * 2 + 1))
    assert Options().end_fraction is None
