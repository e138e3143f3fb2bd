"""Virtual time is the same every time: a whole pipeline with a simulated API, run twice, to the byte."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import reactivex as rx
from pipelines import simple_pipeline

from rxcompact import Orchestrator
from rxcompact.errors import PermanentError, TransientError
from rxcompact.testing import START, SimulatedApi, run

KINDS = ["paced", "subject"]


def event(n: int) -> dict[str, Any]:
    # strings, whose hash and so whose order in a set is another in each process
    return {"id": f"k{n * 7919 % 23}", "n": n}


class Recording:
    """A run of a pipeline, and all that is to be seen of it."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind = kind
        self.seed = seed
        self.lines: list[str] = []

    def note(self, what: str) -> Any:
        loop = asyncio.get_running_loop()
        return lambda item: self.lines.append(f"{loop.time()!r} {what} {item!r}")

    async def main(self) -> None:
        loop: Any = asyncio.get_running_loop()
        sink_note = self.note("sink")

        async def paced() -> AsyncIterator[Any]:
            for n in range(300):
                yield event(n)
                await asyncio.sleep(0.2)

        def sink(batch: Any) -> dict[int, Exception]:
            sink_note((batch.idempotency_key, list(batch)))
            if 50 <= loop.time() < 53:
                raise TransientError("sink is down")
            return {at: PermanentError("no") for at, c in enumerate(batch) if c.event["enriched"]["n"] % 7 == 6}

        subject: rx.Subject[Any] = rx.Subject()
        api = SimulatedApi(
            latency=(0.01, 2), error_rate=0.3, outages=[(START + 20, START + 40)], rate=5, seed=self.seed
        )
        orchestrator = Orchestrator(
            simple_pipeline(
                source=paced() if self.kind == "paced" else subject, key_mapper="id", timespan=2, sink=sink,
                enricher=api, max_age=15, max_concurrent=7, batch_count=5,
            )
        )  # fmt: skip
        for name in ("outcomes", "signals", "windows", "states"):
            getattr(orchestrator, name).subscribe(self.note(name))
        orchestrator.windows.subscribe(lambda _: 1 / 0)
        await orchestrator.start()
        if self.kind == "paced":
            self.note("report")(await orchestrator.wait())
            return
        for n in range(300):
            subject.on_next(event(n))
            await asyncio.sleep(0.2)
            if n % 60 == 30:
                await orchestrator.restart()
        self.note("report")(await orchestrator.stop(3))
        self.note("calls")(api.calls)


def recorded(kind: str, seed: int = 3) -> str:
    recording = Recording(kind, seed)
    run(recording.main, seed=seed)
    return "\n".join(recording.lines)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_pipeline_run_twice_is_the_same_to_the_byte(kind: str) -> None:
    first = recorded(kind)
    differ = [pair for pair in zip(first.split("\n"), recorded(kind).split("\n"), strict=True) if pair[0] != pair[1]]
    assert not differ[:1]
    assert first != recorded(kind, seed=4), "jitter and API are of that seed"
    kinds = ["Published(", "BatchPublished(", "ObserverFailed(", "RateLimitedError", "Report("]
    kinds += ["RetryScheduled(stage='enrich'", "RetryScheduled(stage='publish'"]
    kinds += ["outcome='expired'", "outcome='failed'"]
    for kind_of_signal in kinds:
        assert kind_of_signal in first, kind_of_signal
    assert " at 0x" not in first


def test_a_whole_pipeline_is_the_same_in_another_process_with_another_hash_seed() -> None:
    path = os.pathsep.join(sys.path)
    runs = {
        seed: subprocess.run(
            [sys.executable, __file__],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert runs["1"]
    assert runs["1"] == runs["2"]


if __name__ == "__main__":
    for kind in KINDS:
        sys.stdout.write(recorded(kind))
