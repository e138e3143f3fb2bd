"""Row 1: ``rxcompact compact`` as a whole process, beside the same by hand; and how soon it begins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lines import line
from measuring import Case, Close, Group, Spent, Target, scratch

MEASURED = """import os, sys
descriptors = [(os.POSIX_SPAWN_OPEN, fd, path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for fd, path in ((1, sys.argv[1]), (2, os.devnull))]
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ, file_actions=descriptors)
_, status, used = os.wait4(pid, 0)
print(status, used.ru_utime + used.ru_stime, used.ru_maxrss)"""
"""A small program in between: a process counts as its own the memory of the one that it was forked from."""
BY_HAND = Path(__file__).with_name("by_hand.py")
FLOOR = Path(__file__).with_name("floor.py")
STEP = 7919
"""Prime: going through the keys by it, all of them come up, in no order."""
KEYS = (1000, 10_000, 139_000)


def process(close: Close, command: list[str | Path]) -> Spent:
    """Run a command; return what it took, and the checksum of its rows."""
    out = Path(scratch().name) / "out.ndjson"
    path = os.devnull if close is len else str(out)
    # with the modules compiled, as an installed package has them
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    runner = [sys.executable, "-S", "-c", MEASURED, path, sys.executable, *map(str, command)]
    done = subprocess.run(runner, capture_output=True, check=True, env=environment, timeout=300)
    status, cpu, memory = done.stdout.split()
    if int(status):
        raise AssertionError(f"{command} failed: {status!r}")
    result = None if close is len else sum(_rows(out))
    return Spent(float(cpu), 0.0, result, float(memory))


def _rows(path: Path) -> Iterator[int]:
    for row in map(json.loads, path.read_text().splitlines()):
        yield (row["event"]["n"] + 1) * row["count"]


def _written(lines: int, keys: int) -> tuple[Path, int]:
    """Write lines to a file; return it and the checksum of its distinct events."""
    path = Path(scratch().name) / f"{keys}.ndjson"
    found = [n * STEP % keys for n in range(lines)]
    with path.open("wb") as file:
        file.writelines(line(key, number) + b"\n" for number, key in enumerate(found))
    total = sum((n + 1) * (1 + (lines - 1 - n) // keys) for n in range(min(lines, keys)))
    return path, total


def commands(lines: int, keys: tuple[int, ...] = KEYS) -> list[Group]:
    """The command and the code by hand, with few keys and many, by arrival and by a field's time; start-up."""
    groups = [_group(lines, each) for each in keys]
    imports = "imports of what it is made of"
    started = {
        imports: ["-c", "import argparse, asyncio, msgspec, reactivex"],
        "compact, of nothing": ["-m", "rxcompact", "compact", "--key=id", "--timespan=1", os.devnull],
        "--help": ["-m", "rxcompact", "compact", "--help"],
    }
    cases = [Case(name, partial(process, command=command), 1) for name, command in started.items()]
    targets = [Target("1", case.name, imports, 1.3) for case in cases[1:]]
    return [*groups, Group("start of the command", cases, targets)]


def _group(lines: int, keys: int) -> Group:
    path, total = _written(lines, keys)
    compact = ["-m", "rxcompact", "compact", path, "--key=id", "--timespan=3600"]
    programs = {
        "by hand": [BY_HAND, path],
        "with the promises": [FLOOR, path],
        "rxcompact compact": compact,
        "by hand, --time": [BY_HAND, path, "ts"],
        "with the promises, --time": [FLOOR, path, "ts"],
        "rxcompact compact --time": [*compact, "--time=ts"],
    }
    cases = [Case(name, partial(process, command=command), lines, total) for name, command in programs.items()]
    targets = [
        Target("1", f"rxcompact compact{time}", f"by hand{hand}", limit, of=of)
        for time, hand, cpu in (("", "", 1.3), (" --time", ", --time", 1.5))
        for of, limit in (("cpu", cpu), ("memory", 1.5))
    ]
    targets += [
        Target("1 floor", f"rxcompact compact{time}", f"with the promises{hand}", 1.15, of=of)
        for time, hand in (("", ""), (" --time", ", --time"))
        for of in ("cpu", "memory")
    ]
    return Group(f"the command, {keys:,} keys", cases, targets)
