"""key_of and time_of: one meaning of a field for keys and times, of mappings, objects and JSON lines."""

from __future__ import annotations

import functools
import json
import math
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from statistics import median
from typing import Any
from uuid import UUID

import msgspec
import pytest
import reactivex as rx
from hypothesis import example, given
from hypothesis import strategies as st
from reactivex import operators as ops

from rxcompact import DeadLetter, Window, key_of, time_of
from rxcompact import operators as rxo
from rxcompact.errors import ArgumentError, DecodeError, KeyMapperError, RxCompactError, TimeMapperError
from rxcompact.keys import Json, json_key, json_value
from rxcompact.mappers import ChunkMapper, Column, Mapper

SCALARS = [b"1", b"1.0", b"-0.0", b"true", b"null", b'"1"', b'"a b"', b'"\\u00e4"', '"ä"'.encode(), b'"}\\n{"', b'"5e123"', b"1152921504606846977", b"-1152921504606846976"]  # fmt: skip  # noqa: E501
RANGE = [b"1e308", b"1e309", b"1E+999", b"-1e400", b"1" * 310 + b".5", b"1" * 250 + b"e99", b"9" * 4300, b"9" * 4301, b"0e999", b"1e-999", b"1e0000000400", b"1e00000000001", b"1.5E00400"]  # fmt: skip  # noqa: E501
BAD = [b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\\udc00x"', b'"a\tb"', b'"\x00"', b"NaN", b"-Infinity", b"01", b"1.", b"tru", b"", b"[1,]", b"{", b"}", b'"', b"[" * 2000, b"[" * 2000 + b"]" * 2000, b"1}{", b'1}\n{"a":1', b'1,\n"b":2', b"\xef\xbb\xbf1"]  # fmt: skip  # noqa: E501
WHOLE = [b"", b" ", b"{}", b" {}", b"{} ", b"{}{}", b"{} {}", b"{}\n{}", b"{", b"}", b"[{}]", b"1", b"null", b'{"a":', b"1}", b'{"a":{}', b'"b":{}}', b'{"a":"}', b'{"}', b"\xef\xbb\xbf{}", b'{"a":1,"a":2}', b'{"a.b":7}', b'{"a":{"b":8}}', b'{"a":{"b":8},"a.b":7}', b'{"a":{"b":8},"a":3}', b'{"\\u0061":9}', b'{"a":null,"b":1}', b'{"a":{"b.k":5}}', b'{"a":[{"k":1},{"k":true}]}']  # fmt: skip  # noqa: E501

values = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: b"[" + b", ".join(parts) + b"]")
        | st.lists(inner, max_size=3).map(lambda parts: b'{"b":' + b',"k":'.join(parts) + b"}" if parts else b"{}")
    ),
    max_leaves=6,
)
rare = st.sampled_from(RANGE + BAD)
names = st.sampled_from([b'"a"', b'"b"', b'"a.b"', b'"x"', b'"\xff"', b'"\\ud800"', b'""'])
members = st.tuples(names, st.one_of(values, values, values, rare)).map(b":".join)
objects = st.lists(members, max_size=4).map(lambda parts: b"{" + b",".join(parts) + b"}")
lines = st.one_of(objects, objects, objects, st.sampled_from(WHOLE))
chunks = st.lists(lines, min_size=1, max_size=6)
paths = st.lists(st.sampled_from(["a", "b", "a.b", "a.k", "x", "a.b.k", "a[].k"]), max_size=3)


def shown(value: Any) -> str:
    return repr(value).split(" at 0x")[0]  # no addresses: xdist wants the same names everywhere


# ── the definition, in plain Python ───────────────────────────────────────────────────────────────────────────────────


def typed(value: Any) -> Any:
    """What makes two JSON values one key, by Python's own json, which distinguishes 1, 1.0 and true."""
    return json.dumps(value, sort_keys=True)


def look_up(value: Any, name: str) -> Any:
    if name == "a[].k":
        inner = value.get("a")
        found = [k for item in inner if (k := look_up(item, "k")) is not None] if isinstance(inner, list) else []
        return found or None
    if not isinstance(value, dict):
        return None
    if name in value:
        return value[name]
    head, dot, rest = name.partition(".")
    return look_up(value.get(head), rest) if dot else None


