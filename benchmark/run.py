"""The Hydra job, one model x data set x method, and the sweep that its jobs belong to."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from benchmark import gallery, leaderboard, plugins, records, subjects
from benchmark.attributions import Entry
from benchmark.cells import Cell, Choice
from benchmark.errors import UserError
from benchmark.evaluate import Evaluation, Outcome, describe
from benchmark.progress import Progress
from benchmark.protocols import Method, Metric
from benchmark.subjects import Subject
from benchmark.tracking import NoTracking, Picture, Tracking

PROJECT = Path(__file__).resolve().parent.parent
_SUBJECT = ("models", "datasets", "seed", "device", "batch_size", "chunk", "channels_last")


class Sweep:
    """What outlives a job: the subject in memory, what became of every cell, and where it all goes."""

    def __init__(self) -> None:
        self.jobs = 1
        self.progress: Progress | None = None
        self.root = Path("results")
        self.outcomes: list[Outcome] = []
        self.problems: list[str] = []
        self.pairs: list[tuple[Choice, Choice]] = []
        self.tracking: Tracking | None = None
        self._loaded: tuple[str, Subject | UserError] | None = None

    def job(self, config: DictConfig) -> None:
        """Score one method on one subject with every metric that has no record yet; never raise for one cell's sake."""
        if self.progress is None:
            self.root = Path(config.results)
            self.progress = Progress(self.jobs)
            prepare_torch(config.threads)
        chosen = HydraConfig.get().runtime.choices
        names = [config[group].get("name") or chosen[group] for group in ("models", "datasets")]
        with self.progress.job(" × ".join(map(str, [*names, chosen["methods"]]))) as notes:
            try:
                outcomes = self._score(config, chosen)
            except Exception as error:
                if config.debug:
                    traceback.print_exc()
                notes.append(self._problem(describe(error)))
                return
            counts = Counter(outcome.status for outcome in outcomes)
            notes.append(", ".join(f"{count} {status}" for status, count in counts.items()))
        self._explain_failures(outcomes)

    def _score(self, config: DictConfig, chosen: Mapping[str, str]) -> list[Outcome]:
        assert self.progress is not None
        if self.tracking is None:
            self.tracking = plugins.build(config.tracking)
        trusted = _trusted(config)
        subject = self._subject(config, trusted)
        with open_dict(config):
            config.models.layer = subject.model.layer
        plugins.check_name("methods", chosen["methods"], config.methods)
        method = plugins.build(config.methods, trusted)
        plugins.require(method, Method, "attribute(model, batch)")
        if config.budget is not None:
            method = _within(method, config.budget)
        name = plugins.title(chosen["methods"], method)
        choice = plugins.choose(name, method, config.methods)
        evaluation = Evaluation(self.root, subject, choice, method, self.progress, config.budget)
        outcomes = list(evaluation.run(_metrics(config, trusted), config.debug))
        self.outcomes += outcomes
        if any(outcome.status != "failed" for outcome in outcomes):
            self._track(subject, outcomes[0].cell)
        return outcomes

    def _subject(self, config: DictConfig, trusted: set[str]) -> Subject:
        """The subject of the job: loaded once for all methods, and refused once for all."""
        settings = OmegaConf.to_container(config, resolve=True)
        assert isinstance(settings, dict)
        identity = repr([settings[key] for key in _SUBJECT])
        if self._loaded is None or self._loaded[0] != identity:
            self.draw()
            self._loaded = None
            try:
                self._loaded = (identity, subjects.load(config, trusted))
            except UserError as error:
                self._loaded = (identity, error)
        subject = self._loaded[1]
        if isinstance(subject, UserError):
            raise subject
        if (pair := (subject.model_choice, subject.dataset_choice)) not in self.pairs:
            self.pairs.append(pair)
        return subject

    def draw(self) -> None:
        """Draw the figures of the subject in memory; what goes wrong with them must cost no record."""
        if self._loaded is None or isinstance(self._loaded[1], UserError):
            return
        try:
            gallery.draw(self.root, self._loaded[1])
        except UserError as error:
            self._problem(str(error))

    def _track(self, subject: Subject, cell: Cell) -> None:
        """Show the group of `cell`, with maps only where the cache has them: tracking explains nothing."""

        def pictures(count: int) -> list[Picture]:
            entry = Entry(self.root, cell.model, cell.dataset, cell.method, cell.seed)
            maps = entry.load() if count else None
            return [] if maps is None else gallery.overlays(subject, maps["maps"][:count])

        self._tracked(lambda tracking: tracking.log_group(self.root, records.read_group(self.root, cell), pictures))

    def _tracked(self, log: Callable[[Tracking], None]) -> None:
        """Tracking must cost no record and no time: what goes wrong is said once, and the sweep goes on without it."""
        assert self.tracking is not None
        try:
            log(self.tracking)
        except Exception as error:
            self._say(f"warning: nothing is tracked from here on: {describe(error)}")
            self.tracking = NoTracking()

    def _problem(self, sentence: str) -> str:
        if sentence not in self.problems:
            self.problems.append(sentence)
            self._say(f"error: {sentence}")
        return "failed"

    def _explain_failures(self, outcomes: list[Outcome]) -> None:
        """One line a reason, not one a cell."""
        failed = [outcome for outcome in outcomes if outcome.status == "failed"]
        for reason in dict.fromkeys(outcome.reason for outcome in failed):
            cells = [outcome.cell for outcome in failed if outcome.reason == reason]
            where = f"{cells[0].method.name} on {cells[0].model.name} × {cells[0].dataset.name}"
            names = ", ".join(cell.metric.name for cell in cells)
            self._say(f"error: {where}: {reason} (no record of {names})")

    def _say(self, line: str) -> None:
        if self.progress is not None:
            self.progress.say(line)
        else:
            print(line, file=sys.stderr)

    def finish(self) -> int:
        """Draw, write and print the tables, log them; the exit code: 0 only if every cell asked for has a record."""
        self.draw()
        if self.progress is not None:
            self.progress.close()
        if self.pairs:
            print(leaderboard.report(self.root, self.pairs))
            print(
                f"\nrecords {self.root / 'records'}   tables {self.root / 'tables'}   figures {self.root / 'figures'}"
            )
            self._tracked(lambda tracking: tracking.log_sweep(self.root))
        failed = sum(outcome.status == "failed" for outcome in self.outcomes)
        if failed:
            print(f"error: {failed} of {len(self.outcomes)} cells have no record", file=sys.stderr)
        return 1 if failed or self.problems else 0


