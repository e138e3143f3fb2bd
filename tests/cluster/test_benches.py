"""The benchmark of workers and shards runs, and finds what it checks: that every event came through."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(400)
def test_it_measures() -> None:
    pytest.importorskip("nats")
    program = Path(__file__).with_name("bench_scale.py")
    command = [sys.executable, program, "--events=20000", "--rounds=1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n| ") >= 10