def eagerly(line: bytes, path: list[str]) -> str | None:
    """Decode in full by Python's json; None for a bad line. Numbers out of range are bad in the members read."""
    try:
        event = STRICT.decode(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    read = {*path, *(name.split(".")[0].removesuffix("[]") for name in path)}
    if any(out_of_range(value) for name, value in event.items() if not path or name in read):
        return None
    found = [look_up(event, name) for name in path] if path else [event]
    return typed(found if len(found) > 1 else found[0])


def out_of_range(value: Any) -> bool:
    text = json.dumps(value)
    return "Infinity" in text or '"too many digits"' in text


def constant(name: str) -> Any:
    raise ValueError(name)


def members_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    json.dumps(pairs, ensure_ascii=False).encode()  # raises for half a surrogate pair
    return dict(sorted(pairs, key=lambda pair: out_of_range(pair[1])))  # a duplicate is read too


STRICT = json.JSONDecoder(
    parse_constant=constant,
    parse_int=lambda text: int(text) if len(text) <= 4300 else "too many digits",
    object_pairs_hook=members_of,
)


def found_by(mapper: Mapper, line: Any) -> str | None:
    try:
        return typed(json_value(mapper(line)))
    except DecodeError:
        return None


def found_in(column: Column) -> list[str | None]:
    """The keys of a chunk; of the events that have none the reason is DecodeError."""
    assert all(isinstance(error, DecodeError) for error in column.errors.values())
    return [None if at in column.errors else typed(json_value(key)) for at, key in enumerate(column)]


# ── JSON lines ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(chunks, paths)
@example([b'{"a":1}\n{"b":2', b"}"], ["a"])
@example([b'{"a":"}', b'{"}', b'{"a":1}{"a":2}'], ["a"])
@example([b'{"a":1,"x":1e999}', b'{"a":1}'], ["a"])
@example([b'{"a":1,"x":1e999}', b'{"a":1}'], ["x"])
@example([b'{"a":1e999,"a":2}', b'{"a":{"c":1e999,"b":1}}', b'{"a.b":1,"a":1e999}'], ["a.b"])
@example([b'{"a":1,"x":"\xff"}', b'{"a":1}'], ["a"])
@example([b'{"a":[{"k":1}]}', b'{"a":{"b":1}}'], ["a", "a.b", "a[].k"])
def test_keys_of_lines_are_those_of_the_lines_decoded_in_full(chunk: list[bytes], path: list[str]) -> None:
    mapper = key_of(path)
    expected = [eagerly(line, path) for line in chunk]
    assert [found_by(mapper, line) for line in chunk] == expected
    assert found_in(mapper.many(chunk)) == expected


@given(chunks, paths)
def test_w14_json_text_is_read_as_its_bytes_are(chunk: list[bytes], path: list[str]) -> None:
    mapper = key_of(path)
    texts = [line.decode() for line in chunk if eagerly(line, []) is not None]
    good = [text.encode() for text in texts]
    for events in (texts, [*map(bytearray, good)], [*map(memoryview, good)], [*texts, *good], [*good, *texts]):
        assert mapper.many(events) == mapper.many([*good, *good][: len(events)])


cut_up = st.tuples(
    st.lists(objects, min_size=1, max_size=4),
    st.sampled_from([b"", b" ", b",", b"\n", b"}{", b"{", b"}", b"\r\n", b"\xef\xbb\xbf"]),
    st.lists(st.integers(0, 200), max_size=5),
).map(lambda drawn: _cut(drawn[1].join(drawn[0]), drawn[2]))


def _cut(text: bytes, places: list[int]) -> list[bytes]:
    borders = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    return [text[start:end] for start, end in zip(borders, borders[1:], strict=False)]


@given(cut_up, paths)
@example([b'{"id":', b"3}"], ["id"])
@example([b'{"id":{"a":1}', b'{"a":2}}'], ["id"])
@example([b'{"a":1},{"a":2}', b'{"a":3}'], ["a"])
@example([b'{"a":1}{"a":2}', b"{}", b""], ["a"])
@example([b'{"a":[{}', b'{}]}{"a":1}'], ["a"])
@example([b'{"a":1,}', b'{"a":1}'], ["a"])
def test_lines_that_make_json_only_together_are_bad_each(chunk: list[bytes], path: list[str]) -> None:
    assert found_in(key_of(path).many(chunk)) == [eagerly(line, path) for line in chunk]


@pytest.mark.parametrize(
    "line", [b'{ "id" : 3 }', b'\t{"id":3}\r', b'{\n"id"\n:\n3\n}', b'{"x":[ ], "id":3, "y":{ } }']
)
def test_white_space_anywhere_changes_nothing(line: bytes) -> None:
    assert key_of("id")(line) == 3


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize(
    "bad",
    [b"", b"[]", b"1", b'"{}"', b'{"id":3', b'"id":3}', b'{"id":3}{"id":3}', b'{"id":3},', b'{"id":NaN}',
     b"\xef\xbb\xbf{}", b'{"x":"\xff"}', b'{"x":"\\ud800"}', b'{"x":{}', b'{"x":}}',
     b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"],
    ids=lambda case: repr(case)[:30],
)  # fmt: skip
def test_a_bad_line_anywhere_in_a_chunk_is_an_error_in_its_place_alone(bad: bytes, position: int) -> None:
    chunk = [b'{"id":1,"n":{"x":7}}', b'{"id":2,"n":{"x":7}}']
    chunk.insert(position, bad)
    for mapper, good in (
        (key_of("id"), [1, 2]),
        (key_of(("id", "n.x")), [(1, 7), (2, 7)]),
        (key_of(), [Json('{"id":1,"n":{"x":7}}'), Json('{"id":2,"n":{"x":7}}')]),
        (key_of(exclude="n"), [Json('{"id":1}'), Json('{"id":2}')]),
        (time_of("id"), [1.0, 2.0]),
    ):
        column = mapper.many(chunk)
        assert [key for at, key in enumerate(column) if at != position] == good
        assert [*column.errors] == [position]
        assert isinstance(column.errors[position], DecodeError)
        assert column[position] is None
        with pytest.raises(DecodeError):
            mapper(bad)


@pytest.mark.parametrize("number", [b"1e400", b"-1E+999", b"9" * 5000, b"1" * 400 + b".5"], ids=lambda n: repr(n)[:20])
def test_a_number_that_fits_no_double_is_an_error_only_where_it_is_read(number: bytes) -> None:
    line = b'{"id":1,"x":[' + number + b'],"n":{"x":2}}'
    for mapper, key in ((key_of("id"), 1), (key_of(("id", "n.x")), (1, 2))):
        assert mapper(line) == key
        assert mapper.many([b'{"id":1,"n":{"x":2}}', line]) == [key, key]
    for name in ("x", "x.y"):
        with pytest.raises(DecodeError, match="out of range"):
            key_of(name)(line)
    with pytest.raises(DecodeError, match="out of range"):
        key_of()(line)


def test_a_duplicate_member_counts_with_its_last_value() -> None:  # S9: vmalert sends such
    assert key_of("k").many([b'{"k":1,"k":2}']) == [2]
    assert key_of("k")(b'{"k":1,"k":2}') == 2


def test_a_key_nested_as_deeply_as_can_be_is_a_key_or_malformed() -> None:
    for depth in range(850, 1000, 3):
        line = b'{"k":' + b"[" * depth + b"]" * depth + b"}"
        try:
            key = key_of("k")(line)
        except DecodeError:
            continue
        assert isinstance(key, Json)


def test_an_empty_chunk() -> None:
    for mapper in (key_of(), key_of("a"), key_of(("a", "b")), time_of("a"), key_of(str), key_of(exclude="a")):
        assert list(mapper.many([])) == []


# ── what makes a key ──────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(values, min_size=2, max_size=8))
def test_two_values_are_one_key_when_they_are_one_json_value(texts: list[bytes]) -> None:
    decoded = [msgspec.json.decode(text) for text in texts]
    keys = [json_key(value) for value in decoded]
    for key, value in zip(keys, decoded, strict=True):
        for other_key, other in zip(keys, decoded, strict=True):
            assert (key == other_key) == (typed(value) == typed(other))
            assert key != other_key or hash(key) == hash(other_key)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), values.map(json.loads)), max_size=5), paths)
