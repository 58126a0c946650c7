"""The figures of README and `docs/results.md` are those of the published tables, and published records are alive."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from benchmark import records, verify

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "results" / "published"
DOC = (ROOT / "docs" / "results.md").read_text()
README = (ROOT / "README.md").read_text()
COLUMNS = {
    "SRG": "srg",
    "sensitivity-n": "sensitivity_n",
    "insertion": "insertion(baseline=shared)",
    "single deletion": "single_deletion",
    "deletion": "deletion(baseline=shared)",
    "infidelity β*": "infidelity.beta_optimal",
    "relevance mass": "relevance_mass",
    "average drop": "average_drop.drop",
    "pointing game": "pointing_game",
}
METHODS = {
    "LRP gamma": "lrp_gamma",
    "DeepLIFT": "deep_lift",
    "integrated gradients": "integrated_gradients",
    "input x gradient": "input_x_gradient",
    "Grad-CAM": "grad_cam",
    "RISE": "rise",
    "Sobel edges": "sobel",
}


def table(text: str, heading: str) -> Iterator[list[str]]:
    """The rows of the first table behind `heading`, its own heading first, without the line below that."""
    rows = re.search(rf"{re.escape(heading)}.*?\n\n(\|.*?)\n\n", text, re.DOTALL)[1].splitlines()
    for row in (rows[0], *rows[2:]):
        yield [re.sub(r"^\*(.+)\*$", r"\1", cell.strip()) for cell in row.strip("|").split("|")]


def published(name: str) -> pd.DataFrame:
    return pd.read_csv(PUBLISHED / f"{name}.csv")


def text(row: pd.Series, name: str, ends: tuple[str, str]) -> str:
    return f"{row[name]:z.2f} [{row[ends[0]]:z.2f}, {row[ends[1]]:z.2f}]"


def test_validity_in_the_readme() -> None:
    names, values = table(README, "How well does a metric order")
    found = published("validity")
    means = found.groupby(found["column"].str.replace(r", .*\)", ")", regex=True))["tau"].mean()
    assert dict(zip(names, values, strict=True)) == {name: f"{means[COLUMNS[name]]:.2f}" for name in names}


def test_shortcuts_in_the_readme() -> None:
    names, values = table(README, "And who shows a watermark")
    masses = published("shortcuts").set_index("method")["mass"]
    assert dict(zip(names, values, strict=True)) == {name: f"{masses[METHODS.get(name, name)]:.2f}" for name in names}


def test_validity() -> None:
    found = published("validity")
    (_, _, *heads), *rows = table(DOC, "Does a metric rank")
    assert len(rows) == found["column"].nunique()
    places = []
    for head in heads:
        dataset, _, network = head.rpartition(" ")
        places.append((dataset or places[-1][0], {"CNN": "small_cnn", "ViT": "small_vit"}[network]))
    for name, mean, *cells in rows:
        short = re.sub(r"\(baseline=(\w+)(, superpixels)?\)", r"(baseline=\1", name)
        part = found[found["column"].str.startswith(short) if "(" in name else found["column"] == name]
        taus = part.set_index(["dataset", "model"])["tau"]
        assert mean == f"{taus.mean():.2f}", name
        assert cells == [f"{taus[place]:.2f}" if place in taus.index else "" for place in places], name


@pytest.mark.parametrize("name", ["shortcuts", "suppressors", "contrast"])
def test_methods(name: str) -> None:
    found = published(name)
    heading = {
        "shortcuts": "Which methods find the shortcut?",
        "suppressors": "Is a map right about the world?",
        "contrast": "Does a map follow the model",
    }[name]
    _, *rows = table(DOC, heading)
    assert len(rows) > 10
    models = ["small_cnn", "small_vit"]
    for method, *cells in rows:
        if method in ("null rows", "oracle row"):
            continue
        part = found[found["method"] == method].set_index("model")
        assert len(part), f"{method}: {name}.csv has no such row"
        if name == "shortcuts":
            row = part.loc["small_cnn"]
            expected = [text(row, each, (f"{each}_low", f"{each}_high")) for each in ("mass", "gap", "gap_unused")]
            expected += [f"{row['auroc']:.2f}", f"{row['auroc_p']:.2g}"]
        elif name == "contrast":
            expected = [text(part.loc[model], name, ("low", "high")) if model in part.index else "" for model in models]
        else:
            expected = [
                text(part.loc[model], each, (f"{each}_low", f"{each}_high")) if model in part.index else ""
                for model in models
                for each in ("precision", "false_alarms")
            ]
        assert cells == expected, method


@pytest.mark.parametrize("archive", sorted(PUBLISHED.glob("*.tar.xz")), ids=lambda path: path.name.split(".")[0])
def test_published_records_can_be_computed_again(archive: Path, tmp_path: Path) -> None:
    """Of two methods of each, on networks that are shipped."""
    with tarfile.open(archive) as file:
        chosen = [each for each in file.getmembers() if "/saliency/" in each.name or "/random/" in each.name]
        file.extractall(tmp_path, chosen, filter="data")
    for path in tmp_path.rglob("*.parquet"):
        if "seed" in str(records.read(path).cell.model.params.get("trained")):
            path.unlink()
    (folder,) = tmp_path.iterdir()
    assert verify.main([str(folder), "--rows", "2", "--seed", "0"]) == 0
