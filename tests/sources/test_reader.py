"""Reader: rows I1 to I3, I9, I10, I13, H3 of FIELD.md and S1 to S24 of the fault table, for any input."""

from __future__ import annotations

import bz2
import copy
import gc
import gzip
import importlib
import json
import lzma
import pickle
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rxcompact import key_of, time_of
from rxcompact.errors import ArgumentError, DecodeError, TooLargeError
from rxcompact.fields import Field, decode
from rxcompact.reader.items import Malformed, Place, items_path
from rxcompact.reader.reader import Reader

KIB = 1024
MIB = 1024 * KIB
A, B, C = b'{"id":"a"}', b'{"id":"b"}', b'{"id":"c"}'


def reader_of(items: str | None = None, **options: Any) -> Reader:
    return Reader(items=() if items is None else items_path(items), **options)


def chunks(data: bytes, block: int = 128 * KIB, **options: Any) -> Iterator[tuple[Reader, list[bytes]]]:
    reader = reader_of(**options)
    for start in range(0, len(data), block):
        for chunk in reader.feed(data[start : start + block]):
            yield reader, chunk
    for chunk in reader.end():
        yield reader, chunk


def read(data: bytes, block: int = 128 * KIB, **options: Any) -> list[bytes]:
    return [event for _, chunk in chunks(data, block, **options) for event in chunk]


def reason(event: bytes) -> str | None:
    """Why an event is rejected where it is decoded."""
    try:
        decode(event)
    except DecodeError as error:
        return str(error)
    return None


def outcomes(data: bytes, block: int = 128 * KIB, **options: Any) -> list[tuple[Any, str | None]]:
    """The id of each event, or why it is rejected, and where it stands."""
    found = []
    for reader, chunk in chunks(data, block, **options):
        for event in chunk:
            why = reason(event)
            found.append((decode(event).get("id") if why is None else why, reader.position.find(event)))
    return found


def shown(data: bytes, block: int = 128 * KIB, **options: Any) -> list[tuple[Any, Place | None]]:
    """Each event, or why it is rejected, and where it stands."""
    return [
        (reason(event) or decode(event), reader.position.find(event))
        for reader, chunk in chunks(data, block, **options)
        for event in chunk
    ]


# ── shapes ────────────────────────────────────────────────────────────────────────────────────────────────────────────

SHAPES = {
    "object": A + B[:0],
    "NDJSON": A + b"\n" + B + b"\n" + C + b"\n",
    "NDJSON without a final newline": A + b"\n" + B + b"\n" + C,
    "NDJSON with CRLF": A + b"\r\n" + B + b"\r\n" + C + b"\r\n",
    "NDJSON with CRLF and LF": A + b"\r\n" + B + b"\n" + C,
    "NDJSON with empty lines": b"\n\n" + A + b"\n\n\r\n" + B + b"\n" + C + b"\n\n",
    "NDJSON with spaces": b" " + A + b" \n\t" + B + b"\n" + C + b"  ",
    "NDJSON with a byte order mark": b"\xef\xbb\xbf" + A + b"\n" + B + b"\n" + C,
    "files joined, each with a byte order mark": b"\n".join(b"\xef\xbb\xbf" + each for each in (A, B, C)) + b"\n",
    "a JSON text sequence": b"".join(b"\x1e" + each + b"\n" for each in (A, B, C)),
    "array": b"[" + A + b"," + B + b"," + C + b"]",
    "array over lines": b"[\n" + A + b",\n" + B + b",\n" + C + b"\n]\n",
    "array, indented": b'[\n  {\n    "id": "a"\n  },\n  {\n    "id": "b"\n  },\n  {\n    "id": "c"\n  }\n]\n',
    "array with spaces": b" \n [ " + A + b" , " + B + b"\t,\r\n" + C + b" ] \n",
    "arrays in lines": b"[" + A + b"," + B + b"]\n[" + C + b"]\n[]\n",
    "arrays, one behind the other": b"[" + A + b"][" + B + b"] [\n" + C + b"]",
    "array and lines": b"[" + A + b"]\n" + B + b"\n" + C,
    "lines and an array": A + b"\n[\n" + B + b",\n" + C + b"\n]",
    "concatenated": A + B + C,
    "concatenated with spaces": A + b" " + B + b"\t" + C,
    "concatenated and lines": A + B + b"\n\n" + C,
    "indented, one behind the other": b'{\n "id": "a"\n}\n{\n "id": "b"\n}{\n "id":\n"c"}',
    "comma first": b'{"id":"a"\n,"x":{"y":[]}\n}\n{"x":{"y":1}\n,"id":"b"}\n' + C,
}