def test_dicts_objects_and_lines_give_the_same_keys(events: list[dict[str, Any]], path: list[str]) -> None:
    mapper = key_of(path)
    keys = mapper.many(events)
    assert keys == mapper.many([json.dumps(event).encode() for event in events])
    assert keys == [mapper(event) for event in events]
    if path:
        assert keys == mapper.many([type("Event", (), {"__module__": "tests", **event})() for event in events])


def test_1_and_1_0_and_true_and_the_text_1_are_four_keys() -> None:
    expected = [1, Json("1.0"), Json("true"), "1", 1]
    assert key_of("k").many([b'{"k":1}', b'{"k":1.0}', b'{"k":true}', b'{"k":"1"}', b'{"k":1}']) == expected
    assert key_of("k").many([{"k": 1}, {"k": 1.0}, {"k": True}, {"k": "1"}, {"k": 1}]) == expected
    assert len(set(expected)) == 4


def test_the_order_of_members_makes_no_other_key() -> None:
    first, second = key_of().many([b'{"a":{"x":1,"y":2},"b":3}', {"b": 3, "a": {"y": 2, "x": 1}}])
    assert first == second
    assert hash(first) == hash(second)


def test_a_key_goes_back_to_its_json_value() -> None:
    for text in SCALARS:
        value = msgspec.json.decode(text)
        assert typed(json_value(json_key(value))) == typed(value)
    assert json_value((1, Json("[1.0]"), None)) == [1, [1.0], None]
    assert str(Json("true")) == "true"


