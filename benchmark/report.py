"""`python -m benchmark.report RESULTS`: everything that a folder of records says, as one page of HTML."""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from benchmark import __version__, places, records
from benchmark.errors import UserError
from benchmark.interruption import interruptible
from benchmark.page import protocols, rankings
from benchmark.page.boards import Board, boards
from benchmark.page.results import Pair, Results, read
from benchmark.page.scores import VALUES, Scores, data, scores

IMAGES = 48
"""Images of each model and data set whose pictures a page shows by default."""

PICTURES = 4000
"""Most pictures on a page, about 4 MB: where there are many methods, fewer images are shown."""

_NOTHING: dict[str, Any] = {
    **dict.fromkeys(("matrix", "settings", "differences", "tradeoffs", "panels"), ()),
    "data": {"images": []},
    "remarks": ["There are no scores of images."],
}
"""What is known of a model and data set that was timed alone."""

_DESCRIPTION = """\
Write one HTML page that shows everything under RESULTS: leaderboards, agreement of metrics, critical differences,
curves, quality against cost, images with their maps, protocols, certificate, environment and what is missing. The page
needs no network and no server. Nothing is explained or scored."""


def write_report(
    root: Path, out: Path | None = None, images: int = IMAGES, places: Mapping[str, str] | None = None
) -> Path:
    """Write the page of all records under `root` to `out`, by default `<root>/report.html`.

    Args:
        images: how many images of each model and data set are shown with their maps; with 0 torch is not needed.
        places: where that lies on this disk which records cannot know, such as `datasets.root`.

    Returns:
        The path of the page.

    Raises:
        UserError: there is no record, one is damaged, or the page cannot be written.
    """
    text = page(read(root), images, places or {})
    path = out or root / "report.html"
    records.write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def page(results: Results, images: int, places: Mapping[str, str]) -> str:
    """The HTML; the same bytes for the same records, maps and images."""
    found = list(boards(results))
    behind = {board.pair: scores(results, board) for board in found if not board.table.cost}
    sections = _sections(results, found, behind, images, places)
    scored = [board for board in found if not board.table.cost]
    loader = PackageLoader("benchmark", "page")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = (Markup(loader.get_source(environment, f"report.{kind}")[0]) for kind in ("css", "js"))
    statuses, counts = protocols.counts(results, found)
    return environment.get_template("report.html").render(
        name=results.root.resolve().name,
        version=__version__,
        results=results,
        sections=sections,
        steadiness=list(rankings.steadiness(scored, [behind[board.pair] for board in scored])),
        splits=list(rankings.splits(results, scored)),
        metrics=protocols.metric_cards(results),
        methods=protocols.method_cards(results),
        environments=protocols.environments(results),
        effort=protocols.effort(results),
        statuses=statuses,
        counts=counts,
        style=style,
        script=script,
        # The browser runs this script alone, whatever a name in a record holds, and opens no connection.
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=_json([section["data"] for section in sections]),
    )


def _sections(
    results: Results, found: Sequence[Board], behind: Mapping[Pair, Scores], images: int, places: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What the template shows of each model and data set."""
    sections = []
    for pair in results.pairs:
        mine = [board for board in found if board.pair == pair]
        section = {"pair": pair, "boards": mine, **_NOTHING}
        for board in (board for board in mine if not board.table.cost):
            agreed = rankings.agreed(board, behind[pair])
            section |= {
                "matrix": rankings.matrix(agreed) if agreed else [],
                "settings": list(rankings.settings(results, board, behind[pair])),
                "differences": list(rankings.differences(results, board, behind[pair])),
                "tradeoffs": list(rankings.tradeoffs(board, [each for each in mine if each.table.cost])),
                "panels": list(rankings.panels(results, board)),
            }
            share = len(results.pairs) * (1 + len(board.rows))
            shown = behind[pair].foremost(min(images, max(1, PICTURES // share)))
            section |= _pictured(results, board, behind[pair], shown, places)
        sections.append(section)
    return sections


def _pictured(
    results: Results, board: Board, behind: Scores, shown: Sequence[str], places: Mapping[str, str]
) -> dict[str, Any]:
    """What the script of the page needs, with pictures where there are any, and remarks on those that are missing."""
    given = data(board, behind, shown, VALUES // len(results.pairs))
    if not shown:
        return {
            "data": given | {"pictures": {}, "maps": {}, "classes": None},
            "remarks": ["No pictures were asked for."],
        }
    from benchmark.page.pictures import pictures  # torch takes seconds to import, and tables do without

    found = pictures(results, board.pair, behind.uids, shown, places)
    targets = sorted(set(behind.targets.values()))
    names = dict(enumerate(found.classes or ()))
    # A model that predicts a class which the data set does not have has other classes altogether.
    named = {target: names[target] for target in targets} if set(targets) <= set(names) else {}
    return {"data": given | {"pictures": found.images, "maps": found.maps, "classes": named}, "remarks": found.remarks}


def _json(value: Any) -> Markup:
    """As it may stand in a script element: no character can end it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page of the folder that `arguments` name."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.report", description=_DESCRIPTION)
    parser.add_argument(
        "root", metavar="RESULTS", nargs="?", type=Path, default=Path("results"), help="default: results"
    )
    places.add(parser)
    parser.add_argument("--out", metavar="FILE", type=Path, help="the page (default: RESULTS/report.html)")
    parser.add_argument(
        "--images",
        metavar="N",
        type=int,
        default=IMAGES,
        help=f"images of each model and data set to show with their maps, 0 for none (default: {IMAGES})",
    )
    options = parser.parse_intermixed_args(arguments)
    if options.images < 0:
        parser.error("--images must be 0 or more")
    try:
        path = write_report(options.root, options.out, options.images, places.given(parser, options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
