"""Drawings as SVG: sizes in pixels, colours by class, so that they follow the page into dark mode and onto paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from benchmark.page.results import Curve
from benchmark.statistics import Array

_LETTER = 6.7  # width of a letter of 12 pixels, about
_MOST_RANKED = 30  # rows in a diagram of ranks; more names than that cannot be told apart


def critical_difference(ranks: Mapping[str, float], difference: float, images: int) -> Markup:
    """Mean ranks on a line, best on the left; bars join rows whose ranks differ by no more than `difference`.

    Of more than 30 rows the best 30 are shown; ranks are those among all.

    Source: Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006).
    """
    order = sorted(ranks, key=lambda name: (ranks[name], name))
    shown = order[:_MOST_RANKED]
    places = [ranks[name] for name in shown]
    first, last = 1.0, max(float(math.ceil(places[-1])), 2.0)
    margin = 40 + max(len(name) + 5 for name in shown) * _LETTER
    wide = 900.0

    def x(rank: float) -> float:
        return margin + (rank - first) / (last - first) * (wide - 2 * margin)

    cliques = _cliques(places, difference)
    axis, step = 46.0, 18.0
    below = axis + 16 + 7 * len(cliques)
    left = (len(shown) + 1) // 2
    tall = below + step * left + 6
    parts = []
    for tick in _ticks(first, last):
        parts.append(_line(x(tick), axis - 5, x(tick), axis, "axis"))
        parts.append(_text(x(tick), axis - 9, f"{tick:g}", "middle", "quiet"))
    parts.append(_line(x(first), axis, x(last), axis, "axis"))
    end = min(x(first + difference), wide - 4)
    parts += [_line(x(first), 14, end, 14, "clique"), _text(end + 6, 18, f"CD {difference:.2f}", "start", "quiet")]
    for index, (begin, until) in enumerate(cliques):
        y = axis + 10 + 7 * index
        parts.append(_line(x(places[begin]) - 3, y, x(places[until]) + 3, y, "clique"))
    for index, name in enumerate(shown):
        on_left = index < left
        y = below + step * (index if on_left else len(shown) - 1 - index) + 8
        edge = margin - 24 if on_left else wide - margin + 24
        at = x(places[index])
        parts.append(Markup('<path class="stem" d="M{:.1f} {:.1f}V{:.1f}H{:.1f}"/>').format(at, axis, y, edge))
        words = f"{name}  {places[index]:.2f}" if on_left else f"{places[index]:.2f}  {name}"
        side = "end" if on_left else "start"
        parts.append(_text(edge + (-5 if on_left else 5), y + 4, words, side, ""))
    some = f"the best {len(shown)} of {len(order)} rows" if len(shown) < len(order) else f"{len(order)} rows"
    title = f"Mean ranks of {some} over {images} images, critical difference {difference:.2f}"
    detail = "; ".join(f"{name} {ranks[name]:.2f}" for name in shown)
    return _drawing(wide, tall, title, detail, parts)


def _cliques(places: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """First and last of every longest run of sorted `places` that spans at most `difference`; runs of one are none."""
    found: list[tuple[int, int]] = []
    for begin, place in enumerate(places):
        until = max(index for index, other in enumerate(places) if other - place <= difference)
        if until > begin and (not found or until > found[-1][1]):
            found.append((begin, until))
    return found


def panel(curves: Mapping[str, Curve], title: str, bottom: float, top: float) -> Markup:
    """The mean curves of deletion and insertion of one method, with their bands, on a scale from `bottom` to `top`."""
    wide, tall, left, low, high = 190.0, 128.0, 30.0, 108.0, 8.0

    def points(fractions: Array, values: Array) -> list[tuple[float, float]]:
        across = left + fractions * (wide - 6 - left)
        up = low - (values - bottom) / ((top - bottom) or 1.0) * (low - high)
        return list(zip(across.tolist(), up.tolist(), strict=True))

    parts = [_line(left, low, wide - 6, low, "axis"), _line(left, high, left, low, "axis")]
    for value in (bottom, top):
        y = points(np.zeros(1), np.full(1, value))[0][1]
        parts.append(_text(left - 4, y + 4, _short(value), "end", "small quiet"))
    parts += [
        _text(left, tall - 6, "0", "middle", "small quiet"),
        _text(wide - 8, tall - 6, "1", "middle", "small quiet"),
    ]
    told = []
    for measure, curve in curves.items():
        band = [*points(curve.fractions, curve.low), *reversed(points(curve.fractions, curve.high))]
        parts.append(Markup('<path class="band {}" d="{}Z"/>').format(measure, _path(band)))
        parts.append(
            Markup('<path class="curve {}" d="{}"/>').format(measure, _path(points(curve.fractions, curve.mean)))
        )
        begin, end = _short(curve.mean[0]), _short(curve.mean[-1])
        told.append(f"{measure} from {begin} to {end}, area {curve.area:.3f}")
    return _drawing(wide, tall, f"Curves of {title}", "; ".join(told), parts)


@dataclass(frozen=True)
class Point:
    """A row of a chart of quality against cost; `front`: nothing is both better and cheaper."""

    name: str
    cost: float
    quality: float
    front: bool


def pareto(points: Sequence[Point], cost: str, quality: str, higher_is_better: bool) -> Markup:
    """Quality upwards (the better the higher) against cost to the right, on a scale of powers of ten or two.

    Costs of 0 stand left of all others. Names are left out where they would hide each other, those of the front last.
    """
    wide, tall, left, right, top, bottom = 900.0, 380.0, 64.0, 150.0, 14.0, 330.0
    positive = [point.cost for point in points if point.cost > 0]
    least, most = (min(positive), max(positive)) if positive else (1.0, 1.0)
    decades = [10.0**power for power in range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)]
    begin, end = math.log10(decades[0]), max(math.log10(decades[-1]), math.log10(decades[0]) + 1)
    zero = any(point.cost <= 0 for point in points)
    start = left + (60 if zero else 12)
    values = [point.quality for point in points]
    lowest, highest = min(values), max(values)
    pad = 0.06 * ((highest - lowest) or 1.0)
    lowest, highest = lowest - pad, highest + pad

    def x(value: float) -> float:
        return start + (math.log10(value) - begin) / (end - begin) * (wide - right - start) if value > 0 else left + 20

    def y(value: float) -> float:
        share = (value - lowest) / (highest - lowest)
        return bottom - (share if higher_is_better else 1 - share) * (bottom - top)

    parts = [_line(left, bottom, wide - right, bottom, "axis"), _line(left, top, left, bottom, "axis")]
    for value in _ticks(lowest, highest):
        parts.append(_line(left, y(value), wide - right, y(value), "grid"))
        parts.append(_text(left - 8, y(value) + 4, f"{value:g}".replace("-", "−"), "end", "quiet"))
    for value in [*([0.0] if zero else []), *decades]:
        parts.append(_line(x(value), bottom, x(value), bottom + 5, "axis"))
        parts.append(_text(x(value), bottom + 20, f"{value:g}", "middle", "quiet"))
    parts.append(_text((left + wide - right) / 2, tall - 8, f"{cost} (cheaper to the left)", "middle", "quiet"))
    side = Markup('<text class="quiet" text-anchor="middle" transform="translate(14 {:.1f}) rotate(-90)">{}</text>')
    parts.append(side.format((top + bottom) / 2, f"{quality} (better upwards)"))
    front = sorted((point for point in points if point.front), key=lambda point: (point.cost, -y(point.quality)))
    steps = [(x(point.cost), y(point.quality)) for point in front]
    if len(steps) > 1:
        corners = "".join(f"H{across:.1f}V{up:.1f}" for across, up in steps[1:])
        parts.append(Markup('<path class="front" d="M{:.1f} {:.1f}{}"/>').format(*steps[0], corners))
    taken: list[tuple[float, float, float, float]] = [
        (x(point.cost) - 6, y(point.quality) - 6, x(point.cost) + 6, y(point.quality) + 6) for point in points
    ]
    for point in sorted(points, key=lambda point: (not point.front, point.name)):
        across, up = x(point.cost), y(point.quality)
        kind = "leading" if point.front else ""
        told = f"{point.name}: {quality} {point.quality:.3g}, {cost} {point.cost:.3g}"
        mark = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="5"><title>{}</title></circle>')
        parts.append(mark.format(kind, across, up, told))
        if (where := _free(point.name, across, up, taken, wide)) is not None:
            parts.append(_text(where[0], where[1], point.name, "start", kind))
    told = "; ".join(f"{point.name} {point.quality:.3g} at {point.cost:.3g}" for point in front)
    return _drawing(wide, tall, f"{quality} against {cost}", f"Not beaten in both: {told}", parts)


def _free(
    name: str, x: float, y: float, taken: list[tuple[float, float, float, float]], wide: float
) -> tuple[float, float] | None:
    """Where the name of a point at (x, y) begins without lying on another, noted in `taken`; None if nowhere."""
    width = len(name) * _LETTER
    for across, up in ((9, 4), (-9 - width, 4), (-width / 2, -10), (-width / 2, 19), (9, -8), (9, 16)):
        box = (x + across, y + up - 11, x + across + width, y + up + 3)
        if box[0] < 66 or box[2] > wide:
            continue
        if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            taken.append(box)
            return x + across, y + up
    return None


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, about six."""
    rough = (high - low) / 6 or 1.0
    size = 10 ** math.floor(math.log10(rough))
    step = size * next(factor for factor in (1, 2, 5, 10) if factor * size >= rough)
    return [round(step * place, 10) for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _short(value: float) -> str:
    return f"{value:.2g}".replace("-", "−") if abs(value) < 100 else f"{value:.0f}".replace("-", "−")


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _line(x: float, y: float, until_x: float, until_y: float, kind: str) -> Markup:
    line = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    return line.format(kind, x, y, until_x, until_y)


def _text(x: float, y: float, words: str, side: str, kind: str) -> Markup:
    text = Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    return text.format(kind, x, y, side, words)


def _drawing(wide: float, tall: float, title: str, detail: str, parts: Sequence[Markup]) -> Markup:
    """An SVG of that size with words for those who do not see it."""
    opening = Markup('<svg viewBox="0 0 {:.0f} {:.0f}" width="{:.0f}" height="{:.0f}" role="img" aria-label="{}">')
    inside = Markup("").join(parts)
    return opening.format(wide, tall, wide, tall, f"{title}. {detail}.") + inside + Markup("</svg>")
