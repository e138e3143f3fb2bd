"""The system's clock is set while `rxcompact serve` runs, by libfaketime: row L9 of the field."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import missing

if TYPE_CHECKING:
    from .conftest import Bench


def shifted(bench: Bench) -> tuple[Path, dict[str, str]]:
    """Return the file that has the offset of a process's wall clock, and the variables that shift it."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None) or missing("faketime")
    offset = bench.folder / "offset"
    offset.write_text("+0")
    return offset, {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def test_l9_the_clock_is_set_forward_and_back_while_it_serves(bench: Bench) -> None:
    offset, variables = shifted(bench)
    # a timespan that is longer than the test: the drain closes its one window
    service = bench.serve("--key=id", "--timespan=25", variables=variables)
    began = time.time()
    for posted, step in enumerate(("+0", "+3600", "-3600", "+3600", "-3600")):
        offset.write_text(step)
        body = b'{"id":"each time"}\n{"id":"%d"}' % posted
        urllib.request.urlopen(f"http://{service.address}/", body, timeout=5).close()
        bench.until(lambda posted=posted: service.received() == 2 * posted + 2)  # type: ignore[misc]
    account = service.drain()
    assert "the wall clock was set back by 3600 s" in service.log()
    assert (account.received, account.duplicates, account.published) == (10, 4, 6)  # none expired: no window was closed
    rows = {row["key"]: row for row in service.rows()}
    assert {key: row["count"] for key, row in rows.items()} == {"each time": 5} | {str(n): 1 for n in range(5)}
    assert rows["each time"]["first_seen"] == pytest.approx(began, abs=60)


def test_l9_windows_close_in_time_when_the_clock_is_set_back(bench: Bench) -> None:
    offset, variables = shifted(bench)
    service = bench.serve("--key=id", "--timespan=1", variables=variables)
    for step, number in (("-3600", 1), ("+3600", 2)):
        offset.write_text(step)
        urllib.request.urlopen(f"http://{service.address}/", b'{"id":%d}' % number, timeout=5).close()
        bench.until(lambda number=number: len(service.rows()) == number)  # type: ignore[misc]
    assert service.drain().published == 2