@pytest.mark.parametrize("block", [1, 2, 3, 7, 16, 1000])
@pytest.mark.parametrize("shape", SHAPES)
def test_i01_every_shape_however_it_is_cut(shape: str, block: int) -> None:
    expected = ["a"] if shape == "object" else ["a", "b", "c"]
    assert [json.loads(event)["id"] for event in read(SHAPES[shape], block)] == expected


@pytest.mark.parametrize("data", [b"", b" \n\r\n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_s02_an_input_of_white_space_is_blank_and_an_empty_array_is_not(data: bytes) -> None:
    for body, blank in ((data, True), (data + b"[]", False), (data + b"[ ]\n", False), (data + b"x", False)):
        reader = Reader()
        for chunk in (*reader.feed(body), *reader.end()):
            assert chunk == [b"x"]
        assert reader.blank is blank


def test_values_that_are_not_objects_are_rejected_one_by_one() -> None:
    data = b'[1, "x", null, true, [], [{"id":"a"}], {"id":"b"}]\n5 {"id":"c"} null\n'
    assert [found for found, _ in outcomes(data)] == [
        "not a JSON object but int",
        "not a JSON object but str",
        "not a JSON object but NoneType",
        "not a JSON object but bool",
        "not a JSON object but list",
        "not a JSON object but list",
        "b",
        "not a JSON object but int",
        "c",
        "not a JSON object but NoneType",
    ]


# ── what is malformed ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("block", [1, 5, 1000])
@pytest.mark.parametrize(
    "bad",
    [
        b"hello world",
        b'{"id":1',
        b'{"id":',
        b"{",
        b'{"id":"x',
        b'{"id":1}}',
        b'{"id":1} x',
        b'{"id":1},',
        b"}",
        b'{"id":01}',
    ],
)
def test_s01_a_malformed_line_is_one_rejected_event_and_its_neighbours_are_read(bad: bytes, block: int) -> None:
    data = A + b"\n" + bad + b"\n" + B + b"\n" + C + b"\n"
    found = outcomes(data, block)
    assert [where for _, where in found] == [Place(1, 1), Place(2, 2), Place(3, 3), Place(4, 4)]
    assert [what for what, _ in found if what in ("a", "b", "c")] == ["a", "b", "c"]


@pytest.mark.parametrize("block", [1, 5, 1000])
def test_s01_an_array_on_a_line_that_is_cut_short_harms_no_other_line(block: int) -> None:
    data = b'[{"id":"a"}]\n[{"id":"b"},{"id":\n[{"id":"c"}]\n{"id":"d"}\n'
    found = [json.loads(event)["id"] for event in read(data, block) if reason(event) is None]
    assert found == ["a", "b", "c", "d"]
    assert len(read(data, block)) == 5


@pytest.mark.parametrize("block", [1, 5, 1000])
@pytest.mark.parametrize(
    "bad", [b'{"id":NaN}', rb'{"id":"\ud800"}', b'{"id":"\xff"}', b'{"id":x}', b'{"id":1,}', b"{id:1}"]
)
def test_s03_s08_s12_a_malformed_element_is_rejected_alone(bad: bytes, block: int) -> None:
    for before, between, after in ((b"[", b",", b"]"), (b"[\n", b",\n", b"\n]\n")):
        found = [what for what, _ in outcomes(before + between.join([A, bad, B]) + after, block)]
        assert (found[0], found[2]) == ("a", "b")
        assert "JSON is malformed" in found[1] or "invalid UTF-8" in found[1] or "truncated" in found[1]


@pytest.mark.parametrize("block", [1, 5, 1000])
@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b'[{"id":1}', 1),
        (b'[{"id":1},]', 1),
        (b'[{"id":1}\n{"id":2}]', 2),
        (b'[{"id":1}] x', 1),
        (b"[", 1),
        (b'[\n{"id":1},\n{"id":"', 3),
        (b'[\n{"id":1},\n', 3),
        (b'[\n{"id":1},\n}\n]', 3),
    ],
)
def test_s01_an_input_that_is_a_malformed_array_is_an_error_with_its_line(data: bytes, line: int, block: int) -> None:
    with pytest.raises(DecodeError, match=rf"\(line {line}\)$"):
        read(data, block)
    with pytest.raises(DecodeError, match=f"^events.json:{line}: "):
        read(data, block, path="events.json")


