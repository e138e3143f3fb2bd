"""Reading fields of raw lines gives what decoding every line in full gives, bad lines included."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import reactivex as rx
from hypothesis import example, given
from hypothesis import strategies as st

from rxcompact import DeadLetter, Window
from rxcompact import operators as rxo
from rxcompact.errors import DecodeError, KeyMapperError, TimeMapperError
from rxcompact.fields import Json, JsonKey, JsonTime, decode, json_key, json_value

SCALARS = [
    b"1",
    b"1.0",
    b"-0.0",
    b"true",
    b"null",
    b'"1"',
    b'"a b"',
    b'"\\u00e4"',
    '"ä"'.encode(),
    b'"}\\n{"',
    b'"5e123"',
]
RANGE = [b"1e308", b"1e309", b"1E+999", b"-1e400", b"1" * 310 + b".5", b"1" * 250 + b"e99", b"9" * 4300, b"9" * 4301, b"0e999", b"1e-999", b"1e0000000400", b"1e00000000001", b"1.5E00400"]  # fmt: skip  # noqa: E501
BAD = [b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\\udc00x"', b'"a\tb"', b'"\x00"', b"NaN", b"-Infinity", b"01", b"1.", b"tru", b"", b"[1,]", b"{", b"}", b'"', b"[" * 2000, b"[" * 2000 + b"]" * 2000, b"1}{", b'1}\n{"a":1', b'1,\n"b":2', b"\xef\xbb\xbf1"]  # fmt: skip  # noqa: E501
WHOLE = [b"", b" ", b"{}", b" {}", b"{} ", b"{}{}", b"{} {}", b"{}\n{}", b"{", b"}", b"[{}]", b"1", b"null", b'{"a":', b"1}", b'{"a":{}', b'"b":{}}', b'{"a":"}', b'{"}', b"\xef\xbb\xbf{}", b'{"a":1,"a":2}', b'{"a.b":7}', b'{"a":{"b":8}}', b'{"a":{"b":8},"a.b":7}', b'{"a":{"b":8},"a":3}', b'{"\\u0061":9}', b'{"a":null,"b":1}']  # fmt: skip  # noqa: E501

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
paths = st.lists(st.sampled_from(["a", "b", "a.b", "a.k", "", "x", "a.b.k"]), max_size=3)


def typed(value: Any) -> Any:
    """What makes two JSON values one key, by Python's own json, which distinguishes 1, 1.0 and true."""
    return json.dumps(value, sort_keys=True)


