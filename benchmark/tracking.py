"""What a sweep found, in Weights & Biases as well: a copy to look at, never the record."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark import overviews, report
from benchmark.agreement import Agreement
from benchmark.cells import digest
from benchmark.errors import UserError
from benchmark.page.results import Results, read
from benchmark.records import Record, write_whole

Mode = Literal["offline", "online", "disabled"]
Picture = tuple[str, NDArray[np.uint8]]
"""A caption, and colours `(H, W, 3)`: W&B shows an array of other numbers than bytes as black."""

_RECORD = "records/*/*/*/*.parquet"
_FILES = (_RECORD, "records/*/*/*/*.error.json", "tables/**/*", "certificate*.*")
_SHOWS_IMAGES = "-heat_maps"
_LOGGED = "assay.logged"


class Tracking(Protocol):
    """Shows the records of a sweep somewhere else. It is told after they are filed, so it can lose nothing."""

    def log_group(self, root: Path, records: Sequence[Record], pictures: Callable[[int], Sequence[Picture]]) -> None:
        """Show one model x dataset x method.

        Args:
            root: the folder of the sweep.
            records: all that are filed of the group, whichever run of the sweep filed them.
            pictures: the heat maps of its first so many images.

        Raises:
            UserError: they cannot be shown; the caller says so and goes on.
        """
        ...

    def log_sweep(self, root: Path) -> None:
        """Show what came out of the whole sweep, once, at its end.

        Args:
            root: the folder of the sweep, with its records, tables and figures.

        Raises:
            UserError: it cannot be shown; the caller says so and goes on.
        """
        ...


@dataclass(frozen=True)
class NoTracking(Tracking):
    """Records and tables are all that is written."""

    def log_group(self, root: Path, records: Sequence[Record], pictures: Callable[[int], Sequence[Picture]]) -> None:
        return

    def log_sweep(self, root: Path) -> None:
        return


@dataclass(frozen=True)
class WandbTracking(Tracking):
    """A Weights & Biases run for each model x dataset x method, and one for the leaderboard, all in the sweep's group.

    What they hold is `overviews.group` and `overviews.sweep`, with pictures and files; `docs/tracking.md` lists it. The
    name of the group is drawn once for a folder of results and kept in it, and the id of a run is a digest of that name
    and of what the run shows. So whoever goes on with the sweep, wherever the folder lies by then, updates the same
    runs. A run always holds all that is filed of its group; one to which nothing was added is not written again.

    Attributes:
        mode: `offline` keeps runs in `<root>/wandb` for a later `wandb sync` and needs no account and no network;
            `online` sends them as they come; `disabled` does nothing.
        project: of W&B.
        entity: user or team of W&B, by default the user's own.
        images: how many heat maps a run shows, over their images; 0 keeps images of the data set out of W&B.

    Raises:
        UserError: the mode is none of these, or images is no number.
    """

    mode: Mode = "offline"
    project: str = "assay"
    entity: str | None = None
    images: int = 8

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise UserError(f"tracking.mode={self.mode} does not exist (there are: {', '.join(get_args(Mode))})")
        if not isinstance(self.images, int) or isinstance(self.images, bool) or self.images < 0:
            raise UserError(f"tracking.images={self.images} is no number of images: expected 0 or more")

    def log_group(self, root: Path, records: Sequence[Record], pictures: Callable[[int], Sequence[Picture]]) -> None:
        if self.mode == "disabled" or not records:
            return
        with self._one_sentence(records[0].cell.title.rpartition("/")[0]):
            sweep = sweep_name(root)
            identity = digest([sweep, *overviews.identity(records)])[:16]
            held = digest([asdict(self), sorted(record.cell.key for record in records)])
            if self._holds(root, identity, held):
                return
            group = overviews.group(records)
            with self._run(root, sweep, "cell", group.name, identity, group.config) as run:
                import wandb

                shown = {f"curves/{_key(column)}": _chart(curve, column) for column, curve in group.curves.items()}
                found = [wandb.Image(colours, caption=caption) for caption, colours in pictures(self.images)]
                if shown or found:
                    run.log(shown | ({"heat_maps": found} if found else {}))
                run.summary.update(dict(group.summary))
                folder = Path(run.dir).parent
            folder.joinpath(_LOGGED).write_text(held)

    def log_sweep(self, root: Path) -> None:
        if self.mode == "disabled":
            return
        with self._one_sentence("leaderboard"):
            root = Path(root).resolve()  # a later `wandb sync` may run in another folder
            sweep = sweep_name(root)
            identity = digest([sweep, "leaderboard"])[:16]
            results = read(root)
            shown = overviews.sweep(results.tidy, results.summary)
            page = self._page(results)
            with self._run(root, sweep, "leaderboard", "leaderboard", identity, shown.config) as run:
                import wandb

                page_shown = {"report": wandb.Html(page, inject=False)}
                run.log(_tables(shown) | _charts(shown) | self._figures(root) | page_shown)
                run.summary.update({f"cells/{status}": count for status, count in shown.counts.items()})
                artifact = wandb.Artifact(_artifact_name("results", sweep), type="results", metadata=dict(shown.config))
                for path in _filed(root):
                    name, record = path.relative_to(root).as_posix(), path.match(_RECORD)
                    # Records never change, so they need no second copy until they are sent.
                    artifact.add_file(str(path), name, skip_cache=True, policy="immutable" if record else "mutable")
                run.log_artifact(artifact)
                artifact = wandb.Artifact(_artifact_name("report", sweep), type="report")
                artifact.add_file(str(page), "report.html", skip_cache=True)
                run.log_artifact(artifact)

    def _figures(self, root: Path) -> dict[str, Any]:
        import wandb

        found = {path.stem: path for path in sorted(root.glob("figures/*.png"))}
        if not self.images:
            found = {name: path for name, path in found.items() if not name.endswith(_SHOWS_IMAGES)}
        return {_key("figures", name): wandb.Image(str(path)) for name, path in found.items()}

    def _page(self, results: Results) -> Path:
        """The report page, written anew: one that is there may be older, or show images that must not be sent."""
        path = results.root / "wandb" / "report.html"
        text = report.page(results, self.images, {})
        write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return path

    def _holds(self, root: Path, identity: str, held: str) -> bool:
        """Whether the newest run of that id in the folder was finished and shows just this."""
        kind = "offline-run" if self.mode == "offline" else "run"
        runs = sorted(Path(root, "wandb").glob(f"{kind}-*-{identity}"))
        try:
            return bool(runs) and runs[-1].joinpath(_LOGGED).read_text() == held
        except FileNotFoundError:
            return False

    @contextmanager
    def _one_sentence(self, name: str) -> Iterator[None]:
        """Whatever goes wrong becomes a `UserError`."""
        try:
            yield
        except UserError:
            raise
        except ImportError as error:
            raise UserError(f"W&B cannot be imported ({error}): pip install wandb, or use tracking=none") from error
        except Exception as error:
            hint = "`wandb login` or tracking.mode=offline" if self.mode == "online" else "tracking=none"
            raise UserError(f"W&B failed for {name} (try {hint}): {_first_line(error)}") from error

    @contextmanager
    def _run(
        self, root: Path, sweep: str, job: str, name: str, identity: str, config: Mapping[str, Any]
    ) -> Iterator[Any]:
        """A run that is finished on the way out."""
        online = self.mode == "online"
        root = Path(root).resolve()
        with _environment(WANDB_DATA_DIR=str(root / "wandb"), WANDB_ERROR_REPORTING="false"):
            import wandb

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
                finish_timeout=60 if job == "cell" else 600,
                finish_timeout_raises=True,
            )
            run = wandb.init(
                mode=self.mode,
                project=self.project,
                entity=self.entity,
                dir=str(root),
                group=sweep,
                job_type=job,
                name=name,
                id=identity,
                # Offline nothing is known of earlier runs, and needs not be: the files of the last are sent in place
                # of theirs.
                resume="allow" if online else None,
                config={"sweep": sweep, **config},
                allow_val_change=True,
                reinit="create_new",  # a run that the user has open is left alone
                settings=settings,
            )
            try:
                if not Path(run.dir).resolve().is_relative_to(root):
                    raise UserError(f"W&B cannot write to {root / 'wandb'}: free the disk, or use tracking=none")
                yield run
            except BaseException:
                with suppress(Exception):  # what went wrong first is said; as a context the run would print it as well
                    run.finish(exit_code=1)
                raise
            run.finish()


def sweep_name(root: Path) -> str:
    """The name of the sweep that fills `root`: that of the folder and eight random digits, drawn once and kept there.

    Deleting `<root>/wandb` therefore starts another group. Two processes that draw at once agree on one name.
    """
    path = Path(root, "wandb", "group.txt")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = path.with_name(f".{uuid.uuid4().hex}")
        drawn.write_text(f"{Path(root).resolve().name}-{uuid.uuid4().hex[:8]}\n")
        with suppress(FileExistsError):
            os.link(drawn, path)
        drawn.unlink()
    return path.read_text().strip()


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


def _tables(shown: overviews.Sweep) -> dict[str, Any]:
    found = {_key("leaderboard", *place): _table(table) for place, table in shown.tables.items()}
    found |= {_key("means", *place): _table(table) for place, table in shown.means.items()}
    for place, agreement in shown.agreements.items():
        tau = agreement.tau.loc[list(agreement.order), list(agreement.order)]
        found[_key("agreement", *place)] = _table(tau.rename_axis(index="metric", columns=None).reset_index())
        found[_key("agreement_intervals", *place)] = _table(_pairs(agreement))
    return found


def _pairs(agreement: Agreement) -> pd.DataFrame:
    """A row a pair of metrics, as W&B's own charts take them."""
    rows = [
        (one, other, agreement.tau.at[one, other], agreement.low.at[one, other], agreement.high.at[one, other])
        for one in agreement.order
        for other in agreement.order
    ]
    return pd.DataFrame(rows, columns=["metric", "other", "tau", "low", "high"])


