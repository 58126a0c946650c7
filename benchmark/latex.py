"""Tables for a paper: a plain `article` with the package booktabs compiles them, and every sign is ASCII.

A family is a table of its own; what is wider or longer than a page goes on in the next one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import pandas as pd

from benchmark.frames import ROLES, UNCERTIFIED
from benchmark.provenance import Origins, Provenance, protocols, stated, versions
from benchmark.tables import Entry, Table, laid_out, notes_on

_WIDTH = 345.0  # points, the text of a plain article of 10pt
_LINES = 34  # rows that leave room for the caption
_SIGN = 4.0  # points, the mean width of a sign of a number or a name in \footnotesize
_TINY = 3.1  # the same in \tiny
_RAISED = 3.7  # the same of a raised letter
_SIDE = 4.0  # on either side of a column
_BOLD = r"\boldmath$"  # what opens mathematics in a bold number
_STACKED = 22  # signs from which on a name is broken

_SIGNS = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", '"': "''"},
    **{"<": "$<$", ">": "$>$", "|": "$|$", "≤": r"$\leq$", "≥": r"$\geq$", "≠": r"$\neq$", "≈": r"$\approx$"},
    **{"↑": r"$\uparrow$", "↓": r"$\downarrow$", "→": r"$\to$", "±": r"$\pm$", "×": r"$\times$", "−": "$-$"},
    **{"∞": r"$\infty$", "·": r"$\cdot$", "°": r"$^\circ$", "√": r"$\surd$", "²": r"$^2$", "³": r"$^3$"},
    **{"…": r"\ldots{}", "–": "--", "—": "---", "‘": "`", "’": "'", "“": "``", "”": "''", "\u00a0": "~"},
    **{"ß": r"\ss{}", "ø": r"\o{}", "Ø": r"\O{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}"},
    **{"ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}", "§": r"\S{}", "©": r"\copyright{}", "£": r"\pounds{}"},
}
_GREEK = {"LAMDA": "lambda", "FINAL SIGMA": "varsigma"}
_SAME_AS_LATIN = {"Α": "A", "Β": "B", "Ε": "E", "Ζ": "Z", "Η": "H", "Ι": "I", "Κ": "K", "Μ": "M", "Ν": "N"} | {
    **{"Ο": "O", "Ρ": "P", "Τ": "T", "Υ": r"$\Upsilon$", "Χ": "X", "ο": "o"}
}
_ACCENTS = {
    **{"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": "."},
    **{"\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c", "\u0331": "b"},
}


def escaped(text: str) -> str:
    """`text` on one line as LaTeX that every engine sets; a sign that plain fonts lack is shown by its number.

    >>> escaped("50 % of a_b ≥ é 中")
    "50 \\\\% of a\\\\_b $\\\\geq$ \\\\'{e} \\\\texttt{U+4E2D}"
    """
    return "".join(map(_sign, " ".join(text.split())))


def _sign(sign: str) -> str:
    if sign in _SIGNS:
        return _SIGNS[sign]
    if " " <= sign <= "~":
        return sign
    if sign in _SAME_AS_LATIN:
        return _SAME_AS_LATIN[sign]
    script, _, name = unicodedata.name(sign, "").partition(" ")
    case, _, letter = name.partition(" LETTER ")
    if script == "GREEK" and letter and (letter in _GREEK or " " not in letter):
        command = _GREEK.get(letter, letter.lower())
        return f"$\\{command if case == 'SMALL' else command.capitalize()}$"
    letter, *marks = list(unicodedata.normalize("NFD", sign))
    if marks and letter.isascii() and all(mark in _ACCENTS for mark in marks):
        # i and j lose their dot below a mark.
        inner = {"i": r"\i", "j": r"\j"}.get(letter, letter)
        for mark in marks:
            inner = f"\\{_ACCENTS[mark]}{{{inner}}}"
        return inner
    return f"\\texttt{{U+{ord(sign):04X}}}"


def latex(summary: pd.DataFrame, origins: Origins) -> str:
    """The tables as LaTeX, to be read by `\\input`: needs the package booktabs, and nothing else.

    Args:
        summary: as of `frames.summarise`, or some of its rows.
        origins: as of `provenance.origins`, of the complete tables.
    """
    lines = ["% Needs \\usepackage{booktabs}. Written by python -m benchmark.leaderboard from records; do not edit."]
    for table in laid_out(summary):
        origin = origins[table.dataset, table.model]
        lines += ["", f"% {_ascii(table.title)}"]
        lines += [
            f"% {_ascii(label)} is {_ascii(stated(origin.methods[label]))}" for label in map(str, table.roles.index)
        ]
        families = list(table.columns.groupby("family", sort=False))
        for number, (family, columns) in enumerate(families, 1):
            # Below the last one stands too why other families are not shown.
            absent = ~table.cells["family"].isin(table.columns["family"]) & (number == len(families))
            notes = notes_on(table.cells[(table.cells["family"] == family) | absent])
            lines += _family(table, str(family), columns, origin, notes)
    return "\n".join([*lines, ""])


def _ascii(text: str) -> str:
    """`text` for a comment, where no sign needs an escape."""
    return " ".join(text.split()).replace(" · ", ", ").encode("ascii", "replace").decode()


def _family(
    table: Table, family: str, columns: pd.DataFrame, origin: Provenance, notes: Sequence[str]
) -> Iterator[str]:
    names = [str(name) for name in columns.index]
    methods = [str(method) for method in table.roles.index]
    beside = dict(table.beside)
    if len(set(beside.get("n", {}).values())) == 1:
        del beside["n"]  # the caption states it
    stub = max(_wide(method) for method in methods) + sum(_SIGN * len(heading) + 2 * _SIDE for heading in beside)
    widths = {name: _width(table, name, columns) for name in names}
    subject = f"Explanations of {table.model} on {table.dataset}: {family}"
    label = re.sub(r"[^a-z0-9]+", "-", f"{table.dataset} {table.model} {family}".lower()).strip("-")
    blocks = [(shown, part) for shown in _fitting(names, widths, _WIDTH - stub) for part in _parts(methods)]
    for number, (shown, part) in enumerate(blocks):
        yield from [
            "",
            r"\begin{table}[tp]",
            r"\centering",
            r"\footnotesize",
            rf"\setlength{{\tabcolsep}}{{{_SIDE:.0f}pt}}",
        ]
        if number:
            yield rf"\caption{{{escaped(subject)}, continued.}}"
        else:
            yield rf"\caption[{escaped(subject)}]{{{' '.join(_caption(table, family, columns, origin, subject))}}}"
            yield rf"\label{{tab:{label}}}"
        yield r"\par\smallskip"
        yield from _tabular(table, part, shown, columns, beside)
        if notes and number == len(blocks) - 1:
            yield r"\par\smallskip"
            yield r"\begin{minipage}{\linewidth}\scriptsize\raggedright"
            yield "\\\\\n".join(escaped(f"{note}.") for note in notes)
            yield r"\end{minipage}"
        yield r"\end{table}"


def _caption(table: Table, family: str, columns: pd.DataFrame, origin: Provenance, subject: str) -> Iterator[str]:
    """What the numbers are, how they are compared, and where they come from."""
    ranked = columns["ranked"].astype(bool) & columns["higher_is_better"].notna()
    if table.cost:
        yield escaped(f"{subject}, that is time, memory and passes of making them, one number a cell.")
        yield escaped(f"Taken on: {'; '.join(dict.fromkeys(columns['device']))}.")
    else:
        yield escaped(f"{subject}, n = {table.images} images.")
        yield escaped("Mean over images ± half the width of its 95 % bootstrap interval.")
    if ranked.any():
        yield r"\textbf{Best} and \underline{second} mean of the methods shown"
        yield "with scores on half of the images or more."
        yield escaped(
            f"Rows that share a letter are not shown to differ (paired permutation tests over images, 5 %, Holm over "
            f"all pairs of a column of the complete table, which has {origin.rows} rows)."
        )
    if family == UNCERTIFIED:
        yield "These metrics have not proved themselves on models with a known answer and rank nothing."
    directed = columns["higher_is_better"].notna()
    if directed.any():
        yield r"$\uparrow$ higher is better, $\downarrow$ lower is better."
    yield escaped(f"Data: {stated(origin.dataset)}.")
    metrics = [label for label in origin.metrics if label in set(columns["metric"])]
    yield escaped(f"Protocol: {'; '.join(protocols(origin, metrics))}.")
    yield escaped(f"Model: version {origin.model.version}. Methods: version {versions(origin, table.roles.index)}.")
    if origin.software:
        devices = [] if table.cost else origin.devices
        yield escaped(f"Computed with {'; '.join([*origin.software, *devices])}.")


def _tabular(
    table: Table,
    methods: Sequence[str],
    names: Sequence[str],
    columns: pd.DataFrame,
    beside: Mapping[str, Mapping[str, str]],
) -> Iterator[str]:
    """The rows of `methods` and the columns `names`; a mean and what stands behind it are two columns, aligned."""
    spans = {name: 2 if any(_behind(table.entries[method, name]) for method in methods) else 1 for name in names}
    specification = "".join(r"r@{}l" if spans[name] == 2 else "r" for name in names)
    yield rf"\begin{{tabular}}{{@{{}}l{'r' * len(beside)}{specification}@{{}}}}"
    yield r"\toprule"
    groups = [(str(metric), list(group)) for metric, group in groupby(names, key=lambda name: columns["metric"][name])]
    if any([metric] != group for metric, group in groups):
        above, rules, place = [], "", len(beside) + 2
        for metric, group in groups:
            width = sum(spans[name] for name in group)
            several = [metric] != group
            above.append(rf"\multicolumn{{{width}}}{{c}}{{{_stacked(metric, 'b', 'c') if several else ''}}}")
            rules += rf"\cmidrule(lr){{{place}-{place + width - 1}}}" if several else ""
            place += width
        yield rf"{' & ' * len(beside)} & {' & '.join(above)} \\"
        yield rules
    heads = [rf"\multicolumn{{{spans[name]}}}{{c}}{{{_heading(name, dict(columns.loc[name]))}}}" for name in names]
    yield rf"{' & '.join(['method', *map(escaped, beside), *heads])} \\"
    yield r"\midrule"
    before = "method"
    for index, method in enumerate(methods):
        role = table.roles[method]
        if role != before and ROLES.get(role):
            if index:
                yield r"\midrule"
            width = 1 + len(beside) + sum(spans.values())
            yield rf"\multicolumn{{{width}}}{{@{{}}l}}{{\textit{{{escaped(ROLES[role])}}}}} \\"
        before = role
        sides = [escaped(texts[method]) for texts in beside.values()]
        cells = [_cell(table.entries[method, name], spans[name]) for name in names]
        yield rf"{' & '.join([_stacked(method, 't', 'l'), *sides, *cells])} \\"
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _cell(entry: Entry, span: int) -> str:
    if entry.word:
        return rf"\multicolumn{{{span}}}{{c}}{{{escaped(entry.word)}}}"
    mean = number(entry.mean)
    if entry.place:
        mean = rf"\textbf{{{mean.replace('$', _BOLD, 1)}}}" if entry.place == 1 else rf"\underline{{{mean}}}"
    return mean if span == 1 else f"{mean} & {_behind(entry)}"


def _behind(entry: Entry) -> str:
    """What stands behind the mean: half its interval, letters, how many images."""
    half = rf"{{\tiny$\,\pm\,${number(entry.half)}}}" if entry.half else ""
    letters = rf"\textsuperscript{{{escaped(entry.letters)}}}" if entry.letters else ""
    return half + letters + (rf"~{{\tiny {entry.count}}}" if entry.count else "")


def number(text: str) -> str:
    """`-0.058` with the minus of mathematics, `2.32e+04` as a power of ten."""
    digits, _, power = text.partition("e")
    sign, digits = ("$-$", digits[1:]) if digits.startswith("-") else ("", digits)
    return f"{sign}{digits}" + (rf"$\cdot10^{{{int(power)}}}$" if power else "")


def _heading(name: str, fact: Mapping[Any, Any]) -> str:
    arrow = {True: r"~$\uparrow$", False: r"~$\downarrow$"}.get(fact["higher_is_better"], "")
    label = name if fact["metric"] == name else str(fact["measure"])
    unit = f" [{escaped(fact['unit'])}]" if fact["unit"] else ""
    return f"{_stacked(label, 'b', 'c')}{arrow}{unit}"


def _pieces(label: str) -> list[str]:
    """A label in the lines that it is set in: its name, and each option where it is long."""
    if len(label) <= _STACKED:
        return [label]
    return [piece for piece in re.split(r"(?<=[,;_.]) |(?=\()|(?<=, )", label) if piece]


def _stacked(label: str, position: str, side: str) -> str:
    pieces = [escaped(piece) for piece in _pieces(label)]
    if len(pieces) == 1:
        return pieces[0]
    lines = r"\\".join(pieces)
    return rf"\begin{{tabular}}[{position}]{{@{{}}{side}@{{}}}}{lines}\end{{tabular}}"


def _wide(label: str) -> float:
    return _SIGN * max(map(len, _pieces(label)))


def _width(table: Table, name: str, columns: pd.DataFrame) -> float:
    """An upper estimate of the width of a column in points."""
    fact = columns.loc[name]
    label = name if fact["metric"] == name else str(fact["measure"])
    head = _wide(label) + _SIGN * (
        2 * (fact["higher_is_better"] is not None) + len(fact["unit"]) + 2 * bool(fact["unit"])
    )
    entries = [table.entries[str(method), name] for method in table.roles.index]
    left = max(_SIGN * (1 + 0.15 * (entry.place == 1)) * (len(entry.word) or _signs(entry.mean)) for entry in entries)
    right = [
        _TINY * (_signs(entry.half) + 2 * bool(entry.half) + len(entry.count)) + _RAISED * len(entry.letters)
        for entry in entries
    ]
    return max(head, left + max(right)) + 2 * _SIDE


def _signs(text: str) -> int:
    """The signs of a number when it is set: those of a power of ten are more than are written."""
    return len(text) + 4 * ("e" in text)


def _fitting(names: Sequence[str], widths: dict[str, float], room: float) -> Iterator[list[str]]:
    """The columns side by side as far as they fit, one at least."""
    shown: list[str] = []
    for name in names:
        if shown and sum(widths[other] for other in shown) + widths[name] > room:
            yield shown
            shown = []
        shown = [*shown, name]
    yield shown


def _parts(methods: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(methods), _LINES):
        yield methods[start : start + _LINES]
