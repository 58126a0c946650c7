"""Several explained images side by side: in one picture, or on a Markdown page about every method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmark import choices
from benchmark.explanation_page import page, percent
from benchmark.explanations import Explanation
from benchmark.heat_maps import heat_maps
from benchmark.records import write_whole

_ACROSS = 8  # methods side by side in one picture
_ON_A_PAGE = 6  # and in each of many, which load one by one
_TILE = 120.0


def draw(path: Path, found: Explanation, command: str) -> list[Path]:
    """Write all images of `found` as `path`: FILE.md with its pictures in a folder `images`, or FILE.png.

    Args:
        command: that made `found`, for the page.

    Returns:
        What was written.

    Raises:
        UserError: a file cannot be written.
    """
    if path.suffix.lower() == ".md":
        return _gallery(path, found, command)
    if len(found) == 1:
        page(path, found, 0)
    else:
        _grid(path, found, found.methods)
    return [path]


def _grid(
    path: Path, found: Explanation, methods: Sequence[str], across: int = _ACROSS, largest: float = 240.0
) -> None:
    """A row an image, a column each of `methods`, see `heat_maps`."""
    pictures = [found.picture(image) for image in range(len(found))]
    captions = []
    for image, index in enumerate(found.targets.tolist()):
        captions.append(f"{found.label(index)}\n{percent(float(found.probabilities[image, index]))}")
    maps = {name: found.heat(name).double().numpy() for name in methods if name in found.maps}
    reasons = {name: found.reasons[name] for name in methods if name in found.reasons}
    heat_maps(path, pictures, captions, maps, {}, found.nulls, reasons, across, largest)


def _gallery(path: Path, found: Explanation, command: str) -> list[Path]:
    """A page with a picture and a table for every few methods, and a table of those that have no map."""
    names = [name for name in found.methods if name in found.maps]
    count = math.ceil(len(names) / _ON_A_PAGE)
    images = f"{len(found)} images" if len(found) > 1 else "one image"
    lines = [
        f"# {path.stem.replace('_', ' ').capitalize()}",
        "",
        f"{len(names)} methods explain {images} for {found.model}. Under each image stands the explained class and its",
        "probability. A map with negative values runs from blue through white (0) to red, which speaks for the class;",
        "one without runs from white, its lowest value, to brown. Full colour is the 99th percentile of each map, so",
        "colours compare places within a map and not maps with each other.",
        "",
        "Made, pictures and page, by",
        "",
        f"    {command}",
        "",
    ]
    known = choices.choices("methods")
    written: list[Path] = []
    for part in range(count):
        block = names[part * len(names) // count : (part + 1) * len(names) // count]
        picture = path.parent / "images" / f"{path.stem}-{part + 1}.png"
        _grid(picture, found, block, _ON_A_PAGE, _TILE)
        written.append(picture)
        lines += [f"![{', '.join(block)}](images/{picture.name})", "", "| method | |", "|:--|:--|"]
        lines += [f"| `{name}` | {_cell(known.get(name.split(' ')[0], ''))} |" for name in block]
        lines.append("")
    if found.reasons:
        lines += ["Without a map here:", "", "| method | | why |", "|:--|:--|:--|"]
        lines += [
            f"| `{name}` | {_cell(known.get(name.split(' ')[0], ''))} | {_cell(reason)} |"
            for name, reason in found.reasons.items()
        ]
        lines.append("")
    write_whole(path, partial(Path.write_text, data="\n".join(lines), encoding="utf-8"))
    return [*written, path]


def _cell(text: str) -> str:
    return text.replace("|", "&#124;")
