"""The two pictures: what is painted, where, and that they can be drawn from anything a sweep yields."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import image as pictures
from matplotlib.figure import Figure

from benchmark import curves, figures, heat_maps, records
from benchmark.cells import Cell, Choice
from benchmark.errors import UserError
from benchmark.records import Record

WHITE = np.ones((4, 4))


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


# --- one map ---


def test_signed_map_is_blue_below_zero_white_at_zero_and_red_above() -> None:
    values = np.zeros((4, 4))
    values[0], values[1] = -2.0, 2.0
    painted, word = heat_maps.paint(values, WHITE)
    assert word == ""
    negative, positive, zero = painted[0, 0], painted[1, 0], painted[2, 0]
    assert negative[2] > negative[0] + 0.2
    assert positive[0] > positive[2] + 0.2
    assert np.ptp(zero) < 0.02
    assert zero.min() > 0.95


def test_colours_do_not_depend_on_the_scale_of_the_map() -> None:
    values = generator().standard_normal((8, 8))
    image = generator().random((8, 8, 3))
    for scale in (1e-20, 3.0, 1e20):
        np.testing.assert_allclose(
            heat_maps.paint(scale * values, image)[0], heat_maps.paint(values, image)[0], atol=0.02
        )


def test_one_outlier_does_not_hide_the_rest() -> None:
    values = generator().random((32, 32)) - 0.5
    plain = heat_maps.paint(values, np.ones((32, 32)))[0]
    values[0, 0] = 1e6
    np.testing.assert_allclose(heat_maps.paint(values, np.ones((32, 32)))[0][1:], plain[1:], atol=0.1)


def test_map_without_negative_values_has_other_colours() -> None:
    values = np.arange(16.0).reshape(4, 4)
    unsigned, signed = heat_maps.paint(values, WHITE)[0], heat_maps.paint(values - 1, WHITE)[0]
    assert not np.allclose(unsigned, signed, atol=0.2)
    assert unsigned[0, 0].min() > 0.95  # zero is white in both


def test_single_bright_pixel_is_seen() -> None:
    values = np.zeros((32, 32))
    values[3, 4] = 1.0
    painted, word = heat_maps.paint(values, np.ones((32, 32)))
    assert word == ""
    assert painted[3, 4].min() < 0.3
    assert painted[0, 0].min() > 0.95


def test_image_shows_under_the_map() -> None:
    values = np.zeros((4, 4))
    values[0] = 1.0
    image = np.ones((4, 4, 3))
    image[:, 2:] = 0
    painted, _ = heat_maps.paint(values, image)
    assert painted[2, 0].mean() > painted[2, 2].mean() + 0.1


@pytest.mark.parametrize(
    ("value", "word"), [(0.0, "constant"), (-3.5, "constant"), (np.nan, "invalid"), (np.inf, "invalid")]
)
def test_map_with_nothing_to_see_is_grey_and_says_why(value: float, word: str) -> None:
    painted, found = heat_maps.paint(np.full((4, 4), value), WHITE)
    assert found == word
    assert np.ptp(painted) == 0
    assert painted.shape == (4, 4, 3)


def test_minus_sign() -> None:
    assert [figures.signed(number) for number in (0.126, -0.126, -0.001)] == ["0.13", "−0.13", "0.00"]


# --- heat maps ---


def maps_of(names: list[str], images: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    rng = generator()
    return {name: rng.standard_normal((images, *size)).astype(np.float32) for name in names}


@pytest.mark.parametrize(("methods", "count", "size"), [(15, 6, (32, 32)), (15, 2, (224, 224)), (8, 1, (8, 12))])
def test_heat_maps_fill_a_page(tmp_path: Path, methods: int, count: int, size: tuple[int, int]) -> None:
    names = [f"integrated_gradients_{index}" for index in range(methods)]
    maps = maps_of(names, count, size)
    maps[names[0]][0] = np.nan
    maps[names[1]][:] = 2
    images = [generator().random((*size, 3) if index else size) for index in range(count)]
    scores = {name: [float("nan"), *[0.5] * (count - 1)] for name in names[2:]}
    path = tmp_path / "new" / "maps.png"
    heat_maps.heat_maps(path, images, ["a long name of a class 0.93"] * count, maps, scores, nulls=names[-4:])
    page = pictures.imread(path)
    assert abs(page.shape[1] - 1600) <= 1
    assert [entry.name for entry in path.parent.iterdir()] == ["maps.png"]


def test_image_comes_first_and_nulls_come_last(tmp_path: Path) -> None:
    """Columns by what is in them: a green image, a red map (all pixels but one positive), a grey constant null."""
    green = np.zeros((8, 8, 3))
    green[..., 1] = 1
    red = np.ones((1, 8, 8))
    red[0, 0, 0] = -1
    path = tmp_path / "maps.png"
    heat_maps.heat_maps(
        path, [green], [""], {"random": np.ones((1, 8, 8)), "saliency": red}, {}, nulls=["random", "not drawn"]
    )
    page = pictures.imread(path)[..., :3]
    middle = page.reshape(-1, page.shape[1], 3)

    def columns(colour: np.ndarray) -> np.ndarray:
        return np.flatnonzero((np.abs(middle - colour).max(-1) < 0.02).sum(0) > 100)

    first, second = columns(np.array([0, 1, 0])), columns(heat_maps.paint(red[0], green)[0][4, 4])
    third = columns(np.full(3, 0.86))
    assert len(first) > 100
    assert first.max() < second.min()
    assert second.max() < third.min()
    assert third.min() - second.max() >= 20


def test_same_picture_has_the_same_bytes_and_leaves_matplotlib_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False)
    maps = maps_of(["saliency"], 2, (8, 8))
    for name in ("a.png", "b.png"):
        heat_maps.heat_maps(tmp_path / name, [np.ones((8, 8))] * 2, ["x", "y"], maps, {"saliency": [0.1, 0.2]})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False)) == before


# --- curves ---


def record(method: str, measure: str, lines: np.ndarray, role: str = "method", **params: object) -> Record:
    cell = Cell(Choice("small_cnn"), Choice("shapes"), Choice(method), Choice(measure, {"output": "prob", **params}))
    rows: list[tuple[object, ...]] = [
        (str(index), 0, measure, np.trapezoid(line, dx=1 / (len(line) - 1)), "ok", line.tolist())
        for index, line in enumerate(lines)
    ]
    rows.append(("bad", 0, measure, np.nan, "invalid", None))
    rows.append(("flat", 0, measure, np.nan, "degenerate", [9.0] * lines.shape[1]))
    facts = {"measures": [], "family": "faithfulness", "role": role, "reason": None, "environment": {}}
    return Record(cell, pd.DataFrame(rows, columns=records.SCHEMA.names), facts)


def both(method: str, level: float, role: str = "method", images: int = 5) -> list[Record]:
    fraction = np.linspace(0, 1, 11)
    noise = 0.01 * generator().standard_normal((images, 1))
    down, up = level * (1 - fraction) + noise, level * fraction + 0.1 + noise
    return [record(method, "deletion", down, role), record(method, "insertion", up, role)]


def test_trace_is_the_mean_over_images_that_are_ok() -> None:
    lines = np.array([[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]])
    (trace,) = curves._traces([record("rise", "deletion", lines)])
    np.testing.assert_allclose(trace.means["deletion"], [0.5, 0.5, 0.5])
    low, high = trace.bands["deletion"]
    assert low[0] < 0.5 < high[0]
    assert low[1] == high[1] == 0.5
    assert (trace.images, trace.areas) == (2, {"deletion": 0.5})


def test_trace_has_the_three_areas() -> None:
    up, down = np.array([[0.0, 0.5, 1.0]]), np.array([[1.0, 0.0, 0.0]])
    (trace,) = curves._traces([record("rise", "insertion", up), record("rise", "deletion", down)])
    assert trace.areas == {"insertion": 0.5, "deletion": 0.25, "SRG": 0.25}


def test_points_stand_where_the_listed_steps_are() -> None:
    given = [record("rise", name, np.ones((2, 3)), steps=[0, 0.25, 1]) for name in ("deletion", "insertion")]
    (trace,) = curves._traces(given)
    figure = Figure()
    for name in trace.means:
        curves._draw(figure.add_subplot(), name, [trace])
    deletion, insertion = (axes.lines[0].get_xdata().tolist() for axes in figure.axes)
    assert (deletion, insertion) == ([0, 0.25, 1], [0, 0.75, 1])


def test_protocols_are_never_mixed() -> None:
    lines = np.ones((2, 3))
    traces = curves._traces(
        [record("rise", "deletion", lines), record("rise", "deletion", 0 * lines, output="logit", unit="patch2")]
    )
    assert sorted(trace.name for trace in traces) == ["rise", "rise (2)"]
    assert sorted(trace.output for trace in traces) == ["logit", "prob"]


def test_methods_are_coloured_and_nulls_are_grey_and_broken() -> None:
    found = [both(f"method_{index:02}", 0.5) for index in range(15)]
    found += [both(f"null_{index}", 0.5, "null") for index in range(7)] + [both("ground_truth", 0.5, "oracle")]
    traces = {trace.name: trace for trace in curves._traces([entry for pair in found for entry in pair])}
    colours = {trace.style["color"] for trace in traces.values() if trace.role == "method"}
    assert len(colours) == 15
    assert all(trace.style["linestyle"] == "-" for trace in traces.values() if trace.role != "null")
    nulls = [trace.style for trace in traces.values() if trace.role == "null"]
    assert len({(style["color"], str(style["linestyle"])) for style in nulls}) == 7
    assert all(style["linestyle"] != "-" and float(style["color"]) < 0.8 for style in nulls)


def test_curves_are_drawn_from_what_is_there(tmp_path: Path) -> None:
    full = [*both("rise", 0.9), *both("random", 0.4, "null"), *both("ground_truth", 1.0, "oracle")]
    filed = [records.read(records.write(tmp_path, entry)) for entry in full]
    for name, given in {"full": filed, "half": full[1::2], "one": both("rise", 0.9, images=1)}.items():
        path = tmp_path / f"{name}.png"
        curves.curves(path, given)
        assert pictures.imread(path).shape == (660, 1600, 4)
    curves.curves(tmp_path / "again.png", full)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "full.png").read_bytes()


@pytest.mark.parametrize("given", [[], [record("rise", "srg", np.ones((2, 3)))]])
def test_nothing_to_draw_is_said(tmp_path: Path, given: list[Record]) -> None:
    with pytest.raises(UserError, match="expected records of deletion or insertion"):
        curves.curves(tmp_path / "curves.png", given)
    assert not list(tmp_path.iterdir())
