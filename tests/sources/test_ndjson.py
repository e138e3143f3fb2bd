"""NdjsonSource: lines, their numbers, gzip, pipes, ends and errors."""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxcompact.errors import ArgumentError
from rxcompact.mappers import ChunkMapper, key_of
from rxcompact.reader.reader import Reader
from rxcompact.reader.text import PIECE, Decompressor
from rxcompact.sources import ndjson
from rxcompact.sources.ndjson import NdjsonSource

MIB = 1 << 20
Blocks = Callable[[int], None]


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> Blocks:
    """Returns what has files read in blocks of so many bytes."""
    return partial(monkeypatch.setattr, ndjson, "BLOCK")


def line_of(source: NdjsonSource, event: bytes) -> int | None:
    place = source.position.find(event)
    return place and place.line


class Seen:
    """An observer that records what it receives, and the number of every line."""

    def __init__(self, source: NdjsonSource) -> None:
        self.source = source
        self.lines: list[bytes] = []
        self.numbers: list[tuple[str, int | None]] = []
        self.errors: list[Exception] = []
        self.completed = 0
        self.ended = asyncio.Event()

    def on_next(self, chunk: list[bytes]) -> None:
        self.lines += chunk
        self.numbers += [(self.source.position.path, line_of(self.source, line)) for line in chunk]

    def on_error(self, error: Exception) -> None:
        self.errors.append(error)
        self.ended.set()

    def on_completed(self) -> None:
        self.completed += 1
        self.ended.set()


def pulled(source: NdjsonSource) -> Seen:
    seen = Seen(source)
    source.stream().subscribe(seen.on_next, seen.on_error, seen.on_completed)
    return seen


def live(source: NdjsonSource) -> Seen:
    async def run() -> Seen:
        seen = Seen(source)
        source.stream().subscribe(seen.on_next, seen.on_error, seen.on_completed)
        async with asyncio.timeout(60):
            await seen.ended.wait()
        return seen

    return asyncio.run(run())


both = pytest.mark.parametrize("read", [pulled, live])


def open_files() -> set[str]:
    found: set[str] = set()
    for fd in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(fd.readlink()))
        except OSError:
            continue
    return found


@contextmanager
def standard_input(data: bytes | None = None) -> Iterator[int]:
    """A pipe as standard input; its writing end, or the data written to it by a thread."""
    kept = os.dup(0)
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    os.close(reading)
    writer = None
    try:
        if data is None:
            yield writing
        else:

            def write() -> None:
                with open(writing, "wb", closefd=False) as pipe:
                    pipe.write(data)
                os.close(writing)

            writer = threading.Thread(target=write)
            writer.start()
            yield writing
            writer.join()
    finally:
        os.dup2(kept, 0)
        os.close(kept)


@pytest.fixture(autouse=True)
def _uncaptured(monkeypatch: pytest.MonkeyPatch) -> None:
    class Standard:
        @staticmethod
        def fileno() -> int:
            return 0

    monkeypatch.setattr("sys.stdin", Standard)


@both
def test_lines_without_their_ends_and_the_empty_ones(read: Callable[..., Seen], tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b'{"a":1}\n\n{"a":2}\r\n\r\n{"a":3}')
    seen = read(NdjsonSource(path))
    assert seen.lines == [b'{"a":1}', b'{"a":2}', b'{"a":3}']
    assert seen.numbers == [(str(path), 1), (str(path), 3), (str(path), 5)]
    assert (seen.completed, seen.errors) == (1, [])
    assert str(path) not in open_files()


