"""Text, HTML and SVG for displays: pure functions that subscribe to nothing, wait for nothing and write nothing.

They know what they show by its attributes alone: nothing here imports from the floors above.
"""

from rxcompact.render.tables import (
    account_html,
    compacted_html,
    dead_letter_html,
    orchestrator_html,
    pipeline_html,
    pipeline_text,
    window_html,
)

__all__ = [
    "account_html",
    "compacted_html",
    "dead_letter_html",
    "orchestrator_html",
    "pipeline_html",
    "pipeline_text",
    "window_html",
]