def test_what_stands_before_the_damage_is_read() -> None:
    seen: list[bytes] = []
    reader = Reader()
    with pytest.raises(DecodeError):
        for chunk in reader.feed(b'[{"id":"a"},\n{"id":"b"}\n{"id":"c"}]'):
            seen += chunk
    assert seen == [A, B]


@pytest.mark.parametrize("data", [b"[" * 100_000, b"[1," + b"[" * 50_000, b'[{"a":' + b"[" * 100_000])
def test_s10_an_array_without_end_of_nesting_is_an_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        read(data)


# ── items ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

WRAPPERS = {
    "one": (b'{"Records":[{"id":"a"},{"id":"b"},{"id":"c"}]}', "Records"),
    "lines": (b'{"Records":[{"id":"a"},{"id":"b"}]}\n{"Records":[]}\n{"Records":[{"id":"c"}]}\n', "Records"),
    "concatenated": (b'{"Records":[{"id":"a"}]}{"Records":[{"id":"b"},{"id":"c"}]}', "Records"),
    "array": (b'[{"Records":[{"id":"a"},{"id":"b"}]},\n{"Records":[{"id":"c"}]}]', "Records"),
    "array on a line": (b'[{"Records":[{"id":"a"}]},{"Records":[{"id":"b"}]}]\n{"Records":[{"id":"c"}]}', "Records"),
    "indented": (b'{\n "n": {"Records": 1},\n "Records": [\n {"id":"a"},\n {"id":"b"},\n {"id":"c"}\n ]\n}', "Records"),
    "dotted": (b'{"data":{"list":[{"id":"a"},{"id":"b"}]}}{"data":{"list":[{"id":"c"}]}}', "data.list"),
    "the whole name first": (b'{"data":{"list":[1]},"data.list":[{"id":"a"},{"id":"b"},{"id":"c"}]}', "data.list"),
    "the rest whole": (b'{"k":{"a.b/c":[{"id":"a"},{"id":"b"},{"id":"c"}]}}', "k.a.b/c"),
    "a dot of the name": (b'{"a":{"b":[]},"a.b":[{"id":"a"},{"id":"b"},{"id":"c"}]}', r"a\.b"),
    "with brackets": (b'{"Records":[{"id":"a"},{"id":"b"},{"id":"c"}]}', "Records[]"),
    "through a list": (b'{"s":[{"v":[{"id":"a"}]},{"v":[]},{"v":[{"id":"b"},{"id":"c"}]}]}', "s[].v[]"),
    "through lists": (b'{"r":[{"s":[{"l":[{"id":"a"}]},{"l":[{"id":"b"}]}]},{"s":[{"l":[{"id":"c"}]}]}]}', "r[].s[].l"),
    "dots in lists": (b'{"a":{"r":[{"b":{"l":[{"id":"a"},{"id":"b"}]}},{"b.l":[{"id":"c"}]}]}}', "a.r[].b.l"),
    "a name of others": ('{"учёт":[{"id":"a"},{"id":"b"},{"id":"c"}]}'.encode(), "учёт"),
}  # fmt: skip


@pytest.mark.parametrize("block", [1, 7, 1000])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_i02_i03_items_are_taken_out_of_each_value(wrapper: str, block: int) -> None:
    data, items = WRAPPERS[wrapper]
    assert [what for what, _ in outcomes(data, block, items=items)] == ["a", "b", "c"]