@given(
    st.lists(st.sampled_from([b"", b"{}", b"x", b"ab", b"ab", b"a\rb", b"long " * 9, b"\r"]), max_size=30),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
    st.lists(st.integers(1, 40), min_size=1, max_size=10),
    st.booleans(),
    st.booleans(),
)
def test_however_the_bytes_are_cut(
    written: list[bytes], end: bytes, last: bool, sizes: list[int], packed: bool, marked: bool
) -> None:
    whole = b"\xef\xbb\xbf" * marked + end.join(written) + end * last
    data = gzip.compress(whole[: len(whole) // 2]) + gzip.compress(whole[len(whole) // 2 :]) if packed else whole
    lines = Reader(path="here")
    found: list[tuple[bytes, int | None]] = []

    def take(chunks: Iterator[list[bytes]]) -> None:
        for chunk in chunks:
            found.extend((line, line_of(lines, line)) for line in chunk)

    start = 0
    for turn in range(10**6):
        block = data[start : start + sizes[turn % len(sizes)]]
        if not block:
            break
        take(lines.feed(block))
        start += len(block)
    take(lines.end())
    # by the book: the mark is taken off, a line ends at \n, and one \r before it belongs to the end
    expected = [line.strip(b" \r") for line in (whole.removeprefix(b"\xef\xbb\xbf")).split(b"\n")]
    assert found == [(line, number) for number, line in enumerate(expected, 1) if line]


@both
@pytest.mark.parametrize("members", [[0], [0, 0], [MIB, MIB], [3 * MIB + 1, 5], [5, 3 * MIB]])
def test_gzip_of_several_members(read: Callable[..., Seen], tmp_path: Path, members: list[int]) -> None:
    path = tmp_path / "events.gz"
    parts = [b'"%b"\ny\n' % (b"x" * size) for size in members]
    path.write_bytes(b"".join(map(gzip.compress, parts)) + b"\0" * 1000)
    seen = read(NdjsonSource(path))
    assert seen.lines == [line for line in b"".join(parts).split(b"\n") if line]
    assert (seen.completed, seen.errors) == (1, [])


@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 8 * PIECE])
def test_a_member_that_just_fits_is_no_end(size: int) -> None:
    decompressor = Decompressor("gzip")
    out = list(decompressor.feed(gzip.compress(b"a" * size) + gzip.compress(b"b" * 10)))
    assert max(map(len, out)) <= PIECE
    assert b"".join(out) == b"a" * size + b"b" * 10
    decompressor.end()


@both
@pytest.mark.parametrize("cut", [1, 8, 12, 40])
def test_gzip_cut_short_is_an_error_after_what_came_before(read: Callable[..., Seen], tmp_path: Path, cut: int) -> None:
    path = tmp_path / "events.gz"  # S20
    path.write_bytes((gzip.compress(b"first\n") + gzip.compress(os.urandom(100).hex().encode() + b"\n"))[:-cut])
    seen = read(NdjsonSource(path))
    assert seen.lines[:1] == [b"first"]
    assert isinstance(seen.errors[0], EOFError)
    assert str(path) in str(seen.errors[0])
    assert seen.completed == 0
    assert str(path) not in open_files()


@both
@pytest.mark.parametrize("rest", [b"garbage after the end", b"\x1f\x8bgarbage"])
def test_damaged_gzip_is_an_error_after_what_came_before(
    read: Callable[..., Seen], tmp_path: Path, rest: bytes
) -> None:
    path = tmp_path / "events.gz"
    path.write_bytes(gzip.compress(b"first\nsecond\n") + rest)
    seen = read(NdjsonSource(path))
    assert seen.lines == [b"first", b"second"]
    assert isinstance(seen.errors[0], gzip.BadGzipFile)
    assert "after line 2" in str(seen.errors[0])


