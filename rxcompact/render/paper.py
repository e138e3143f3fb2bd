"""What SVG pictures are drawn with: elements, the colours of keys, one style for light and for dark."""

from __future__ import annotations

from rxcompact.render.words import escape

WIDTH = 960
LEFT, RIGHT = 128, 932
"""Where time begins and ends."""
COLOURS = ("#2f6fd6", "#c2571a", "#1f8a5b", "#8a4fc4", "#b8324f", "#0f7f95", "#8a6d0b", "#5b6b7d")
"""Of keys, in turn: white text can be read on each, and each can be told from white paper and from black."""

# the picture brings its paper: a notebook's theme is not known to an image
_STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #24292f }
.paper { fill: #ffffff; stroke: #d0d7de }
.title { font-size: 14px; font-weight: 600 }
.quiet { fill: #57606a; font-size: 11px }
.small { font-size: 10.5px }
.letter { fill: #ffffff; font-size: 12px; font-weight: 600 }
.middle { text-anchor: middle }
.end { text-anchor: end }
.lane, .tick { stroke: #8c959f; fill: none }
.grid { stroke: #d8dee4; stroke-dasharray: 2 3 }
.state { stroke: #8c959f; stroke-dasharray: 5 3 }
.window { fill: #ddf4ff; opacity: 0.6 }
.bracket { stroke: #0969da; stroke-width: 1.5; fill: none }
.duplicate { opacity: 0.38 }
.retry { stroke: #bc4c00; stroke-width: 1.6; fill: none }
.wait { stroke: #bc4c00; stroke-dasharray: 3 3; fill: none }
.bar { fill: #0969da }
.faded { fill: #0969da; opacity: 0.28 }
.published { fill: #1a7f37 }
.expired { fill: #bf8700 }
.rejected, .failed { fill: #cf222e }
.dropped { fill: #6e7781 }
.abandoned { fill: #8250df }
.failed { fill: #bc4c00 }
.ring { stroke-width: 2 }
.ring, .ring.expired, .ring.rejected, .ring.failed, .ring.dropped, .ring.abandoned { fill: #ffffff }
.ring.expired { stroke: #bf8700 }
.ring.rejected, .ring.failed { stroke: #cf222e }
.ring.dropped { stroke: #6e7781 }
.ring.abandoned { stroke: #8250df }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .paper { fill: #0d1117; stroke: #30363d }
  .quiet { fill: #9da7b3 }
  .letter { fill: #ffffff }
  .grid { stroke: #2b323b }
  .window { fill: #12345a }
  .bracket { stroke: #58a6ff }
  .retry, .wait { stroke: #f0883e }
  .bar, .faded { fill: #58a6ff }
  .published { fill: #3fb950 }
  .expired { fill: #d29922 }
  .rejected, .failed { fill: #f85149 }
  .abandoned { fill: #a371f7 }
  .failed { fill: #f0883e }
  .ring, .ring.expired, .ring.rejected, .ring.failed, .ring.dropped, .ring.abandoned { fill: #0d1117 }
  .ring.expired { stroke: #d29922 }
  .ring.rejected, .ring.failed { stroke: #f85149 }
  .ring.abandoned { stroke: #a371f7 }
}
"""


def element(name: str, text: str | None = None, **attributes: str | float) -> str:
    """Return an element; of its attributes ``kind`` is its class, and an underscore is a hyphen.

    >>> element("text", "a < b", x=1.5, kind="quiet")
    '<text x="1.5" class="quiet">a &lt; b</text>'
    """
    parts = [name]
    for key, value in attributes.items():
        said = value if isinstance(value, str) else number(value)
        parts.append(f'{"class" if key == "kind" else key.replace("_", "-")}="{escape(said)}"')
    return f"<{' '.join(parts)}/>" if text is None else f"<{' '.join(parts)}>{escape(text)}</{name}>"


def number(value: float) -> str:
    """Return a number, of its digits those that can be seen."""
    return f"{value:.1f}".removesuffix(".0")


def document(parts: list[str], height: float, label: str) -> str:
    """Return a picture."""
    tall = number(height)
    paper = element("rect", x=0.5, y=0.5, width=WIDTH - 1, height=height - 1, rx=8, kind="paper")
    size = f'width="{WIDTH}" height="{tall}" viewBox="0 0 {WIDTH} {tall}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(label)}">'
    return "\n".join([opening, f"<style>{_STYLE}</style>", paper, *parts, "</svg>"])