def look_up(event: dict[str, Any], name: str) -> Any:
    if name in event:
        return event[name]
    found: Any = event
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def eagerly(line: bytes, path: list[str]) -> str | None:
    """Decode in full by Python's json; None for a bad line. Numbers out of range are bad in the members read."""
    try:
        event = STRICT.decode(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    read = {*path, *(name.split(".")[0] for name in path)}
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


def by_fields(mapper: JsonKey, line: bytes) -> str | None:
    try:
        return typed(json_value(mapper(line)))
    except DecodeError:
        return None


@given(chunks, paths)
@example([b'{"a":1}\n{"b":2', b"}"], ["a"])
@example([b'{"a":"}', b'{"}', b'{"a":1}{"a":2}'], ["a"])
@example([b'{"a":1,"x":1e999}', b'{"a":1}'], ["a"])
@example([b'{"a":1,"x":1e999}', b'{"a":1}'], ["x"])
@example([b'{"a":1e999,"a":2}', b'{"a":{"c":1e999,"b":1}}', b'{"a.b":1,"a":1e999}'], ["a.b"])
@example([b'{"a":1,"x":"\xff"}', b'{"a":1}'], ["a"])
def test_a_chunk_is_what_its_lines_are_decoded_in_full(chunk: list[bytes], path: list[str]) -> None:
    mapper = JsonKey(*path)
    expected = [eagerly(line, path) for line in chunk]
    assert [by_fields(mapper, line) for line in chunk] == expected
    try:
        keys = mapper.many(chunk)
    except Exception:  # then each line is mapped alone
        return
    assert [typed(json_value(key)) for key in keys] == expected  # so none may be bad


@given(st.lists(objects, min_size=1, max_size=6), paths)
def test_good_chunks_take_the_fast_way(chunk: list[bytes], path: list[str]) -> None:
    good = [line for line in chunk if eagerly(line, path) is not None]
    assert list(JsonKey(*path).many(good)) == [JsonKey(*path)(line) for line in good]


@given(st.lists(values, min_size=2, max_size=8))
def test_two_values_are_one_key_when_they_are_one_json_value(texts: list[bytes]) -> None:
    decoded = [msgspec.json.decode(text) for text in texts]
    keys = [json_key(value) for value in decoded]
    for key, value in zip(keys, decoded, strict=True):
        for other_key, other in zip(keys, decoded, strict=True):
            assert (key == other_key) == (typed(value) == typed(other))
            assert key != other_key or hash(key) == hash(other_key)


def test_1_and_1_0_and_true_and_the_string_1_are_four_keys() -> None:
    found = JsonKey("k").many([b'{"k":1}', b'{"k":1.0}', b'{"k":true}', b'{"k":"1"}', b'{"k":1}'])
    assert len(set(found)) == 4
    assert found == [1, Json("1.0"), Json("true"), "1", 1]


def test_the_order_of_members_does_not_matter() -> None:
    first, second = JsonKey().many([b'{"a":{"x":1,"y":2},"b":3}', b'{"b":3,"a":{"y":2,"x":1}}'])
    assert first == second
    assert hash(first) == hash(second)


def test_a_name_is_looked_up_whole_before_it_is_a_path() -> None:
    mapper = JsonKey("id.orig_h")
    assert mapper.many([b'{"id.orig_h":"whole"}', b'{"id":{"orig_h":"path"}}', b'{"id":{"orig_h":1},"id.orig_h":2}', b'{"id":5}']) == ["whole", "path", 2, None]  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("name", ["class", "a b", "ä", "f0", "__init__", "1", "a\nb", '"', "\\"])
def test_odd_names(name: str) -> None:
    line = json.dumps({name: "x", "other": 1}).encode()
    assert list(JsonKey(name).many([line, b"{}"])) == ["x", None]


def test_a_duplicate_member_counts_with_its_last_value() -> None:  # S9: vmalert does it
    assert JsonKey("k").many([b'{"k":1,"k":2}']) == [2]
    assert JsonKey("k")(b'{"k":1,"k":2}') == 2


def test_mappings_and_lines_give_the_same_key() -> None:
    mapper = JsonKey("a", "b.c")
    event = {"a": 1.0, "b": {"c": [True]}}
    assert mapper(event) == mapper(json.dumps(event).encode()) == mapper.many([event])[0]
    assert list(mapper.many([event, json.dumps(event).encode()])) == [mapper(event)] * 2


def test_an_empty_chunk() -> None:
    for mapper in (JsonKey(), JsonKey("a"), JsonKey("a", "b"), JsonTime("a")):
        assert list(mapper.many([])) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "truncated"),
        (b"nope", "malformed"),
        (b'{"a":1} x', "trailing"),
        (b'{"a":NaN}', "byte 5"),
        (b'{"a":1e999}', "out of range"),
        (b'{"a":' + b"9" * 5000 + b"}", "out of range"),
        (b'{"text":"abc\xff"}', "UTF-8 (byte 12)"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deep"),
        (b"[" * 100_000, "deep"),
        (b"[1]", "list"),
        (b"null", "NoneType"),
        (b"5", "int"),
        (b'"text"', "str"),
        (b'{"a":"\\ud800\\u0041"}', "surrogate"),
    ],
    ids=lambda case: repr(case)[:30],
)
def test_the_error_of_a_bad_line_has_the_reason_and_not_the_line(line: bytes, why: str) -> None:  # S1 to S13
    for read in (decode, JsonKey("a"), JsonKey(), JsonTime("a")):
        with pytest.raises(DecodeError) as caught:
            read(line)
        assert caught.value.reason == "malformed"
        assert why in str(caught.value)
        assert len(str(caught.value)) < 100
        assert "nope" not in str(caught.value)


def test_a_key_that_is_nested_as_deep_as_can_be_is_a_key_or_malformed() -> None:
    for depth in range(850, 1000, 3):
        line = b'{"k":' + b"[" * depth + b"]" * depth + b"}"
        try:
            key = JsonKey("k")(line)
        except DecodeError:
            continue
        assert isinstance(key, Json)


def test_times_of_a_chunk() -> None:
    chunk = [b'{"t":"1970-01-01T00:00:10Z"}', b'{"t":20}', b'{"t":"1970-01-01 01:00:30+01:00"}']
    assert JsonTime("t").many(chunk) == [10.0, 20.0, 30.0]
    assert [JsonTime("t")(line) for line in chunk] == [10.0, 20.0, 30.0]


@pytest.mark.parametrize("line", [b"{}", b'{"t":null}', b'{"t":true}', b'{"t":"soon"}', b'{"t":{"s":1}}'])
def test_a_line_without_a_time(line: bytes) -> None:
    with pytest.raises(TimeMapperError) as caught:
        JsonTime("t")(line)
    assert caught.value.reason == "time"
    with pytest.raises(TimeMapperError):
        JsonTime("t").many([b'{"t":1}', line])


def test_a_key_goes_back_to_its_json_value() -> None:
    for text in SCALARS:
        value = msgspec.json.decode(text)
        assert typed(json_value(json_key(value))) == typed(value)
    assert json_value((1, Json("[1.0]"), None)) == [1, [1.0], None]


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
    mapper = JsonKey(*path)
    expected = [eagerly(line, path) for line in chunk]
    assert [by_fields(mapper, line) for line in chunk] == expected
    if None in expected:
        with pytest.raises(Exception):  # noqa: B017 - of whatever kind: then each line is asked for alone
            mapper.many(chunk)
    else:
        assert [typed(json_value(key)) for key in mapper.many(chunk)] == expected