def _charts(shown: overviews.Sweep) -> dict[str, Any]:
    import wandb

    return {
        _key("pareto", *place): wandb.plot.scatter(
            _table(front), x=front.columns[2], y="quality", title=f"quality against cost: {' × '.join(place)}"
        )
        for place, front in shown.fronts.items()
    }


def _filed(root: Path) -> list[Path]:
    """What a version of the sweep consists of; half-written files of other processes have a dot before their names."""
    found = {path for pattern in _FILES for path in root.glob(pattern)}
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def _chart(curve: pd.DataFrame, column: str) -> Any:
    """A mean curve and its band, as three lines; the first column says where on the curve."""
    import wandb

    place, *lines = curve.columns
    values = [[_entry(value) for value in curve[line]] for line in lines]
    return wandb.plot.line_series(curve[place].tolist(), values, keys=lines, title=column, xname=str(place))


def _table(table: pd.DataFrame) -> Any:
    """A W&B table in which every entry is a number, text or nothing."""
    import wandb

    rows: list[Any] = [[_entry(value) for value in row] for row in table.itertuples(index=False, name=None)]
    return wandb.Table(columns=[str(name) for name in table.columns], data=rows, allow_mixed_types=True)


def _entry(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, str | bool | int):
        return value
    if value is None or value is pd.NA or value is pd.NaT or value != value:  # NaN is not equal to itself
        return None
    return value if isinstance(value, float) else str(value)


def _key(*parts: str) -> str:
    """A key of W&B, which filters by letters, digits and few signs, and makes a section of what is before `/`."""
    return "/".join(re.sub(r"[^\w.-]+", "_", part).strip("_") for part in parts)


def _artifact_name(kind: str, sweep: str) -> str:
    """Artifact names hold at most 128 of these characters."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", f"{kind}-{sweep}")[:128]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
