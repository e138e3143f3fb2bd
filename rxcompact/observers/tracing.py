"""Traces: a span of each window, below it one of each attempt (extra ``opentelemetry``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from msgspec.structs import force_setattr

from rxcompact.events import Compacted, Window
from rxcompact.operators.retry import reason

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, Tracer

LINKS = 32  # of a span
SECOND = 1e9  # nanoseconds


class TracingObserver:
    """An observer that makes spans: they lead from a sender's request through its window to the calls for it.

    See the manual, telemetry, for which spans there are: ``orchestrator.attach(TracingObserver())``.

    Cost:
        Some 30 µs a window and a call. For each post with a sampled ``traceparent`` its window keeps a few hundred
        bytes.

    Args:
        tracer: Of OpenTelemetry's API (extra ``opentelemetry``); by default that of the global provider.

    Raises:
        ImportError: without the extra.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        from opentelemetry import context, propagate, trace  # noqa: PLC0415 - an extra

        self._context, self._propagate, self._trace = context, propagate, trace
        self._tracer = tracer or trace.get_tracer("rxcompact")
        self._name = ""

    def on_attach(self, run: Any) -> None:
        """Trace what this run does from now on."""
        self._name = run.name
        run.trace_with(self)

    def extract(self, headers: Mapping[str, str]) -> SpanContext | None:
        """Return the span context that the headers of a message carry, if it is sampled."""
        found = self._propagate.extract(headers, self._context.Context())
        of_sender = self._trace.get_current_span(found).get_span_context()
        return of_sender if of_sender.is_valid and of_sender.trace_flags.sampled else None

    def trace_window(self, window: Window) -> None:
        """Make the span of a window that closed."""
        spans = _distinct(ack.span for acks in window.acks.values() for ack in acks if ack.span)
        attributes = {"trigger": window.trigger, "received": window.received, "distinct": len(window)}
        span = self._start("window", None, spans, attributes, start_time=int(window.opened * SECOND))
        span.end(int(max(window.opened, window.closed) * SECOND))
        found = span.get_span_context()
        for bounds in {id(each.window): each.window for each in window if each.window is not None}.values():
            force_setattr(bounds, "span", found)  # which all events of the window have

    def start_call(self, stage: str, attempt: int, events: Iterable[Compacted]) -> Span:
        """Return the span of a call that begins, which is the current one of its task."""
        every = list(events)
        windows = _distinct(each.window.span for each in every if each.window is not None and each.window.span)
        parent, *others = windows or (None,)
        span = self._start(stage, parent, others, {"attempt": attempt, "size": len(every)})
        self._context.attach(self._trace.set_span_in_context(span, self._context.Context()))  # the task's own
        return span

    def end_call(self, span: Span, target: str, error: BaseException | None) -> str:
        """End it; return the id of its trace, if it is sampled."""
        host, _, port = target.rpartition(":")
        if port.isdecimal():
            span.set_attributes({"server.address": host.strip("[]"), "server.port": int(port)})
        if error is not None:
            span.set_attribute("error.type", reason(error))
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()
        found = span.get_span_context()
        return self._trace.format_trace_id(found.trace_id) if found.trace_flags.sampled else ""

    def _start(
        self, name: str, parent: Any, linked: Iterable[Any], attributes: Mapping[str, Any], **options: Any
    ) -> Span:
        context = self._context.Context()  # whoever pushed last is no parent
        if parent is not None:
            context = self._trace.set_span_in_context(self._trace.NonRecordingSpan(parent), context)
        links = [self._trace.Link(each) for each in islice(linked, LINKS)]
        named = {f"rxcompact.{key}": value for key, value in attributes.items()} | {"rxcompact.pipeline": self._name}
        return self._tracer.start_span(name, context, links=links, attributes=named, **options)


def _distinct(spans: Iterable[SpanContext]) -> list[SpanContext]:
    return list({(each.trace_id, each.span_id): each for each in spans}.values())
