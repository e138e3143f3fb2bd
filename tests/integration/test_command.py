"""rxcompact compact, as its users run it."""

from __future__ import annotations

import gzip
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import run_command

COMMAND = [sys.executable, "-m", "rxcompact", "compact"]


def compact(*arguments: Any, stdin: str | bytes = "", code: int = 0) -> tuple[list[dict[str, Any]], str]:
    given = stdin.encode() if isinstance(stdin, str) else stdin
    done = run_command("compact", *arguments, given=given)
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def test_one_line_for_each_distinct_event() -> None:
    rows, account = compact("--key=id", "--timespan=60", stdin='{"id":"a","n":1}\n{"id":"b"}\n{"id":"a","n":2}\n')
    assert [(row["key"], row["count"], row["event"]) for row in rows] == [
        ("a", 2, {"id": "a", "n": 1}), ("b", 1, {"id": "b"}),
    ]  # fmt: skip
    assert set(rows[0]) == {"opened", "closed", "key", "count", "first_seen", "last_seen", "event"}
    assert abs(rows[0]["opened"] - time.time()) < 60
    assert account == "received 3, duplicates 1, distinct 2, late 0, rejected 0, ratio 0.3333\n"


def test_keys_of_different_json_types_are_distinct() -> None:
    lines = ['{"k":1}', '{"k":1.0}', '{"k":true}', '{"k":"1"}', '{"k":null}', "{}", '{"k":[1,{"b":2,"a":1}]}',
             '{"k":[1, {"a":1,"b":2}]}', '{"k":{}}']  # fmt: skip
    rows, _ = compact("--key=k", "--timespan=60", stdin="\n".join(lines))
    assert [json.dumps(row["key"]) for row in rows] == [
        "1", "1.0", "true", '"1"', "null", '[1, {"a": 1, "b": 2}]', "{}",
    ]  # fmt: skip
    assert [row["count"] for row in rows] == [1, 1, 1, 1, 2, 2, 1]


def test_the_key_of_several_fields_is_an_array_and_of_none_the_event() -> None:
    rows, _ = compact("--key=a,b.c", "--timespan=60", stdin='{"a":1,"b":{"c":2}}\n{"a":1,"b":{"c":2},"x":1}\n{"a":1}')
    assert [(row["key"], row["count"]) for row in rows] == [([1, 2], 2), ([1, None], 1)]
    rows, _ = compact("--timespan=60", stdin='{"a":1,"b":2}\n{"b":2,"a":1}\n{"a":1}')
    assert [(row["key"], row["count"]) for row in rows] == [({"a": 1, "b": 2}, 2), ({"a": 1}, 1)]


def test_a_name_is_looked_up_whole_before_it_is_a_path() -> None:
    rows, _ = compact("--key=id.h", "--timespan=60", stdin='{"id.h":"whole","id":{"h":"path"}}\n{"id":{"h":"path"}}')
    assert [row["key"] for row in rows] == ["whole", "path"]


def test_keep_and_count() -> None:
    lines = "".join(f'{{"id":"{key}","n":{n}}}\n' for n, key in enumerate("abaac"))
    rows, _ = compact("--key=id", "--timespan=60", "--keep=last", "--count=2", stdin=lines)
    assert [(row["key"], row["event"]["n"], row["count"]) for row in rows] == [
        ("a", 0, 1), ("b", 1, 1), ("a", 3, 2), ("c", 4, 1),
    ]  # fmt: skip


def test_replay_by_a_field() -> None:
    lines = [
        '{"ts":"2018-03-24T17:15:20.865716Z"}', '{"ts":"2018-03-24 17:15:29"}', '{"ts":1521911721}',
        '{"ts":1521911722000}', '{"ts":"2018-03-24T18:15:31.5+01:00"}', '{"ts":"2018-03-24T17:15:19Z"}',
    ]  # fmt: skip
    rows, account = compact("--key=x", "--timespan=10", "--time=ts", stdin="\n".join(lines), code=1)
    assert [(row["opened"], row["closed"], row["count"]) for row in rows] == [
        (1521911720, 1521911730, 4), (1521911730, 1521911740, 1),
    ]  # fmt: skip
    assert rows[0]["first_seen"] == 1521911720.865716
    assert "late 1 (by up to 12.5 s; --lateness 12.5 keeps them)," in account
    rows, account = compact("--key=x", "--timespan=10", "--time=ts", "--lateness=12.5s", stdin="\n".join(lines), code=1)
    assert [row["count"] for row in rows] == [1, 4, 1]
    assert "late 0," in account