SWEEP = Sweep()


class Plan(Callback):
    """Tells the sweep how many jobs are to come, before the first of them starts."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        swept = [f"{key}={value}" for key, value in config.hydra.sweeper.params.items()]
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())  # which knows what a glob stands for
        parsed = parser.parse_overrides([*swept, *config.hydra.overrides.task])
        SWEEP.jobs = sum(map(len, BasicSweeper.split_arguments(parsed, None)))


def _within(method: Method, budget: object) -> Method:
    """`method` with as many samples, steps or masks as `budget` passes an image allow."""
    if not (isinstance(budget, int) and budget > 0):
        raise UserError(f"budget={budget} is no number of passes an image: expected 1 or more, or null")
    return method.within(budget)


def _metrics(config: DictConfig, trusted: set[str]) -> dict[str, tuple[Choice, Metric]]:
    """The metrics of a job, by name."""
    if "_target_" in config.metrics:
        raise UserError("a file of conf/metrics must have '# @package metrics.<its name>' among its first lines")
    found = {}
    for key, settings in config.metrics.items():
        plugins.check_name("metrics", str(key), settings)
        metric = plugins.build(settings, trusted)
        plugins.require(metric, Metric, "measures and score(model, batch, attributions, explain, prepared)")
        name = plugins.title(str(key), metric)
        found[name] = (plugins.choose(name, metric, settings), metric)
    return found


def _trusted(config: DictConfig) -> set[str]:
    """Top-level modules that the user names on the command line or in `trust`."""
    named = [override.partition("=") for override in HydraConfig.get().overrides.task]
    return {value.strip("'\"").split(".")[0] for key, _, value in named if key.endswith("_target_")} | set(config.trust)


def prepare_torch(threads: int | None) -> None:
    """Numbers that do not depend on the mood of a GPU, threads as asked for, and no foreign package in our place."""
    for name in ("methods", "metrics"):
        spec = importlib.util.find_spec(name)
        if spec is None or Path(os.path.realpath(spec.origin or "")).parent.parent != PROJECT:
            where = spec.origin if spec else "nowhere"
            raise UserError(
                f"Python finds the package {name} at {where}, expected {PROJECT / name}: run from elsewhere"
            )
    if threads is not None:
        if not (isinstance(threads, int) and threads > 0):
            raise UserError(f"threads={threads} is no number of threads: expected 1 or more, or null")
        torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    if torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)
