"""Options of the commands, the environment, secrets, usage errors: rows I6, I9, I12, I15, I16, H6, H8, L23."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import run_command

from rxcompact.__main__ import main
from rxcompact.commands.common import address as parse_address
from rxcompact.commands.common import duration, from_environment, read_token
from rxcompact.commands.serve import _header

ADDRESS = "--listen must be HOST:PORT, :PORT or [IPV6]:PORT, with a port up to 65535,"
NO_URL = "url must be an absolute URL, http://HOST/PATH; behind the host {FIELD} stands for the value of a field,"
SERVE = ["--key=id", "--timespan=1", "--max-age=2"]


def usage(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that exits with 2; return the last line of its error."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


# ── durations ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 10), ("0.5", 0.5), ("500ms", 0.5), ("10s", 10), ("1.5s", 1.5), ("5m", 300), ("1h", 3600), ("2d", 172800),
        ("1h30m", 5400), ("inf", float("inf")), ("-1", -1), ("1e3", 1000),
    ],
)  # fmt: skip
def test_i15_a_duration_has_a_unit_or_is_in_seconds(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "10 s", "s", "10y", "5m3", "1:30"])
def test_i15_an_invalid_duration_is_named_with_the_forms_that_are_valid(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"not a duration: '{text}' .10, 0.5, 500ms, 10s, 5m, 1h"):
        duration(text)


def test_i15_the_timespan_of_a_command_has_a_unit() -> None:
    done = run_command("compact", "--key=id", "--timespan=1m", "--time=t", given=b'{"id":1,"t":61}\n')
    assert b'{"opened":60.0,"closed":120.0,"key":1,"count":1,' in done.stdout


def test_i15_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    name, version = capsys.readouterr().out.split()
    assert name == "rxcompact"
    assert version[0].isdigit()


# ── usage errors ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--listen=:99999"], f"{ADDRESS} got ':99999'"),
        (["--listen=nowhere"], f"{ADDRESS} got 'nowhere'"),
        (["--listen=::1:80"], f"{ADDRESS} got '::1:80'"),
        (["--listen=:0", "--path=events"], "path must be a path that begins with '/', got 'events'"),
        (["--listen=:0", "--enrich=http://x/{host"], f"{NO_URL} got 'http://x/{{host'"),
        (["--listen=:0", "--enrich=/hosts/{host}"], f"{NO_URL} got '/hosts/{{host}}'"),
        (["--listen=:0", "--publish=store:9200/x"], f"{NO_URL} got 'store:9200/x'"),
        (["--listen=:0", "--max-body=0"], "max_body must be a whole number, at least 1, got 0"),
        (["--listen=:0", "--success-status=302"], "success_status must be from 200 to 299, got 302"),
        (["--listen=:0", "--header=secret"], "argument --header: not a header: NAME:VALUE expected"),
        (["--listen=:0", "--token="], "token must be not empty, got ''"),
        (["--listen=:0", "--token-file=/no/such/file"], "[Errno 2] No such file or directory: '/no/such/file'"),
        (["--listen=:0", "--timespan=0"], "timespan must be a duration above 0 s, got 0.0"),
        (["--listen=:0", "--max-ag=1"], "unrecognized arguments: --max-ag=1"),
    ],
)  # fmt: skip
def test_h6_l23_a_usage_error_names_the_value_and_the_way_out(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert usage("serve", *SERVE, *arguments, capsys=capsys).endswith(f"error: {error}")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8080", ("0.0.0.0", 8080)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("[::1]:8080", ("::1", 8080)),
    ],
)
def test_h6_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address("--listen", text) == address


def test_i15_all_paths_are_checked_before_the_first_is_read(tmp_path: Path) -> None:
    good = tmp_path / "good.ndjson"
    good.write_text('{"id":1}\n')
    for bad, error in ((tmp_path / "missing", b"No such file"), (tmp_path, b"Is a directory")):
        done = run_command("compact", "--key=id", "--timespan=1", good, bad, given=b"")
        assert (done.returncode, done.stdout) == (2, b"")
        assert error in done.stderr.splitlines()[-1]
        assert str(bad).encode() in done.stderr.splitlines()[-1]


def test_i12_several_keys_and_spaces() -> None:
    line = b'{"host":"a","alert":"x","n":1}\n{"host":"a","alert":"y","n":1}\n'
    for keys in (["--key=host", "--key=alert"], ["--key=host, alert"], ["--key= host ,alert"]):
        done = run_command("compact", "--timespan=1", *keys, given=line)
        assert b'"key":["a","x"]' in done.stdout
        assert b'"key":["a","y"]' in done.stdout


# ── the environment ───────────────────────────────────────────────────────────────────────────────────────────────────


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser()
    found.add_argument("--max-age", type=float)
    found.add_argument("--key", action="append")
    found.add_argument("--gzip", action="store_true")
    group = found.add_mutually_exclusive_group(required=True)
    group.add_argument("--listen")
    group.add_argument("--source")
    return found


def parsed(arguments: list[str], **environment: str) -> dict[str, Any]:
    variables = {f"RXCOMPACT_{name}": value for name, value in environment.items()}
    found = parser()
    return vars(found.parse_args(from_environment(found, arguments, variables)))


def test_h8_every_option_can_be_given_by_the_environment() -> None:
    assert parsed([], MAX_AGE="5", KEY="a", GZIP="1", LISTEN=":80", OTHER="x") == {
        "max_age": 5.0, "key": ["a"], "gzip": True, "listen": ":80", "source": None,
    }  # fmt: skip
    assert parsed(["--listen=:80"], GZIP="off")["gzip"] is False


def test_an_option_on_the_command_line_replaces_its_variable_and_that_of_one_it_excludes() -> None:
    found = parsed(["--max-age", "7", "--key=b", "--source=s"], MAX_AGE="5", KEY="a", LISTEN=":80")
    assert found == {"max_age": 7.0, "key": ["b"], "gzip": False, "listen": None, "source": "s"}


def test_a_variable_with_an_invalid_value_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    for name, value, error in (
        ("MAX_AGE", "x", "--max-age: invalid"),
        ("GZIP", "maybe", "RXCOMPACT_GZIP must be 1 or 0"),
    ):
        with pytest.raises(SystemExit):
            parsed(["--listen=:80"], **{name: value})
        assert error in capsys.readouterr().err


def test_options_of_compact_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "rxcompact", "compact"]
    environment = os.environ | {"RXCOMPACT_KEY": "id", "RXCOMPACT_TIMESPAN": "1m"}
    done = subprocess.run(command, input=b'{"id":"a"}\n', capture_output=True, env=environment, timeout=60)
    assert done.returncode == 0
    assert b'"key":"a"' in done.stdout


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_h8_the_token_comes_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "token"
    path.write_text("secret\n")
    assert read_token("--token-file", str(path)) == "secret"
    path.write_text("\n")
    error = usage("serve", *SERVE, "--listen=:0", f"--token-file={path}", capsys=capsys)
    assert "error: --token-file must be a file with a token" in error


def test_h8_a_header_is_a_name_and_a_value_which_no_error_shows() -> None:
    assert _header("Authorization: Bearer a:b") == ("Authorization", "Bearer a:b")
    for text in ("SECRET", ": SECRET", "A B: SECRET", "A: SECRET\nB: x"):
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            _header(text)
        assert "SECRET" not in str(caught.value)


# ── terminals and streams ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("command", [[], ["compact"], ["serve"], ["suggest"], ["demo"]])
def test_i16_help_on_a_terminal_that_is_not_utf_8(command: list[str]) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "rxcompact", *command, "--help"], capture_output=True, env=environment, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"usage: rxcompact" in done.stdout


def shell(command: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    line = f"{sys.executable} -m rxcompact {command}"
    return subprocess.run(["bash", "-c", line], input=given, capture_output=True, timeout=60)


def test_i16_a_closed_standard_output_ends_compact_quietly() -> None:
    done = shell("compact --key=id --timespan=1 >&-", b'{"id":1}\n')
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_i16_a_closed_standard_error_does_not_mix_into_the_output() -> None:
    done = shell("compact --key=id --timespan=1 2>&-", b'{"id":1}\nbad\n')
    assert done.returncode == 0
    assert [line[:2] for line in done.stdout.splitlines()] == [b'{"']


# ── the account and the exit code ─────────────────────────────────────────────────────────────────────────────────────


def test_i9_where_every_line_is_bad_the_exit_code_is_1() -> None:
    done = run_command("compact", "--key=id", "--timespan=1", "--time=tss", given=b'{"id":1,"ts":1}\n' * 3)
    assert (done.returncode, done.stdout) == (1, b"")
    first, *_, account = done.stderr.splitlines()
    assert first.startswith(b"-:1: rejected: ")
    assert account.startswith(b"received 3, duplicates 0, distinct 0, late 0, rejected 3")


def test_i9_no_input_is_no_error() -> None:
    done = run_command("compact", "--key=id", "--timespan=1", given=b"")
    assert (done.returncode, done.stdout) == (0, b"")


def test_i9_the_place_and_reason_of_the_first_bad_line_are_always_shown() -> None:
    done = run_command("compact", "--key=id", "--timespan=1", given=b'{"id":1}\nbad\n{"id":2}\n[3]\nbad\n')
    assert done.returncode == 0
    first, account = done.stderr.splitlines()
    assert first.startswith(b"-:2: rejected: ")
    assert first.endswith(b" (--verbose shows the others)")
    assert b"rejected 3 (malformed 3)" in account


def events(first: int, last: int) -> bytes:
    return b"".join(b'{"id":%d,"ts":%d}\n' % (second % 7, second) for second in range(first, last))


HOUR = 1_699_999_200  # 2023-11-14T22:00:00Z


def test_windows_per_key_a_leading_edge_and_merged_fields_are_options(capsys: pytest.CaptureFixture[str]) -> None:
    lines = b"".join(b'{"id":"a","ts":%d,"n":1,"host":"h%d"}\n' % (ts, ts) for ts in (0, 1, 2, 7, 8))
    options = ["compact", "--key=id", "--timespan=1m", "--time=ts", "--gap=3s", "--merge=n=sum,host=distinct"]
    done = run_command(*options, given=lines)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["opened"], row["closed"], row["count"], row["event"]["n"]) for row in rows] == [
        (0, 5, 3, 3),
        (7, 11, 2, 2),
    ]
    assert [row["event"]["host"] for row in rows] == [["h0", "h1", "h2"], ["h7", "h8"]]
    done = run_command(*options, "--leading", given=lines)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row.get("leading", False), row["first_seen"], row["count"]) for row in rows] == [
        (True, 0, 1),
        (True, 7, 1),
        (False, 0, 2),
        (False, 7, 1),
    ]
    for options in (["compact", "--key=id", "--timespan=1"], ["serve", "--listen=:0", *SERVE]):
        error = usage(*options, "--merge=n=mean", capsys=capsys)
        assert (
            "merge must be a field without [], and one of sum, min, max, first, last, distinct, got 'n=mean'" in error
        )


def test_i6_late_events_are_reported_with_the_lateness_that_keeps_them(tmp_path: Path) -> None:
    path = tmp_path / "two hosts"
    path.write_bytes(events(HOUR, HOUR + 3600) * 2)
    options = ["compact", "--key=id", "--timespan=20s", "--time=ts", path]
    done = run_command(*options, given=b"")
    warning, account = done.stderr.decode().splitlines()
    # all of the second host's hour but for its last window, which was still open
    assert "late 3580 (by up to 3599 s; --lateness 3599 keeps them), rejected 0," in account
    assert warning == (
        "rxcompact: warning: 50% of the events came after their window had closed; --lateness 3599 keeps them"
    )
    for lateness in ("3599", "inf"):
        done = run_command(*options, f"--lateness={lateness}", given=b"")
        # 180 windows of 7 keys
        assert done.stderr.decode() == (
            "received 7200, duplicates 5940, distinct 1260, late 0, rejected 0, ratio 0.8250\n"
        )


def test_i6_a_few_late_events_are_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(events(HOUR, HOUR + 1000) + events(HOUR, HOUR + 1))
    done = run_command("compact", "--key=id", "--timespan=10s", "--time=ts", path, given=b"")
    assert done.stderr.decode() == (
        "received 1001, duplicates 300, distinct 700, late 1 (by up to 999 s; --lateness 999 keeps them), rejected 0, "
        "ratio 0.2997\n"
    )


def test_i6_several_files_are_read_in_the_order_of_their_first_times(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("app.log", "app.log.1", "app.log.2")]
    for number, path in enumerate(paths):  # newest first, as log rotation names them
        start = HOUR - number * 600
        path.write_bytes((b"# no time in the first line\n" if number == 1 else b"") + events(start, start + 600))
    done = run_command("compact", "--key=id", "--timespan=1m", "--time=ts", *paths, given=b"")
    assert "late 0, rejected 1 (malformed 1)," in done.stderr.decode()
    # 30 windows of 7 keys
    assert len(done.stdout.splitlines()) == 210


def test_what_the_library_logs_later_goes_where_the_command_logs() -> None:
    program = (
        "import argparse\n"
        "from rxcompact.commands.common import configure_log\n"
        "from rxcompact.log import log\n"
        "configure_log(argparse.Namespace(log_format='json', log_level='WARNING', verbose=False))\n"
        "for level in ('INFO', 'WARNING'):\n"
        "    log(level, 'set by {} s', 5)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["level"], line["message"]) == ("WARNING", "set by 5 s")
