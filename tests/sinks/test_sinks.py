"""NdjsonSink, and functions as sinks: output, its order, and failures."""

from __future__ import annotations

import asyncio
import io
import json
import os
import resource
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reactivex import Observer
from reactivex.subject import Subject

from rxcompact import key_of
from rxcompact.errors import PermanentError
from rxcompact.events import Batch, Bounds, Compacted, Window
from rxcompact.operators.publish import delivery
from rxcompact.sinks.encoding import flat_object, json_object, window_lines
from rxcompact.sinks.ndjson import LineWriter, NdjsonSink


@dataclass
class SimpleEvent:
    host: str


def batch(*events: Any) -> Batch:
    return Batch(Compacted(number, event, 1, 1.0, 2.0) for number, event in enumerate(events))


def published(sink: NdjsonSink, *batches: Batch) -> None:
    async def run() -> None:
        for each in batches:
            await sink.publish(each)
        await sink.aclose()

    asyncio.run(run())


def written(path: Path) -> list[Any]:
    text = path.read_bytes()
    assert not text or text.endswith(b"\n")
    return [json.loads(line) for line in text.split(b"\n")[:-1]]


# ── NdjsonSink ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_line_for_each_event_with_all_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "out"
    published(NdjsonSink(path), Batch([Compacted("a", {"x": [1]}, 3, 1.5, 2.5), Compacted(("b", None), b'{"y":2}')]))
    assert written(path) == [
        {"key": "a", "count": 3, "first_seen": 1.5, "last_seen": 2.5, "event": {"x": [1]}},
        {"key": ["b", None], "count": None, "first_seen": None, "last_seen": None, "event": {"y": 2}},
    ]


def test_batches_are_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text('"before"\n')

    async def run() -> None:
        sink = NdjsonSink(str(path), to_json=lambda compacted: compacted.event)
        assert await sink.publish(batch(1, 2)) is None
        assert written(path) == ["before", 1, 2]
        await sink.publish(batch(3))
        assert written(path) == ["before", 1, 2, 3]
        await sink.aclose()

    asyncio.run(run())


def test_a_closed_sink_can_append_again(tmp_path: Path) -> None:
    path = tmp_path / "out"
    sink = NdjsonSink(path, to_json=lambda compacted: compacted.event)
    published(sink, batch(1))
    published(sink, batch(2))
    assert written(path) == [1, 2]
    assert str(path) not in {os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir()}


def test_a_sink_that_published_nothing_creates_no_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    sink = NdjsonSink(path)
    published(sink)
    published(sink)
    assert not path.exists()


def test_an_empty_batch_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out"
    published(NdjsonSink(path), batch())
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    "raw", [b'{"a":1,\n"b":2}', b'{\r\n"a": 1\r\n,"b":2}\r', b'\n{"a":1,"b":2}\n', b'{"a":1,"b":2}']
)
def test_a_raw_event_is_one_line_whatever_its_white_space(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "out"
    published(NdjsonSink(path), batch(raw, raw))
    assert [line["event"] for line in written(path)] == [{"a": 1, "b": 2}] * 2


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab.\n"\\ä', max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.lists(st.fixed_dictionaries({"id": json_values, "n": json_values}), max_size=5), st.booleans())
def test_json_events_are_written_unchanged(events: list[dict[str, Any]], raw: bool) -> None:
    for mapper, field in ((key_of("id"), "id"), (key_of(), None)):
        lines = [json.dumps(event, ensure_ascii=False).encode() for event in events]
        items = [Compacted(mapper(line), line if raw else event) for line, event in zip(lines, events, strict=True)]
        with TemporaryDirectory() as folder:
            path = Path(folder) / "out"
            published(NdjsonSink(path), Batch(items))
            found = written(path)
        assert [json.dumps(line["event"]) for line in found] == [json.dumps(event) for event in events]
        expected = [event if field is None else event[field] for event in events]
        assert [json.dumps(line["key"], sort_keys=True) for line in found] == [
            json.dumps(key, sort_keys=True) for key in expected
        ]


def test_standard_output_is_flushed_and_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(io.BytesIO):
        flushes = 0

        def flush(self) -> None:
            self.flushes += 1
            super().flush()

    buffer = Counting()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer))
    published(NdjsonSink("-", to_json=lambda compacted: compacted.event), batch(1), batch("ä"))
    assert buffer.getvalue() == '1\n"ä"\n'.encode()
    assert buffer.flushes >= 2
    assert not buffer.closed


def test_a_file_that_cannot_be_opened_raises(tmp_path: Path) -> None:
    async def run() -> None:
        for path in (tmp_path / "missing" / "out", tmp_path):
            sink = NdjsonSink(path)
            with pytest.raises(OSError, match=str(path)):
                await sink.publish(batch(1))
            await sink.aclose()

    asyncio.run(run())