@pytest.mark.parametrize(("zone", "epoch"), [("Europe/Vienna", 1521911720 - 3600), ("+05:30", 1521911720 - 19800)])
def test_a_time_without_an_offset_is_in_the_time_zone(zone: str, epoch: int) -> None:
    line = '{"ts":"2018-03-24T17:15:20"}'
    rows, _ = compact("--key=x", "--timespan=10", "--time=ts", "--timezone", zone, stdin=line, code=1)
    assert rows[0]["opened"] == epoch


BAD = ['{"ts":1}', "bad", "[1]", "", '{"ts":"x"}', '{"ts":1,"n":1e999}', '{"ts":1} {"ts":1}', '{"ts":2}']


def test_a_bad_line_is_rejected_with_its_number_and_reason() -> None:
    rows, account = compact("--key=n", "--timespan=10", "--time=ts", "--verbose", stdin="\n".join(BAD), code=1)
    assert [row["count"] for row in rows] == [4]
    *why, total = account.splitlines()
    assert [line.split(": ")[0] for line in why] == ["-:2", "-:3", "-:5", "-:6", "rxcompact"]
    assert "has the field 'n'" in why[4]
    assert "not a timestamp: 'x'" in why[2]
    assert total == ("received 8, duplicates 3, distinct 1, late 0, rejected 4 (malformed 3, time 1), ratio 0.3750")
    compact("--key=n", "--timespan=10", "--time=ts", "--strict", stdin="\n".join(BAD), code=1)
    compact("--key=n", "--timespan=10", "--strict", stdin='{"n":1}')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--timespan"),
        (["--timespan=0"], "timespan must be a duration above 0 s, got 0.0"),
        (["--timespan=x"], "not a duration: 'x' (10, 0.5, 500ms, 10s, 5m, 1h)"),
        (["--timespan=1", "--lateness=1"], "--lateness needs --time"),
        (["--timespan=1", "--time=ts", "--lateness=-1"], "lateness must be"),
        (["--timespan=1", "--count=0"], "count must be a whole number, at least 1, got 0"),
        (["--timespan=1", "--timezone=Nowhere"], "not a time zone: 'Nowhere'"),
        (["--timespan=1", "/no/such/file"], "No such file or directory: '/no/such/file'"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_the_value(arguments: list[str], message: str) -> None:
    _, errors = compact(*arguments, code=2)
    assert message in errors


def test_several_files_are_one_stream(tmp_path: Path) -> None:
    plain, packed = tmp_path / "1.ndjson", tmp_path / "2.gz"
    plain.write_text('{"id":"a"}\r\n{"id":"b"}')
    packed.write_bytes(gzip.compress(b'{"id":"a"}\n') + gzip.compress(b'{"id":"c"}\n'))
    rows, _ = compact(plain, packed, "-", "--key=id", "--timespan=60", stdin=gzip.compress(b'{"id":"a"}\n'))
    assert [(row["key"], row["count"]) for row in rows] == [("a", 3), ("b", 1), ("c", 1)]


def test_truncated_gzip_is_reported_and_its_beginning_kept(tmp_path: Path) -> None:
    packed = tmp_path / "cut.gz"
    packed.write_bytes(gzip.compress(b"".join(b'{"id":%d}\n' % n for n in range(100_000)))[:-1000])
    rows, errors = compact(packed, "--key=id", "--timespan=60", code=2)
    assert len(rows) > 1000
    assert "gzip is cut short" in errors


def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*COMMAND, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)


def test_live_windows_close_by_the_clock_while_the_input_idles() -> None:
    with start("--key=id", "--timespan=0.3", stderr=subprocess.DEVNULL) as process:
        assert process.stdin and process.stdout
        process.stdin.write(b'{"id":"a"}\n{"id":"a"}\n')
        process.stdin.flush()
        row = json.loads(process.stdout.readline())  # it comes though the input stays open
        assert (row["key"], row["count"]) == ("a", 2)
        process.stdin.close()
        assert process.wait(30) == 0