class Level(Enum):
    ERROR = "error"


class Code(IntEnum):
    GONE = 410


class Text(str):
    __slots__ = ()


@dataclass(unsafe_hash=True)
class Point:
    x: int


NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (Level.ERROR, "error"), (Code.GONE, 410), (Text("a"), "a"), ((1, "a"), Json('[1,"a"]')),
        (NOON, NOON), (date(2026, 11, 28), date(2026, 11, 28)), (UUID(int=1), UUID(int=1)),
        (Decimal("1.5"), Decimal("1.5")), (b"raw", b"raw"), (Point(1), Point(1)), (math.inf, math.inf),
        ([True], Json("[true]")), ({"a": NOON}, Json('{"a":"2026-11-28T12:00:00Z"}')), ({1, 2}, Json("[1,2]")),
    ],
)  # fmt: skip
def test_values_of_python_as_keys(value: Any, key: Any) -> None:
    for found in (key_of("k")({"k": value}), key_of("k").many([{"k": value}])[0], key_of(("k", "k"))({"k": value})[1]):
        assert found == key
        assert type(found) is type(key)


def test_5_a_value_that_is_no_key_rejects_its_event_alone() -> None:
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

    column = key_of("k").many([{"k": 1}, {"k": Unhashable()}, {"k": {"a": Unhashable()}}, {"k": 2}])
    assert column == [1, None, None, 2]
    assert [str(error) for error in column.errors.values()] == ["TypeError: Unhashable has no JSON form"] * 2
    assert {type(error) for error in column.errors.values()} == {KeyMapperError}


# ── hashes that a sender cannot choose ────────────────────────────────────────────────────────────────────────────────

HASH_ALIKE = [k * (2**61 - 1) + 1 for k in range(1, 30_001)]


@pytest.mark.parametrize(
    "wrap", [lambda n: n, lambda n: [n], lambda n: {"a": n}], ids=["int", "in a list", "in an object"]
)
@pytest.mark.parametrize("spec", ["id", ("id", "x")], ids=str)
def test_h1_ids_that_python_hashes_alike_cost_as_any_other_ids(spec: Any, wrap: Any) -> None:
    assert {hash(n) for n in HASH_ALIKE} == {1}
    mapper = key_of(spec)
    events = [{"id": wrap(n)} for n in HASH_ALIKE]
    for chunk in (events, [json.dumps(event).encode() for event in events]):
        keys = mapper.many(chunk)
        start = time.process_time()
        assert len(dict.fromkeys(keys)) == 30_000
        assert time.process_time() - start < 2  # 76 s it was
        assert len(set(map(hash, keys))) > 29_000


@pytest.mark.parametrize("number", [2**60, -(2**60), 5, 0, -1])
def test_h1_other_integers_are_keys_as_they_are(number: int) -> None:
    assert key_of("id").many([{"id": number}, b'{"id":%d}' % number, {"id": number}]) == [number] * 3
    large = number + (2 if number > 0 else -2) * 2**60
    assert key_of("id").many([b'{"id":%d}' % large]) == key_of("id").many([{"id": large}]) == [Json(str(large))]
    assert json_value(Json(str(large))) == large


def test_h1_floats_that_hash_alike_are_keyed_by_their_text() -> None:
    floats = [float(2**61 - 1) * 2.0**power for power in range(61, 900, 61)]
    assert (
        len({hash(number) for number in floats})
        < len(floats)
        == len(set(map(hash, key_of("k").many([{"k": f} for f in floats]))))
    )


# ── missing is missing ────────────────────────────────────────────────────────────────────────────────────────────────


class NAType:
    """As pandas.NA: comparing it gives itself, which is neither true nor false."""

    def __eq__(self, other: object) -> Any:
        return self

    __ne__ = __eq__
    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")


NOTHINGS = [None, math.nan, float("nan"), NAType(), Decimal("NaN")]


