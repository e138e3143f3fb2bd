"""Field: a name means the same in a mapping, an object and a JSON line."""

from __future__ import annotations

import json
import sqlite3
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxcompact import key_of
from rxcompact.errors import ArgumentError, DecodeError
from rxcompact.fields import Field, decode, members, parse_names, without
from rxcompact.keys import Json


def look_up(value: Any, name: str) -> Any:
    """The definition, in plain Python: the whole name first, then at each dot the rest whole before it is split."""
    if not isinstance(value, dict):
        return None
    if name in value:
        return value[name]
    head, dot, rest = name.partition(".")
    return look_up(value.get(head), rest) if dot else None


names = st.lists(st.sampled_from(["a", "b", "a.b", "x"]), min_size=1, max_size=4).map(".".join)
events = st.recursive(
    st.sampled_from([None, 1, "text", [1], True, 1.5]),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "a.b", "b.a", "a.b.a", "x"]), inner, max_size=4),
    max_leaves=12,
).filter(lambda event: isinstance(event, dict))


def as_object(value: Any) -> Any:
    return (
        SimpleNamespace(**{key: as_object(each) for key, each in value.items()}) if isinstance(value, dict) else value
    )


def as_plain(value: Any) -> Any:
    return {key: as_plain(each) for key, each in vars(value).items()} if isinstance(value, SimpleNamespace) else value


@given(events, names)
def test_a_name_means_the_same_in_mappings_objects_and_json(event: dict[str, Any], name: str) -> None:
    found, expected = Field(name), look_up(event, name)
    line = json.dumps(event)
    assert found(event) == found(line) == found(line.encode()) == as_plain(found(as_object(event))) == expected
    assert found(MappingProxyType(event)) == expected


LABELS = {"k": {"labels": {"app.kubernetes.io/name": "api", "app": {"kubernetes": {"io/name": "split"}}}}}


@pytest.mark.parametrize(
    ("event", "name", "expected"),
    [
        (LABELS, "k.labels.app.kubernetes.io/name", "api"),
        ({"k.labels.app.kubernetes.io/name": "whole"} | LABELS, "k.labels.app.kubernetes.io/name", "whole"),
        ({"k": {"labels.app": {"x": 1}, "labels": {"app.x": 2}}}, "k.labels.app.x", 2),
        ({"id.orig_h": "whole", "id": {"orig_h": "path"}}, "id.orig_h", "whole"),
        ({"a.b": None, "a": {"b": 1}}, "a.b", None),
    ],
)
def test_i5_a_dotted_label_is_found_whole(event: Any, name: str, expected: Any) -> None:
    assert Field(name)(event) == Field(name)(json.dumps(event)) == expected


@pytest.mark.parametrize(
    ("event", "name", "expected"),
    [
        ({"tags": [{"n": 1}, {"n": 2}]}, "tags[].n", [1, 2]),
        ({"tags": [{"n": 1}, {}, {"n": None}, 5]}, "tags[].n", [1]),
        ({"tags": [1, None, 2]}, "tags[]", [1, 2]),
        ({"tags": []}, "tags[].n", None),
        ({"tags": {"n": 1}}, "tags[].n", None),
        ({}, "tags[].n", None),
        ({"r": [{"s": [{"l": [1, 2]}, {"l": [3]}]}, {"s": [{"l": [4]}]}]}, "r[].s[].l[]", [1, 2, 3, 4]),
        ({"r": [{"s": [{"l": [1, 2]}]}, {"s": [{"l": [3]}]}]}, "r[].s[].l", [[1, 2], [3]]),
        ({"v": [[1, 2], [3]]}, "v[][]", [1, 2, 3]),
        ({"a": {"b.c": [{"d": {"e": 1}}]}}, "a.b.c[].d.e", [1]),
    ],
)
def test_brackets_go_through_a_list(event: Any, name: str, expected: Any) -> None:
    assert Field(name)(event) == Field(name)(json.dumps(event).encode()) == expected


