"""The dashboard, from the kernel's side; test_browser.py has the page's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pipelines import simple_pipeline

from rxcompact import Orchestrator
from rxcompact.errors import TransientError
from rxcompact.notebook import Dashboard, dashboard
from rxcompact.notebook.dashboard import PERIOD
from rxcompact.observers import Snapshot
from rxcompact.render.snapshot import snapshot_numbers
from rxcompact.signals import StageNow

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # ipywidgets


async def ticks() -> AsyncIterator[Any]:
    number = 0
    while True:
        yield {"id": number}
        number += 1
        await asyncio.sleep(0.1)


class Broken:
    """A reducer that cannot be started."""

    def reduce(self, chunks: Any, context: Any) -> Any:
        raise OSError("no room in <here>")


@pytest.fixture
def orchestrator() -> Iterator[Orchestrator]:
    yield Orchestrator(
        simple_pipeline(source=ticks(), key_mapper="id", timespan=1, max_age=60, sink=lambda _: None, batch_timespan=0)
    )


def send(widget: Dashboard, **content: Any) -> None:
    """As the page does."""
    widget._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})


def views(widget: Dashboard) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    widget.observe(lambda change: seen.append(change["new"]), "view")
    return seen


async def test_running_the_cell_again_gives_the_same(orchestrator: Orchestrator) -> None:
    first = dashboard(orchestrator)
    watched = len(orchestrator.states.observers)
    assert dashboard(orchestrator) is first
    assert len(orchestrator.states.observers) == watched == 2  # and the report
    first.close()
    second = dashboard(orchestrator)
    assert second is not first
    assert len(orchestrator.states.observers) == watched
    second.close()


async def test_it_moves_four_times_a_second_and_only_while_it_is_seen(orchestrator: Orchestrator) -> None:
    widget = dashboard(orchestrator)
    seen = views(widget)
    async with orchestrator:
        await asyncio.sleep(5)
        assert not seen
        send(widget, view="a", shown=True)
        await asyncio.sleep(5 + PERIOD / 2)
        assert len(seen) == 1 + 5 / PERIOD
        send(widget, view="b", shown=True)
        send(widget, view="a", shown=False)
        await asyncio.sleep(5)
        assert len(seen) == 1 + 10 / PERIOD
        send(widget, view="b", shown=False)
        await asyncio.sleep(PERIOD * 1.5)
        last = len(seen)
        await asyncio.sleep(60)
        assert len(seen) == last
    widget.close()


async def test_it_rests_when_the_run_has_ended_and_moves_again_with_the_next(orchestrator: Orchestrator) -> None:
    widget = dashboard(orchestrator)
    send(widget, view="a", shown=True)
    await orchestrator.start()
    await asyncio.sleep(1)
    await orchestrator.stop()
    await asyncio.sleep(1)
    assert widget.view["title"].startswith("stopped")
    assert widget.view["actions"] == ["start"]
    seen = views(widget)
    await asyncio.sleep(600)
    assert not seen
    widget.close()


def test_a_stage_has_its_last_error_and_the_state_of_its_breaker() -> None:
    enrich = StageNow(2, 61.0, 3, TransientError("secret"), 2, ("http://cmdb:9000",))
    view = snapshot_numbers(Snapshot(stages={"enrich": enrich, "publish": StageNow()}))
    down = "last error TransientError, http://cmdb:9000 is down: probes alone are sent"
    assert view["stages"] == [
        ["enrich 2 ⚠", f"enrich: 2 waiting, oldest 1 min 1 s, 3 dead letters, {down}"],
        ["publish 0", "publish: 0 waiting, 0 dead letters"],
    ]
    assert view["errors"] == "enrich http://cmdb:9000 is down · enrich: TransientError"


def test_ages_are_labelled_with_round_durations_and_no_error_is_no_text() -> None:
    view = snapshot_numbers(Snapshot(max_age=60.0))
    assert view["errors"] == ""
    # a bar ends at √2 times the age at which the one before ends, the last of 24 at a minute
    assert [label for label, _ in view["age_ticks"]] == ["100 ms", "1 s", "10 s"]
    for label, place in view["age_ticks"]:
        seconds = {"100 ms": 0.1, "1 s": 1, "10 s": 10}[label]
        assert 60 * 2 ** ((place - 24) / 2) == pytest.approx(seconds)


async def test_buttons(orchestrator: Orchestrator) -> None:
    widget = dashboard(orchestrator)
    send(widget, view="a", shown=True)
    assert widget.view["actions"] == ["start"]
    for action, state, may in (
        ("start", "running", ["stop", "restart"]),
        ("restart", "running", ["stop", "restart"]),
        ("stop", "stopped", ["start"]),
    ):
        send(widget, action=action)
        await asyncio.sleep(1)
        assert (orchestrator.state, widget.view["actions"], widget.view["notice"]) == (state, may, "")
    assert orchestrator.restarts == 1
    widget.close()


async def test_a_button_that_may_not_be_pressed_and_nonsense_do_nothing(orchestrator: Orchestrator) -> None:
    widget = dashboard(orchestrator)
    for content in ({"action": "stop"}, {"action": "__init__"}, {"action": 3}, {"view": 1, "shown": "yes"}, {}):
        send(widget, **content)
    await asyncio.sleep(1)
    assert orchestrator.state == "idle"
    widget.close()


async def test_what_goes_wrong_is_shown() -> None:
    orchestrator = Orchestrator(simple_pipeline(source=ticks(), reducer=Broken(), max_age=60, sink=lambda _: None))
    widget = dashboard(orchestrator)
    send(widget, view="a", shown=True)
    send(widget, action="start")
    await asyncio.sleep(1)
    assert widget.view["notice"] == "start failed: OSError: no room in <here>"
    assert widget.view["actions"] == ["start"]
    widget.close()


def test_a_message_may_come_from_another_thread(orchestrator: Orchestrator) -> None:
    async def main() -> None:  # virtual time knows one thread
        running = asyncio.Event()
        orchestrator.states.subscribe(lambda state: running.set() if state == "running" else None)
        widget = dashboard(orchestrator)
        thread = threading.Thread(target=lambda: send(widget, action="start"))
        thread.start()
        thread.join()
        assert orchestrator.state == "idle"  # nothing was done there
        await asyncio.wait_for(running.wait(), 10)
        await orchestrator.stop()
        widget.close()

    asyncio.run(main())


async def test_a_snapshot_does_not_change_and_shows_itself(orchestrator: Orchestrator) -> None:
    widget = dashboard(orchestrator)
    still = orchestrator.statistics.snapshot()
    before = still._repr_mimebundle_()
    async with orchestrator:
        await asyncio.sleep(3)
        assert still._repr_mimebundle_() == before
        assert orchestrator._repr_mimebundle_() != before
    assert set(before) == {"text/plain", "text/html"}
    assert '<img src="data:image/svg+xml;base64,' in before["text/html"]
    bundle, _ = widget._repr_mimebundle_()
    assert {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"} <= set(bundle)
    widget.close()
