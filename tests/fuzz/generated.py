"""Bodies in large numbers, each from a seed: what the package makes of them is what the plain way makes of them.

python tests/fuzz/generated.py --first 0 --seeds 1000      a thousand bodies a seed

One body in a hundred is posted over HTTP too, ten at a time. A body that takes the reader more than 50 ms of CPU is
a finding.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import suppress
from pathlib import Path
from random import Random
from time import thread_time

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("fuzz", "support", "faults/source")]
from plain_json import ERRORS, check_body, check_items, check_mappers, read
from source_support import serving

BODIES, POSTED = 1000, 10  # of a seed
STALL = 0.05
SCALARS = [
    b"0", b"1", b"-1", b"1.0", b"-0.0", b"1e5", b"true", b"false", b"null", b'""', b'"a"', b'"}{"', b'"}\\n{"', b'"["',
    b'"\\u00e4"', b'"\\ud83d\\ude00"', '"ä"'.encode(), b"12345678901234567890123", b'"2018-03-24T12:00:00Z"', b"1.5e9",
    b'"1521892800000"', b'"0001-01-01T00:00:00Z"', b"1e-999",
]  # fmt: skip
FAULTS = [
    b"NaN", b"-Infinity", b"1e999", b"01", b"1.", b"-", b"tru", b"", b"'a'", b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"',
    b'"\\x"', b'"\\u12"', b'"\\uzzzz"', b'"\x01"', b'"', b"[", b"]", b"{", b"}", b"[1,]", b"{,}", b"1 2",
    b"\xef\xbb\xbf", b"\0", b"/**/", b"9" * 5000, b"[" * 3000,
]  # fmt: skip
SPACES = [b"", b"", b"", b" ", b"\n", b"\r\n", b"\t"]
NAMES = [b'"a"', b'"b"', b'"a.b"', b'"list"', b'"\\u0061"']
PATHS = ["list", "a", "a.b", "a.list"]
TOKENS = [b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\n", b'{"a":1}', b'"a"', b"1", b"x", b'"', b"\\"]
BYTES = b' \t\r\n{}[]",:\\0-.eE\xff\x80'


class Generator(Random):
    """Makes bodies, good and malformed."""

    def body(self) -> bytes:
        match self.randrange(8):
            case 0:
                return b"".join(self.choices(TOKENS, k=self.randrange(17)))
            case 1:
                return self.randbytes(self.randrange(40))
            case 2:
                return b"\n".join(self._damaged(self._written()) for _ in range(self.randrange(4)))
            case 3 | 4:
                return self._damaged(self._written())
            case _:
                return self._written()

    def _written(self) -> bytes:
        faults = self.random() < 0.3
        items = [
            self._container(b"{}", 3, faults) if self.random() < 0.9 else self._value(2, faults)
            for _ in range(self.randrange(6))
        ]
        match self.randrange(4):
            case 0:
                body = self._joined(items, b"[", b",", b"]")
            case 1:
                body = self.choice(SPACES).join(items)
            case _:
                body = self.choice([b"\n", b"\r\n", b"\n\n"]).join(items)
        return self.choice([b"", b"", b"\xef\xbb\xbf"]) + self.choice(SPACES) + body + self.choice(SPACES)

    def _value(self, depth: int, faults: bool) -> bytes:
        if depth and self.random() < 0.3:
            return self._container(self.choice([b"{}", b"[]"]), depth, faults)
        return self.choice(FAULTS if faults and self.random() < 0.1 else SCALARS)

    def _container(self, kind: bytes, depth: int, faults: bool) -> bytes:
        values = [self._value(depth - 1, faults) for _ in range(self.randrange(4))]
        if kind == b"{}":
            values = [self.choice(NAMES) + self.choice(SPACES) + b":" + self.choice(SPACES) + value for value in values]
        return self._joined(values, kind[:1], b",", kind[1:])

    def _joined(self, parts: list[bytes], start: bytes, separator: bytes, end: bytes) -> bytes:
        space = self.choice(SPACES)
        return start + space + (separator + space).join(parts) + space + end

    def _damaged(self, body: bytes) -> bytes:
        """Return a body in which some bytes are missing, doubled, or others."""
        for _ in range(self.randrange(1, 4)):
            at = self.randrange(len(body) + 1)
            body = body[:at] + bytes(self.choices(BYTES, k=self.randrange(3))) + body[at + self.randrange(4) :]
        return body


def check(generator: Generator, body: bytes) -> None:
    """Check what the reader, the mappers and the decoder make of a body, whole and in pieces."""
    for attempt in range(2):  # the first may have been in a collection of all objects
        began = thread_time()
        with suppress(*ERRORS):
            read(body, ())
        taken = thread_time() - began
        if taken < STALL:
            break
        assert not attempt, f"{taken:.3f} s"
    check_body(body, [generator.randrange(1, 40) for _ in range(generator.randrange(60))])
    check_items(body, generator.choice(PATHS))
    check_mappers(body.split(b"\n"), generator.choices(["a", "b", "a.b", "list", "a.list.a"], k=generator.randrange(4)))


async def post(bodies: list[bytes]) -> None:
    """Post bodies at the same time: each has an answer, and each event that one counts is in the account."""
    async with serving({"key_mapper": bytes}) as service:
        answers = await asyncio.gather(*map(service.post, bodies))
        account = service.orchestrator.account
        assert {answer.status for answer in answers} <= {202, 400}
        assert account.received - account.rejected == sum(
            answer.counts[1] for answer in answers if answer.status == 202
        )


def fuzz(seed: int) -> list[str]:
    """Check the bodies of a seed; return what was found."""
    generator = Generator(seed)
    bodies = [generator.body() for _ in range(BODIES)]
    found: list[str] = []
    for number, body in enumerate(bodies):
        try:
            check(generator, body)
        except AssertionError as error:
            found.append(f"seed {seed}, body {number}, {body!r}: {error}")
    try:
        asyncio.run(post(bodies[:POSTED]))
    except AssertionError as error:
        found.append(f"seed {seed}, posted: {error}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    failed = 0
    for seed in range(options.first, options.first + options.seeds):
        found = fuzz(seed)
        failed += len(found)
        print(*found, f"seed {seed}: {BODIES} bodies, {failed} failed so far", sep="\n", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
