"""Pure strings: marble diagrams as text and as SVG, tables as HTML. Nothing here subscribes, waits or writes.

It knows what it shows by its attributes alone, so that the nouns of the floors above can use it.
"""

from rxcompact.render.flow import orchestrator_html, pipeline_html, pipeline_text
from rxcompact.render.marble import marble
from rxcompact.render.marks import EventMark, Marks, OutcomeMark, RetryMark, Span, StateMark, WindowMark
from rxcompact.render.nouns import account_html, compacted_html, dead_letter_html, window_html
from rxcompact.render.svg import marble_svg

__all__ = [
    "EventMark",
    "Marks",
    "OutcomeMark",
    "RetryMark",
    "Span",
    "StateMark",
    "WindowMark",
    "account_html",
    "compacted_html",
    "dead_letter_html",
    "marble",
    "marble_svg",
    "orchestrator_html",
    "pipeline_html",
    "pipeline_text",
    "window_html",
]
