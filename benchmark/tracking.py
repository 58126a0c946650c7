"""What a sweep found, in Weights & Biases as well: a copy to look at, never the record."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import pandas as pd

from benchmark.cells import Choice, digest
from benchmark.errors import UserError
from benchmark.records import Record, record_path

Mode = Literal["offline", "online", "disabled"]

_PICTURES = (".png", ".jpg", ".jpeg")


class Tracking(Protocol):
    """Shows the records of a sweep somewhere else. It is told after they are filed, so it can lose nothing."""

    def log_group(self, folder: Path, sweep: str, records: Sequence[Record]) -> None:
        """Show the records, a metric each, of one model x dataset x method.

        Args:
            folder: where files may be kept.
            sweep: name of the sweep, under which all its groups stand together.
            records: of the group, all metrics.

        Raises:
            UserError: they cannot be shown; the caller says so and goes on.
        """
        ...

    def log_leaderboard(
        self,
        folder: Path,
        sweep: str,
        records: Sequence[Record],
        tables: Mapping[str, pd.DataFrame],
        figures: Sequence[Path],
        root: Path,
    ) -> None:
        """Show what came out of the whole sweep, once, at its end.

        Args:
            folder: where files may be kept.
            sweep: name of the sweep.
            records: all that the tables are made from.
            tables: by name.
            figures: picture files.
            root: the folder of `records/` and `tables/`.

        Raises:
            UserError: it cannot be shown; the caller says so and goes on.
        """
        ...


@dataclass(frozen=True)
class NoTracking(Tracking):
    """Records and tables are all that is written."""

    def log_group(self, folder: Path, sweep: str, records: Sequence[Record]) -> None:
        return

    def log_leaderboard(
        self,
        folder: Path,
        sweep: str,
        records: Sequence[Record],
        tables: Mapping[str, pd.DataFrame],
        figures: Sequence[Path],
        root: Path,
    ) -> None:
        return


@dataclass(frozen=True)
class WandbTracking(Tracking):
    """A Weights & Biases run for each model x dataset x method, and one for the leaderboard, all in the sweep's group.

    A cell run has the choices in its config and the mean of every measure over the images with status ok in its
    summary, as `family/metric` or `family/metric.measure`, beside the number of those images (`.../n`) and of those
    with any other status (`.../degenerate`, ...). Its id is a digest of (sweep, model, dataset, method, seed), so
    scoring a group again updates its run. The leaderboard run has the tables, the figures, and an artifact of type
    `results` with the record files themselves.

    Attributes:
        mode: `offline` keeps runs in `<folder>/wandb` for a later `wandb sync` and needs no account and no network;
            `online` sends them as they come; `disabled` does nothing.
        project: of W&B.
        entity: user or team of W&B, by default the user's own.

    Raises:
        UserError: the mode is none of these.
    """

    mode: Mode = "offline"
    project: str = "assay"
    entity: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise UserError(f"tracking.mode={self.mode} does not exist (there are: {', '.join(get_args(Mode))})")

    def log_group(self, folder: Path, sweep: str, records: Sequence[Record]) -> None:
        if self.mode == "disabled" or not records:
            return
        cell = records[0].cell
        choices = {"model": cell.model, "dataset": cell.dataset, "method": cell.method}
        config = {
            "sweep": sweep,
            **{axis: choice.name for axis, choice in choices.items()},
            "role": records[0].facts["role"],
            "seed": cell.seed,
            "params": {axis: dict(choice.params) for axis, choice in choices.items()},
            "versions": {axis: choice.version for axis, choice in choices.items()},
            "metrics": {record.cell.metric.name: _protocol(record.cell.metric) for record in records},
            "environment": records[0].facts["environment"],
        }
        identity = [sweep, *(asdict(choice) for choice in choices.values()), cell.seed]
        name = "/".join(choice.name for choice in choices.values())
        with self._run(folder, sweep, "cell", name, identity, config) as run:
            run.summary.update(summary(records))

    def log_leaderboard(
        self,
        folder: Path,
        sweep: str,
        records: Sequence[Record],
        tables: Mapping[str, pd.DataFrame],
        figures: Sequence[Path],
        root: Path,
    ) -> None:
        if self.mode == "disabled":
            return
        axes = ("model", "dataset", "method", "metric")
        names = {f"{axis}s": sorted({getattr(record.cell, axis).name for record in records}) for axis in axes}
        config = {"sweep": sweep, "records": len(records), **names}
        with self._run(folder, sweep, "leaderboard", "leaderboard", [sweep, "leaderboard"], config) as run:
            import wandb

            shown = {f"tables/{name}": wandb.Table(**_plain(table)) for name, table in tables.items()}
            pictures = [path for path in figures if path.suffix.lower() in _PICTURES]
            run.log(shown | {f"figures/{path.stem}": wandb.Image(str(path)) for path in pictures})

            root = Path(root).resolve()  # a later `wandb sync` may run in another folder
            artifact = wandb.Artifact(_artifact_name(sweep), type="results", metadata=config)
            for path in {record_path(root, record.cell): None for record in records}:
                # Record files never change, so they need no second copy until they are sent.
                artifact.add_file(str(path), path.relative_to(root).as_posix(), skip_cache=True, policy="immutable")
            for path in sorted(path for path in Path(root, "tables").rglob("*") if path.is_file()):
                artifact.add_file(str(path), path.relative_to(root).as_posix(), skip_cache=True)
            run.log_artifact(artifact)

    @contextmanager
    def _run(
        self, folder: Path, sweep: str, job: str, name: str, identity: Sequence[Any], config: Mapping[str, Any]
    ) -> Iterator[Any]:
        """A run that is finished on the way out; whatever goes wrong in it becomes a `UserError`."""
        online = self.mode == "online"
        try:
            import wandb

            Path(folder).mkdir(parents=True, exist_ok=True)
            with _environment(WANDB_DATA_DIR=str(Path(folder, "wandb").resolve())):
                if online:
                    _log_in()
                settings = wandb.Settings(
                    silent=True,
                    console="off",
                    disable_code=True,
                    disable_git=True,
                    x_disable_machine_info=True,
                    x_disable_meta=True,
                    x_disable_stats=True,
                    x_save_requirements=False,
                    init_timeout=30,  # seconds; by default a lost network holds up the sweep for ever
                    finish_timeout=600,
                    finish_timeout_raises=True,
                )
                with wandb.init(
                    mode=self.mode,
                    project=self.project,
                    entity=self.entity,
                    dir=str(folder),
                    group=sweep,
                    job_type=job,
                    name=name,
                    id=digest(identity)[:16],
                    resume="allow" if online else None,
                    config=dict(config),
                    reinit="create_new",  # a run that the user has open is left alone
                    settings=settings,
                ) as run:
                    yield run
        except UserError:
            raise
        except ImportError as error:
            raise UserError(f"W&B cannot be imported ({error}): pip install wandb, or use tracking=none") from error
        except Exception as error:
            hint = "`wandb login` or tracking.mode=offline" if online else "tracking=none"
            raise UserError(f"W&B failed for {name} (try {hint}): {_first_line(error)}") from error


def summary(records: Sequence[Record]) -> dict[str, float]:
    """The numbers of a cell run: mean and count over the images with status ok, and how many have any other status."""
    numbers: dict[str, float] = {}
    for record in records:
        metric = record.cell.metric.name
        for measure, rows in record.rows.groupby("measure", sort=False):
            key = f"{record.facts['family']}/{metric}" + ("" if measure == metric else f".{measure}")
            counts = rows["status"].value_counts().to_dict()
            numbers[f"{key}/n"] = int(counts.pop("ok", 0))
            if numbers[f"{key}/n"]:
                numbers[key] = float(rows.loc[rows["status"] == "ok", "value"].mean())
            numbers |= {f"{key}/{status}": int(count) for status, count in counts.items()}
    return numbers


def _protocol(metric: Choice) -> dict[str, Any]:
    return {**metric.params, "version": metric.version}


def _log_in() -> None:
    """Find the user's key without asking for it.

    Raises:
        UserError: there is none.
    """
    import wandb

    if wandb.run is not None:  # the user has logged in already
        return
    with redirect_stderr(StringIO()):
        found = wandb.login(prompt=False, verify=False)
    if not found:
        raise UserError("tracking.mode=online needs a W&B key: run `wandb login`, or use tracking.mode=offline")


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set environment variables, and put back all that W&B reads or writes."""

    def ours() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}

    before = ours()
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in ours():
            del os.environ[name]
        os.environ.update(before)


def _plain(table: pd.DataFrame) -> dict[str, Any]:
    """Arguments of a W&B table: an index with a name becomes columns, and every entry a number, text or nothing."""
    if any(name is not None for name in table.index.names) or not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index()
    columns = [" ".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in table.columns]
    rows = [[_entry(value) for value in row] for row in table.itertuples(index=False, name=None)]
    return {"columns": columns, "data": rows, "allow_mixed_types": True}


def _entry(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, str | bool | int):
        return value
    if value is None or value is pd.NA or value is pd.NaT or value != value:  # NaN is not equal to itself
        return None
    return value if isinstance(value, float) else str(value)


def _artifact_name(sweep: str) -> str:
    """Artifact names hold at most 128 of these characters."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", f"results-{sweep}")[:128]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
