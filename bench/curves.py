"""Draws curves over two logarithmic axes as an SVG: threads from left to right, files per second upwards. Pure.

Called by `bench.throughput`. Nothing but text comes out; the picture stands on white, so that it reads on any page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 800
HEIGHT: Final = 480
LEFT, RIGHT, TOP, BOTTOM = 84, 650, 72, 420
LABEL_DISTANCE: Final = 15.0
#: Told apart by people who see few colours (Okabe and Ito).
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#a0478b", "#7a6a00", "#333333")
_STEPS: Final = (1, 2, 5)


@dataclass(frozen=True)
class Curve:
    """Figures of one circumstance, and the one of the peer in it, which is drawn dashed. `points`: (x, y), x rising."""

    label: str
    points: Sequence[tuple[float, float]]
    reference_label: str
    reference: float


@dataclass(frozen=True)
class Scale:
    """From figures, `low` to `high`, to pixels, `start` to `end`, by their logarithm."""

    low: float
    high: float
    start: float
    end: float

    def place(self, figure: float) -> float:
        """The pixel of a figure. ValueError unless it is above 0."""
        share = math.log(figure / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def build_picture(title: str, subtitle: str, curves: Sequence[Curve]) -> str:
    """The SVG, as a document. ValueError without curves, or for figures that are not above 0."""
    if not curves or any(not curve.points for curve in curves):
        raise ValueError("there is nothing to draw")
    if len(curves) > len(COLOURS):
        raise ValueError(f"more curves than the {len(COLOURS)} colours can tell apart")
    x, y = build_scales(curves)
    body = [
        *_head(title, subtitle),
        *_x_axis(x, sorted({point[0] for curve in curves for point in curve.points})),
        *_y_axis(y),
        *(line for curve, colour in zip(curves, COLOURS, strict=False) for line in _curve(curve, colour, x, y)),
        *_labels(curves, y),
    ]
    return "\n".join([*body, "</svg>", ""])


def build_scales(curves: Sequence[Curve]) -> tuple[Scale, Scale]:
    """Threads from the least to the most; files per second between numbers that are round."""
    threads = [point[0] for curve in curves for point in curve.points]
    speeds = [speed for curve in curves for speed in (*(point[1] for point in curve.points), curve.reference)]
    if min(threads + speeds) <= 0:
        raise ValueError("a logarithmic axis has no place for what is not above 0")
    low, high = round_down(min(speeds)), round_up(max(speeds))
    return Scale(min(threads), max(threads), LEFT, RIGHT), Scale(low, high, BOTTOM, TOP)


def round_down(figure: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... at or below a figure."""
    decade = 10.0 ** math.floor(math.log10(figure))
    return max(step * decade for step in _STEPS if step * decade <= figure)


def round_up(figure: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... above a figure."""
    decade = 10.0 ** math.floor(math.log10(figure))
    return min(step * decade for step in (*_STEPS, 10) if step * decade > figure)


def round_steps(low: float, high: float) -> list[float]:
    """All of 1, 2, 5, 10, 20, ... from low to high, both included."""
    found, figure = [], round_down(low)
    while figure <= high:
        found.append(figure)
        figure = round_up(figure)
    return found


def spread(places: Sequence[float], distance: float) -> list[float]:
    """Places for labels, as near to the given ones as it goes and in their order, with a distance between them."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        while len(groups) > 1 and _begin(groups[-1], places, distance) < _end(groups[-2], places, distance) + distance:
            groups[-2:] = [groups[-2] + groups[-1]]
    found = [0.0] * len(places)
    for group in groups:
        begin = _begin(group, places, distance)
        for number, index in enumerate(group):
            found[index] = begin + number * distance
    return found


def _begin(group: Sequence[int], places: Sequence[float], distance: float) -> float:
    """Where a group of labels begins whose middle is that of what they belong to."""
    return sum(places[index] for index in group) / len(group) - (len(group) - 1) * distance / 2


def _end(group: Sequence[int], places: Sequence[float], distance: float) -> float:
    return _begin(group, places, distance) + (len(group) - 1) * distance


def _head(title: str, subtitle: str) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        ' role="img" font-family="sans-serif" font-size="13" fill="#222222">',
        f"<title>{escape(title)}</title>",
        f"<desc>{escape(subtitle)}</desc>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 28, title, "start", 'font-size="17" font-weight="bold"'),
        _text(LEFT, 48, subtitle, "start", 'fill="#555555"'),
    ]


def _x_axis(x: Scale, ticks: Sequence[float]) -> list[str]:
    lines = [_line(x.place(tick), TOP, x.place(tick), BOTTOM) for tick in ticks]
    numbers = [_text(x.place(tick), BOTTOM + 20, f"{tick:g}") for tick in ticks]
    return [*lines, *numbers, _text((LEFT + RIGHT) / 2, BOTTOM + 44, "threads, at most")]


def _y_axis(y: Scale) -> list[str]:
    ticks = round_steps(y.low, y.high)
    lines = [_line(LEFT, y.place(tick), RIGHT, y.place(tick)) for tick in ticks]
    numbers = [_text(LEFT - 8, y.place(tick) + 4, f"{tick:,.0f}", "end") for tick in ticks]
    middle = (TOP + BOTTOM) / 2
    name = _text(20, middle, "files per second", "middle", f'transform="rotate(-90 20 {middle:g})"')
    return [*lines, *numbers, name]


def _curve(curve: Curve, colour: str, x: Scale, y: Scale) -> list[str]:
    places = [(x.place(threads), y.place(speed)) for threads, speed in curve.points]
    path = " ".join(f"{across:.1f},{up:.1f}" for across, up in places)
    up = y.place(curve.reference)
    return [
        _line(LEFT, up, RIGHT, up, f'stroke="{colour}" stroke-width="1.5" stroke-dasharray="6 4"'),
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>',
        *(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3.5" fill="{colour}"/>' for across, up in places),
    ]


def _labels(curves: Sequence[Curve], y: Scale) -> list[str]:
    """At the right end of each line, in its colour."""
    texts = [text for curve in curves for text in (curve.label, curve.reference_label)]
    places = [y.place(speed) for curve in curves for speed in (curve.points[-1][1], curve.reference)]
    colours = [colour for colour in COLOURS for _ in range(2)]
    labels = zip(texts, spread(places, LABEL_DISTANCE), colours, strict=False)
    return [_text(RIGHT + 10, up + 4, text, "start", f'fill="{colour}"') for text, up, colour in labels]


def _line(left: float, top: float, right: float, bottom: float, stroke: str = 'stroke="#e4e4e4"') -> str:
    return f'<line x1="{left:.1f}" y1="{top:.1f}" x2="{right:.1f}" y2="{bottom:.1f}" {stroke}/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{f" {more}" if more else ""}>{escape(text)}</text>'