@pytest.mark.parametrize("nothing", NOTHINGS, ids=shown)
def test_d2_missing_is_missing(nothing: Any) -> None:
    events = [{"k": nothing}, {}, {"k": 1}]
    assert key_of("k").many(events) == [None, None, 1]
    assert key_of(("k", "x")).many(events) == [(None, None), (None, None), (1, None)]
    assert [key_of("k")(event) for event in events] == [None, None, 1]
    assert key_of(lambda event: event.get("k")).many(events) == [None, None, 1]
    assert key_of(lambda event: (event.get("k"), (event.get("k"),))).many(events)[:2] == [(None, (None,))] * 2
    if not isinstance(nothing, Decimal):
        assert key_of("k").many([{"k": [nothing, 1]}]) == [Json("[null,1]")]


def test_i4_one_policy_for_dicts_objects_and_lines_missing_is_null() -> None:
    for event in ({}, {"id": None}, b"{}", b'{"id":null}', "{}", Point(1)):
        assert key_of("id")(event) is None
        assert key_of("id").many([event]) == [None]
        assert key_of(("id", "a.b"))(event) == (None, None)
        with pytest.raises(TimeMapperError, match="no field 'id'"):
            time_of("id")(event)


def test_i4_missing_reject_rejects_events_without_the_field() -> None:
    events = [{"id": 1, "x": 1}, {"x": 1}, {"id": 2}, {"id": None, "x": 1}]
    for chunk in (events, [json.dumps(event).encode() for event in events]):
        column = key_of(("id", "x"), missing="reject").many(chunk)
        assert column[0] == (1, 1)
        assert {at: str(error) for at, error in column.errors.items()} == {
            1: "no field 'id'",
            2: "no field 'x'",
            3: "no field 'id'",
        }
        assert {error.reason for error in column.errors.values()} == {"key"}
    with pytest.raises(ArgumentError, match='missing must be "null" or "reject", got \'drop\''):
        key_of("id", missing="drop")  # type: ignore[arg-type]


@pytest.mark.parametrize("as_lines", [False, True])
def test_i4_events_without_a_field_are_counted(as_lines: bool) -> None:
    events: list[Any] = [
        {"host": "a", "ts": 1},
        {"host": "", "ts": 1},
        {"ts": 1},
        {"host": None},
        {"host": 0, "ts": None},
    ]
    chunk = [json.dumps(event).encode() for event in events] if as_lines else events
    mapper = ChunkMapper(key_of(("host", "hots")), time_of("ts"))
    assert mapper.names == ("host", "hots", "ts")
    assert mapper.unknown == ()
    keys, times, errors = mapper.map(chunk)
    assert keys == [("a", None), ("", None), (None, None), (None, None), (0, None)]
    assert times == [1.0, 1.0, 1.0, None, None]
    assert {at: str(error) for at, error in errors.items()} == {3: "no field 'ts'", 4: "no field 'ts'"}
    assert mapper.missing == {"host": 2, "hots": 5, "ts": 2}
    assert (mapper.read, mapper.unknown) == (5, ("hots",))
    mapper.map([b'{"hots":1}', b"nope", 5])
    assert (mapper.read, mapper.missing["hots"], mapper.unknown) == (6, 5, ())
    other = ChunkMapper(key_of("host"), None)
    assert (other.read, other.missing) == (0, {})


def test_i4_a_field_that_no_event_has_is_known_also_where_it_is_excluded_or_dotted() -> None:
    mapper = ChunkMapper(key_of(exclude=("tss", "ts")), None)
    mapper.map([b'{"ts":1}', {"ts": 2}])
    assert mapper.unknown == ("tss",)
    mapper = ChunkMapper(key_of(("a.c", "a.b", "l[].x", "l[].n")), None)
    mapper.map([b'{"a":{"b":1},"l":[{"n":1}]}'] * 3)
    assert mapper.unknown == ("a.c", "l[].x")


def test_malformed_lines_make_no_field_unknown() -> None:
    mapper = ChunkMapper(key_of("id"), time_of("ts"))
    mapper.map([b"nope", b"[1]"])
    assert (mapper.read, mapper.unknown) == (0, ())
    mapper.map([b"nope", b'{"id":1,"ts":"soon"}'])
    assert (mapper.read, mapper.unknown) == (1, ())


# ── what may be asked for ─────────────────────────────────────────────────────────────────────────────────────────────


async def coroutine_function(event: Any) -> Any:
    return event


class Callable:
    async def __call__(self, event: Any) -> Any:
        return event