@pytest.mark.parametrize("block", [1, 7, 1000])
@pytest.mark.parametrize(
    "other", [b'{"id":1}', b'{"logEvents":null}', b'{"logEvents":"x"}', b'{"LogEvents":[]}', b"5", b'"x"']
)
def test_i03_a_value_without_the_list_is_rejected(other: bytes, block: int) -> None:
    data = b'{"logEvents":[{"id":"a"}]}\n' + other + b'\n{"logEvents":[{"id":"b"}]}\n'
    assert outcomes(data, block, items="logEvents") == [
        ("a", Place(1, 1)),
        ("no list 'logEvents'", Place(2, 2)),
        ("b", Place(3, 3)),
    ]
    assert Field("id")(read(data, items="logEvents")[0]) == "a"
    with pytest.raises(DecodeError, match="no list 'logEvents'"):
        Field("id")(read(data, items="logEvents")[1])


def test_i03_of_lists_in_lists_the_missing_one_is_named_and_the_others_are_read() -> None:
    data = b'{"r":[{"s":[{"l":[{"id":"a"}]},{"l":{}}]},{"x":1},5,{"s":[{"l":[{"id":"b"},7]}]}]}'
    assert [what for what, _ in outcomes(data, items="r[].s[].l[]")] == [
        "a",
        "no list 'r[].s[].l'",
        "no list 'r[].s'",
        "no list 'r[].s'",
        "b",
        "not a JSON object but int",
    ]


def test_a_malformed_wrapper_is_rejected_with_what_is_wrong() -> None:
    data = b'{"Records":[{"id":"a"}]}\n{"Records":[{"id":"b"}]\n{"Records":[{"id":NaN}]}\n{"Records":[{"id":"c"}]}\n'
    found = [what for what, _ in outcomes(data, items="Records")]
    assert found == ["a", "Input data was truncated", "JSON is malformed: invalid character (byte 18)", "c"]


def test_the_line_of_an_element_in_a_wrapper_is_its_own() -> None:
    data = b'{"version":4,\n"alerts":[\n{"id":"a"},\n4]}\n{"alerts":[5,\n6]}'
    assert [where for _, where in outcomes(data, items="alerts")] == [
        Place(1, 3),
        Place(2, 4),
        Place(3, 5),
        Place(4, 6),
    ]


@pytest.mark.parametrize(
    "items", ["", " ", "a..b", ".a", "a.", "[]", "a[][]", "a[0]", "a[].", 'a"b', "a\\b", "a[]b..c", "a\nb"]
)
def test_a_path_that_leads_nowhere_is_an_argument_error(items: str) -> None:
    with pytest.raises(ArgumentError, match="items"):
        items_path(items)


LOKI = b"""{"streams":[{"stream":{"job":"a"},"values":[["1","x"],
["2","y}, {"]]},{"values":[["3","x",{"n":[1]}],{"id":"z"},4,[]]}]}"""


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_an_item_that_is_an_array_is_an_event_whose_fields_are_its_positions(block: int) -> None:
    found = [(event, place) for event, place in shown(LOKI, block, items="streams[].values[]")]
    assert found == [
        ({"0": "1", "1": "x"}, Place(1, 1)),
        ({"0": "2", "1": "y}, {"}, Place(2, 2)),
        ({"0": "3", "1": "x", "2": {"n": [1]}}, Place(3, 2)),
        ({"id": "z"}, Place(4, 2)),
        ("not a JSON object but int", Place(5, 2)),
        ({}, Place(6, 2)),
    ]
    events = read(LOKI, block, items="streams[].values[]")
    assert key_of("1").many(events[:3]) == ["x", "y}, {", "x"]
    assert time_of("0").many(events[:3]) == [1.0, 2.0, 3.0]


def test_an_item_that_is_an_array_and_damaged_or_very_wide_is_rejected() -> None:
    wide = b'{"v":[[%b1],["a"]]}' % (b"1," * 70_000)
    found = [event for event, _ in shown(b'{"v":[[1,,2],["a"]]}\n' + wide, items="v")]
    assert found == ["JSON is malformed: invalid character (byte 9)", "an array of more than 65536 values", {"0": "a"}]


