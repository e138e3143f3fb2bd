"""The elements of SVG pictures, and one style for light and dark."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path

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
COLOURS = ("#2f6fd6", "#c2571a", "#1f8a5b", "#8a4fc4", "#b8324f", "#0f7f95", "#8a6d0b", "#5b6b7d")
"""Of keys, in turn: each is a contrast to white text, to white paper and to black paper."""


_parts = (Path(__file__).parent / "style.css").read_text().split("/* dark */\n")
for _dark in (False, True):
    for _name, _colours in OUTCOME_COLOURS.items():
        _parts[_dark] += f"rect.{_name} {{ fill: {_colours[_dark]} }}\n.ring.{_name} {{ stroke: {_colours[_dark]} }}\n"
# the picture brings its paper: a notebook's theme is not known to an image
STYLE = f"{_parts[0]}@media (prefers-color-scheme: dark) {{\n{_parts[1]}}}\n"


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


def bars(amounts: Iterable[tuple[float, float, float, str]], base: float, height: float) -> Iterator[str]:
    """Yield bars, of left, width, amount and kind, that stand on a line; of any amount, however small, there is one."""
    amounts = [each for each in amounts if each[2] > 0]
    most = max((amount for _, _, amount, _ in amounts), default=1)
    for left, width, amount, kind in amounts:
        tall = max(1.0, height * amount / most)
        yield element("rect", x=left, y=base - tall, width=width, height=tall, kind=kind)


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
