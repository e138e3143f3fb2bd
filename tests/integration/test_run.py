"""``rxcompact run``: pipelines of modules and files, probes and metrics beside any source, workers; rows B7, I7."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

import rxcompact
from rxcompact.commands.common import run_loop

RUN = [sys.executable, "-m", "rxcompact", "run"]
POSTED = """
from rxcompact import HttpSource, NdjsonSink, Pipeline, operators as rxo

def owner(event):
    if event["id"] == 3:
        raise ValueError("no such host")
    return event | {"owner": "team-db"}

def make():
    operators = rxo.compact(1000, key_mapper="id"), rxo.enrich(owner), rxo.publish(NdjsonSink())
    return Pipeline(HttpSource(port=0), *operators, max_age=2000)

pipeline = make()
"""
# a source that never ends; each worker writes who it is
WORKER = """
import asyncio, os
from rxcompact import Pipeline, operators as rxo

async def source():
    with open("who", "a") as file:
        file.write(f"{os.environ.get('RXCOMPACT_WORKER')} {os.getpid()}\\n")
    yield {"id": 1}
    await asyncio.sleep(1000)

pipeline = Pipeline(source, rxo.compact(1000, key_mapper="id"), rxo.publish(list), max_age=2000)
"""


PAGE = (Path(rxcompact.__file__).parent / "manual" / "deployment.md").read_text()


def block(language: str) -> str:
    """The first block of the manual's page in a language."""
    return PAGE.partition(f"```{language}\n")[2].partition("\n```")[0]


@contextmanager
def started(folder: Path, *arguments: str, **options: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*RUN, *arguments], cwd=folder, env=os.environ | options, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def address(process: subprocess.Popen[bytes]) -> str:
    """The next URL that is reported."""
    assert process.stderr
    line = process.stderr.readline().decode()
    found = re.search(r"http://\S+", line)
    assert found, line + process.stderr.read().decode()
    return found[0]


def get(url: str) -> tuple[int, str]:
    try:
        with urlopen(url, timeout=60) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    "name", ["alerts:pipeline", "alerts", "alerts:make", "alerts.py", "./alerts.py:make", "alerts.v2.py"]
)
def test_b7_a_pipeline_of_a_module_or_file_is_run(name: str, tmp_path: Path) -> None:
    file = name.partition(":")[0]
    (tmp_path / (file if file.endswith(".py") else f"{file}.py")).write_text(POSTED)
    with started(tmp_path, name, "--status=127.0.0.1:0", "--dead-letters=dead.ndjson") as process:
        status, posts = address(process), address(process)
        body = b'{"id":1}\n{"id":2}\n{"id":1}\n{"id":3}'
        assert urlopen(Request(posts, body), timeout=60).status == 202
        assert get(f"{status}/healthz") == (200, "ok\n")
        assert get(f"{status}/readyz") == (200, "ready\n")
        assert re.search(r"rxcompact_received_events_total\{.*\} 4\.0\n", get(f"{status}/metrics")[1])
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    rows = [json.loads(line) for line in output.splitlines()]
    assert [(row["key"], row["count"], row["event"]["owner"]) for row in rows] == [(1, 2, "team-db"), (2, 1, "team-db")]
    assert errors.splitlines()[-1].startswith(
        b"received 4, duplicates 1, distinct 3, rejected 0, published 2, expired 0"
    )
    assert errors.count(b"received 4") == 1  # the account stands there once, though an event was lost
    assert errors.count(b", 1 event lost") == 1
    (letter,) = map(json.loads, (tmp_path / "dead.ndjson").read_text().splitlines())
    assert (letter["event"], letter["errors"]) == ({"id": 3}, ["ValueError: no such host"])
    assert process.returncode == 0


