"""Evaluates the part of expr-lang that the workflow uses, so that its decisions can be tested without Argo.

Precedence as in expr-lang's `parser/operator`: ternary, `||`, `&&`, comparisons (with `in`, `matches`, `contains`), `+`
and `-`, then `not` and `!`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^'\\]|\\.)*')|(?P<number>-?[0-9]+(?:\.[0-9]+)?)|(?P<name>[A-Za-z_][A-Za-z0-9_.]*)"
    r"|(?P<sign>&&|\|\||==|!=|<=|>=|[()\[\],?:+<>!-]))"
)
_BINARY: tuple[dict[str, Callable[[Any, Any], Any]], ...] = (
    {"||": lambda left, right: left or right, "or": lambda left, right: left or right},
    {"&&": lambda left, right: left and right, "and": lambda left, right: left and right},
    {
        "==": lambda left, right: left == right,
        "!=": lambda left, right: left != right,
        "in": lambda left, right: left in right,
        "matches": lambda left, right: re.search(right, left) is not None,
        "contains": lambda left, right: right in left,
    },
    {"+": lambda left, right: left + right},
)
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "concat": lambda *lists: [item for items in lists for item in items],
    "last": lambda items: items[-1] if items else None,
    "sort": sorted,
    "sprig.regexFindAll": lambda pattern, text, most: _found(pattern, text)[: None if most < 0 else int(most)],
    "sprig.regexReplaceAll": lambda pattern, text, by: re.sub(pattern, by, text),
    "sprig.substr": lambda start, end, text: text[int(start) : int(end)],
}


def _found(pattern: str, text: str) -> list[str]:
    return [match[0] for match in re.finditer(pattern, text)]


def evaluate(expression: str, variables: Mapping[str, Any]) -> Any:
    """The value of an expression.

    Raises:
        ValueError: it is none, or uses what is not known here.
        KeyError: there is no such variable.
    """
    return _Parser(_tokens(expression), variables).whole()


def _tokens(expression: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while at < len(expression.rstrip()):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise ValueError(f"cannot read {expression[at:]!r}")
        found.append((str(match.lastgroup), match[str(match.lastgroup)]))
        at = match.end()
    return found


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]], variables: Mapping[str, Any]) -> None:
        self._tokens = tokens
        self._variables = variables
        self._at = 0

    def whole(self) -> Any:
        value = self._ternary()
        if self._at < len(self._tokens):
            raise ValueError(f"what is {self._tokens[self._at][1]!r}?")
        return value

    def _ternary(self) -> Any:
        condition = self._binary(0)
        if not self._take("?"):
            return condition
        chosen = self._ternary()
        self._expect(":")
        other = self._ternary()
        return chosen if condition else other

    def _binary(self, level: int) -> Any:
        if level == len(_BINARY):
            return self._unary()
        value = self._binary(level + 1)
        while self._at < len(self._tokens) and self._tokens[self._at][1] in _BINARY[level]:
            kind, operator = self._tokens[self._at]
            if kind == "text":
                break
            self._at += 1
            value = _BINARY[level][operator](value, self._binary(level + 1))
        return value

    def _unary(self) -> Any:
        if self._take("not") or self._take("!"):
            return not self._unary()
        return self._operand()

    def _operand(self) -> Any:
        if self._at == len(self._tokens):
            raise ValueError("ends too soon")
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "text":
            return re.sub(r"\\(.)", r"\1", text[1:-1])
        if kind == "number":
            return float(text)
        if kind == "name" and self._take("("):
            return _FUNCTIONS[text](*self._listed(")"))
        if kind == "name":
            return self._variables[text]
        if text == "(":
            value = self._ternary()
            self._expect(")")
            return value
        if text == "[":
            return self._listed("]")
        raise ValueError(f"what is {text!r}?")

    def _listed(self, end: str) -> list[Any]:
        """What stands between commas up to the end."""
        items = []
        while not self._take(end):
            items.append(self._ternary())
            self._take(",")
        return items

    def _take(self, text: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] in (("sign", text), ("name", text)):
            self._at += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise ValueError(f"expected {text!r}")