def test_an_event_without_a_json_form_fails_alone(tmp_path: Path) -> None:
    path = tmp_path / "out"

    async def run() -> None:
        sink = NdjsonSink(path, to_json=lambda compacted: compacted.event)
        failed = await sink.publish(batch(1, "\ud800", 3))
        assert list(failed or {}) == [1]
        await sink.aclose()

    asyncio.run(run())
    assert written(path) == [1, 3]


def as_written(*events: Any) -> list[Any]:
    """Publish events; return them as they are in the file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "out"
        published(NdjsonSink(path, to_json=lambda compacted: compacted.event), batch(*events))
        return written(path)


VALUES = {
    "Decimal": (Decimal("1.10"), 1.1),
    "datetime": (datetime(2026, 11, 28, 7, 0, 5, tzinfo=UTC), "2026-11-28T07:00:05Z"),
    "date": (date(2026, 11, 28), "2026-11-28"),
    "set": ({7}, [7]),
    "deque": (deque([1, 2]), [1, 2]),
    "mapping": (MappingProxyType({"a": 1}), {"a": 1}),
    "path": (Path("x"), "x"),
    "names": ({7: 1, None: 2, True: 3}, {"7": 1, "null": 2, "true": 3}),
}


@pytest.mark.parametrize("name", VALUES)
def test_d1_values_of_the_standard_library_are_json(name: str) -> None:
    value, expected = VALUES[name]
    assert as_written(value) == [expected]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1 + 2j, "field 'x': complex has no JSON form"),
        (object(), "field 'x': object has no JSON form"),
        (iter([1]), "field 'x': list_iterator has no JSON form"),
        (Decimal("NaN"), "field 'x': no JSON form: ValueError"),
        ("\ud800", "field 'x': no JSON form: UnicodeEncodeError"),
    ],
    ids=["complex", "object", "iterator", "Decimal NaN", "surrogate"],
)
def test_d1_a_value_without_a_json_form_fails_its_event_and_is_named(tmp_path: Path, value: Any, reason: str) -> None:
    path = tmp_path / "out"

    async def run() -> None:
        sink = NdjsonSink(path)
        failed = await sink.publish(batch({"x": 1}, {"ok": 1, "x": value}, {"x": "NaN"}))
        assert {position: (type(error), str(error)) for position, error in (failed or {}).items()} == {
            1: (PermanentError, reason)
        }
        await sink.aclose()

    asyncio.run(run())
    assert [row["event"] for row in written(path)] == [{"x": 1}, {"x": "NaN"}]


def test_w13_a_flat_row_has_the_fields_of_the_event(tmp_path: Path) -> None:
    path = tmp_path / "out"
    events = [{"host": "a"}, b'{"host":"b"}', SimpleEvent("c"), {"host": "d", "count": "own"}]
    published(NdjsonSink(path, to_json=flat_object), batch(*events))
    seen = {"count": 1, "first_seen": 1.0, "last_seen": 2.0}
    assert written(path) == [
        seen | {"host": "a"},
        seen | {"host": "b"},
        seen | {"host": "c"},
        seen | {"host": "d", "count": "own"},
    ]


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """A full disk; Python ignores the signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_h9_a_batch_retried_after_a_full_disk_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "out"

    async def run() -> None:
        sink = NdjsonSink(path, to_json=lambda compacted: compacted.event)
        with no_file_larger_than(0), pytest.raises(OSError):
            await sink.publish(batch(1, 2, 3))
        await sink.publish(batch(1, 2, 3))
        await sink.aclose()

    asyncio.run(run())
    assert written(path) == [1, 2, 3]


def test_h9_a_partial_write_to_a_full_disk_leaves_no_part_of_the_batch(tmp_path: Path) -> None:
    path = tmp_path / "out"

    async def run() -> None:
        sink = NdjsonSink(path, to_json=lambda compacted: compacted.event)
        await sink.publish(batch(1))
        with no_file_larger_than(5), pytest.raises(OSError, match="out"):
            await sink.publish(batch("2", "3", "4"))
        assert written(path) == [1]
        await sink.publish(batch("2", "3", "4"))
        await sink.aclose()

    asyncio.run(run())
    assert written(path) == [1, "2", "3", "4"]


@pytest.mark.parametrize("before", ['1\n{"torn', "1\n2"])
def test_h9_a_torn_last_line_is_ended_before_the_next(tmp_path: Path, before: str) -> None:
    path = tmp_path / "out"
    path.write_text(before)
    published(NdjsonSink(path, to_json=lambda compacted: compacted.event), batch("a", "b"))
    assert path.read_text() == before + '\n"a"\n"b"\n'