@both
def test_files_are_read_one_after_the_other(read: Callable[..., Seen], tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2.gz"
    one.write_bytes(b"a\nb")
    two.write_bytes(gzip.compress(b"\nc\n"))
    with standard_input(b"d\n"):
        seen = read(NdjsonSource(one, "-", two))
    assert seen.lines == [b"a", b"b", b"d", b"c"]
    assert seen.numbers == [(str(one), 1), (str(one), 2), ("-", 1), (str(two), 2)]


@both
def test_what_cannot_be_opened_is_an_error_with_its_name(read: Callable[..., Seen], tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        seen = read(NdjsonSource(path))
        assert isinstance(seen.errors[0], OSError)
        assert str(path) in str(seen.errors[0])
    assert str(tmp_path) not in open_files()


@both
def test_an_empty_file(read: Callable[..., Seen], tmp_path: Path) -> None:
    path = tmp_path / "empty"
    for data in (b"", b"\n", b"\n\n\r\n"):
        path.write_bytes(data)
        seen = read(NdjsonSource(path, "/dev/null"))
        assert (seen.lines, seen.completed, seen.errors) == ([], 1, [])


@both
def test_a_line_that_is_too_long_is_cut_and_not_held(read: Callable[..., Seen], tmp_path: Path) -> None:
    path = tmp_path / "events.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"a":1}\n{"b":"')
        for _ in range(64):
            file.write(b"x" * MIB)
        file.write(b'"}\n{"a":2}\n')
    tracemalloc.start()
    seen = read(NdjsonSource(path, max_line=MIB))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [line[:7] for line in seen.lines] == [b'{"a":1}', b'{"b":"x', b'{"a":2}']
    assert len(seen.lines[1]) < 1000
    assert [number for _, number in seen.numbers] == [1, 2, 3]
    assert seen.completed == 1
    assert peak < 8 * MIB


@pytest.mark.parametrize("block_size", [1, 7, 1000])
def test_the_longest_line_counts_wherever_it_stands(tmp_path: Path, blocks: Blocks, block_size: int) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"\n".join([b"a" * 10, b"b" * 11, b"c" * 10, b"d" * 30, b"e" * 10]))
    blocks(block_size)
    seen = pulled(NdjsonSource(path, max_line=10))
    assert [line.endswith(b"\0") for line in seen.lines] == [False, True, False, True, False]
    assert [number for _, number in seen.numbers] == [1, 2, 3, 4, 5]


def test_a_pipe_is_read_without_blocking_the_loop_and_line_by_line() -> None:
    async def run() -> list[tuple[bytes, int]]:
        turns = 0
        received: list[tuple[bytes, int]] = []
        arrived = asyncio.Event()
        ended = asyncio.Event()

        def note(chunk: list[bytes]) -> None:
            received.extend((line, turns) for line in chunk)
            arrived.set()

        NdjsonSource("-").stream().subscribe(note, on_completed=ended.set)
        for line in (b"one", b"two"):
            for _ in range(100):  # the loop goes on while nothing comes
                turns += 1
                await asyncio.sleep(0)
            assert not arrived.is_set()
            os.write(writing, line + b"\nhal")
            async with asyncio.timeout(60):
                await arrived.wait()
            arrived.clear()
        os.close(writing)
        async with asyncio.timeout(60):
            await ended.wait()
        return received

    with standard_input() as writing:
        assert asyncio.run(run()) == [(b"one", 100), (b"haltwo", 200), (b"hal", 200)]


def test_disposal_stops_reading_and_closes_the_file(tmp_path: Path, blocks: Blocks) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"x\n" * 100_000)
    blocks(1000)

    async def run() -> int:
        chunks: list[list[bytes]] = []
        first = asyncio.Event()

        def note(chunk: list[bytes]) -> None:
            chunks.append(chunk)
            first.set()

        subscription = NdjsonSource(path).stream().subscribe(note)
        await first.wait()
        subscription.dispose()
        assert str(path) in open_files()
        for _ in range(10):
            await asyncio.sleep(0)
        assert str(path) not in open_files()
        return len(chunks)

    assert asyncio.run(run()) == 1


