"""Where on this disk that lies which records cannot know, as arguments of a command."""

from __future__ import annotations

import argparse

_PLACES = ("datasets.root", "models.checkpoint", "models.path", "models.cache_dir")


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments, as `places` of the options."""
    parser.add_argument(
        "places",
        metavar="PLACE=VALUE",
        nargs="*",
        help="where that lies on this disk which records cannot know: datasets.root=DIR models.checkpoint=FILE",
    )


def given(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, str]:
    """The value of each place that is given; what is no place ends the program with a sentence."""
    found = dict(place.partition("=")[::2] for place in options.places)
    for name, value in found.items():
        if name not in _PLACES or not value:
            parser.error(f"{name}={value} is no place: expected {', '.join(f'{place}=...' for place in _PLACES)}")
    return found
