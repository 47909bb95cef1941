"""Patterns: what a star matches, and that nothing else is special."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.policy.pattern import Pattern


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("db", "db", True),
        ("db", "db2", False),
        ("*", "", True),
        ("*", "anything/at all", True),
        ("**", "x", True),
        ("db-*", "db-", True),
        ("db-*", "db", False),
        ("*-db", "main-db", True),
        ("*-db", "main-db2", False),
        ("a*b*c", "abc", True),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "acb", False),
        ("ab*ba", "aba", False),
        ("*aa*a*", "aa", False),
        ("d?", "db", False),
        ("[ab]", "a", False),
        ("", "", True),
        ("", "x", False),
    ],
)
def test_star_is_any_run_and_the_rest_is_literal(pattern: str, text: str, expected: bool) -> None:
    assert Pattern.compile(pattern).matches(text) is expected


@given(st.text("ab*", max_size=8), st.text("ab", max_size=10))
def test_agrees_with_a_regular_expression(pattern: str, text: str) -> None:
    expression = ".*".join(map(re.escape, pattern.split("*")))
    assert Pattern.compile(pattern).matches(text) is bool(re.fullmatch(expression, text))


def test_specificity_is_exact_first_then_the_literal_length() -> None:
    ordered = ["*", "d*", "*-longer-*", "x"]
    assert sorted(ordered, key=lambda text: Pattern.compile(text).specificity) == ordered


def test_a_hostile_pattern_is_matched_in_linear_time() -> None:
    assert not Pattern.compile("*a" * 200 + "*b").matches("a" * 20_000)
