"""What the benchmarks of brokers share: what is sent, the pipeline that is measured, rounds and their table."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from rxcompact import Orchestrator, Pipeline
from rxcompact import operators as rxo

KEYS = 10_000

Runs = Mapping[str, Awaitable[float]]


class Key(msgspec.Struct, gc=False):
    id: str


decode_key = msgspec.json.Decoder(Key).decode


def compacting() -> Callable[[bytes], None]:
    """Return what keeps of each key the first line, how many there were, and when."""
    decode, rows, now = decode_key, dict[str, list[Any]](), time.time

    def take(body: bytes) -> None:
        at = now()
        for line in body.split(b"\n"):
            key = decode(line).id
            if (row := rows.get(key)) is None:
                rows[key] = [line, 1, at, at]
            else:
                row[1] += 1
                row[3] = at

    return take


class ByHand:
    """The least code that keeps the contract: a message is settled when the row of each of its events is published."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Any]] = {}  # with the messages that wait for each
        self._left: dict[Any, int] = {}  # events of each message that are not settled

    def take(self, messages: Iterable[tuple[Any, bytes]]) -> None:
        decode, rows, left, at = decode_key, self._rows, self._left, time.time()
        for identity, body in messages:
            lines = body.split(b"\n")
            left[identity] = len(lines)
            for line in lines:
                key = decode(line).id
                if (row := rows.get(key)) is None:
                    rows[key] = [line, 1, at, at, [identity]]
                else:
                    row[1] += 1
                    row[3] = at
                    row[4].append(identity)

    def publish(self) -> list[Any]:
        """Publish what is held; return the messages that are settled."""
        settled, left = list[Any](), self._left
        for line, *_, identities in self._rows.values():
            msgspec.json.decode(line)
            for identity in identities:
                left[identity] -= 1
                if not left[identity]:
                    del left[identity]
                    settled.append(identity)
        return settled


@contextmanager
def server(command: Callable[[str, str], list[str]], ready: str) -> Iterator[str]:
    """Run a server, whose command a function of port and folder gives; yield its port."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as taken, Path(folder, "log").open("wb") as log:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        taken.close()
        process = subprocess.Popen(command(port, folder), stdout=log, stderr=log)
        try:
            while ready not in Path(folder, "log").read_text():
                time.sleep(0.02)
            yield port
        finally:
            process.kill()
            process.wait()


def bodies(messages: int, each: int) -> Iterator[bytes]:
    """Yield messages of so many lines, whose keys are as Zipf has them."""
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(KEYS)))
    keys = iter(random.Random(7).choices(range(KEYS), cum_weights=weights, k=messages * each))
    for number in range(messages):
        lines = [json.dumps({"id": f"key-{key}", "n": number}).encode() for key in itertools.islice(keys, each)]
        yield b"\n".join(lines)


async def consume(source: Any, events: int) -> float:
    """Return the seconds in which a pipeline consumes, compacts, publishes to a function and acknowledges.

    Its windows are of a minute: how many close must not depend on how busy the machine is.
    """
    published = 0

    def sink(batch: Any) -> None:
        nonlocal published
        published += sum(compacted.count for compacted in batch)

    orchestrator = Orchestrator(
        Pipeline(source, rxo.compact(60, key_mapper="id"), rxo.publish(sink), max_age=600, max_in_flight=10**6)
    )
    began = time.perf_counter()
    await orchestrator.start()
    while orchestrator.account.received < events:
        await asyncio.sleep(0.005)
    await orchestrator.stop()
    took = time.perf_counter() - began
    assert published == events
    return took


async def compare(runs_of: Callable[[int], Runs], messages: int, each: int, rounds: int) -> str:
    """Run each contender once a round; return a row: medians of events a second, least CPU a message, its shares."""
    wall: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for number in range(rounds):
        for name, run in runs_of(number).items():
            began = time.process_time()
            wall.setdefault(name, []).append(await run)
            cpu.setdefault(name, []).append(time.process_time() - began)
    took = {name: statistics.median(seconds) for name, seconds in wall.items()}
    costs = {name: min(seconds) / messages * 1e6 for name, seconds in cpu.items()}
    rates = [f"{messages * each / seconds:,.0f}" for seconds in took.values()]
    shares = [f"{costs[name] / costs['pipeline']:.0%}" for name in costs if name != "pipeline"]
    return f"| {' | '.join([str(each), *rates, *(f'{cost:.1f}' for cost in costs.values()), *shares])} |"


def main(
    text: str | None,
    contenders: list[str],
    messages: int,
    running: Callable[[], AbstractContextManager[str]],
    row: Callable[[str, int, int, int], Awaitable[str]],
) -> None:
    """Print a table for messages of 1 and of 100 events."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--messages", type=int, default=messages)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rates = [f"{name}, events/s" for name in contenders]
    costs = [f"{name}, CPU µs a message" for name in contenders]
    shares = [f"share of {name}" for name in contenders if name != "pipeline"]
    head = ["events a message", *rates, *costs, *shares]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for each, number in ((1, arguments.messages), (100, arguments.messages // 5)):
        with running() as url:
            print(asyncio.run(row(url, number, each, arguments.rounds)))  # type: ignore[arg-type]
