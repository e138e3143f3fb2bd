"""The nouns that flow: equality, copies, pickles; and that they load no pictures."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest
import reactivex as rx

from rxcompact import Bounds, Compacted, DeadLetter, Orchestrator, Pipeline, Window, errors
from rxcompact import operators as rxo
from rxcompact.errors import LateError

BOUNDS = Bounds(10.0, 20.0, "count")


def window() -> Window[str, dict[str, int]]:
    items = [Compacted(key, {"n": n}, n + 1, 11.0, 12.0, BOUNDS) for n, key in enumerate("abc")]
    return Window(BOUNDS, 6, items)


def test_an_event_knows_its_window_s_bounds_and_trigger() -> None:
    first = window()[0]
    assert first.window is BOUNDS
    assert (BOUNDS.opened, BOUNDS.closed, BOUNDS.trigger) == (10.0, 20.0, "count")
    assert (window().opened, window().closed, window().trigger) == (10.0, 20.0, "count")
    assert first.replace(count=9) == Compacted("a", {"n": 0}, 9, 11.0, 12.0)
    assert first.replace(count=9).window is BOUNDS
    assert first.replace(event="other") == Compacted("a", "other", 1, 11.0, 12.0)
    assert first.replace(event="other").window is BOUNDS
    assert {BOUNDS: "a file"}[Bounds(10.0, 20.0, "count")] == "a file"


def test_an_event_is_a_sequence_of_five_fields_and_equal_without_its_window() -> None:
    first = window()[0]
    key, event, count, first_seen, last_seen = first
    assert (key, event, count, first_seen, last_seen) == ("a", {"n": 0}, 1, 11.0, 12.0)
    assert (len(first), first[0], first[-1]) == (5, "a", 12.0)
    assert first == Compacted("a", {"n": 0}, 1, 11.0, 12.0)
    assert first != Compacted("a", {"n": 0}, 2, 11.0, 12.0)
    assert first != ("a", {"n": 0}, 1, 11.0, 12.0)
    assert hash(Compacted("a", "e", window=BOUNDS)) == hash(Compacted("a", "e"))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))])
def test_windows_events_and_dead_letters_are_copied_and_pickled(duplicate: Any) -> None:
    same = duplicate(window())
    assert same == window()
    assert [compacted.window for compacted in same] == [BOUNDS] * 3
    assert same[0].window is same[1].window
    assert duplicate(window()[0]) == window()[0]
    letter = DeadLetter("rejected", {"id": "a"}, "compact", "late", LateError(20.0, 21.0, 3.0), origin="a.log:3")
    assert (duplicate(letter).event, duplicate(letter).origin) == ({"id": "a"}, "a.log:3")
    assert duplicate(letter).error.late_by == 3.0


def test_windows_that_differ_in_bounds_or_events_are_not_equal() -> None:
    assert window() == window()
    assert window() != Window(Bounds(10.0, 20.0, "time"), 6, window()[:])
    assert window() != Window(BOUNDS, 5, window()[:])
    assert window() != Window(BOUNDS, 6, window()[:2])
    assert window().having(window()[:2]) == Window(BOUNDS, 6, window()[:2])


def test_the_events_load_no_pictures() -> None:
    code = "import sys, rxcompact.events; print([name for name in sys.modules if 'rxcompact.render' in name])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


ERRORS = [
    errors.ArgumentError("count", 0, "at least 1"),
    errors.LateError(20.0, 21.0, 3.0),
    errors.FutureError(30.0, 20.0, 5.0),
    errors.NoRoomError(7),
    errors.RateLimitedError("slow down", retry_after=3.5),
    errors.ExpiredError(11.0, 10.0, 4, "TransientError: away"),
    *(kind("a text") for kind in (errors.RxCompactError, errors.KeyMapperError, errors.TimeMapperError,
      errors.AccumulatorError, errors.DecodeError, errors.TooLargeError, errors.TransientError, errors.PermanentError,
      errors.AnswerError, errors.AbandonedError, errors.LoopError, errors.InUseError)),
]  # fmt: skip


def test_l16_each_class_of_errors_is_looked_at() -> None:
    ours = {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.RxCompactError)
    }
    assert {type(error) for error in ERRORS} == ours


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_l16_errors_and_dead_letters_are_pickled_and_copied(error: Any, protocol: int) -> None:
    error.status = 503
    letter = DeadLetter("failed", Compacted("a", {"id": "a"}, 2, window=BOUNDS), "enrich", error.reason, error, 3, 1.5)
    for same in (pickle.loads(pickle.dumps(letter, protocol)), copy.copy(letter), copy.deepcopy(letter)):
        assert (same.event, same.attempts, same.age) == (letter.event, 3, 1.5)
        found = same.error
        assert (type(found), str(found), found.args, vars(found)) == (type(error), str(error), error.args, vars(error))
        assert found.reason == error.reason == same.reason


@pytest.mark.parametrize(
    ("trigger", "options"),
    [
        ("time", {}),
        ("count", {"count": 1}),
        ("completed", {}),
        ("drain", {}),
        ("time", {"time_mapper": "ts", "lateness": 0}),
    ],
    ids=["time", "count", "completed", "drain", "event time"],
)
async def test_l26_a_sink_sees_of_each_event_which_window_it_is_of(trigger: str, options: dict[str, Any]) -> None:
    loop: Any = asyncio.get_running_loop()
    source: rx.Subject[Any] = rx.Subject()
    out: list[Compacted] = []
    windows: list[Window] = []
    async with Orchestrator(
        Pipeline(
            source,
            rxo.compact(10, key_mapper="id", **options),
            rxo.enrich(lambda event: event | {"more": 1}),
            rxo.publish(out.extend, timespan=0),
            max_age=60,
        )
    ) as orchestrator:
        orchestrator.windows.subscribe(windows.append)
        source.on_next({"id": "a", "ts": loop.wall()})
        await asyncio.sleep(1)
        if trigger == "completed":
            source.on_completed()
            await orchestrator.wait()
        elif trigger != "drain":
            await asyncio.sleep(30)
    assert [compacted.window for compacted in out] == [windows[0].bounds]
    bounds = windows[0].bounds
    assert bounds.trigger == trigger
    assert bounds.opened <= (out[0].first_seen or 0) <= bounds.closed <= bounds.opened + 10 + 1e-6