def test_the_most_frequent_keys_are_answered_to_who_has_the_token(tmp_path: Path) -> None:
    (tmp_path / "alerts.py").write_text(POSTED.replace("compact(1000,", "compact(1000, count=3,"))
    (tmp_path / "token").write_text("sesame\n")
    options = "--status=127.0.0.1:0", "--status-token-file=token"
    with started(tmp_path, "alerts", *options) as process:
        status, posts = address(process), address(process)
        body = b"".join(b'{"id":"%c"}\n' % letter for letter in b"abacab")
        for _ in range(2):
            assert urlopen(Request(posts, body), timeout=60).status == 202
        for credentials in ({}, {"Authorization": "Bearer sesam"}, {"Authorization": "Basic sesame"}):
            with pytest.raises(HTTPError, match="401"):
                urlopen(Request(f"{status}/keys", headers=credentials), timeout=60)
        with urlopen(Request(f"{status}/keys", headers={"Authorization": "Bearer sesame"}), timeout=60) as response:
            assert dict(json.load(response)) == expected_counts(body * 2, 3)
    with started(tmp_path, "alerts", options[0]) as process:
        assert get(f"{address(process)}/keys")[0] == 404
    (tmp_path / "token").write_text(" \n")
    for wrong in (options, options[1:]):
        done = subprocess.run([*RUN, "alerts", *wrong], cwd=tmp_path, capture_output=True, timeout=60)
        assert done.returncode == 2
        assert b"error: --status-token-file must be " in done.stderr.splitlines()[-1]


def expected_counts(body: bytes, distinct: int) -> dict[str, int]:
    """Events by key of the windows that have closed, each when it had so many keys."""
    closed, counts = Counter[str](), Counter[str]()
    for line in body.splitlines():
        counts[json.loads(line)["id"]] += 1
        if len(counts) == distinct:
            closed += counts
            counts.clear()
    return dict(closed)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nothing", "no module 'nothing' here, nor installed"),
        ("nothing.py", "no file nothing.py"),
        ("alerts:other", "alerts has no other: module 'alerts' has no attribute 'other'"),
        ("alerts:rxo.compact.no", "alerts has no rxo.compact.no: 'function' object has no attribute 'no'"),
        ("alerts:POSTED", "alerts:POSTED is no Pipeline, and no function that returns one: 1"),
    ],
)
def test_b7_what_is_no_pipeline_is_reported_in_a_line(name: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "alerts.py").write_text(f"{POSTED}\nPOSTED = 1")
    done = subprocess.run([*RUN, name], cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[-1] == f"rxcompact run: error: {error}"


def test_b7_an_error_of_the_module_is_shown_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "alerts.py").write_text("import nowhere.to_be_found")
    for arguments, shown in ([], 1), (["--workers=2"], 2):
        done = subprocess.run([*RUN, "alerts", *arguments], cwd=tmp_path, capture_output=True, timeout=60)
        assert done.returncode == 2
        assert done.stderr.count(b'alerts.py", line 1') <= shown
        assert b"started again" not in done.stderr


@pytest.mark.parametrize("place", ["nowhere", ":70000", "no.such.host.invalid:80"])
def test_b7_an_address_of_the_status_that_cannot_be_is_an_error(place: str, tmp_path: Path) -> None:
    (tmp_path / "alerts.py").write_text(POSTED)
    environment = os.environ | {"RXCOMPACT_STATUS": place}
    done = subprocess.run([*RUN, "alerts"], cwd=tmp_path, capture_output=True, timeout=60, env=environment)
    assert done.returncode == 2
    assert "--status must be" in done.stderr.decode().splitlines()[-1]
    assert place in done.stderr.decode().splitlines()[-1]


def who(folder: Path, number: int) -> list[tuple[str, int]]:
    """The workers that have begun, when there are so many."""
    path, until = folder / "who", time.monotonic() + 100
    while not path.exists() or path.read_text().count("\n") < number:
        assert time.monotonic() < until, path.read_text() if path.exists() else ""
        time.sleep(0.05)
    return [(each.split()[0], int(each.split()[1])) for each in path.read_text().splitlines()]


