"""Texts of keys that are the same in every process."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from rxcompact.keys import Json, stable

NOON = datetime(2026, 11, 28, 12, 0, 0, 123456, tzinfo=UTC)
SECONDS = 1_795_867_200.123456


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, "1"), (1, 1.0), (1, True), (1, 1.5), (True, "true"), ("a", b"a"), (("a",), ("a", None)), ((1, 2), (2, 1)),
        (None, "None"),
        (Json("1.0"), "1.0"), (2**70, 2**70 + 1), (10**5000, 10**5000 + 1), (("a", "b"), ("a,b",)),
        (NOON, NOON + timedelta(microseconds=1)), (float("inf"), -float("inf")),
    ],
    ids=lambda value: repr(value)[:20] if not isinstance(value, int) else "a number",
)  # fmt: skip
def test_the_texts_of_different_keys_differ(one: Any, other: Any) -> None:
    assert stable(one) != stable(other)


def test_the_texts_of_equal_keys_are_equal() -> None:
    vienna = timezone(timedelta(hours=1))
    for one, other in (
        (5, 5), (1.5, 1.5), (NOON, NOON.astimezone(vienna)), (frozenset("ab"), frozenset("ba")),
        ((1, ("a", None)), (1, ("a", None))),
    ):  # fmt: skip
        assert one == other
        assert stable(one) == stable(other)
