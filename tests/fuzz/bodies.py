"""Fuzzes what reads bodies, keys and times, by coverage, against the plain way of reading them.

python tests/fuzz/bodies.py -max_total_time=300 [CORPUS]     all options are libFuzzer's; it needs atheris

What it finds is written to a file `crash-…`, which `python tests/fuzz/bodies.py crash-…` tries again. A body that takes
the reader more than 50 ms of CPU is a finding too: none is long.
"""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from pathlib import Path
from time import thread_time

import atheris

with atheris.instrument_imports(include=["rxcompact", "plain_json", "json"]):
    from plain_json import ERRORS, check_body, check_items, check_mappers, read

NAMES = [[], ["a"], ["a.b"], ["a", "b"], ["a.b", "a", "a.a.b"]]
PATHS = ["a", "a.b", "list"]
STALL = 0.05
TOKENS = Path(__file__).parent / "json.dict"


def try_one(data: bytes) -> None:
    """Read what the fuzzer thought of: the first byte is a choice of names, the rest a body."""
    if not data:
        return
    choice, body = data[0], data[1:]
    began = thread_time()
    with suppress(*ERRORS):
        read(body, ())
    assert thread_time() - began < STALL
    check_body(body)
    check_items(body, PATHS[choice % len(PATHS)])
    check_mappers(body.split(b"\n"), NAMES[choice % len(NAMES)])


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], f"-dict={TOKENS}", *sys.argv[1:]], try_one)
    gc.freeze()
    atheris.Fuzz()