def test_a_backslash_makes_a_dot_a_comma_or_a_bracket_part_of_a_name() -> None:
    event = {"a.b": {"c": 1}, "x,y": 2, "l[0]": 3, "p[]": 4, "back\\slash": 5}
    for name, value in ((r"a\.b.c", 1), (r"x\,y", 2), (r"l\[0\]", 3), (r"p\[\]", 4), ("back\\slash", 5)):
        assert Field(name)(event) == Field(name)(json.dumps(event)) == value


@pytest.mark.parametrize(
    "name",
    ["", " ", ".a.b", "a.", "a..b", "tags[0].n", "tags[-1]", "tags[*]", "a['b']", 'a["b"]', "[].a", "a[]b", "a.[].b",
     "$.a", "host,alert", "host, alert", ","],
)  # fmt: skip
def test_i4_a_spelling_that_can_never_be_a_field_is_refused(name: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        Field(name, "key_mapper")
    assert str(caught.value).startswith("key_mapper must be ")
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["class", "a b", "ä", "f0", "__init__", "1", "a\nb", '"', "\\", "@timestamp", "$type", "a[b]"])  # fmt: skip  # noqa: E501
def test_unusual_names(name: str) -> None:
    event = {name: "x", "other": 1}
    assert Field(name)(event) == Field(name)(json.dumps(event)) == "x"
    assert Field(name)({}) is Field(name)(b"{}") is None


def test_i4_spaces_around_a_name_are_stripped() -> None:
    assert Field(" host ")({"host": "a"}) == "a"
    assert Field(" host ").name == "host"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ("host, alert", ("host", "alert")),
        (["host", "alert"], ("host", "alert")),
        (["host,alert", "x"], ("host", "alert", "x")),
        (["id", "id"], ("id",)),
        (r"a\,b,c", (r"a\,b", "c")),
        ([], ()),
    ],
)
def test_i12_one_parser_of_names_for_all_commands(texts: Any, expected: tuple[str, ...]) -> None:
    assert parse_names(texts) == expected


@pytest.mark.parametrize("text", ["id,", ",id", "", "a,,b", "a,tags[0]"])
def test_i12_a_field_without_a_name_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="key must be a field"):
        parse_names([text])


# ── what an event may be ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Alert:
    host: str
    labels: dict[str, Any] = field(default_factory=dict)
    inner: Any = None

    def alert(self) -> str:
        return "a method is no field"

    @property
    def domain(self) -> str:
        return self.host.partition(".")[2]


class Struct(msgspec.Struct):
    host: str
    labels: dict[str, Any]
    inner: Any = None


