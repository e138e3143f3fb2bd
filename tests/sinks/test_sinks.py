"""NdjsonSink and FunctionSink: what is written, when, and what becomes of failures."""

from __future__ import annotations

import asyncio
import io
import json
import os
import resource
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reactivex import Observer
from reactivex.subject import Subject

from rxcompact.events import Batch, Bounds, Compacted, Window
from rxcompact.fields import JsonKey
from rxcompact.operators.publish import as_sink
from rxcompact.sinks.ndjson import NdjsonSink, json_object, window_lines


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


def test_each_batch_is_there_before_the_next_and_after_what_was_there(tmp_path: Path) -> None:
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


def test_after_it_was_closed_a_sink_goes_on_appending(tmp_path: Path) -> None:
    path = tmp_path / "out"
    sink = NdjsonSink(path, to_json=lambda compacted: compacted.event)
    published(sink, batch(1))
    published(sink, batch(2))
    assert written(path) == [1, 2]
    assert str(path) not in {os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir()}


def test_a_sink_that_published_nothing_makes_no_file_and_can_be_closed_twice(tmp_path: Path) -> None:
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
def test_a_raw_event_is_one_line_whatever_white_space_it_has(tmp_path: Path, raw: bytes) -> None:
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
def test_what_comes_in_as_json_goes_out_as_the_same_json(events: list[dict[str, Any]], raw: bool) -> None:
    for mapper, field in ((JsonKey("id"), "id"), (JsonKey(), None)):
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


def test_what_cannot_be_opened_or_written_raises(tmp_path: Path) -> None:
    async def run() -> None:
        for path in (tmp_path / "missing" / "out", tmp_path):
            sink = NdjsonSink(path)
            with pytest.raises(OSError, match=str(path)):
                await sink.publish(batch(1))
            await sink.aclose()

    asyncio.run(run())


def test_an_event_that_cannot_be_made_json_harms_no_other_of_its_batch(tmp_path: Path) -> None:
    path = tmp_path / "out"

    async def run() -> None:
        sink = NdjsonSink(path, to_json=lambda compacted: compacted.event)
        failed = await sink.publish(batch(1, "\ud800", 3))
        assert list(failed or {}) == [1]
        await sink.aclose()

    asyncio.run(run())
    assert written(path) == [1, 3]


def test_what_json_does_not_know_is_written_as_text(tmp_path: Path) -> None:
    path = tmp_path / "out"
    published(NdjsonSink(path, to_json=lambda compacted: compacted.event), batch(1 + 2j, float("nan"), Path("x")))
    assert written(path) == ["(1+2j)", None, "x"]


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """A full disk; Python ignores the signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_batch_that_is_tried_again_when_the_disk_was_full_is_there_once(tmp_path: Path) -> None:
    path = tmp_path / "out"

    async def run() -> None:
        sink = NdjsonSink(path, to_json=lambda compacted: compacted.event)
        with no_file_larger_than(0), pytest.raises(OSError):
            await sink.publish(batch(1, 2, 3))
        await sink.publish(batch(1, 2, 3))
        await sink.aclose()

    asyncio.run(run())
    assert written(path) == [1, 2, 3]


def test_a_batch_that_was_not_taken_is_not_written_on_closing(tmp_path: Path) -> None:
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
    lines = window_lines(Window(Bounds(10.0, 20.0, "time"), 3, items))
    assert [json.loads(line) for line in lines.splitlines()] == [
        {"opened": 10.0, "closed": 20.0} | json.loads(msgspec.json.encode(json_object(item))) for item in items
    ]


# ── FunctionSink ──────────────────────────────────────────────────────────────────────────────────────────────────────


def given_to(function: Any, *batches: Batch) -> list[Any]:
    async def run() -> list[Any]:
        sink = as_sink(function)
        return [await sink.publish(each) for each in batches]

    return asyncio.run(run())


class Later:
    """Something to await that is no coroutine."""

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
def test_any_function_is_given_the_very_batch_and_its_answer_is_passed_on(function: Callable[[Batch], Any]) -> None:
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
def test_what_it_raises_is_raised(kind: str) -> None:
    def fail(_: Any) -> None:
        raise ZeroDivisionError

    async def fail_later(_: Any) -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    functions: dict[str, Any] = {"sync": fail, "async": fail_later, "observer": Observer(fail)}
    with pytest.raises(ZeroDivisionError):
        given_to(functions[kind], batch(1))


def test_an_observer_is_told_of_each_event_and_of_no_end() -> None:
    told: list[Any] = []
    observer = Observer(told.append, told.append, lambda: told.append("completed"))
    first, second = batch("a", "b"), batch("c")
    assert given_to(observer, first, second) == [None, None]
    assert told == [*first, *second]


def test_a_subject_passes_events_on_to_all_who_listen() -> None:
    subject: Subject[Compacted] = Subject()
    one: list[Compacted] = []
    two: list[Compacted] = []
    subject.subscribe(one.append)
    subject.subscribe(two.append)
    each = batch("a", "b")
    given_to(subject, each)
    assert one == two == list(each)
