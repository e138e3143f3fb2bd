"""A picture that can be touched: a Vega-Lite specification as a plain dict, and what is shown where no script runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MIME = "application/vnd.vegalite.v5+json"
SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"


@dataclass(frozen=True, slots=True, repr=False)
class Chart:
    """A picture that shows itself: to be touched in a notebook, a still one elsewhere, and text in a console."""

    spec: dict[str, Any]
    """Of Vega-Lite 5."""
    svg: str
    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        # no text/html: JupyterLab prefers it to a chart
        return {MIME: self.spec, "image/svg+xml": self.svg, "text/plain": self.text}


def labels(words: Mapping[float, str]) -> str:
    """Return the expression of an axis whose values have these labels."""
    return "".join(f"datum.value == {value} ? '{word}' : " for value, word in words.items()) + "''"
