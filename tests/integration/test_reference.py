"""The real sets, against reference answers that were computed independently; every key, timespan and lateness."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from reactivex.scheduler import VirtualTimeScheduler

from rxcompact import operators as rxo
from rxcompact.events import DeadLetter, Window
from rxcompact.keys import json_value
from rxcompact.sources import python
from rxcompact.sources.python import IterableSource

SETS = ["apache_access", "zeek_dns"]
ALL = 10**9  # seconds: nothing is late


def references(shared: Path, name: str) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = json.loads((shared / name / "reference.json").read_text())["results"]
    assert results
    return results


def digest(rows: Iterable[tuple[int, list[Any], int]]) -> str:
    """By the `definition` in reference.json."""
    lines = [(start, json.dumps(key, ensure_ascii=False, separators=(",", ":")), count) for start, key, count in rows]
    lines.sort(key=lambda line: line[:2])
    return hashlib.sha256("".join(f"{start}\t{key}\t{count}\n" for start, key, count in lines).encode()).hexdigest()


def compacted(lines: list[bytes], result: dict[str, Any], lateness: float) -> tuple[int, int, str]:
    windows: list[Window] = []
    letters: list[DeadLetter] = []
    IterableSource(lines).stream().pipe(
        rxo.compact(
            result["window_s"],
            key_mapper=tuple(result["key"]),
            time_mapper=result["time_field"],
            lateness=lateness,
            fields=("count",),
            chunked=True,
            dead_letters=letters.append,
            scheduler=VirtualTimeScheduler(time.time()),
        )
    ).subscribe(windows.append)
    reasons = Counter(letter.reason for letter in letters)
    assert set(reasons) <= {"late"}
    assert sum(window.received for window in windows) + reasons["late"] == len(lines)
    single = len(result["key"]) == 1
    rows = [
        (round(window.opened * 1e6), [json_value(c.key)] if single else json_value(c.key), c.count or 0)
        for window in windows
        for c in window
    ]
    assert len({(start, json.dumps(key)) for start, key, _ in rows}) == len(rows)
    return len(rows), reasons["late"], digest(rows)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SETS)
def test_the_library_reproduces_the_reference(
    shared: Path, name: str, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = gzip.decompress((shared / name / "events.ndjson.gz").read_bytes()).splitlines()
    checked = 0
    for number, result in enumerate(references(shared, name)[::every]):
        monkeypatch.setattr(python, "CHUNK", 1000 + number)
        assert compacted(lines, result, ALL) == (result["distinct"], 0, result["sha256"])
        for lateness, expected in result["by_lateness_s"].items():
            monkeypatch.setattr(python, "CHUNK", 100 + 300 * number)
            found = compacted(lines, result, float(lateness))
            assert found == (expected["distinct"], expected["late_events"], expected["sha256"]), (
                result["key"],
                lateness,
            )
            checked += 1
    assert checked >= 45 / every


def command(*arguments: str) -> tuple[list[dict[str, Any]], str]:
    done = subprocess.run([sys.executable, "-m", "rxcompact", "compact", *arguments], capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


@pytest.mark.parametrize("name", SETS)
def test_the_command_reproduces_the_reference(shared: Path, name: str) -> None:
    for result in references(shared, name)[1::4]:
        for lateness in ("0", "60"):
            expected = result["by_lateness_s"][lateness]
            rows, account = command(
                str(shared / name / "events.ndjson.gz"),
                f"--key={','.join(result['key'])}",
                f"--timespan={result['window_s']}",
                f"--time={result['time_field']}",
                f"--lateness={lateness}",
            )
            single = len(result["key"]) == 1
            found = digest(
                (round(row["opened"] * 1e6), [row["key"]] if single else row["key"], row["count"]) for row in rows
            )
            assert (len(rows), found) == (expected["distinct"], expected["sha256"])
            assert f"late {expected['late_events']}" in re.split(r", | \(", account)
            assert f"distinct {expected['distinct']}," in account
