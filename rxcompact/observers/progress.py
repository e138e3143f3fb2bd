"""A progress bar (extra ``notebook``)."""

from __future__ import annotations

from typing import Any

from rxcompact.signals import State


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
        self.bar: Any = tqdm(**settings)
        self._run: Any = None

    def on_attach(self, run: Any) -> None:
        """Show what this run does."""
        self._run = run

    def on_window(self, _: object) -> None:
        account, retries = self._run.account, self._run.statistics.retries
        numbers = {
            "distinct": account.distinct,
            "published": account.published,
            "retries": retries,
            "dead": account.lost,
        }
        # drawn when the bar is: tqdm limits how often
        self.bar.set_postfix({name: number for name, number in numbers.items() if number}, refresh=False)
        self.bar.update(account.received - self.bar.n)

    def on_state(self, state: State) -> None:
        if state in ("stopped", "failed"):
            self.on_window(None)
            self.bar.refresh()
            self.bar.close()
