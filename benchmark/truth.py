"""`python -m benchmark.truth DIR`: what drawn scenes with a known truth say of methods and metrics, from records alone.

Four tables, made where the records for them are there:

validity     does a metric order the methods as the re-rendered truth does?
shortcuts    does a method give away the networks that use a watermark?
contrast     has a method more on the object where the object is the class than where the texture around it is?
suppressors  does a method mark the figure, and does it mark what only helps to cancel noise?
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark import mixing, records, truth_page
from benchmark.agreement import validity
from benchmark.errors import UserError
from benchmark.frames import COST, assemble, csv, identity, labels, take, wide
from benchmark.interruption import interruptible
from benchmark.records import Record
from benchmark.statistics import bootstrap_interval, bootstrap_intervals
from benchmark.truth_page import REFERENCE

_TIE = 1e-6
"""Masses of networks that differ by less differ by rounding."""
_SPLITS = 20_000
"""Ways to part networks into two groups that are all tried; of more, so many are drawn."""
FEWEST = 10
"""Of fewer methods the order under a metric says too little to be judged."""


def validity_table(found: Iterable[Record]) -> pd.DataFrame:
    """How well each metric orders methods as the re-rendered truth does: a row a model, data set and column.

    Columns that score fewer than ten methods are left out, and the halves that the reference is made of. Of several
    versions the highest are taken.

    Columns: dataset, model, column, family, tau, low, high, methods (how many were ordered).
    """
    scored = [record for record in found if not _half(record)]
    if not scored:
        return pd.DataFrame()
    kept, failed, _ = mixing.newest(take(scored, ())[0], ())
    tidy = assemble(kept, failed, labels(one.cell for one in kept))
    tidy = tidy[(tidy["role"] == "method") & (tidy["family"] != COST) & tidy["higher_is_better"].notna()]
    rows = []
    for (dataset, model), table in tidy.groupby(["dataset", "model"], sort=True):
        dataset, model = str(dataset), str(model)
        facts = table.drop_duplicates("column").set_index("column")
        columns = {
            str(name): (wide(table, model, dataset, str(name)), bool(fact["higher_is_better"]))
            for name, fact in facts.iterrows()
        }
        if REFERENCE not in columns:
            continue
        result = validity(columns, REFERENCE)
        result.insert(0, "family", facts["family"].reindex(result.index))
        result["methods"] = [columns[name][0].notna().any().sum() for name in result.index]
        result = result[result["methods"] >= FEWEST]
        rows.append(result.rename_axis("column").reset_index().assign(dataset=dataset, model=model))
    if not rows:
        return pd.DataFrame()
    return pd.concat(rows)[["dataset", "model", "column", "family", "tau", "low", "high", "methods"]]


def _half(record: Record) -> bool:
    """Whether it is a deletion or an insertion of scenes drawn anew, of which the reference is the difference."""
    metric = record.cell.metric
    return metric.params.get("baseline") == "empty" and metric.name.startswith(("deletion", "insertion"))


def shortcut_table(found: Iterable[Record]) -> pd.DataFrame:
    """How well each method tells networks that use a watermark from those that do not: a row a model and method.

    Columns: model, method, role, used, models, then mass, gap and gap_unused, each with `_low` and `_high`, slope,
    auroc and auroc_p; NaN where the records do not say. A method that is not applicable has no row.
    """
    rows = _rows(found, "shortcut", "shortcut_mass")
    if rows.empty:
        return rows
    rows["image"] = rows["uid"].str[-6:]  # the same scene in every split
    wanted = rows.pivot(
        index=["model", "method", "role", "network", "split", "image"], columns="measure", values="value"
    ).reset_index()
    aligned = wanted[wanted["split"] == "aligned"]
    drops = aligned.groupby(["model", "network"])[["drop_mark", "drop_object"]].mean()
    used = (drops["drop_mark"] >= 1) & (drops["drop_mark"] >= 5 * drops["drop_object"])
    results = []
    for (model, method, role), part in wanted.groupby(["model", "method", "role"], sort=False):
        if part["shortcut_mass"].isna().all():
            continue
        of_model = used.xs(model, level="model")
        uses = part["network"].map(of_model)
        scene = part.groupby([uses.rename("uses"), "split", "image"])["shortcut_mass"].mean()
        mass, mark = _scenes(scene, True, "aligned"), part[part["split"] == "aligned"].groupby("network")
        means = mark["shortcut_mass"].mean().reindex(of_model.index)
        results.append(
            {"model": model, "method": method, "role": role, "used": int(of_model.sum()), "models": len(of_model)}
            | _interval("mass", mass)
            | _interval("gap", mass - _scenes(scene, True, "decoy"))
            | _interval("gap_unused", _scenes(scene, False, "aligned") - _scenes(scene, False, "decoy"))
            | {"slope": _spearman(means, drops["drop_mark"].xs(model, level="model"))}
            | _auroc(means[of_model], means[~of_model])
        )
    return pd.DataFrame(results)


def contrast_table(found: Iterable[Record]) -> pd.DataFrame:
    """Model contrast (BAM): a row a model and method; columns model, method, role, contrast, low, high.

    Source: Yang & Kim 2019, arXiv:1907.09701.
    """
    rows = _rows(found, "dual_label", "object_mass")
    if rows.empty or rows["label"].nunique() < 2:
        return pd.DataFrame()
    masses = rows.pivot_table(index=["model", "method", "role", "uid"], columns="label", values="value", sort=False)
    contrast = (masses["shape"] - masses["texture"]).unstack("uid")
    low, high = bootstrap_intervals(contrast.to_numpy().T)
    table = contrast.mean(axis=1).rename("contrast").to_frame().assign(low=low, high=high)
    return table.reset_index()


def suppressor_table(found: Iterable[Record]) -> pd.DataFrame:
    """Precision on figures and false alarms on suppressors: a row a model and method.

    Columns: model, method, role, then precision and false_alarms, each with `_low` and `_high`.

    Source: Clark, Wilming & Haufe 2023, arXiv:2306.12816.
    """
    found = list(found)
    each = {"precision": "relevance_rank", "false_alarms": "suppressor_mass"}
    rows = {name: _rows(found, "suppressor", metric) for name, metric in each.items()}
    if any(part.empty for part in rows.values()):
        return pd.DataFrame()
    columns = []
    for name, part in rows.items():
        groups = part[part["status"] == "ok"].groupby(["model", "method", "role"], sort=False)["value"]
        columns.append(pd.DataFrame({key: _interval(name, values) for key, values in groups}).T)
    return pd.concat(columns, axis=1).rename_axis(["model", "method", "role"]).reset_index()


def _rows(found: Iterable[Record], dataset: str, metric: str) -> pd.DataFrame:
    """All rows of a metric on a data set with what tells the cells apart; of its versions and seeds the last filed.

    Raises:
        UserError: scenes were scored twice, on lists that overlap.
    """
    made: dict[str, list[Record]] = {}
    for each in found:
        if each.cell.dataset.name == dataset and each.cell.metric.name == metric:
            made.setdefault(identity(each.cell, "metric"), []).append(each)
    kept = max(made.values(), key=lambda same: max(map(_filed, same)), default=[])
    names = labels(each.cell for each in kept)
    parts = []
    for record in kept:
        cell = record.cell
        label = names["method", identity(cell, "method")]
        facts = {"model": cell.model.name, "network": identity(cell, "model"), "method": label}
        facts |= {"role": record.facts["role"], "split": cell.dataset.params["split"]}
        parts.append(record.rows.assign(**facts, label=cell.dataset.params.get("label")))
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if parts and rows.duplicated(["network", "method", "split", "label", "uid", "measure"]).any():
        raise UserError(f"{dataset} has several lists of the same scenes: keep the records of each in its own folder")
    return rows


def _filed(record: Record) -> str:
    return str(record.facts.get("environment", {}).get("created", ""))


def _scenes(mass: pd.Series, uses: bool, split: str) -> pd.Series:
    """Mean mass by scene over networks that use the mark, or do not; empty where there is none."""
    try:
        return mass.loc[uses, split]
    except KeyError:
        return pd.Series(dtype=float)


def _interval(name: str, values: pd.Series) -> dict[str, float]:
    values = values.dropna()
    low, high = bootstrap_interval(values) if len(values) else (np.nan, np.nan)
    return {name: values.mean(), f"{name}_low": low, f"{name}_high": high}


def _spearman(a: pd.Series, b: pd.Series) -> float:
    """NaN where either is constant or there are fewer than three networks."""
    a = (a / _TIE).round()
    if len(a) < 3 or a.isna().any() or np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan
    return float(np.corrcoef(a.rank(), b.loc[a.index].rank())[0, 1])


def _auroc(used: pd.Series, unused: pd.Series) -> dict[str, float]:
    """Share of pairs in which the network that uses the mark has more mass, ties half, and its p by permutation."""
    from scipy.stats import permutation_test  # slow to import

    if len(used) < 2 or len(unused) < 2 or used.isna().any() or unused.isna().any():
        return {"auroc": np.nan, "auroc_p": np.nan}

    def share(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        more = np.moveaxis(a, axis, -1)[..., :, None] - np.moveaxis(b, axis, -1)[..., None, :]
        return ((np.sign(np.where(np.abs(more) > _TIE, more, 0)) + 1) / 2).mean((-2, -1))

    test = permutation_test((used, unused), share, vectorized=True, n_resamples=_SPLITS, rng=0)
    return {"auroc": float(test.statistic), "auroc_p": float(test.pvalue)}


TABLES: dict[str, Callable[[Iterable[Record]], pd.DataFrame]] = {
    "validity": validity_table,
    "shortcuts": shortcut_table,
    "contrast": contrast_table,
    "suppressors": suppressor_table,
}


def write(root: Path) -> list[Path]:
    """Write `truth.md` with all tables, and each as `.csv`, under `<root>/tables/`, and `<root>/figures/validity.png`.

    Returns:
        The paths of the tables.

    Raises:
        UserError: there is no record that says anything of the truth, one is damaged, or the folder cannot be written.
    """
    found = list(records.read_all(root))
    tables = {name: table for name, make in TABLES.items() if len(table := make(found))}
    if not tables:
        raise UserError(
            f"{root} holds no records of srg_rendered, shortcut_mass, object_mass or suppressor_mass on drawn scenes: "
            "expected the folder of python -m benchmark +sweeps=truth"
        )
    texts = {"truth.md": truth_page.markdown(tables)}
    texts |= {f"{name}.csv": csv(table) for name, table in tables.items()}
    paths = [_written(root / "tables" / name, text) for name, text in texts.items()]
    if "validity" in tables:
        from benchmark.validity_picture import picture

        picture(root / "figures" / "validity.png", tables["validity"])
    return paths


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m benchmark.truth DIR`: print the tables and write them to DIR/tables/."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.truth",
        description="What drawn scenes with a known truth say of methods and metrics: the tables validity, "
        "shortcuts, contrast and suppressors, from records of the sweeps truth, shortcuts, contrast and suppressors. "
        "Prints them and writes DIR/tables/.",
    )
    parser.add_argument("root", metavar="DIR", nargs="?", type=Path, default=Path("results"), help="default: results")
    options = parser.parse_args(arguments)
    try:
        paths = write(options.root)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(paths[0].read_text(encoding="utf-8"), *(f"written: {path}" for path in paths), sep="\n")
    return 0


def _written(path: Path, text: str) -> Path:
    records.write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


if __name__ == "__main__":
    sys.exit(main())
