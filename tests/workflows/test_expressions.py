"""The evaluator that other tests use reads expressions as expr-lang does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.workflows.expressions import evaluate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("a == 'x' || b && c", True),
        ("(a == 'x' || b) && c", False),
        ("not (a == 'x') && c", False),
        ("not c && a == 'x'", True),
        ("!c", True),
        ("a in ['w', 'x']", True),
        ("a in []", False),
        ("a != 'y' ? 'yes' : 'no'", "yes"),
        ("c ? 1 : b ? 2 : 3", 2.0),
        ("a + '/' + a == 'x/x'", True),
        ("'it\\'s' contains 't'", True),
        ("'Evicted' matches '(?i)^evict'", True),
        ("a matches '^y'", False),
    ],
)
def test_an_expression_has_its_value(expression: str, value: Any) -> None:
    assert evaluate(expression, {"a": "x", "b": True, "c": False}) == value


@pytest.mark.parametrize("expression", ["", "a ==", "(a", "a b", "a ? b", "a # b", "f(a)"])
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        evaluate(expression, {"a": "x", "b": True})
