"""Tables as one plain HTML page: no script, no network, every style inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment

from benchmark.frames import ROLES
from benchmark.provenance import Origins, Provenance, protocols, stated
from benchmark.tables import Table, heading, laid_out

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light; --ink: #1b1f24; --quiet: #57606a; --line: #c8ced5; --shade: #f4f6f8; }
body { font: 15px/1.45 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: var(--ink); background: #fff;
  margin: 2rem auto; padding: 0 1.5rem; max-width: 90rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 2.8rem 0 .4rem; }
nav ul, .legend { padding-left: 1.2rem; } .legend, .notes { color: var(--quiet); max-width: 62rem; }
a { color: #0a58a8; }
.wide { overflow-x: auto; margin: 1rem 0; } .wide:focus-visible { outline: 2px solid #0a58a8; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .22rem .7rem; text-align: right; white-space: nowrap; }
thead th { border-top: 2px solid var(--ink); border-bottom: 1px solid var(--ink); vertical-align: bottom; }
th:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
tbody th { font-weight: 500; } tbody tr:hover > * { background: var(--shade); }
tbody + tbody { border-top: 1px solid var(--ink); } tbody:last-child { border-bottom: 2px solid var(--ink); }
.role th { font-style: italic; font-weight: 400; color: var(--quiet); }
.bounds, .count, .word { color: var(--quiet); font-size: .92em; }
sup { display: inline-block; line-height: 1; text-align: left; } u { text-underline-offset: 2px; }
details { margin: .6rem 0; max-width: 62rem; } summary { cursor: pointer; }
@media print {
  body { margin: 0; max-width: none; font-size: 9pt; } .wide { overflow: visible; } nav { display: none; }
  table { font-size: 7pt; } th, td { padding: .1rem .3rem; } tr { break-inside: avoid; }
}
</style>
</head>
<body>
<h1>{{ title }}</h1>
<ul class="legend">
{% for line in legend %}<li>
{%- for piece in line.split("`") %}{% if loop.index is even %}<code>{{ piece }}</code>{% else %}{{ piece }}{% endif %}
{%- endfor %}</li>
{% endfor %}</ul>
<nav aria-label="tables"><ul>
{% for table, _ in tables %}<li><a href="#table-{{ loop.index }}">{{ table.title }}</a></li>
{% endfor %}</ul></nav>
<main>
{% for table, origin in tables %}
<section aria-labelledby="table-{{ loop.index }}">
<h2 id="table-{{ loop.index }}">{{ table.title }}</h2>
{% for family, columns in families(table) %}
<div class="wide" tabindex="0" role="region" aria-label="{{ family }}, {{ table.title }}">
<table>
<caption>{{ family }}</caption>
<thead><tr><th scope="col">method</th>
{%- for name in table.beside %}<th scope="col">{{ name }}</th>{% endfor %}
{%- for name, head, most in columns %}<th scope="col">{{ head }}</th>{% endfor %}</tr></thead>
{% for role, methods in roles(table) -%}
<tbody>
{% if role %}<tr class="role"><th scope="rowgroup" colspan="{{ 1 + table.beside | length + columns | length }}">
{{- role }}</th></tr>
{% endif %}
{%- for method in methods -%}
<tr><th scope="row">{{ method }}</th>
{%- for texts in table.beside.values() %}<td>{{ texts[method] }}</td>{% endfor %}
{%- for name, _, most in columns %}{% set entry = table.entries[method, name] -%}
<td>{% if entry.word %}<span class="word">{{ entry.word }}</span>{% else -%}
{% if entry.place == 1 %}<b>{{ entry.mean }}</b>{% elif entry.place == 2 %}<u>{{ entry.mean }}</u>
{%- else %}{{ entry.mean }}{% endif %}
{%- if entry.low %} <span class="bounds">[{{ entry.low }}, {{ entry.high }}]</span>{% endif %}
{%- if entry.letters %} {% endif %}
{%- if most %}<sup style="min-width: {{ most }}ch">{{ entry.letters }}</sup>{% endif %}
{%- if entry.count %} <span class="count">{{ entry.count }}</span>{% endif %}
{%- endif %}</td>{% endfor %}</tr>
{% endfor %}</tbody>
{% endfor %}</table>
</div>
{% endfor %}
<ul class="notes">
{% for note in table.notes %}<li>{{ note }}</li>
{% endfor %}</ul>
<details><summary>Protocol, versions and devices</summary>
<ul>
{% for line in stated(table, origin) %}<li>{{ line }}</li>
{% endfor %}</ul>
</details>
</section>
{% endfor %}
</main>
</body>
</html>
"""


def html(title: str, legend: Sequence[str], summary: pd.DataFrame, origins: Origins) -> str:
    """The tables as one page that needs nothing but a browser; best means bold, second ones underlined.

    Args:
        legend: how to read the numbers, a sentence an item, code between backticks.
        summary: as of `frames.summarise`, or some of its rows.
        origins: as of `provenance.origins`, of the complete tables.
    """
    page = Environment(autoescape=True, keep_trailing_newline=True).from_string(_PAGE)
    found = [(table, origins[table.dataset, table.model]) for table in laid_out(summary)]
    return page.render(title=title, legend=legend, tables=found, families=_families, roles=_roles, stated=_stated)


def _families(table: Table) -> list[tuple[str, list[tuple[str, str, int]]]]:
    """By family its columns: name, heading, and the most letters of a cell, for the means to stand below each other."""
    most = {
        name: max(len(table.entries[str(row), name].letters) for row in table.roles.index) for _, name in table.entries
    }
    return [
        (str(family), [(str(name), heading(str(name), fact), most[str(name)]) for name, fact in columns.iterrows()])
        for family, columns in table.columns.groupby("family", sort=False)
    ]


def _roles(table: Table) -> list[tuple[str, list[Any]]]:
    """The methods by role, each with what stands above them."""
    return [(ROLES.get(str(role), ""), list(rows.index)) for role, rows in table.roles.groupby(table.roles, sort=False)]


def _stated(table: Table, origin: Provenance) -> list[str]:
    metrics = [label for label in origin.metrics if label in set(table.columns["metric"])]
    lines = [f"letters compare all {origin.rows} rows of the complete table"] if not table.cost else []
    lines += [f"model {table.model}, version {origin.model.version}"]
    lines += [f"data set {stated(origin.dataset)}"]
    lines += [f"metric {line}" for line in protocols(origin, metrics)]
    lines += [f"method {stated(origin.methods[label])}" for label in table.roles.index]
    devices = list(dict.fromkeys(table.columns["device"])) if table.cost else origin.devices
    return [*lines, *(f"device {device}" for device in devices), *(f"software {each}" for each in origin.software)]