# ── dead letters ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("block", [1, 7, 1000])
@pytest.mark.parametrize("form", [b"%b\n%b\n%b", b"[%b,%b,%b]", b"%b%b%b"])
def test_of_a_dead_letter_the_event_inside_is_read_as_often_as_it_was_counted(form: bytes, block: int) -> None:
    letter = b'{"dead_letter":"failed","key":"a","count":3,"event":{"id":"a"}}'
    raw = b'{"dead_letter":"rejected","event":"{\\"id\\":1, no JSON"}'
    found = shown(form % (letter, A, raw), block)
    assert [event for event, _ in found] == [{"id": "a"}] * 4 + [
        "JSON is malformed: object keys must be strings (byte 9)"
    ]
    if b"\n" in form:
        assert [place for _, place in found] == [Place(1, 1), Place(2, 1), Place(3, 1), Place(4, 2), Place(5, 3)]


@pytest.mark.parametrize("rest", [b'"event":', b'"event":{}', b'"count":2}', b'"event":{},"count":"x"}'])
def test_a_dead_letter_that_is_none_is_an_event_as_any_other(rest: bytes) -> None:
    line = b'{"dead_letter":"failed",' + rest
    assert read(line + b"\n" + A) == [line, A]


def test_a_dead_letter_of_more_than_a_million_events_is_rejected() -> None:
    letter = b'{"dead_letter":"failed","event":{"id":"a"},"count":%d}'
    assert len(read(letter % 1_000_000)) == 1_000_000
    [rejected] = read(letter % 1_000_001)
    assert reason(rejected) == "a dead letter of 1000001 events: at most 1000000"
    with pytest.raises(TooLargeError):
        read(letter % 101, max_events=100)


# ── encodings and compression ─────────────────────────────────────────────────────────────────────────────────────────

LINES = b"".join(b'{"id":%d}\n' % number for number in range(20_000))
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("block", [1000, 100_000])
@pytest.mark.parametrize("name", COMPRESS)
def test_i09_i13_s21_compression_is_known_by_its_magic_number_and_may_have_several_members(
    name: str, block: int
) -> None:
    compress = COMPRESS[name]
    for data in (compress(LINES), compress(LINES[:77_777]) + compress(b"") + compress(LINES[77_777:]) + b"\0" * 512):
        assert read(data, block) == LINES.split()
    assert read(compress(A), 1) == [A]
    assert read(compress(b"\xef\xbb\xbf[" + A + b"]"), 1) == [A]


@pytest.mark.parametrize("name", COMPRESS)
@pytest.mark.parametrize("cut", [1, 5, 12])
def test_s20_compression_that_is_cut_short_is_an_error_with_its_place(name: str, cut: int) -> None:
    with pytest.raises(EOFError, match=f"^f: {name} is cut short"):
        read(COMPRESS[name](A + b"\n" + B)[:-cut], path="f")


@pytest.mark.parametrize("name", COMPRESS)
def test_s19_damaged_compression_is_an_error_with_its_place(name: str) -> None:
    packed = bytearray(COMPRESS[name](LINES))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(OSError, match=f"^f: damaged {name}: "):
        read(bytes(packed), path="f")
    with pytest.raises(OSError, match=f"^f: damaged {name}: .* after line 2$"):
        read(COMPRESS[name](A + b"\n" + B + b"\n") + b"something else", path="f")


