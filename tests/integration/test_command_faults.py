"""rxcompact compact with faults of input and output: it reports them, ends, and loses no good line."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from commands import run_command

from rxcompact.commands import demo

COMMAND = [sys.executable, "-m", "rxcompact", "compact"]
REPLAY = pytest.mark.parametrize("replay", [[], ["--time=t"]], ids=["live", "replay"])


def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
    done = run_command("compact", *arguments, **options)
    assert b"Traceback" not in done.stderr
    assert b"never retrieved" not in done.stderr
    return done


@REPLAY
@pytest.mark.parametrize("bad", [b'"x":"\xff"', b'"x":[1,]', b'"x":"\\ud800"'])
def test_a_bad_line_does_not_affect_good_ones_of_its_key(replay: list[str], bad: bytes) -> None:
    good = b'{"k":"a","t":1}\n'
    given = b'{"k":"a","t":1,' + bad + b"}\n"
    for stdin in (given + good * 3, good * 3 + given, good + given + good * 2):
        done = run("--key=k", "--timespan=60", *replay, given=stdin)
        (row,) = map(json.loads, done.stdout.splitlines())
        assert (row["key"], row["count"], row["event"]) == ("a", 3, {"k": "a", "t": 1})
        account = b"received 4, duplicates 2, distinct 1, late 0, rejected 1 (malformed 1), ratio 0.5000\n"
        assert done.stderr.endswith(b" (--verbose shows the others)\n" + account)


@REPLAY
@pytest.mark.parametrize("number", [b"1e999", b"9" * 5000], ids=["1e999", "5,000 digits"])
def test_a_number_beyond_doubles_in_an_unread_field_is_passed_on(replay: list[str], number: bytes) -> None:
    line = b'{"k":"a","t":1,"x":' + number + b"}"
    done = run("--key=k", "--timespan=60", *replay, given=line + b'\n{"k":"a","t":1}\n')
    assert b'"count":2,' in done.stdout
    assert done.stdout.endswith(b'"event":' + line + b"}\n")


def test_each_bad_line_is_reported_with_its_number() -> None:
    done = run("--timespan=60", "--verbose", given=b'bad\nworse\n{"a":}\n\n1\n{}\n')
    assert [line.split(b": ")[0] for line in done.stderr.splitlines()[:-1]] == [b"-:1", b"-:2", b"-:3", b"-:5"]


def test_a_late_line_is_not_a_bad_one_for_strict() -> None:
    done = run("--timespan=10", "--time=t", "--strict", given=b'{"t":20}\n{"t":1}\n{"t":21}')
    assert done.returncode == 0
    assert b"late 1 (by up to 19 s; --lateness 19 keeps them), rejected 0," in done.stderr


@REPLAY
def test_a_full_disk_exits_with_2(replay: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run("--key=k", "--timespan=60", *replay, given=b'{"k":1,"t":1}\n', stdout=full)
    assert done.returncode == 2
    assert b"No space left on device" in done.stderr


def test_a_full_disk_exits_with_2_while_the_input_idles() -> None:
    with (
        Path("/dev/full").open("wb") as full,
        subprocess.Popen(
            [*COMMAND, "--timespan=0.1"], stdin=subprocess.PIPE, stdout=full, stderr=subprocess.PIPE
        ) as process,
    ):
        assert process.stdin and process.stderr
        process.stdin.write(b'{"k":1}\n')
        process.stdin.flush()
        assert process.wait(30) == 2  # though the input stays open
        assert b"No space left on device" in process.stderr.read()


@REPLAY
def test_corrupt_gzip_exits_with_2(replay: list[str], tmp_path: Path) -> None:
    path = tmp_path / "events.gz"
    path.write_bytes(gzip.compress(b'{"k":1,"t":1}\n') + b"garbage")
    done = run("--key=k", "--timespan=60", *replay, path, given=b"")
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert str(path).encode() in done.stderr


@REPLAY
def test_a_closed_standard_input_exits_with_2(replay: list[str]) -> None:
    shell = f"{sys.executable} -m rxcompact compact --timespan=1 {' '.join(replay)} <&-"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, timeout=30)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"standard input" in done.stderr


@pytest.mark.parametrize("key", ["", ",", "a,", ",a"])
def test_a_field_without_a_name_exits_with_2(key: str) -> None:
    assert run("--timespan=1", f"--key={key}", given=b"").returncode == 2


def test_output_has_one_line_for_each_event_whatever_its_white_space() -> None:
    done = run("--timespan=60", given=b'{"a":\r1,\t"b" : [ 1 ]}\n')
    (line,) = done.stdout.split(b"\n")[:-1]
    assert json.loads(line)["event"] == {"a": 1, "b": [1]}


def test_live_and_verbose_exclude_each_other() -> None:
    arguments = ["--listen=:0", "--key=k", "--timespan=1", "--max-age=9", "--publish=http://127.0.0.1:9/"]
    done = subprocess.run(
        [sys.executable, "-m", "rxcompact", "serve", *arguments, "--live", "--verbose"], capture_output=True, timeout=30
    )
    assert done.returncode == 2
    assert b"not allowed with argument --live" in done.stderr


def test_a_demo_whose_reader_is_gone_ends_quietly() -> None:
    shell = f"set -o pipefail; {sys.executable} -m rxcompact demo | head -1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, timeout=60)
    assert not done.stderr, done.stderr.decode()
    assert done.returncode == 141
    assert b"received" in done.stdout


@pytest.mark.parametrize("other", [None, ValueError("a fault of the storm")])
def test_a_demo_hides_no_other_error_behind_a_reader_that_is_gone(
    other: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def live(_: Any) -> None:
        raise BrokenPipeError

    async def storm(*_: Any) -> None:
        if other is not None:
            raise other

    monkeypatch.setattr(demo, "live", live)
    monkeypatch.setattr(demo.World, "storm", storm)
    with pytest.raises(BrokenPipeError if other is None else ExceptionGroup) as raised:
        demo.run(Namespace())
    if other is not None:
        assert isinstance(raised.value, ExceptionGroup)
        assert raised.value.subgroup(ValueError)