def generator(event: Any) -> Any:
    yield event


WRONG = [None, 0, 1.5, b"id", {"id"}, {"id": 1}, coroutine_function, functools.partial(coroutine_function), Callable(), generator, Point, dict, Level]  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(
    "spec", [*WRONG, "", " ", ".a", "tags[0].n", ("a", ""), ("a", None), [1], ["a", ["b"]]], ids=shown
)
def test_l2_anything_else_is_an_argument_error_at_once(spec: Any) -> None:
    for refused in (lambda: key_of(spec), lambda: rxo.compact(10, key_mapper=spec)):
        with pytest.raises(ArgumentError, match="^key_mapper must be ") as caught:
            refused()
        assert "got " in str(caught.value)


@pytest.mark.parametrize("spec", [*WRONG[:1], *WRONG[1:], "", ".a", ("a", "b"), ("a",), ["a"], ()], ids=shown)
def test_l2_what_is_no_time_mapper_is_refused_at_once(spec: Any) -> None:
    with pytest.raises(ArgumentError, match="^time_mapper must be "):
        time_of(spec)
    if spec is not None:
        with pytest.raises(ArgumentError, match="^time_mapper must be "):
            rxo.compact(10, key_mapper="id", time_mapper=spec)


@pytest.mark.parametrize("spec", [("host", "alert"), ["host", "alert"], (" host ", "alert")])
def test_l2_several_names_make_a_tuple(spec: Any) -> None:
    event = {"host": "a", "alert": True}
    assert key_of(spec)(event) == key_of(spec)(json.dumps(event)) == ("a", Json("true"))
    assert key_of(spec).names == ("host", "alert")
    assert key_of(spec[:1])(event) == "a"


def test_functions_conversions_and_mappers_are_taken_as_they_are() -> None:
    assert key_of(str).many([1, 2]) == ["1", "2"]
    assert key_of(lambda n: n % 2).many([1, 2, 3]) == [1, 0, 1]
    assert key_of(functools.partial(max, 2)).many([1, 3]) == [2, 3]
    assert key_of(lambda n: n).many([1, True, 1.0, "1"]) == [1, True, 1.0, "1"]
    mapper = key_of("id", missing="reject")
    assert key_of(mapper) is mapper
    assert time_of(timed := time_of("ts")) is timed


def test_5_a_function_that_raises_rejects_its_event_alone_and_is_called_once_for_each() -> None:
    calls: list[int] = []

    def key(n: int) -> int:
        calls.append(n)
        if n in (1, 4):
            raise (StopIteration if n == 4 else KeyError)("no such key")
        if n == 2:
            raise BaseExceptionGroup("of a caller", [GeneratorExit()])
        return n

    column = key_of(key).many([0, 1, 2, 3, 4])
    assert (column, [*column.errors]) == ([0, None, None, 3, None], [1, 2, 4])
    assert calls == [0, 1, 2, 3, 4]
    assert str(column.errors[1]) == "KeyError: 'no such key'"
    assert isinstance(column.errors[1].__cause__, KeyError)
    with pytest.raises(KeyMapperError):
        key_of(key)(1)
    with pytest.raises(KeyboardInterrupt):
        key_of(lambda _: (_ for _ in ()).throw(KeyboardInterrupt)).many([1])


def test_a_function_that_returns_a_coroutine_is_an_error_of_each_event() -> None:
    column = key_of(lambda event: coroutine_function(event)).many([1, 2])
    assert [str(error) for error in column.errors.values()] == ["a coroutine: a key mapper returns the key at once"] * 2


def test_an_error_whose_text_raises_is_an_error_like_others() -> None:
    class Evil(Exception):
        def __str__(self) -> str:
            raise ValueError

    def fail(_: Any) -> Any:
        raise Evil

    assert str(key_of(fail).many([1]).errors[0]) == "Evil"


def test_l15_a_mapper_of_chunks_that_returns_another_number_of_keys_is_an_error() -> None:
    class Many:
        def __init__(self, keys: list[Any]) -> None:
            self.keys = keys

        def __call__(self, event: Any) -> Any:
            return event

        def many(self, events: Any) -> Any:
            return self.keys or 1 / 0

    assert key_of(Many(["x", "y"])).many([1, 2]) == ["x", "y"]
    assert key_of(Many([])).many([1, 2]) == [1, 2]  # it raised: each alone
    column = key_of(Many(["x"])).many([1, 2])
    assert [*column.errors] == [0, 1]
    assert "returned 1 values for 2 events" in str(column.errors[0])