@pytest.mark.parametrize("name", COMPRESS)
def test_s18_a_bomb_takes_no_memory(name: str) -> None:
    bomb = COMPRESS[name](b'{"id":"' + b"x" * (100 * MIB) + b'"}')
    tracemalloc.start()
    found = read(bomb, max_line=MIB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [reason(event) for event in found] == ["longer than 1048576 bytes"]
    assert peak < 16 * MIB  # of which xz has 8 for its window
    with pytest.raises(TooLargeError, match=r"longer than 1000000 bytes \(max_body\)"):
        read(bomb, max_body=1_000_000)


def test_what_must_be_gzip_and_is_not_is_an_error() -> None:
    for data in (A, bz2.compress(A)):
        with pytest.raises(gzip.BadGzipFile):
            read(data, compression="gzip")
    with pytest.raises(EOFError):
        read(b"", compression="gzip")


def test_zstd_is_read_where_there_is_a_library_for_it() -> None:
    data = bytes.fromhex("28b52ffd0458510000") + A + bytes.fromhex("5ffbcb75")
    for module in ("compression.zstd", "backports.zstd"):
        try:
            data = importlib.import_module(module).compress(LINES)
        except ImportError:
            continue
        assert read(data, 1000) == LINES.split()
        return
    with pytest.raises(DecodeError, match=r'^f: zstd needs an extra .*: pip install "rxcompact\[zstd\]"$'):
        read(data, path="f")


@pytest.mark.parametrize("block", [1, 3, 1000])
@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_i09_s06_unicode_of_another_width_is_decoded(encoding: str, block: int) -> None:
    text = '{"id":"ä😀"}\n[{"id":"b"},\r\n{"id":"c"}]'
    assert [what for what, _ in outcomes(text.encode(encoding), block)] == ["ä😀", "b", "c"]
    assert [what for what, _ in outcomes(gzip.compress(text.encode(encoding)), block)] == ["ä😀", "b", "c"]


def test_i09_what_is_neither_utf_8_nor_utf_16_is_an_error() -> None:
    with pytest.raises(DecodeError, match="^f: neither UTF-8 nor utf-16-le$"):
        read(b"\xff\xfe" + b"\x00\xd8" * 10, path="f")
    with pytest.raises(DecodeError, match="neither UTF-8 nor utf-16-le"):
        read('{"id":1}'.encode("utf-16-le")[:-1])


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"PK\x03\x04", "zip"),
        (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
        (b"\x04\x22\x4d\x18", "lz4"),
        (b"PAR1", "Parquet"),
        (b"Obj\x01", "Avro"),
    ],
)
def test_i09_another_format_is_named(head: bytes, name: str) -> None:
    with pytest.raises(DecodeError, match=f"^f: not JSON but {name}: unpack or convert it first$"):
        read(head + b"\x00" * 50, path="f")


def test_i09_csv_and_binary_are_rejected_line_by_line_with_the_place() -> None:
    assert outcomes(b"host,alert\nweb1,down\n") == [
        ("JSON is malformed: invalid character (byte 0)", Place(1, 1)),
        ("JSON is malformed: invalid character (byte 0)", Place(2, 2)),
    ]
    assert all(why is not None for why in map(reason, read(bytes(range(1, 256)) * 100)))
    found = outcomes(bytes(1000) + A + b"\n" + B + b"\n")  # a log that was truncated while it was written to
    assert [what for what, _ in found] == ["JSON is malformed: invalid character (byte 0)", "b"]


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_i10_what_is_too_long_is_rejected_in_words_of_its_own() -> None:
    long = b'{"id":"%b"}' % (b"x" * (17 * MIB))
    for data in (A + b"\n" + long + b"\n" + B, A + b"\n" + long, long + b"\n" + A + b"\n" + B):
        found = read(data)
        assert [reason(event) for event in found].count("longer than 16777216 bytes") == 1
        assert max(map(len, found)) < 1000
    with pytest.raises(DecodeError, match=r"an element is longer than 16777216 bytes \(line 2\)"):
        read(b"[" + A + b",\n" + long + b"]")


@pytest.mark.parametrize("data", [b"%b\n%b\n%b", b"[%b,%b,%b]", b'{"r":[%b,%b,%b]}', b"%b%b%b"])
def test_h04_an_event_that_is_too_long_is_rejected_wherever_it_stands(data: bytes) -> None:
    body = data % (A, b'{"id":"%b"}' % (b"x" * 1000), B)
    items = "r" if b'"r"' in data else None
    found = [what for what, _ in outcomes(body, max_event=1000, items=items)]
    assert found == ["a", "longer than 1000 bytes", "b"]