def test_disposal_while_a_pipe_is_idle() -> None:
    async def run() -> None:
        subscription = NdjsonSource("-").stream().subscribe(lambda _: None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        subscription.dispose()
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1
        asyncio.get_running_loop().add_reader(0, lambda: None)
        assert asyncio.get_running_loop().remove_reader(0)  # ours alone was there

    with standard_input() as writing:
        asyncio.run(run())
        os.close(writing)


def test_a_take_of_some_stops_a_pull(tmp_path: Path, blocks: Blocks) -> None:
    from reactivex import operators as ops

    path = tmp_path / "events"
    path.write_bytes(b"x\n" * 10_000)
    blocks(100)
    source = NdjsonSource(path)
    assert len(source.stream().pipe(ops.take(2), ops.to_list()).run()) == 2
    assert str(path) not in open_files()


class Demand:
    """Room for three at a time, given when asked for."""

    limit = 3
    refused = 0

    def __init__(self) -> None:
        self.gate = asyncio.Semaphore(0)

    def capacity(self) -> int:
        return 3

    def accepts(self, chunk: Any) -> bool:
        return len(chunk) <= 3

    async def wait(self) -> int:
        await self.gate.acquire()
        return 3

    def account(self) -> Any:
        raise NotImplementedError


def test_no_more_is_emitted_than_there_is_room_for(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(8)))

    async def run() -> None:
        demand, chunks, ended = Demand(), list[list[bytes]](), asyncio.Event()
        NdjsonSource(path).stream(demand).subscribe(chunks.append, on_completed=ended.set)
        for turn, expected in enumerate([[b"0", b"1", b"2"], [b"3", b"4", b"5"], [b"6", b"7"]], 1):
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(chunks) == turn - 1
            demand.gate.release()
            for _ in range(20):
                await asyncio.sleep(0)
            assert chunks[-1] == expected
        demand.gate.release()
        async with asyncio.timeout(60):
            await ended.wait()

    asyncio.run(run())


def test_an_observer_that_raises_does_not_receive_its_error_as_the_file_s(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"x\n")
    reported: list[dict[str, Any]] = []

    async def run() -> list[Exception]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        errors: list[Exception] = []

        def fail(_: object) -> None:
            raise ZeroDivisionError

        NdjsonSource(path).stream().subscribe(fail, errors.append)
        for _ in range(20):
            await asyncio.sleep(0)
        return errors

    assert asyncio.run(run()) == []
    gc.collect()  # a task reports what nobody asked it for when it goes
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]
    assert str(path) not in open_files()


def test_arguments_out_of_range() -> None:
    with pytest.raises(ArgumentError):
        NdjsonSource("x", max_line=0)


@both
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("block_size", [*range(1, 24), 60])
def test_any_size_of_block_gives_the_same_lines(
    read: Callable[..., Seen], tmp_path: Path, blocks: Blocks, packed: bool, block_size: int
) -> None:
    path = tmp_path / "events"
    whole = b'\xef\xbb\xbf{"a":1}\r\n\r\n\n{"b":"\xc3\xa4\\r"}\nx\rx\n{"c":3}\r'
    path.write_bytes(gzip.compress(whole[:20]) + gzip.compress(whole[20:]) if packed else whole)
    blocks(block_size)
    seen = read(NdjsonSource(path))
    assert seen.lines == [b'{"a":1}', b'{"b":"\xc3\xa4\\r"}', b"x\rx", b'{"c":3}']
    assert [number for _, number in seen.numbers] == [1, 4, 5, 6]
    assert (seen.completed, seen.errors) == (1, [])


@both
def test_a_mark_is_taken_off_every_file_but_only_at_its_start(read: Callable[..., Seen], tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    for name in "12":
        (tmp_path / name).write_bytes(mark + b"a\n" + mark + b"b")
    seen = read(NdjsonSource(tmp_path / "1", tmp_path / "2"))
    assert seen.lines == [b"a", mark + b"b"] * 2


@both
@pytest.mark.parametrize("data", [b"\x1f", b"\x1f\x1f", b"\x8b\x1f", b"{"])
def test_a_part_of_the_magic_is_no_gzip(read: Callable[..., Seen], tmp_path: Path, blocks: Blocks, data: bytes) -> None:
    path = tmp_path / "events"
    path.write_bytes(data)
    for block_size in (1, 100):
        blocks(block_size)
        seen = read(NdjsonSource(path))
        assert (seen.lines, seen.completed, seen.errors) == ([data], 1, [])


@both
@pytest.mark.parametrize("rest", [b"", b"\x08", b"\x08\x00"])
def test_the_magic_and_little_else_is_gzip_cut_short(
    read: Callable[..., Seen], tmp_path: Path, blocks: Blocks, rest: bytes
) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"\x1f\x8b" + rest)
    blocks(1)
    seen = read(NdjsonSource(path))
    assert (seen.lines, seen.completed, [type(error) for error in seen.errors]) == ([], 0, [EOFError])


