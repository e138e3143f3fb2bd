"""The colours of outcomes are distinct, to the colour-blind too, on white and on black."""

from __future__ import annotations

from itertools import combinations

import pytest

from rxcompact.render.svg import OUTCOME_COLOURS

# Machado, Oliveira, Fernandes (2009), severity 1: of linear RGB
SEEN = {
    "all": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "deuteranopia": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    "tritanopia": ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
}
Linear = tuple[float, float, float]


def linear(colour: str) -> Linear:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))

    def of(value: float) -> float:
        return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4

    return of(red), of(green), of(blue)


def lab(colour: str, kind: str) -> Linear:
    """The colour as such eyes see it, in CIELAB."""
    there = linear(colour)
    r, g, b = (min(1.0, max(0.0, sum(m * c for m, c in zip(row, there, strict=True)))) for row in SEEN[kind])
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (each ** (1 / 3) if each > 0.008856 else 7.787 * each + 16 / 116 for each in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def distance(one: str, other: str, kind: str) -> float:
    return sum((a - b) ** 2 for a, b in zip(lab(one, kind), lab(other, kind), strict=True)) ** 0.5


def test_distances_are_those_of_known_colours() -> None:
    assert distance("#000000", "#ffffff", "all") == pytest.approx(100, abs=0.1)
    # a green and a red that differ for most, and hardly for some
    assert distance("#1a7f37", "#cf222e", "all") > 100
    assert distance("#1a7f37", "#cf222e", "deuteranopia") < 20


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("kind", SEEN)
def test_n8_outcomes_are_distinct(kind: str, dark: bool) -> None:
    near = {
        (one, other): round(distance(OUTCOME_COLOURS[one][dark], OUTCOME_COLOURS[other][dark], kind))
        for one, other in combinations(OUTCOME_COLOURS, 2)
    }
    assert min(near.values()) >= 15, {pair: far for pair, far in near.items() if far < 15}
