"""The elements of SVG pictures, and one style for light and dark."""

from __future__ import annotations

from base64 import b64encode

from rxcompact.format import escape

WIDTH = 960
OUTCOME_COLOURS = {
    "published": ("#009e73", "#35c79b"),
    "expired": ("#e69f00", "#f0b840"),
    "rejected": ("#882255", "#b03070"),
    "failed": ("#c94f00", "#e0632a"),
    "dropped": ("#b0b6bd", "#8b949e"),
    "abandoned": ("#6f4fc4", "#7a5cf0"),
}
"""On white paper and on black, after Okabe and Ito, and Tol: distinct to the colour-blind."""
RETRY, QUIET = "#bc4c00", "#8c959f"


def _outcomes(dark: bool) -> str:
    fills = (f".{name} {{ fill: {colours[dark]} }}" for name, colours in OUTCOME_COLOURS.items())
    rings = (f".ring.{name} {{ stroke: {colours[dark]} }}" for name, colours in OUTCOME_COLOURS.items())
    paper = f"{', '.join(f'.ring.{name}' for name in OUTCOME_COLOURS)} {{ fill: {'#0d1117' if dark else '#ffffff'} }}"
    return "\n".join([*fills, *rings, paper])


# the picture brings its paper: a notebook's theme is not known to an image
STYLE = f"""
text {{ font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #24292f }}
.paper {{ fill: #ffffff; stroke: #d0d7de }}
.title {{ font-size: 14px; font-weight: 600 }}
.number {{ font-size: 21px; font-weight: 600 }}
.quiet {{ fill: #57606a; font-size: 11px }}
.small {{ font-size: 10.5px }}
.letter {{ fill: #ffffff; font-weight: 600 }}
.middle {{ text-anchor: middle }}
.end {{ text-anchor: end }}
.lane, .tick, .state {{ stroke: #8c959f; fill: none }}
.state {{ stroke-dasharray: 5 3 }}
.grid {{ stroke: #d8dee4; stroke-dasharray: 2 3 }}
.window {{ fill: #ddf4ff; opacity: 0.6 }}
.bracket {{ stroke: #0969da; stroke-width: 1.5; fill: none }}
.duplicate {{ opacity: 0.38 }}
.retry {{ stroke: #bc4c00; stroke-width: 1.6; fill: none }}
.wait {{ stroke: #bc4c00; stroke-dasharray: 3 3; fill: none }}
.bar, .faded {{ fill: #0969da }}
.faded {{ opacity: 0.28 }}
.retried {{ fill: #bc4c00 }}
.ring {{ stroke-width: 2 }}
{_outcomes(dark=False)}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e6edf3 }}
.paper {{ fill: #0d1117; stroke: #30363d }}
.quiet {{ fill: #9da7b3 }}
.letter {{ fill: #ffffff }}
.grid {{ stroke: #2b323b }}
.window {{ fill: #12345a }}
.bracket {{ stroke: #58a6ff }}
.retry, .wait {{ stroke: #f0883e }}
.retried {{ fill: #f0883e }}
.bar, .faded {{ fill: #58a6ff }}
{_outcomes(dark=True)}
}}
"""


def element(name: str, text: str | None = None, **attributes: str | float) -> str:
    """Return an element; the attribute ``kind`` is its class.

    >>> element("text", "a < b", x=1.5, kind="quiet")
    '<text x="1.5" class="quiet">a &lt; b</text>'
    """
    parts = [name]
    for key, value in attributes.items():
        quoted = escape(value if isinstance(value, str) else number(value))
        parts.append(f'{"class" if key == "kind" else key}="{quoted}"')
    return f"<{' '.join(parts)}/>" if text is None else f"<{' '.join(parts)}>{escape(text)}</{name}>"


def number(value: float) -> str:
    """Return a number with the digits that can be seen."""
    return f"{value:.1f}".removesuffix(".0")


def document(parts: list[str], height: float, label: str) -> str:
    """Return a picture."""
    tall = number(height)
    paper = element("rect", x=0.5, y=0.5, width=WIDTH - 1, height=height - 1, rx=8, kind="paper")
    size = f'width="{WIDTH}" height="{tall}" viewBox="0 0 {WIDTH} {tall}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(label)}">'
    return "\n".join([opening, f"<style>{STYLE}</style>", paper, *parts, "</svg>"])


def image(svg: str, alternative: str) -> str:
    """Return HTML of a picture: an image, since a notebook that is not trusted strips SVG but shows images."""
    data = b64encode(svg.encode()).decode()
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(alternative)}" style="max-width:100%">'
