"""The benchmarks of brokers run, and find what they check: that every event came through."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("name", "arguments", "rows"),
    [
        ("bench_jetstream", ["--messages=2000", "--rounds=1"], 2),
        ("bench_kafka", ["--messages=2000", "--rounds=1"], 2),
        ("bench_redis", ["--messages=2000", "--rounds=1"], 2),
    ],
)
def test_it_measures(name: str, arguments: list[str], rows: int) -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name(f"{name}.py"), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n| ") >= rows