class Model:
    """As pydantic's: fields are attributes, methods are many."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def json(self) -> str:
        return "{}"

    copy = dict = json


Row = namedtuple("Row", "host labels inner count", defaults=(None, 0))  # noqa: PYI024
LABELLED: dict[str, Any] = {"host": "w.example", "labels": {"a.b": 1}}
OBJECTS = [Alert(**LABELLED), Struct(**LABELLED), Model(**LABELLED), Row(**LABELLED), SimpleNamespace(**LABELLED)]


@pytest.mark.parametrize(
    "event", [*OBJECTS, OrderedDict(LABELLED), json.dumps(LABELLED)], ids=lambda e: type(e).__name__
)
def test_l2_names_reach_into_mappings_and_attributes(event: Any) -> None:
    assert Field("host")(event) == "w.example"
    assert Field("labels.a.b")(event) == 1
    assert Field("labels")(event) == {"a.b": 1}
    for missing in ("inner.x", "nothing", "labels.c", "host.upper", "json", "index"):
        assert Field(missing)(event) is None


def test_l2_mappings_and_objects_within_each_other() -> None:
    assert Field("inner.host")(Alert("outer", inner=Alert("inner"))) == "inner"
    assert Field("a.inner.b")({"a": Struct("h", {}, {"b": 1})}) == 1
    assert Field("domain")(Alert("a.example")) == "example"
    assert Field("alert")(Alert("a")) is None
    assert Field("count")(Row("h", {}, None, 5)) == 5


def test_rows_of_a_database() -> None:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    row = connection.execute("select 'a' as host, 5 as keys").fetchone()
    connection.close()
    assert (Field("host")(row), Field("keys")(row), Field("nothing")(row)) == ("a", 5, None)
    assert members(row) == {"host": "a", "keys": 5}


def test_a_look_up_adds_nothing_to_a_mapping_with_defaults() -> None:
    from collections import defaultdict

    event: dict[str, Any] = defaultdict(list)
    assert Field("host")(event) is Field("a.b")(event) is None
    assert event == {}


@pytest.mark.parametrize("event", [5, None, [1], ("a",), 1.5, True, b"5", b"[1]", "null"])
def test_an_event_that_has_no_fields_is_an_error(event: Any) -> None:
    with pytest.raises(DecodeError, match="object but"):
        Field("host")(event)


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
        ('{"a":"\ud800"}', "surrogate"),
    ],
    ids=lambda case: repr(case)[:30],
)
def test_a_bad_line_is_an_error_with_the_reason_and_without_the_line(line: bytes | str, why: str) -> None:  # S1 to S13
    with pytest.raises(DecodeError) as caught:
        decode(line)
    assert caught.value.reason == "malformed"
    assert why in str(caught.value)
    assert len(str(caught.value)) < 100
    assert "nope" not in str(caught.value)


class Slotted:
    """It is equal to itself alone."""

    __slots__ = ("alert", "host")

    def __init__(self, host: str, alert: int) -> None:
        self.host, self.alert = host, alert


def test_l2_all_fields_of_an_object_with_slots() -> None:
    assert members(Slotted("a", 1)) == {"alert": 1, "host": "a"}
    assert key_of(exclude="alert").many([Slotted("a", 1), Slotted("a", 2), {"host": "a"}]) == [Json('{"host":"a"}')] * 3
    assert key_of()(UUID(int=1)) == UUID(int=1)


# ── all but some fields ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "event", [*OBJECTS[:3], OBJECTS[4], json.dumps(LABELLED), LABELLED], ids=lambda e: type(e).__name__
)
def test_all_fields_of_an_event(event: Any) -> None:
    assert {name: value for name, value in members(event).items() if value is not None} == LABELLED


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("ts", {"a": {"ts": 2, "x.y": 3}, "l": [{"ts": 4, "n": 5}, 6]}),
        ("a.ts", {"ts": 1, "a": {"x.y": 3}, "l": [{"ts": 4, "n": 5}, 6]}),
        ("a.x.y", {"ts": 1, "a": {"ts": 2}, "l": [{"ts": 4, "n": 5}, 6]}),
        ("l[].ts", {"ts": 1, "a": {"ts": 2, "x.y": 3}, "l": [{"n": 5}, 6]}),
        ("l", {"ts": 1, "a": {"ts": 2, "x.y": 3}}),
        ("l[]", {"ts": 1, "a": {"ts": 2, "x.y": 3}}),
    ],
)
def test_an_event_without_a_field(name: str, rest: dict[str, Any]) -> None:
    event = {"ts": 1, "a": {"ts": 2, "x.y": 3}, "l": [{"ts": 4, "n": 5}, 6]}
    before = json.dumps(event)
    assert without(event, Field(name).groups) == rest
    assert json.dumps(event) == before


@pytest.mark.parametrize("name", ["b", "a.b", "a.ts.b", "l[].b", "a[].ts", "ts.x"])
def test_an_event_that_has_no_such_field_stays_the_same_object(name: str) -> None:
    event = {"ts": 1, "a": {"ts": 2}, "l": [{"ts": 4}, 6]}
    assert without(event, Field(name).groups) is event
