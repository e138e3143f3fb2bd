"""A progress bar (extra ``notebook``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rxcompact.signals import BatchPublished, DeadLettered, RetryScheduled, Signal, State, WindowClosed

if TYPE_CHECKING:
    from tqdm import tqdm


class ProgressObserver:
    """An observer that shows a tqdm bar of events received, as windows close; in a notebook a widget.

    Args:
        total: Events to come, if that is known.
        options: Of `tqdm.auto.tqdm`.

    Raises:
        ImportError: without tqdm.
    """

    def __init__(self, total: int | None = None, **options: Any) -> None:
        from tqdm.auto import tqdm  # noqa: PLC0415 - an extra

        settings: dict[str, Any] = {"total": total, "unit": " events", "unit_scale": True} | options
        self.bar: tqdm[Any] = tqdm(**settings)
        self._numbers = {"distinct": 0, "published": 0, "retries": 0, "dead": 0}

    def on_signal(self, signal: Signal) -> None:
        numbers = self._numbers
        match signal:
            case WindowClosed():
                numbers["distinct"] += signal.distinct
                self.bar.update(signal.received)
            case BatchPublished():
                numbers["published"] += signal.size
            case RetryScheduled():
                numbers["retries"] += 1
            case DeadLettered():
                numbers["dead"] += 1
            case _:
                return
        # drawn when the bar is: tqdm limits how often
        self.bar.set_postfix({name: number for name, number in numbers.items() if number}, refresh=False)

    def on_state(self, state: State) -> None:
        if state in ("stopped", "failed"):
            self.bar.refresh()
            self.bar.close()
