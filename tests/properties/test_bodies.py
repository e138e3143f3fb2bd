"""Bodies, keys and times, good and malformed: the package reads what Python's json reads, and never fails."""

from __future__ import annotations

import pytest
from generated import FAULTS, NAMES, SCALARS, SPACES, TOKENS
from hypothesis import example, given
from hypothesis import strategies as st
from plain_json import check_body, check_items, check_mappers, decoded, events, read

from rxcompact.errors import DecodeError
from rxcompact.reader.items import items_path

space = st.sampled_from(SPACES)
scalars = st.sampled_from(SCALARS) | st.floats(allow_nan=False, allow_infinity=False).map(lambda n: repr(n).encode())


def joined(parts: list[bytes], space: bytes, start: bytes, separator: bytes, end: bytes) -> bytes:
    return start + space + (separator + space).join(parts) + space + end


def containers(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    arrays = st.builds(joined, st.lists(inner, max_size=3), space, st.just(b"["), st.just(b","), st.just(b"]"))
    return arrays | objects(inner)


def objects(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    members = st.builds(lambda *parts: b"".join(parts), st.sampled_from(NAMES), space, st.just(b":"), space, inner)
    return st.builds(joined, st.lists(members, max_size=3), space, st.just(b"{"), st.just(b","), st.just(b"}"))


values = st.recursive(scalars, containers, max_leaves=5)
faulty = st.recursive(scalars | st.sampled_from(FAULTS), containers, max_leaves=5)
good = objects(values)
items = st.one_of(good, good, good, objects(faulty), faulty)


@st.composite
def bodies(draw: st.DrawFn, items: st.SearchStrategy[bytes] = items) -> bytes:
    found = draw(st.lists(items, max_size=5))
    form = draw(st.sampled_from(["lines", "lines", "array", "values"]))
    if form == "array":
        body = joined(found, draw(space), b"[", b",", b"]")
    else:
        body = draw(st.sampled_from([b"\n", b"\r\n", b"\n\n"]) if form == "lines" else space).join(found)
    return draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"])) + draw(space) + body + draw(space)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A body in which some bytes are missing, doubled, or others."""
    body = draw(bodies())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        length = draw(st.integers(0, 3))
        by = draw(st.sampled_from([*b' \t\r\n{}[]",:\\0-.eE']).map(lambda n: bytes([n])) | st.binary(max_size=2))
        body = body[:at] + by + body[at + length :]
    return body


tokens = st.sampled_from(TOKENS)
inputs = st.one_of(
    bodies(),
    damaged(),
    st.lists(bodies() | damaged(), max_size=3).map(b"\n".join),
    st.lists(tokens, max_size=16).map(b"".join),
    st.binary(max_size=40),
)


@given(inputs, st.lists(st.integers(1, 40), max_size=60))
@example(b'{"a":{"b":1}\n,"c":1}', [])
@example(b"[]{:}\n", [])
@example(b'[]{""a"{"a":1}\n\\1', [])
@example(b"{}{}\n\n{}", [])
@example(b'{"a":"}\n{"}\n{}', [])
@example(b'{"a":1} 5 {"b":2}\n{"a":"}5{"}', [])
@example(b'{"a":\nNaN}\r\n{}\n', [])
@example(b'{"a":\n{"a":0,"b":{\n0},"a":0}\n{\n\n}', [1] * 99)
@example(b"1\n[{[\n]]", [])
@example(b"{}\n[\n{},\\\n{},\n{\n\n}\n]", [11])
@example(b'[]{}{"":0}[', [])
def test_however_an_input_is_cut_its_events_are_those_of_the_plain_way(body: bytes, sizes: list[int]) -> None:
    check_body(body, sizes)


@given(bodies(good))
@example(b"{}{}{\n\n}")
def test_of_a_good_body_nothing_is_rejected(body: bytes) -> None:
    """And so the oracle does not agree only because both find everything bad."""
    if body.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n"):
        assert None not in events(body)
        check_body(body)


@given(bodies() | damaged(), st.sampled_from(["list", "a", "a.b", "a.list"]))
@example(b"{}\n\n{}", "list")
def test_a_list_in_an_object_is_what_the_plain_way_makes_of_it(body: bytes, path: str) -> None:
    head, *tail = reversed(path.split("."))
    check_items(body, path)
    for name in [head, *tail]:
        body = b'{"n":1,"%s":%s}' % (name.encode(), body)
    check_items(body, path)


@given(
    st.lists(items | damaged(), max_size=5),
    st.lists(st.sampled_from(["a", "b", "a.b", "list", "a.list.a"]), max_size=3),
)
def test_keys_and_times_are_those_of_the_decoded_events(lines: list[bytes], names: list[str]) -> None:
    check_mappers(lines, names)


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[" * 50_000 + b"]" * 50_000, b'{"a":' * 50_000, b"{" * 100_000])
@pytest.mark.parametrize("path", [None, "a", "a.a.a"])
def test_nesting_without_end_is_malformed_and_no_more(body: bytes, path: str | None) -> None:
    try:
        pieces = read(body, (), items=items_path(path) if path else ())
    except DecodeError:
        return
    assert pieces
    assert not any(map(decoded, pieces))