def test_h10_a_closed_pipe_ends_the_command_quietly() -> None:
    for time_option in ([], ["--time=ts"]):
        with start("--key=id", "--timespan=1", "--count=1", *time_option, stderr=subprocess.PIPE) as process:
            assert process.stdin and process.stdout and process.stderr
            process.stdout.close()  # as `| head` does when it has enough
            try:
                for n in range(5000):
                    process.stdin.write(b'{"id":%d,"ts":%d}\n' % (n, n))
                process.stdin.close()
            except BrokenPipeError:
                pass
            assert process.stderr.read() == b""
            assert process.wait(30) == 0


@pytest.mark.parametrize("option", [[], ["--time=ts"]])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_i7_a_signal_writes_the_open_window_and_the_account(option: list[str], number: int, code: int) -> None:
    with start("--key=id", "--timespan=1000", "--count=2", *option, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        # the second key closes a window, whose rows show that the chunk has been read; the third is held
        process.stdin.write(b'{"id":"a","ts":1}\n{"id":"b","ts":1}\n' + b'{"id":"c","ts":1}\n' * 1000)
        process.stdin.flush()
        assert [json.loads(process.stdout.readline())["key"] for _ in range(2)] == ["a", "b"]
        process.send_signal(number)
        assert process.wait(30) == code
        assert json.loads(process.stdout.read())["count"] == 1000
        assert process.stderr.read().startswith(b"received 1002, duplicates 999, distinct 3,")


def test_a_terminal_shows_progress() -> None:
    main, terminal = pty.openpty()
    with start("--key=id", "--timespan=0.1", stderr=terminal) as process:
        assert process.stdin and process.stdout
        shown, sent = b"", 0
        while shown.count(b"\r\x1b[Kreceived ") < 2:
            process.stdin.write(b'{"id":"a"}\n')
            process.stdin.flush()
            sent += 1
            while select.select([main], [], [], 0.1)[0]:
                shown += os.read(main, 10_000)
        process.stdin.close()
        process.stdout.read()
        process.wait(30)
    assert b"received %d," % sent in os.read(main, 10_000)


def test_i16_rows_and_progress_do_not_share_a_line_of_a_terminal() -> None:
    main, terminal = pty.openpty()
    command = [*COMMAND, "--key=id", "--timespan=0.1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=terminal, stderr=terminal) as process:
        assert process.stdin
        shown = b""
        end = float("inf")
        while time.monotonic() < end:
            process.stdin.write(b'{"id":"a"}\n')
            process.stdin.flush()
            while not shown.endswith(b"}\r\n"):
                shown += os.read(main, 10_000)
            shown += b" "
            end = min(end, time.monotonic() + 1.5)
        process.stdin.close()
        assert process.wait(30) == 0
    shown += os.read(main, 10_000)
    lines = [line.rpartition(b"\x1b[K")[2].strip() for line in shown.split(b"\r\n")]  # as a terminal shows them
    assert shown.count(b"received ") >= 2
    rows = [json.loads(line) for line in lines if line.startswith(b"{")]
    assert {row["key"] for row in rows} == {"a"}
    assert [line for line in lines if line and not line.startswith((b"{", b"received "))] == []


def test_help_lists_the_options() -> None:
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
    for word in ("--key", "--timespan", "--time ", "--lateness", "--keep", "--count", "examples:", "exit code"):
        assert word in done.stdout
    assert all(len(line) <= 120 for line in done.stdout.splitlines())


def lines(events: int, keys: int) -> Iterator[bytes]:
    block = b"".join(b'{"id":"key-%05d","msg":"%s"}\n' % (n % keys, b"x" * 60) for n in range(100_000))
    for _ in range(events // 100_000):
        yield block


def peak_memory(events: int) -> int:
    """Of the command, in KiB, as the kernel saw it."""
    program = (
        "import resource, runpy, sys\n"
        "sys.argv = ['rxcompact', 'compact', '--key=id', '--timespan=1000', '--keep=last']\n"
        "try:\n    runpy.run_module('rxcompact', run_name='__main__')\n"
        "finally:\n    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stderr
        for block in lines(events, 10_000):
            process.stdin.write(block)
        process.stdin.close()
        account, memory = process.stderr.read().decode().splitlines()
        assert account.startswith(f"received {events}, duplicates {events - 10_000}, distinct 10000,")
        return int(memory)


@pytest.mark.slow
def test_memory_depends_on_keys_not_on_events() -> None:
    assert peak_memory(10_000_000) < 1.1 * peak_memory(500_000)