def test_h03_more_events_than_there_may_be_are_an_error() -> None:
    for data in (A * 101, b"x\n" * 101, b"[" + b"1," * 100 + b"1]"):
        with pytest.raises(TooLargeError, match=r"^longer than 100 events \(max_events\)$"):
            read(data, max_events=100)
    assert len(read(A * 100, max_events=100)) == 100


def test_i01_an_array_is_read_in_constant_memory() -> None:
    element = b'{"id":"a","x":{"y":[{"z":1},{"z":2}]},"text":"}, {"}'
    for separator in (b",", b",\n", b" ,\r\n  "):
        reader, events = Reader(), 0
        block = (element + separator) * (100_000 // len(element))
        tracemalloc.start()
        for data in (b"[", *[block] * 100, element, b"]"):
            for chunk in reader.feed(data):
                assert set(chunk) == {element}
                events += len(chunk)
        events += sum(map(len, reader.end()))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert events == 100 * (100_000 // len(element)) + 1
        assert peak < 4 * MIB


HOSTILE = {
    "lines of one byte": (b"x\n" * 200_000, None),
    "an array of numbers": (b"[" + b"1," * 300_000 + b"1]", None),
    "small objects without space": (b'{"id":1}' * 1_000_000, None),
    "a long line of garbage": (b"x" * (8 * MIB), None),
    "a string without end": (b'{"a":"' + b"x" * (20 * MIB), None),
    "objects without end": (b'{"a":\n' * 300_000, None),
    "arrays without end": (b"{}\n" + b"[\n" * 300_000, None),
    "a wrapper of numbers": (b'{"r":[' + b"1," * 1_000_000 + b"1]}", "r"),
    "a wrapper of names": (b'{"r":[1],' + b",".join(b'"k%d":1' % n for n in range(500_000)) + b"}", "r"),
    "wrappers in wrappers": (b'{"r":[' + b'{"s":[]},' * 300_000 + b'{"s":[]}]}', "r[].s[]"),
    "quotes": (b'"' * MIB, None),
    "backslashes": (b'{"a":"' + b"\\" * (4 * MIB), None),
    "spaces": (b" " * (8 * MIB), None),
}


@pytest.fixture
def _no_garbage_collection() -> Iterator[None]:
    gc.disable()  # it looks at all that the other tests left
    yield
    gc.enable()


@pytest.mark.bench
@pytest.mark.usefixtures("_no_garbage_collection")
@pytest.mark.parametrize("name", HOSTILE)
def test_h03_no_step_takes_long_and_each_is_small(name: str) -> None:
    data, items = HOSTILE[name]
    reader = reader_of(items)
    longest = 0.0
    steps = [data[start : start + 64 * KIB] for start in range(0, len(data), 64 * KIB)]
    for step in (*(reader.feed(block) for block in steps), reader.end()):
        while True:
            began = time.process_time()
            chunk = next(step, None)
            longest = max(longest, time.process_time() - began)
            if chunk is None:
                break
            assert len(chunk) <= 2048
    assert longest < 0.15  # seconds; on a machine that has nothing else to do a quarter of it


# ── positions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_event_has_its_number_and_line() -> None:
    data = b'\n{"id":"a"}\n\n[{"id":"b"},\n{"id":"c"}]\n{"id":\n"d"}{"id":"e"}\nx\nx\n'
    for block in (1, 1000):
        assert [where for _, where in outcomes(data, block)] == [
            Place(1, 2),
            Place(2, 4),
            Place(3, 5),
            Place(4, 6),
            Place(5, 7),
            Place(6, 8),
            Place(7, 9),
        ]


def test_an_event_of_another_chunk_has_no_place() -> None:
    reader = Reader()
    [chunk] = reader.feed(A + b"\n")
    assert reader.position.find(b"{}") is None
    assert reader.position.find(chunk[0]) == Place(1, 1)
    assert reader.position.find(chunk[0]) is None  # each place once


def test_a_malformed_piece_can_be_copied_and_pickled() -> None:
    piece = Malformed(b'{"id":1}', "no list 'x'")
    for other in (copy.copy(piece), copy.deepcopy(piece), pickle.loads(pickle.dumps(piece))):
        assert (other, other.reason, other.content) == (piece, "no list 'x'", b'{"id":1}')
