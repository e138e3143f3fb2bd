"""Probes and metrics of a run, over HTTP."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from rxcompact.contracts import Demand

RECOVERED = 0.2  # share of the capacity that is free when it is ready again after it was full


class Probes:
    """Answers ``GET /healthz``, ``/readyz`` and ``/metrics``.

    Args:
        state: Returns "ok", or why no events are taken: "starting", "draining".
        demand: Returns the demand of the run; None before there is one.
        requires: A stage without which it is not ready: while what it calls is down, ``/readyz`` is 503.

    Attributes:
        full: Whether something was rejected for want of capacity, and little of it is free since.
    """

    def __init__(
        self, state: Callable[[], str], demand: Callable[[], Demand | None], requires: str | None = None
    ) -> None:
        self._state, self._demand, self._requires = state, demand, requires
        self.full = False

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of an application."""
        handlers = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics}
        return [web.get(path, handler) for path, handler in handlers.items()]

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        demand = self._demand()
        used = {} if demand is None else demand.used()
        if demand is None or not demand.capacity():
            self.full = True
        elif all(held <= (1 - RECOVERED) * limit for held, limit in used.values()):
            self.full = False
        parts = {"source": self._state(), "capacity": "full" if self.full else "ok"}
        problems = [state for state in parts.values() if state != "ok"]
        for stage, down in (demand.failing() if demand is not None else {}).items():
            parts[stage] = f"down: {', '.join(down)}".rstrip(": ") if down else "ok"
            problems += [f"{stage} is {parts[stage]}"] if down and stage == self._requires else []
        text = problems[0] if problems else "ready"
        if "verbose" in request.query:
            parts["capacity"] += "".join(f", {held} of {limit} held ({name})" for name, (held, limit) in used.items())
            text = "\n".join([*(f"{part}: {state}" for part, state in parts.items()), text])
        return web.Response(text=f"{text}\n", status=503 if problems else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        if (demand := self._demand()) is None:
            return web.Response(status=503)
        try:
            text, content_type = demand.metrics(request.headers.get("Accept", ""))
        except ImportError:
            return web.Response(status=501, text='metrics need an extra: pip install "rxcompact[metrics]"\n')
        return web.Response(body=text, headers={"Content-Type": content_type})
