"""The fuzzer runs, and the oracle it holds the package against is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from generated import BODIES, Generator, fuzz
from plain_json import ERRORS, decoded, event, events, read
from plain_reader import RefusedError

HERE = Path(__file__).parent


SEEDS = [
    b'{"a":1}\n{"a":"2018-03-24T12:00:00Z","b":{"x":[1.5]}}\n',
    b'[{"a":1},\n{"a":1521892800000}]',
    b'{"list":[{"a":true},{"a.b":null}],"a":{"b":"\\u00e4"}}',
    b"{}{}\n\n{}",
    b'{"a":{"b":1}\n,"c":1}',
]


@pytest.mark.timeout(610)  # on a busy machine
def test_the_fuzzer_runs_for_a_while_and_finds_nothing(tmp_path: Path) -> None:
    if "CI" not in os.environ:
        pytest.importorskip("atheris")
    for number, seed in enumerate(SEEDS):
        (tmp_path / str(number)).write_bytes(b"\0" + seed)
    done = subprocess.run(
        [sys.executable, str(HERE / "bodies.py"), "-runs=5000", "-seed=1", "-max_len=400", str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.search(r"Done (\d+) runs", done.stderr)
    assert found
    assert int(found[1]) >= 5000


def test_generated_bodies_of_a_seed_are_read_as_the_plain_way_reads_them() -> None:
    assert fuzz(1_000_000) == []


def test_generated_bodies_are_good_and_malformed() -> None:
    generator = Generator(1)
    bodies = [generator.body() for _ in range(BODIES)]
    good = 0
    for body in bodies:
        with suppress(*ERRORS):
            good += all(map(decoded, read(body, ())))
    assert BODIES / 5 < good < BODIES * 4 / 5


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a":1}\n{"a":1.0}\n', [{"a": 1}, {"a": 1.0}]),
        (b'{"a":1}{"a":2} 3', [{"a": 1}, {"a": 2}, None]),
        (b'{"a":\n1}\n{"a":2}', [{"a": 1}, {"a": 2}]),
        (b'\xef\xbb\xbf [{"a":1}, null,{"a":"\xff"} ] ', [{"a": 1}, None, None]),
        (b'{"a":1}\n{"a":NaN}\n\n{"a":1e999}', [{"a": 1}, None, None]),
        (b'{"a":"\\ud800"}\n{"a":"\\ud83d\\ude00"}', [None, {"a": "\U0001f600"}]),
        (b'{"a":0,"a":1}', [{"a": 1}]),
        (b"[]", []),
        (b"", []),
        (b"\xef\xbb\xbf \n", []),
        (b"[NaN]", [None]),
        (b'[{"a":1}]{"a":2}', [{"a": 1}, {"a": 2}]),
        (b'{"a":1}\n[{"a":2},\n{"a":\n{"a":3}\n', [{"a": 1}, {"a": 2}, None, None, {"a": 3}]),
        (b'{"a":1\n{"a":2}', [None, {"a": 2}]),
        (b'{"a":1} x\n{"a":2}', [None, {"a": 2}]),
    ],
)
def test_the_plain_way(body: bytes, expected: list[object]) -> None:
    assert events(body) == expected


@pytest.mark.parametrize("body", [b"[", b"[1,]", b"[1 2]", b"[1] x", b"[,]", b'[{"a":1},{"b"'])
def test_the_plain_way_refuses(body: bytes) -> None:
    with pytest.raises(RefusedError):
        events(body)


@pytest.mark.parametrize("line", [b"", b"1", b"[]", b'{"a":01}', b'{"a":1}}', b"{'a':1}", b'{"a":"\n"}', b'{"a":1} {}'])
def test_the_plain_way_finds_bad(line: bytes) -> None:
    assert event(line) is None
