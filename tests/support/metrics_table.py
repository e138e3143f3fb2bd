"""The manual's table of metrics, made of the one that HELP and descriptions come from; run, it writes it there."""

from __future__ import annotations

import re
from pathlib import Path

import rxcompact
from rxcompact.observers.metrics import METRICS

PAGE = Path(rxcompact.__file__).parent / "manual" / "telemetry.md"
HEAD = "| name | type | labels | meaning |\n|---|---|---|---|\n"


def with_metrics(page: str) -> str:
    """Return a page with the table of now."""
    rows = [
        f"| `{each.name}` | {each.kind} | {', '.join(f'`{label}`' for label in each.labels)} | {each.help} |\n"
        for each in METRICS
    ]
    return re.sub(re.escape(HEAD) + r"(\|.*\n)*", lambda _: HEAD + "".join(rows), page)


if __name__ == "__main__":
    PAGE.write_text(with_metrics(PAGE.read_text()))
