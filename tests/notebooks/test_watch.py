"""watch: in a cell, and outside a notebook; and the terminal's live view of the same."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pipelines import simple_pipeline

from rxcompact import Orchestrator
from rxcompact.commands.service import live
from rxcompact.errors import ArgumentError
from rxcompact.notebook.dashboard import PERIOD, watch
from rxcompact.render.svg import OUTCOME_COLOURS


async def ticks(seconds: int) -> AsyncIterator[Any]:
    for second in range(seconds):
        yield {"id": second}
        await asyncio.sleep(1)


def run_of(seconds: int) -> Orchestrator:
    return Orchestrator(
        simple_pipeline(
            source=ticks(seconds), key_mapper="id", timespan=1, max_age=60, sink=lambda _: None, batch_timespan=0
        )
    )


def titles(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith(" ")]


async def test_it_returns_when_its_time_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    loop = asyncio.get_running_loop()
    async with run_of(60) as orchestrator:
        began = loop.time()
        await watch(orchestrator, seconds=3)
        assert loop.time() - began == pytest.approx(3, abs=0.01)
        assert orchestrator.state == "running"
    found = titles(capsys.readouterr().out)
    assert len(found) == 4  # the first, and one a second
    assert found[-1] == "running, 3 s"


@pytest.mark.parametrize("seconds", [None, 1000])
async def test_it_returns_when_the_run_has_ended_and_leaves_the_last_state(
    seconds: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = asyncio.get_running_loop()
    orchestrator = run_of(5)
    await orchestrator.start()
    began = loop.time()
    await watch(orchestrator, seconds=seconds)
    assert loop.time() - began < 8
    text = capsys.readouterr().out
    assert titles(text)[-1].startswith("stopped")
    assert "published 5" in text.partition("stopped")[2]


async def test_what_does_not_run_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    await watch(run_of(5))
    assert titles(capsys.readouterr().out) == ["idle, 0 s"]


async def test_a_time_that_is_no_duration() -> None:
    with pytest.raises(ArgumentError, match="seconds"):
        await watch(run_of(5), seconds=0)


async def test_in_a_notebook_it_updates_one_display_at_most_four_times_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from IPython.core import getipython
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    shell: Any = InteractiveShell()
    shell.kernel = object()  # as in a notebook
    shell.display_pub = CapturingDisplayPublisher()
    monkeypatch.setattr(InteractiveShell, "_instance", shell)
    monkeypatch.setattr(getipython, "get_ipython", lambda: shell)
    async with run_of(60) as orchestrator:
        await watch(orchestrator, seconds=2)
    outputs = shell.display_pub.outputs
    assert len(outputs) == 1 + 2 / PERIOD
    assert [each["update"] for each in outputs] == [False] + [True] * 8
    assert len({each["transient"]["display_id"] for each in outputs}) == 1
    assert "running, 2 s" in outputs[-1]["data"]["text/plain"]
    assert 'src="data:image/svg+xml;base64,' in outputs[-1]["data"]["text/html"]


async def test_where_it_is_no_terminal_there_are_lines() -> None:
    out = io.StringIO()
    orchestrator = run_of(3)
    await orchestrator.start()
    await live(orchestrator, out)
    assert orchestrator.state == "stopped"
    assert out.getvalue().startswith("received 0, ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_n7_on_a_terminal_that_cannot_be_drawn_on_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    orchestrator = run_of(3)
    await orchestrator.start()
    await live(orchestrator, out)
    assert out.getvalue().startswith("received 0, ")
    assert "\x1b[" not in out.getvalue()


async def test_on_a_terminal_outcomes_have_their_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    out = Terminal()
    orchestrator = run_of(3)
    await orchestrator.start()
    await live(orchestrator, out)
    last = out.getvalue().rpartition("stopped")[2]
    red, green, blue = bytes.fromhex(OUTCOME_COLOURS["published"][1][1:])
    assert f"\x1b[38;2;{red};{green};{blue}mpublished\x1b[0m 3" in last