# ── all but some fields ───────────────────────────────────────────────────────────────────────────────────────────────


def test_exclude_leaves_fields_out_of_the_key() -> None:
    events = [{"ts": 1, "id": 7, "a": {"n": 1, "ts": 2}}, {"a": {"ts": 3, "n": 1}, "id": 8}]
    for exclude in (("ts", "id", "a.ts"), ["ts", "id", "a.ts"]):
        mapper = key_of(exclude=exclude)
        assert mapper.many(events) == [Json('{"a":{"n":1}}')] * 2
        assert mapper.many([json.dumps(event) for event in events]) == [Json('{"a":{"n":1}}')] * 2
    assert key_of(exclude="id")(Point(1)) == Json('{"x":1}')
    assert key_of(exclude="x")({"x": 1}) == Json("{}")
    with pytest.raises(ArgumentError, match="exclude must be left out where key_mapper names fields"):
        key_of("id", exclude="ts")
    with pytest.raises(ArgumentError, match="exclude must be left out where key_mapper is a function"):
        key_of(str, exclude="ts")
    for wrong in ("", "a[0]", 5, ("a", None)):
        with pytest.raises(ArgumentError, match="^exclude must be "):
            key_of(exclude=wrong)  # type: ignore[arg-type]


# ── the longest key ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_key_that_is_too_long_is_rejected_and_its_neighbours_are_not() -> None:
    mapper, long = key_of("id"), "x" * 65_537
    assert mapper.many([b'{"id":1}', b'{"id":2}']) == [1, 2]
    for value in (long, [long], {long: 1}):
        for event in ({"id": value}, msgspec.json.encode({"id": value})):
            with pytest.raises(KeyMapperError, match="characters: at most 65536"):
                mapper(event)
            column = mapper.many([{"id": 1}, event, {"id": 2}])
            assert (column, [*column.errors]) == ([1, None, 2], [1])
    assert mapper(msgspec.json.encode({"id": long[1:], "more": long})) == long[1:]
    windows: list[Window] = []
    letters: list[DeadLetter] = []
    chunk = [b'{"id":"a"}', b'{"id":"' + b"x" * (1 << 20) + b'"}', b'{"id":"a", "n":1}']
    rx.just(chunk).pipe(rxo.compact(10, key_mapper="id", chunked=True, dead_letters=letters.append)).subscribe(
        windows.append
    )
    assert [(c.key, c.count) for window in windows for c in window] == [("a", 2)]
    assert [letter.reason for letter in letters] == ["key"]
    assert str(letters[0].error) == "a key of 1048576 characters: at most 65536"


# ── times ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_times_of_a_chunk() -> None:
    chunk = [b'{"t":"1970-01-01T00:00:10Z"}', b'{"t":20}', b'{"t":"1970-01-01 01:00:30+01:00"}']
    assert time_of("t").many(chunk) == [10.0, 20.0, 30.0]
    assert [time_of("t")(line) for line in chunk] == [10.0, 20.0, 30.0]
    assert time_of("t").many([json.loads(line) for line in chunk]) == [10.0, 20.0, 30.0]
    assert {type(at) for at in time_of("t").many([{"t": 1}, {"t": 2}])} == {float}


@pytest.mark.parametrize(
    "line", [b"{}", b'{"t":null}', b'{"t":true}', b'{"t":"soon"}', b'{"t":{"s":1}}', b'{"t":1e30}']
)
@pytest.mark.parametrize("read", [bytes, json.loads], ids=["line", "dict"])
def test_an_event_without_a_time_is_an_error_in_its_place_alone(line: bytes, read: Any) -> None:
    event = read(line)
    with pytest.raises(TimeMapperError) as caught:
        time_of("t")(event)
    assert caught.value.reason == "time"
    for good in ({"t": 1.0}, {"t": 1}, {"t": "1970-01-01T00:00:01Z"}):
        column = time_of("t").many([read(json.dumps(good).encode()), event])
        assert (column[0], [*column.errors]) == (1.0, [1])
        assert str(column.errors[1]) == str(caught.value)


@pytest.mark.parametrize(
    "time", [math.nan, math.inf, -math.inf, 10**400, 1e30, None, "soon", True, [], object()], ids=shown
)
def test_what_a_function_gives_that_is_no_time(time: Any) -> None:
    column = time_of(lambda event: event).many([1.0, time, 2])
    assert (column, [*column.errors]) == ([1.0, None, 2.0], [1])
    assert isinstance(column.errors[1], TimeMapperError)