@both
@pytest.mark.parametrize("garbage", [b"\x1f\x8bgarbage" * 3, b"\x1f\x8b\x08" + b"\xff" * 100])
def test_the_magic_and_garbage_is_damaged_gzip(
    read: Callable[..., Seen], tmp_path: Path, blocks: Blocks, garbage: bytes
) -> None:
    path = tmp_path / "events"
    path.write_bytes(garbage)
    for block_size in (1, 100):
        blocks(block_size)
        seen = read(NdjsonSource(path))
        assert (seen.lines, seen.completed) == ([], 0)
        assert isinstance(seen.errors[0], gzip.BadGzipFile)
        assert str(path) in str(seen.errors[0])
        assert str(path) not in open_files()


@pytest.mark.parametrize("block_size", [1, 100])
def test_damage_within_a_member_comes_after_the_lines_of_the_blocks_before_it(
    tmp_path: Path, blocks: Blocks, block_size: int
) -> None:
    path = tmp_path / "events"
    packed = bytearray(gzip.compress(b"".join(b"line %d\n" % number for number in range(2000))))
    packed[-8] ^= 0xFF  # the checksum
    path.write_bytes(packed)
    blocks(block_size)
    seen = pulled(NdjsonSource(path))
    assert isinstance(seen.errors[0], gzip.BadGzipFile)
    assert len(seen.lines) == 2000
    assert "after line 2000" in str(seen.errors[0])


@both
def test_i15_a_missing_file_among_others_is_an_error_before_the_first_is_read(
    read: Callable[..., Seen], tmp_path: Path
) -> None:
    here, missing = tmp_path / "here", tmp_path / "missing"
    here.write_bytes(b"a\nb")
    seen = read(NdjsonSource(here, missing, here))
    assert seen.lines == []
    assert [type(error) for error in seen.errors] == [FileNotFoundError]
    assert str(missing) in str(seen.errors[0])
    assert seen.completed == 0
    assert not {str(here), str(missing)} & open_files()


@both
def test_standard_input_that_is_closed_is_an_error(read: Callable[..., Seen], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    seen = read(NdjsonSource())
    assert (seen.lines, seen.completed, [type(error) for error in seen.errors]) == ([], 0, [OSError])


@both
def test_standard_input_is_left_open(read: Callable[..., Seen]) -> None:
    with standard_input(b"a\nb") as _:
        assert read(NdjsonSource()).lines == [b"a", b"b"]
        os.fstat(0)


@both
def test_lines_that_are_too_long_are_never_held_in_a_plain_file_either(
    read: Callable[..., Seen], tmp_path: Path
) -> None:
    path = tmp_path / "events"
    with path.open("wb") as file:
        for _ in range(3):
            file.write(b'{"b":"')
            for _ in range(16):
                file.write(b"x" * MIB)
            file.write(b'"}\n{}\n')
        file.write(b"y" * MIB * 16)
    tracemalloc.start()
    seen = read(NdjsonSource(path, max_line=MIB))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(line) < 1000 for line in seen.lines] == [True] * 7
    assert [line[:1] for line in seen.lines] == [b"{"] * 6 + [b"y"]
    assert [number for _, number in seen.numbers] == list(range(1, 8))
    assert peak < 4 * MIB


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(8, 40), st.integers(1, 50))
def test_a_line_is_cut_if_and_only_if_it_is_too_long(sizes: list[int], max_line: int, block: int) -> None:
    lines, found = Reader(path="here", max_line=max_line), list[tuple[int, bytes]]()
    texts = [b'{"x":"%b"}' % (b"x" * size) for size in sizes]
    data = b"\n".join(texts)
    for chunks in (*(lines.feed(data[start : start + block]) for start in range(0, len(data), block)), lines.end()):
        for chunk in chunks:
            found += [(line_of(lines, line) or 0, line) for line in chunk]
    assert [number for number, _ in found] == list(range(1, len(sizes) + 1))
    for number, line in found:
        text = texts[number - 1]
        assert line == text if len(text) <= max_line else line.endswith(b"\0")