def test_h9_short_writes_to_a_non_blocking_pipe_are_completed() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    lines = b"".join(b"%d\n" % n for n in range(100_000))
    received: list[bytes] = []

    def read() -> None:
        while block := os.read(reading, 1000):
            received.append(block)

    reader = Thread(target=read)
    reader.start()
    LineWriter(writing, "-").write(lines)
    os.close(writing)
    reader.join()
    os.close(reading)
    assert b"".join(received) == lines


def test_a_failed_batch_is_not_written_on_closing(tmp_path: Path) -> None:
    path = tmp_path / "out"

    async def run() -> None:
        sink = NdjsonSink(path, to_json=lambda compacted: compacted.event)
        with no_file_larger_than(0), pytest.raises(OSError):
            await sink.publish(batch(1, 2, 3))
        await sink.aclose()

    asyncio.run(run())
    assert written(path) == []


def test_the_lines_of_a_window_have_its_bounds() -> None:
    items = [Compacted("a", b'{"x":1}', 2, 10.0, 11.0), Compacted(None, {}, 1, 12.0, 12.0)]
    lines = b"".join(window_lines(Window(Bounds(10.0, 20.0, "time"), 3, items)))
    assert [json.loads(line) for line in lines.splitlines()] == [
        {"opened": 10.0, "closed": 20.0} | json.loads(msgspec.json.encode(json_object(item))) for item in items
    ]


# ── functions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def given_to(function: Any, *batches: Batch) -> list[Any]:
    async def run() -> list[Any]:
        deliver = delivery(function)
        return [await deliver(each) for each in batches]

    return asyncio.run(run())


class Later:
    """An awaitable that is no coroutine."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __await__(self) -> Generator[Any, None, Any]:
        yield from asyncio.sleep(0).__await__()
        return self.answer


async def as_coroutine(each: Batch) -> Any:
    await asyncio.sleep(0)
    return {len(each): "error"}


class Callable_:
    async def __call__(self, each: Batch) -> Any:
        return {len(each): "error"}


@pytest.mark.parametrize(
    "function",
    [lambda each: {len(each): "error"}, as_coroutine, Callable_(), lambda each: Later({len(each): "error"})],
    ids=["function", "coroutine function", "async object", "awaitable"],
)
def test_a_function_gets_the_batch_and_its_result_is_returned(function: Callable[[Batch], Any]) -> None:
    seen: list[Batch] = []

    def noting(each: Batch) -> Any:
        seen.append(each)
        return function(each)

    first, second = batch(1, 2), batch(3)
    assert given_to(noting, first, second) == [{2: "error"}, {1: "error"}]
    assert seen[0] is first
    assert seen[1] is second
    assert given_to(function, first) == [{2: "error"}]


@pytest.mark.parametrize("kind", ["sync", "async", "observer"])
def test_an_exception_of_the_function_is_raised(kind: str) -> None:
    def fail(_: Any) -> None:
        raise ZeroDivisionError

    async def fail_later(_: Any) -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    functions: dict[str, Any] = {"sync": fail, "async": fail_later, "observer": Observer(fail)}
    with pytest.raises(ZeroDivisionError):
        given_to(functions[kind], batch(1))


def test_an_observer_gets_each_event_and_no_completion() -> None:
    got: list[Any] = []
    observer = Observer(got.append, got.append, lambda: got.append("completed"))
    first, second = batch("a", "b"), batch("c")
    assert given_to(observer, first, second) == [None, None]
    assert got == [*first, *second]


def test_a_subject_passes_events_to_all_subscribers() -> None:
    subject: Subject[Compacted] = Subject()
    one: list[Compacted] = []
    two: list[Compacted] = []
    subject.subscribe(one.append)
    subject.subscribe(two.append)
    each = batch("a", "b")
    given_to(subject, each)
    assert one == two == list(each)


SLOW_WRITER = """
import os, sys
from rxcompact.sinks.ndjson import LineWriter

class InParts(LineWriter):
    def _write(self, data):
        written = os.write(self._fd, data[:5])
        if len(data) == 10:
            print(flush=True)
            sys.stdin.readline()
        return written

InParts(os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND), sys.argv[1]).write(b"AAAAAAAAA\\n")
"""
WRITER = """
import os, sys
from rxcompact.sinks.ndjson import LineWriter
LineWriter(os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND), sys.argv[1]).write(b"B\\n")
"""


def test_workers_that_share_a_file_do_not_cut_each_others_lines(tmp_path: Path) -> None:
    path = tmp_path / "dead.ndjson"
    path.touch()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    slow = subprocess.Popen([sys.executable, "-c", SLOW_WRITER, path], **pipes)
    slow.stdout.readline()  # half of its line is written
    other = subprocess.Popen([sys.executable, "-c", WRITER, path])
    with suppress(subprocess.TimeoutExpired):
        other.wait(3)  # it waits for the lock; without one it is done long before
    slow.communicate("\n")
    assert other.wait(60) == 0 == slow.returncode
    assert path.read_text() == "AAAAAAAAA\nB\n"
