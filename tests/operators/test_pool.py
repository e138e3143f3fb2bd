"""The pool alone: what waits, what expires where, what a stop and the end of the loop do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import pytest
import tenacity
from reactivex import Observer

from rxcompact.errors import ArgumentError, PermanentError, TransientError
from rxcompact.events import Compacted, DeadLetter
from rxcompact.operators.enrich import Enrich
from rxcompact.operators.jobs import Entry, Job
from rxcompact.operators.stage import PooledStage
from rxcompact.operators.waiting import DUE
from rxcompact.testing import run, virtual_loop


class Bench(PooledStage):
    """A pool of calls for names; each name has a deadline. It notes what happens and when."""

    def __init__(self, answer: Callable[[str, int], Any], deadlines: dict[str, float] | None = None, **options: Any):
        self.loop: Any = asyncio.get_running_loop()
        self.answer = answer
        self.deadlines = deadlines or {}
        self.calls: list[tuple[float, tuple[str, ...]]] = []
        self.outcomes: list[tuple[float, str, str]] = []
        self.retries: list[tuple[float, float]] = []
        settings: dict[str, Any] = {"max_age": 60.0, "max_concurrent": 1, "timeout": None}
        super().__init__(Enrich(answer, wait=tenacity.wait_fixed(5), **(settings | options)), Observer(), None)

    def submit(self, *names: str) -> Any:
        return self._submit([Entry(self.deadlines.get(name, 60.0), 0, Compacted(name, name)) for name in names])

    def keys(self) -> list[str]:
        return [entry.compacted.key for job in self._jobs for entry in job.entries]

    def _handle(self, entries: list[Entry]) -> None: ...

    async def _call(self, entries: list[Entry]) -> Sequence[Any]:
        called = tuple(entry.compacted.key for entry in entries)
        self.calls.append((self.loop.time(), called))
        attempt = sum(names == called for _, names in self.calls)
        results: list[Any] = []
        for name in called:
            result = self.answer(name, attempt)
            results.append(await result if asyncio.iscoroutine(result) else result)
        return results

    def note(self, outcome: str, *entries: Entry) -> None:
        self.outcomes += [(self.loop.time(), entry.compacted.key, outcome) for entry in entries]

    def _succeeded(self, job: Job, entries: list[Entry], results: Sequence[Any]) -> None:
        self.note("succeeded", *entries)

    def _lost(self, outcome: Any, entry: Entry, job: Job | None = None, error: Any = None) -> None:
        self.note(outcome, entry)

    def _retrying(self, job: Job, wait: float) -> None:
        self.retries.append((self.loop.time(), wait))


def fails(times: int, then: Any = "fine") -> Callable[[str, int], Any]:
    return lambda _, attempt: TransientError() if attempt <= times else then


async def takes(seconds: float, result: Any = "fine") -> Any:
    await asyncio.sleep(seconds)
    return result


async def test_a_job_waits_between_its_attempts_and_not_while_it_is_called_or_queued() -> None:
    bench = Bench(lambda name, attempt: takes(3, TransientError() if (name, attempt) == ("a", 1) else "fine"))
    job = bench.submit("a")
    bench.submit("b")
    seen = []
    await asyncio.sleep(0.5)
    for _ in range(14):
        seen.append(bench.waiting())
        await asyncio.sleep(1)
    # "a" is called at 0, waits from 3, is called again at 8; "b" is called at 3
    assert [at for at, _ in bench.calls] == [0, 3, 8]
    assert seen == [0] * 3 + [1] * 5 + [0] * 6
    assert job.count == 2
    assert bench.keys() == []


async def test_the_earliest_deadline_is_that_of_all_that_is_held() -> None:
    bench = Bench(lambda *_: takes(3), {"a": 50.0, "b": 20.0, "c": 30.0})
    assert bench.oldest() is None
    for name in "abc":
        bench.submit(name)
    assert bench.oldest() == 60 - 20
    assert sorted(bench.keys()) == ["a", "b", "c"]
    await asyncio.sleep(7)
    assert bench.oldest() == 60 - (30 - 7)
    await asyncio.sleep(3)
    assert bench.oldest() is None


async def test_a_queued_job_expires_at_its_own_deadline() -> None:
    bench = Bench(lambda *_: takes(50), {"first": 60.0, "queued": 10.0, "later": 30.0}, max_concurrent=1)
    for name in ("first", "queued", "later"):
        bench.submit(name)
    await asyncio.sleep(100)
    assert bench.outcomes == [(10, "queued", "expired"), (30, "later", "expired"), (50, "first", "succeeded")]
    assert len(bench.calls) == 1


async def test_a_job_queued_with_others_expires_at_its_own_deadline_too() -> None:
    bench = Bench(lambda *_: takes(50), {"third": 20.0, "fourth": 10.0}, max_concurrent=2)
    for name in ("first", "second", "third", "fourth"):
        bench.submit(name)
    await asyncio.sleep(100)
    assert bench.outcomes[:2] == [(10, "fourth", "expired"), (20, "third", "expired")]
    assert len(bench.calls) == 2


@pytest.mark.parametrize(("at_once", "order"), [(1, ["late", "early", "middle"]), (2, ["early", "middle", "late"])])
async def test_a_queue_is_by_deadline_and_one_call_at_a_time_is_in_order(at_once: int, order: list[str]) -> None:
    bench = Bench(lambda *_: takes(3), {"late": 50.0, "early": 20.0, "middle": 30.0}, max_concurrent=at_once)
    for name in ("first", "second")[:at_once]:
        bench.submit(name)
    for name in ("late", "early", "middle"):
        bench.submit(name)
    await asyncio.sleep(30)
    assert [name for _, (name,) in bench.calls[at_once:]] == order


async def test_a_job_that_is_tried_again_is_behind_those_that_wait_where_one_call_is_made_at_a_time() -> None:
    bench = Bench(lambda name, attempt: takes(4, TransientError() if (name, attempt) == ("a", 1) else "fine"))
    for name in "abcd":
        bench.submit(name)
    await asyncio.sleep(30)
    assert [name for _, (name,) in bench.calls] == ["a", "b", "c", "d", "a"]


variable: ContextVar[str] = ContextVar("variable", default="of no call")


async def test_a_task_makes_another_call_unless_one_left_something_in_it() -> None:
    tasks: list[asyncio.Task[Any]] = []
    seen: list[tuple[str, int]] = []

    async def answer(name: str) -> str:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        seen.append((variable.get(), task.cancelling()))
        await asyncio.sleep(1)
        if int(name) % 3 == 1:
            variable.set("of this call")
        if int(name) % 3 == 2:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        return name

    bench = Bench(lambda name, _: answer(name), max_concurrent=2, max_age=600)
    for number in range(30):
        bench.submit(str(number))
    await asyncio.sleep(20)
    assert [outcome for _, _, outcome in bench.outcomes] == ["succeeded"] * 30
    assert seen == [("of no call", 0)] * 30
    assert len(set(tasks)) < 30


async def test_two_places_that_are_free_at_once_are_both_taken() -> None:
    loop = asyncio.get_running_loop()
    lasts, fails_first = loop.create_future(), loop.create_future()

    async def answer(name: str, attempt: int) -> Any:
        if attempt == 1 and name in ("lasts", "fails"):
            return await (lasts if name == "lasts" else fails_first)
        return "fine"

    bench = Bench(answer, max_concurrent=2)
    for name in ("lasts", "fails", "waits", "waits too"):
        bench.submit(name)
    await asyncio.sleep(1)
    fails_first.set_result(TransientError())  # the next is called when it is known whether the service is down
    lasts.set_result("fine")  # and so it finds two places
    await asyncio.sleep(10)
    assert sorted(bench.outcomes) == [
        (1, "lasts", "succeeded"), (1, "waits", "succeeded"), (1, "waits too", "succeeded"), (6, "fails", "succeeded"),
    ]  # fmt: skip


async def test_the_loop_has_its_turn_between_calls_that_do_not_wait() -> None:
    bench = Bench(fails(0), max_concurrent=3)
    for number in range(300):
        bench.submit(str(number))
    made = [0]
    while made[-1] < 300:
        await asyncio.sleep(0)
        made.append(len(bench.calls))
    assert max(after - before for before, after in pairwise(made)) == 3


async def test_what_goes_on_in_the_place_of_an_event_that_left_no_time_for_an_answer_is_by_its_own_deadline() -> None:
    class Shared(Bench):
        def _lost(self, outcome: Any, entry: Entry, job: Job | None = None, error: Any = None) -> None:
            super()._lost(outcome, entry, job, error)
            entry.deadline = 20.0

    bench = Shared(lambda *_: takes(1), {"shared": 6.3}, max_concurrent=2)
    for number in range(60):
        bench.submit(str(number))
    await asyncio.sleep(5.5)
    bench.submit("shared")
    await asyncio.sleep(40)
    assert [outcome for outcome in bench.outcomes if outcome[1] == "shared"] == [
        (6.3, "shared", "expired"),
        (8, "shared", "succeeded"),
    ]


async def test_of_a_queued_batch_the_old_expire_and_the_rest_is_called_once() -> None:
    bench = Bench(
        lambda name, attempt: takes(20) if name == "slow" else TransientError() if attempt == 1 else "fine",
        {"old": 15.0},
    )
    bench.submit("old", "young")  # fails at 0, waits until 5, is queued behind the slow one then
    await asyncio.sleep(1)
    bench.submit("slow")
    await asyncio.sleep(50)
    assert bench.outcomes == [(15, "old", "expired"), (21, "slow", "succeeded"), (26, "young", "succeeded")]
    assert [names for _, names in bench.calls] == [("old", "young"), ("slow",), ("young",), ("young",)]


async def test_expedite_cuts_a_wait_short_and_makes_no_second_call_beside_one_under_way() -> None:
    bench = Bench(lambda name, _: takes(2, TransientError() if name == "bad" else "fine"), max_concurrent=5)
    bench.submit("bad")
    await asyncio.sleep(3)  # it failed at 2 and waits until 7
    bench._expedite()
    await asyncio.sleep(1)
    bench._expedite()
    await asyncio.sleep(20)
    assert [at for at, _ in bench.calls] == [0, 3]
    assert bench.outcomes == [(5, "bad", "abandoned")]


async def test_expedite_during_a_second_attempt_lets_it_be_the_last() -> None:
    bench = Bench(lambda *_: takes(2, TransientError()), max_concurrent=5)
    bench.submit("bad")
    await asyncio.sleep(8)  # its second attempt began at 7
    bench._expedite()
    await asyncio.sleep(20)
    assert [at for at, _ in bench.calls] == [0, 7]
    assert bench.outcomes == [(9, "bad", "abandoned")]


async def test_each_entry_of_a_batch_has_one_outcome_by_its_own_result() -> None:
    results: dict[str, Any] = {"a": "fine", "b": TransientError(), "c": PermanentError()}
    bench = Bench(lambda name, _: results[name])
    bench.submit("a", "b", "c")
    await asyncio.sleep(1)
    results["b"] = "fine"
    await asyncio.sleep(20)
    assert bench.outcomes == [(0, "a", "succeeded"), (0, "c", "failed"), (5, "b", "succeeded")]
    assert [names for _, names in bench.calls] == [("a", "b", "c"), ("b",)]


async def test_a_timeout_ends_an_attempt_and_is_retried() -> None:
    bench = Bench(lambda _, attempt: takes(100 if attempt == 1 else 1), timeout=4.0)
    bench.submit("a")
    await asyncio.sleep(30)
    assert [at for at, _ in bench.calls] == [0, 9]
    assert bench.outcomes == [(10, "a", "succeeded")]
    assert bench.retries == [(4, 5)]


async def test_a_call_that_is_cancelled_by_others_is_retried_and_gives_its_place_back() -> None:
    def answer(name: str, attempt: int) -> Any:
        if (name, attempt) == ("a", 1):
            raise asyncio.CancelledError
        return "fine"

    bench = Bench(answer)
    bench.submit("a")
    bench.submit("b")
    await asyncio.sleep(30)
    assert bench.outcomes == [(0, "b", "succeeded"), (5, "a", "succeeded")]


async def test_a_call_under_way_is_cancelled_when_the_last_of_its_entries_is_too_old() -> None:
    cancelled: list[float] = []

    async def hangs() -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append(bench.loop.time())
            raise

    bench = Bench(lambda *_: hangs(), {"a": 10.0, "b": 20.0})
    bench.submit("a", "b")
    bench.submit("c")
    await asyncio.sleep(15)
    assert cancelled == []
    await asyncio.sleep(10)
    assert cancelled == [20]
    assert [(name, outcome) for _, name, outcome in bench.outcomes] == [("a", "expired"), ("b", "expired")]
    assert bench.calls[-1] == (20, ("c",))
    bench._close()


async def test_a_call_that_ignores_its_cancellation_is_cancelled_at_its_limit_and_at_its_deadline() -> None:
    cancelled: list[float] = []

    async def stubborn() -> None:
        while bench.loop.time() < 30:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                cancelled.append(bench.loop.time())
                if len(cancelled) == 2:
                    await asyncio.sleep(10)

    bench = Bench(lambda name, _: stubborn() if name == "a" else "fine", {"a": 20.0}, timeout=4.0)
    bench.submit("a")
    bench.submit("b")
    await asyncio.sleep(50)
    assert cancelled == [4, 20]
    assert bench.outcomes == [(20, "a", "expired"), (30, "b", "succeeded")]


async def test_close_abandons_everything_once_and_later_submissions_at_once() -> None:
    bench = Bench(lambda name, _: takes(100) if name == "called" else TransientError(), max_concurrent=2)
    bench.submit("waits")
    bench.submit("called")
    await asyncio.sleep(1)
    bench.submit("called")
    bench.submit("queued")
    await asyncio.sleep(1)
    bench._close()
    bench._close()
    bench.submit("late")
    await asyncio.sleep(200)
    assert sorted(name for _, name, _ in bench.outcomes) == ["called", "called", "late", "queued", "waits"]
    assert {(at, outcome) for at, _, outcome in bench.outcomes} == {(2, "abandoned")}
    assert len(bench.calls) == 3
    assert bench.keys() == []
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_abandon_gives_up_all_in_slices_and_what_comes_later_at_once() -> None:
    loop, letters, completed = asyncio.get_running_loop(), list[DeadLetter](), list[float]()
    stage = Enrich(lambda _: takes(100), max_age=600, max_concurrent=2, dead_letters=letters.append)._stage(
        Observer(on_completed=lambda: completed.append(loop.time())), None
    )
    stage.on_next([Compacted(number, number) for number in range(2500)])
    stage.on_completed()
    await asyncio.sleep(1)
    abandoning, made = asyncio.create_task(stage.abandon()), [0]
    while not abandoning.done():
        await asyncio.sleep(0)
        made.append(len(letters))
    assert [after - before for before, after in pairwise(made) if after > before] == [DUE] * 5
    assert completed == [1]
    stage.on_next(Compacted("late", "late"))
    assert Counter((letter.outcome, letter.age) for letter in letters) == {("abandoned", 0.0): 2501}  # of no birth
    await asyncio.sleep(1)
    assert "rxcompact call" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_an_event_of_no_birth_begins_to_age_as_it_comes_though_the_wall_clock_was_set() -> None:
    letters, loop = list[DeadLetter](), virtual_loop()
    stage: Any = Enrich(lambda _: takes(100), max_age=60, timeout=None, dead_letters=letters.append)._stage(
        Observer(), None
    )
    stage.on_next(Compacted("before", 1))
    loop.jump(3600)
    assert stage._clock.wall.follow() == 3600
    await asyncio.sleep(10)
    stage.on_next(Compacted("after", 2))
    lost: list[tuple[float, Any]] = []
    while len(lost) < 2:
        await asyncio.sleep(1)
        lost += [(loop.time(), letter.event.key) for letter in letters[len(lost) :]]
    assert lost == [(60, "before"), (70, "after")]


async def test_outside_a_pipeline_max_age_has_to_be_given() -> None:
    with pytest.raises(ArgumentError, match="^max_age of enrich must be given outside a Pipeline, got None"):
        Enrich(takes)._stage(Observer(), None)


def test_the_end_of_the_loop_abandons_what_is_held() -> None:
    benches: list[Bench] = []

    async def main() -> None:
        bench = Bench(lambda name, _: takes(100) if name == "called" else TransientError(), max_concurrent=2)
        benches.append(bench)
        bench.submit("waits")
        bench.submit("called")
        await asyncio.sleep(1)

    run(main)
    assert sorted((name, outcome) for _, name, outcome in benches[0].outcomes) == [
        ("called", "abandoned"),
        ("waits", "abandoned"),
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_error_that_ends_the_loop_abandons_what_is_held(error: type[BaseException]) -> None:
    benches: list[Bench] = []

    async def main() -> None:
        def answer(name: str, _: int) -> Any:
            if name == "ends":
                raise error
            return takes(100)

        bench = Bench(answer, max_concurrent=2)
        benches.append(bench)
        bench.submit("called")
        await asyncio.sleep(1)
        bench.submit("ends")
        await asyncio.sleep(1)

    with pytest.raises(error):
        run(main)
    assert sorted((name, outcome) for _, name, outcome in benches[0].outcomes) == [
        ("called", "abandoned"),
        ("ends", "abandoned"),
    ]