# ── decoding a chunk at once ──────────────────────────────────────────────────────────────────────────────────────────

GOOD = b'{"id":"a","n":{"x":1}}\n' * 3
SHAPES = {
    "lines": GOOD,
    "blank lines": GOOD + b"\n\n" + GOOD,
    "CRLF": GOOD.replace(b"\n", b"\r\n"),
    "no end": GOOD + b'{"id":"b"}',
    "UTF-8": GOOD + '{"id":"ü","t":"ö"}\n'.encode(),
    "no UTF-8 in a field that is not read": GOOD + b'{"id":"b","t":"\xff"}\n' + GOOD,
    "no UTF-8 behind": GOOD + b'{"id":"b","t":"\xff',
    "malformed": GOOD + b'{"id":}\n' + GOOD,
    "cut short": GOOD + b'{"id":{}\n' + GOOD,
    "two on a line, one on two": b'{"id":1}{"id":2}\n{"id":\n3}\n',
    "two on a line, one on two with braces": b'{"id":1}{"id":2}\n{"x":{"y":1},"id":\n{"z":3}}\n',
    "other types": b'{"id":1}\n{"id":"1"}\n{"id":1.0}\n{"id":true}\n{"id":null}\n{"id":[1]}\n{}\n',
    "a large integer": b'{"id":1}\n{"id":2305843009213693952}\n',
    "a long key": b'{"id":1}\n{"id":"%s"}\n' % (b"x" * 70_000),
    "no objects": b'{"id":1}\n5\n"a"\n{"id":2}\n',
    "an array": b'[{"id":1},\n{"id":2}\n]\n',
    "a dead letter": GOOD + b'{"dead_letter":"failed","event":{"id":"d"},"count":1}\n',
    "a dead letter alone": b'{"dead_letter":"failed","event":{"id":"d"},"count":1}\n',
    "dead letters": b'{"dead_letter":"failed","event":{"id":"d"},"count":2}\n{"id":1}\n',
}


def mapped(chunk: Sequence[bytes]) -> list[Any]:
    """Return the key of each event, or the text of its error."""
    keys, _, errors = ChunkMapper(key_of("id"), None).map(chunk)
    return [(event, str(errors[at]) if at in errors else keys[at]) for at, event in enumerate(chunk)]


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("block_size", [1, 16, 100, 1 << 17])
def test_a_chunk_has_the_keys_of_its_events(text: bytes, blocks: Blocks, block_size: int, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(text)
    found: list[Any] = []
    each: list[Any] = []
    blocks(block_size)
    for chunk in read(NdjsonSource(path)):
        found += mapped(chunk)
        each += [one for event in chunk for one in mapped([event])]
    assert repr(found) == repr(each)
    assert found


@pytest.mark.parametrize("shape", ["lines", "blank lines", "CRLF", "no end", "UTF-8"])
def test_lines_of_objects_are_decoded_at_once(shape: str, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(SHAPES[shape])
    texts = [chunk.text for chunk in read(NdjsonSource(path))]
    assert texts[0] is not None
    assert bytes(texts[0]) in SHAPES[shape]


def test_an_event_that_is_too_long_is_rejected_where_a_chunk_is_decoded_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(GOOD + b'{"id":"b","t":"%s"}\n' % (b"x" * 5000) + GOOD)
    (chunk,) = read(NdjsonSource(path, max_line=1000))
    assert [key for _, key in mapped(chunk)].count("a") == 6
    assert mapped(chunk)[3][1] == "longer than 1000 bytes"


def read(source: NdjsonSource) -> list[Any]:
    chunks: list[Any] = []
    source.stream().subscribe(chunks.append)
    return chunks
