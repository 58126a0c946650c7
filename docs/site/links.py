"""Files of the repository that are named in the text become links where the site has a page of them.

The pages are read on code hosts too, where `docs/parity.md` says best which file is meant. Here its title does.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]

OUTSIDE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "results/certificate.md": "certificate.md",
}
"""Pages that do not lie in docs/: where they lie, and where the site has them."""

_FENCE = re.compile(r"^ *(```|~~~)")
_NAMED = re.compile(r"(?<!`)`((?:docs/|results/)?[\w-]+\.md)`(?!`)")
_LINKED = re.compile(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, uri in OUTSIDE.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    here = posixpath.dirname(page.file.src_uri)
    lines, fenced = [], False
    for line in markdown.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced and not line.startswith("    "):
            line = _NAMED.sub(lambda found: _link(found, page, here, files), line)
            line = _LINKED.sub(lambda found: _address(found, here), line)
        lines.append(line)
    return "\n".join(lines)


def _link(found: re.Match[str], page: Page, here: str, files: Files) -> str:
    """A link to the page that a code span names, by its title; the span itself where there is none, or it is here."""
    uri = OUTSIDE.get(found[1], found[1].removeprefix("docs/"))
    file = files.get_file_from_path(uri)
    if file is None or file is page.file:
        return found[0]
    title = re.search(r"^# (.+)$", file.content_string, re.MULTILINE)
    return f"[{title[1] if title else uri}]({posixpath.relpath(uri, here or '.')})"


def _address(found: re.Match[str], here: str) -> str:
    """The place on the site of a file that a link looks for beside docs/."""
    uri = OUTSIDE.get(found[1].removeprefix("../"))
    return f"]({posixpath.relpath(uri, here or '.')}{found[2] or ''})" if uri else found[0]