def test_d4_a_function_may_give_whatever_a_field_may_hold() -> None:
    stamps = [
        5,
        5.5,
        "1970-01-01T00:00:05Z",
        datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC),
        date(1970, 1, 2),
        1_700_000_000_000,
    ]
    assert time_of(lambda event: event).many(stamps) == [5.0, 5.5, 5.0, 5.0, 86_400.0, 1_700_000_000.0]


def test_the_zone_and_the_format_of_times() -> None:
    class Unhashable(tzinfo):  # as those of dateutil are
        __hash__ = None  # type: ignore[assignment]

        def utcoffset(self, _: datetime | None) -> timedelta:
            return timedelta(hours=1)

    plus_1 = timezone(timedelta(hours=1))
    assert time_of("t", timezone=plus_1)({"t": "1970-01-01 01:00:05"}) == 5.0
    assert time_of("t", timezone=Unhashable())({"t": "1970-01-01 01:00:05"}) == 5.0
    mapper = time_of("t", timezone=plus_1, format="%d.%m.%Y %H:%M:%S")
    assert mapper.many([b'{"t":"01.01.1970 01:00:05"}', {"t": "02.01.1970 01:00:00"}]) == [5.0, 86_400.0]
    assert mapper.many([{"t": 7.0}, {"t": "1970-01-01"}, {}]).errors.keys() == {1, 2}


@pytest.mark.bench
@pytest.mark.parametrize("missing", [b"{}", b'{"id":1,"ts":null}'])
def test_i18_what_is_missing_costs_no_more_than_what_is_there(missing: bytes) -> None:
    good = [b'{"id":%d,"ts":"2026-11-28T10:00:00.%06dZ"}' % (n, n) for n in range(20_000)]
    half = [line if n % 2 else missing for n, line in enumerate(good)]

    def seconds(lines: list[bytes]) -> float:
        mapper = ChunkMapper(key_of("id"), time_of("ts"))
        start = time.process_time()
        for at in range(0, len(lines), 1000):
            mapper.map(lines[at : at + 1000])
        return time.process_time() - start

    seconds(good)
    # a pair at a time: the machine may be twice as fast from one to the next
    assert median(seconds(half) / seconds(good) for _ in range(7)) < 1.2


# ── both, in a stream ─────────────────────────────────────────────────────────────────────────────────────────────────


@given(chunks, st.sampled_from(["a", ("a", "b"), "a.b", ("b", "a[].k")]), st.sampled_from(["b", "a", "a.b", "x"]))
def test_lines_decoded_once_for_both_give_what_key_and_time_give_alone(chunk: list[bytes], key: Any, time: str) -> None:
    keys, times = key_of(key).many(chunk), time_of(time).many(chunk)
    found_keys, found_times, errors = ChunkMapper(key_of(key), time_of(time)).map(chunk)
    assert errors.keys() == keys.errors.keys() | times.errors.keys()
    good = [at for at in range(len(chunk)) if at not in errors]
    assert [found_keys[at] for at in good] == [keys[at] for at in good]
    assert [found_times[at] for at in good] == [times[at] for at in good]
    assert all(isinstance(error, RxCompactError) for error in errors.values())


def test_l1_a_fields_name_means_one_thing_everywhere() -> None:
    events = [{"sensor": "t1", "ts": "2026-11-28T07:00:05Z"}, {"sensor": "t1", "ts": "2026-11-28T07:00:06Z"}]
    windows: list[Window] = []
    rx.from_iterable(events).pipe(
        rxo.compact(60, key_mapper="sensor", time_mapper="ts", lateness=0)
    ).subscribe(windows.append)  # fmt: skip
    assert [(w.opened, [(c.key, c.count, c.first_seen) for c in w]) for w in windows] == [
        (1_795_849_200.0, [("t1", 2, 1_795_849_205.0)])
    ]


@pytest.mark.parametrize(
    "event", [{"host": "a", "alert": 1}, '{"host":"a","alert":1}', Point(1)], ids=["dict", "text", "object"]
)
def test_l2_distinct_and_compact_take_the_same_names(event: Any) -> None:
    names = ("x", "y") if isinstance(event, Point) else ("host", "alert")
    twice = rx.of(event, event)
    assert twice.pipe(rxo.distinct(names), ops.count()).run() == 1
    windows = twice.pipe(rxo.compact(10, key_mapper=names), ops.to_list()).run()
    assert [(c.key, c.count) for window in windows for c in window] == [(key_of(names)(event), 2)]