@pytest.mark.parametrize(
    "line", [b'{ "id" : 3 }', b'\t{"id":3}\r', b'{\n"id"\n:\n3\n}', b'{"x":[ ], "id":3, "y":{ } }']
)
def test_white_space_anywhere_changes_nothing(line: bytes) -> None:
    assert JsonKey("id")(line) == 3
    assert by_fields(JsonKey("id"), line) == eagerly(line, ["id"]) == "3"


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize(
    "bad",
    [b"", b"[]", b"1", b'"{}"', b'{"id":3', b'"id":3}', b'{"id":3}{"id":3}', b'{"id":3},', b'{"id":NaN}',
     b"\xef\xbb\xbf{}", b'{"x":"\xff"}', b'{"x":"\\ud800"}', b'{"x":{}', b'{"x":}}',
     b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"],
    ids=lambda case: repr(case)[:30],
)  # fmt: skip
def test_a_bad_line_anywhere_in_a_chunk_is_noticed_though_its_bad_part_is_skipped(bad: bytes, position: int) -> None:
    chunk = [b'{"id":1}', b'{"id":2}']
    chunk.insert(position, bad)
    for mapper in (JsonKey("id"), JsonKey("id", "n.x"), JsonKey(), JsonTime("id")):
        with pytest.raises(Exception):  # noqa: B017
            mapper.many(chunk)
        with pytest.raises(DecodeError):
            mapper(bad)


@pytest.mark.parametrize("number", [b"1e400", b"-1E+999", b"9" * 5000, b"1" * 400 + b".5"], ids=repr)
def test_a_number_that_fits_no_double_is_an_error_only_where_it_is_read(number: bytes) -> None:
    line = b'{"id":1,"x":[' + number + b'],"n":{"x":2}}'
    for mapper, key in ((JsonKey("id"), 1), (JsonKey("id", "n.x"), (1, 2))):
        assert mapper(line) == key
        assert mapper.many([b'{"id":1,"n":{"x":2}}', line]) == [key, key]
    for name in ("x", "x.y"):
        with pytest.raises(DecodeError, match="out of range"):
            JsonKey(name)(line)
    with pytest.raises(DecodeError, match="out of range"):
        JsonKey()(line)


def test_what_is_missing_null_or_no_object_on_the_way_is_none() -> None:
    mapper = JsonKey("a.b.c")
    chunk = [b"{}", b'{"a":null}', b'{"a":{}}', b'{"a":{"b":[{"c":1}]}}', b'{"a":{"b":{"c":null}}}', b'{"a":{"b":"c"}}']
    assert list(mapper.many(chunk)) == [mapper(line) for line in chunk] == [None] * 6
    assert list(JsonKey("a", "b").many([b"{}"])) == [(None, None)]


@given(st.recursive(st.sampled_from(["1", "1.0", "true", '"1"', "null"]),
                    lambda inner: st.lists(inner, max_size=3).map(lambda parts: f"[{','.join(parts)}]"), max_leaves=5),
       st.permutations(["a", "b", "ä", "a.b"]))  # fmt: skip
def test_a_key_of_an_object_is_the_same_in_any_order_of_its_members(value: str, order: list[str]) -> None:
    first = "{" + ",".join(f'"{name}":{value}' for name in sorted(order)) + "}"
    second = "{ " + " , ".join(f'"{name}" : {value}' for name in order) + " }"
    line = b'{"k":%s}'
    keys = [JsonKey("k")(line % text.encode()) for text in (first, second)]
    assert keys[0] == keys[1] == JsonKey("k").many([line % second.encode()])[0]
    assert hash(keys[0]) == hash(keys[1])


def test_a_key_that_is_too_long_is_refused_and_its_neighbours_are_not() -> None:
    key = JsonKey("id", max_length=10)
    assert key.many([b'{"id":1}', b'{"id":2}']) == [1, 2]
    for value in ("x" * 11, ["x" * 11], {"x" * 11: 1}):
        long = msgspec.json.encode({"id": value})
        with pytest.raises(KeyMapperError, match="characters: at most 10"):
            key(long)
        with pytest.raises(KeyMapperError):
            key.many([b'{"id":1}', long])
    assert key(msgspec.json.encode({"id": "x" * 10, "more": "y" * 100})) == "x" * 10
    windows: list[Window] = []
    letters: list[DeadLetter] = []
    lines = [b'{"id":"a"}', b'{"id":"' + b"x" * (1 << 20) + b'"}', b'{"id":"a", "n":1}']
    rx.just(lines).pipe(rxo.compact(10, key_mapper=JsonKey("id"), chunked=True, dead_letters=letters.append)).subscribe(
        windows.append
    )
    assert [(c.key, c.count) for window in windows for c in window] == [("a", 2)]
    assert [letter.reason for letter in letters] == ["key"]
    assert str(letters[0].error) == "a key of 1048576 characters: at most 65536"
