"""Pages of the reference: the yaml files of `conf/`, the docstrings of what they name, and what `--help` prints.

Nothing of it is written by hand: a file that is added to `conf/`, or a command to `benchmark/`, is on the site.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from omegaconf import OmegaConf

from benchmark.choices import CONF, choices

ROOT = Path(__file__).resolve().parents[2]
TITLES = {
    "methods": "Methods",
    "metrics": "Metrics",
    "datasets": "Data sets",
    "models": "Models",
    "sweeps": "Sweeps",
}
REPRODUCE = CONF / "reproduce"

PYTHON = {
    "What a plug-in is given and is": ("benchmark.protocols", ("Batch", "Method", "Measure", "Metric", "Scores")),
    "Passes and random numbers": ("benchmark.passes", ("class_scores",)),
    "Explain": ("benchmark.explain", ("explain",)),
    "Records and tables": ("benchmark.leaderboard", ("tidy",)),
    "Compare": ("benchmark.verdicts", ("Question", "answer")),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for uri, text in pages().items():
        files.append(File.generated(config, f"reference/{uri}", content=text))
    return files


def pages() -> dict[str, str]:
    """Every page of the reference, Markdown by file name."""
    found = {f"{group}.md": "\n".join(_group(group, title)) for group, title in TITLES.items()}
    found["settings.md"] = "\n".join(_settings())
    found["commands.md"] = "\n".join(_commands())
    found["python.md"] = "\n".join(_python())
    return found


def _group(group: str, title: str) -> Iterator[str]:
    """A page of one folder of `conf/`: a list of its files, then each with what it is, its options and its class."""
    ours, published = choices(group), choices(group, [REPRODUCE])
    yield from (f"# {title}", "")
    key = f"+{group}" if group == "sweeps" else group
    yield f"`{key}=NAME` chooses one of the {len(ours)} files of `conf/{group}`; commas sweep over several."
    yield from ("", "| name | |", "|:--|:--|")
    yield from (f"| [{name}](#{_anchor(name)}) | {_cell(what)} |" for name, what in {**ours, **published}.items())
    written: dict[str, str] = {}
    for name, what in ours.items():
        yield from _entry(CONF, group, name, what, written)
    if published:
        yield from ("", "## Those of published tables", "")
        yield "With `--config-dir conf/reproduce`, see [Reproductions](../reproductions.md)."
        for name, what in published.items():
            yield from _entry(REPRODUCE, group, name, what, written)


def _entry(folder: Path, group: str, name: str, what: str, written: dict[str, str]) -> Iterator[str]:
    """One file; the docstring of its class stands at the first of those that share it, named in `written`."""
    path = folder / group / f"{name}.yaml"
    level = "##" if folder == CONF else "###"
    yield from ("", f"{level} {name} {{#{_anchor(name)}}}", "", what, "", f'```yaml title="{path.relative_to(ROOT)}"')
    yield from (path.read_text().strip(), "```", "")
    target = str(OmegaConf.to_container(OmegaConf.load(path)).get("_target_", "???"))
    if target == "???":
        return
    if target in written:
        yield f"`{target}` is described under [{written[target]}](#{_anchor(written[target])})."
        return
    written[target] = name
    yield from (f"`{target}`", "", f"::: {target}")


def _settings() -> Iterator[str]:
    yield from ("# Settings", "", "What is no choice of a model, data set, method or metric, and the default of each.")
    yield from ("", '```yaml title="conf/config.yaml"', (CONF / "config.yaml").read_text().strip(), "```")
    yield from ("", "## Tracking", "", "`tracking=NAME`, see [Weights & Biases](../tracking.md).")
    for name in choices("tracking"):
        yield from ("", f'```yaml title="conf/tracking/{name}.yaml"')
        yield from ((CONF / "tracking" / f"{name}.yaml").read_text().strip(), "```")


def _commands() -> Iterator[str]:
    """What every `python -m benchmark...` says of itself."""
    modules = sorted(
        "benchmark" if path.stem == "__main__" else f"benchmark.{path.stem}"
        for path in (ROOT / "benchmark").glob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text()
    )
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(_help, modules))
    yield from ("# Commands", "", "What each of them prints with `--help`.")
    for module, text in zip(modules, texts, strict=True):
        yield from ("", f"## python -m {module} {{#{module.replace('.', '-')}}}", "", "```output", text, "```")


def _help(module: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def _python() -> Iterator[str]:
    yield from ("# Python", "", "What a method or metric of your own meets, and what a notebook may call.")
    for title, (module, names) in PYTHON.items():
        found = griffe.load(module, search_paths=[ROOT])
        yield from ("", f"## {title}")
        for name in names:
            yield from ("", f"### {module}.{name} {{#{module}.{name}}}", "", f"::: {module}.{name}", "    options:")
            yield from ("      show_signature: true", f"      members: {_spoken_of(found[name])}")


def _spoken_of(described: griffe.Object) -> list[str]:
    """Methods and properties with a docstring; fields stand in the docstring of their class."""
    return [
        name
        for name, member in described.members.items()
        if member.docstring and (member.is_function or "property" in member.labels)
    ]


def _anchor(name: str) -> str:
    return name.replace("/", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
