"""The benchmark in short: the same checksums, and ratios with a wide margin."""

from __future__ import annotations

import runpy
from pathlib import Path


def test_compaction_stays_near_the_dict_and_far_from_buffers() -> None:
    measure = runpy.run_path(str(Path(__file__).with_name("compaction.py")))["measure"]
    spent = measure(200_000, 10_000, 3)
    loop = spent["dict loop in C, chunks of 1,000"]
    assert spent["compact, chunks of 1,000, first_seen"] < 3 * loop
    assert spent["compact, chunks of 1,000, count and times"] < 8 * loop
    assert spent["compact, event by event, first_seen"] < spent["RxPY buffer, a dict a buffer"]