def test_a_worker_that_dies_is_started_again_and_a_signal_ends_all(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORKER)
    letters = "dead.ndjson"
    with started(tmp_path, "work", RXCOMPACT_WORKERS="3", RXCOMPACT_DEAD_LETTERS=letters) as process:
        before = dict(who(tmp_path, 3))
        assert sorted(before) == ["0", "1", "2"]
        os.kill(before["1"], signal.SIGKILL)
        again = who(tmp_path, 4)[-1]
        assert again[0] == "1"
        assert again[1] != before["1"]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"worker 1 ended with -9, and is started again" in errors
    assert errors.count(b"published 1,") == 3
    assert (tmp_path / letters).exists()


def test_a_file_that_changes_is_run_anew_after_a_drain(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORKER)
    with started(tmp_path, "work.py", "--reload") as process:
        who(tmp_path, 1)
        (tmp_path / "notes.txt").write_text("no Python")
        (tmp_path / "work.py").write_text(WORKER.replace('"id": 1', '"id": 2'))
        who(tmp_path, 2)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert errors.count(b"work.py changed\n") == 1
    assert errors.count(b"published 1,") == 2, errors  # each drained what it held


def test_reload_is_for_one_process(tmp_path: Path) -> None:
    done = subprocess.run([*RUN, "work", "--reload", "--workers=2"], cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert b"argument --workers: not allowed with argument --reload" in done.stderr


def test_workers_that_cannot_begin_end_all_of_them(tmp_path: Path) -> None:
    done = subprocess.run([*RUN, "nothing", "--workers=2"], cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert b"no module 'nothing'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--listen=:0", "--workers=2"], "--workers needs --source: the posts of a key would go to any of them"),
        (["--source=nats://h/s", "--partitions=0-1", "--workers=3"], "--workers 3 are more than there are partitions"),
        (["--listen=:0", "--workers=0"], "--workers must be a whole number, at least 1, got 0"),
    ],
)
def test_workers_that_make_no_sense_are_an_error(arguments: list[str], error: str) -> None:
    serve = [sys.executable, "-m", "rxcompact", "serve", "--key=id", "--timespan=1", "--max-age=2"]
    done = subprocess.run([*serve, *arguments], capture_output=True, timeout=60)
    assert done.returncode == 2
    assert f"error: {error}\n" in done.stderr.decode()


@pytest.mark.broker
def test_the_manifest_of_the_manual_gives_options_of_serve() -> None:
    names = re.findall(r"RXCOMPACT_(\w+)", block("yaml"))
    values = dict(re.findall(r'RXCOMPACT_(\w+), value: "(.*?)"', block("yaml"))) | {"PARTITIONS": "3"}
    assert set(values) == set(names)
    assert {"SOURCE", "STATUS", "PARTITIONS"} < set(values)
    environment = {f"RXCOMPACT_{name}": value for name, value in values.items()} | {"RXCOMPACT_STATUS": "nowhere"}
    serve = [sys.executable, "-m", "rxcompact", "serve"]
    done = subprocess.run(serve, env=os.environ | environment, capture_output=True, timeout=60)
    # all the others are taken
    assert b"error: --status must be HOST:PORT" in done.stderr.splitlines()[-1]


@pytest.mark.debian
def test_the_unit_of_the_manual_passes_systemd_analyze(tmp_path: Path) -> None:
    unit = tmp_path / "rxcompact.service"
    unit.write_text(block("ini").replace("/opt/rxcompact/bin/rxcompact", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_handshake_of_uvloop_on_a_connection_that_was_reset_is_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        for text in ("<TCPTransport closed=True>; the handler is closed", "another"):
            asyncio.get_running_loop().call_exception_handler({"message": "of a test", "exception": RuntimeError(text)})

    run_loop(main())
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["another"]
