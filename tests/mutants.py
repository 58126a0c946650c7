"""Defects found in the wild, injected one at a time: does the certificate catch each?

    python tests/mutants.py                 the table, as Markdown
    python tests/mutants.py docs/mutants.md     written there

A mutant is a change of our source that makes it compute what somebody's code was seen to compute. It goes into a copy
of the packages, and `python -m benchmark.certify` runs there on the metrics that could notice.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "mutants.md"
_PACKAGES = ("benchmark", "methods", "metrics")
_BROKEN = "stopped by"


@dataclass(frozen=True)
class Mutant:
    """One defect.

    Attributes:
        defect: what goes wrong, in words.
        seen: where it was found, or `plausible`.
        file: of ours that is changed.
        old, new: the change; `old` occurs once.
        metrics: of conf/metrics, whose checks are run.
    """

    defect: str
    seen: str
    file: str
    old: str
    new: str
    metrics: tuple[str, ...]


MUTANTS = (
    Mutant(
        *("the last point of a curve is dropped", "LATEC; IDSDS by default", "metrics/_curves.py"),
        "return torch.trapezoid(curve, fractions)",
        "return torch.trapezoid(curve[:, :-1], fractions[:, :-1])",
        ("deletion", "insertion", "srg"),
    ),
    Mutant(
        *("the unperturbed image is no point of the curve", "Quantus PixelFlipping", "metrics/_curves.py"),
        "return torch.trapezoid(curve, fractions)",
        "return torch.trapezoid(curve[:, 1:], fractions[:, 1:])",
        ("deletion", "insertion", "srg"),
    ),
    Mutant(
        *("the area is not divided by the number of steps", "Quantus PixelFlipping", "metrics/_curves.py"),
        "return torch.trapezoid(curve, fractions)",
        "return torch.trapezoid(curve, dx=1.0)",
        ("deletion", "insertion", "srg"),
    ),
    Mutant(
        *("ties fall in raster order", "RISE, Quantus, torch-cam and others", "benchmark/maps.py"),
        "hashed = randomness.uniform(keys, values.shape[1])",
        "hashed = torch.linspace(0, 0.9, values.shape[1], device=values.device).expand_as(values)",
        ("deletion", "srg"),
    ),
    Mutant(
        *(
            "one channel stands for all instead of their sum",
            "LATEC ranks channels of a pixel apart",
            "benchmark/maps.py",
        ),
        "return attributions.sum(1)\n",
        "return attributions.amax(1)\n",
        ("deletion", "srg"),
    ),
    Mutant(
        *("a probability where a logit is asked for", "Quantus' softmax=True by default", "benchmark/passes.py"),
        'if score == "logit":\n        return picked',
        'if score == "logit":\n        return logits.softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)',
        ("deletion", "insertion", "infidelity"),
    ),
    Mutant(
        *("the class is predicted anew for the perturbed image", "InterpretDL's insertion", "benchmark/passes.py"),
        "    picked = logits.gather(1, targets.unsqueeze(1)).squeeze(1)\n",
        "    targets = logits.argmax(1)\n    picked = logits.gather(1, targets.unsqueeze(1)).squeeze(1)\n",
        ("deletion", "insertion", "infidelity"),
    ),
    Mutant(
        *("the true label is explained instead of the frozen prediction", "IDSDS", "benchmark/batches.py"),
        'if explain == "predicted":',
        'if explain == "predicted" and labels is None:',
        ("deletion", "insertion"),
    ),
    Mutant(
        *("black is 0 after normalisation", "Chefer and RISE differ in this", "benchmark/baselines.py"),
        "    return batch.normalise(pixels)\n",
        "    return pixels\n",
        ("deletion", "insertion", "srg"),
    ),
    Mutant(
        *("random numbers by the place in the batch", "OpenXAI seeds by row", "benchmark/protocols.py"),
        "randomness.keys(self.seed, purpose, self.uids, draws)",
        "randomness.keys(self.seed, purpose, tuple(map(str, range(len(self)))), draws)",
        ("deletion", "infidelity"),
    ),
    Mutant(
        *("completeness as an equality of floats", "Quantus Completeness", "metrics/completeness.py"),
        "error = (attributions.double().sum((1, 2, 3)) - difference).abs()",
        "error = (attributions.double().sum((1, 2, 3)) != difference).double()",
        ("completeness",),
    ),
    Mutant(
        *("maps are divided by the largest value of the batch", "Quantus normalise_by_max", "metrics/completeness.py"),
        "attributions.double().sum((1, 2, 3))",
        "(attributions / attributions.abs().max()).double().sum((1, 2, 3))",
        ("completeness",),
    ),
    Mutant(
        *("only the first image of a batch counts", "Quantus ROAD: the first batch", "metrics/completeness.py"),
        "error = (attributions.double().sum((1, 2, 3)) - difference).abs()",
        "error = (attributions.double().sum((1, 2, 3)) - difference).abs()[:1].expand(len(batch))",
        ("completeness",),
    ),
    Mutant(
        *("only the first channel of a map is summed", "Quantus Completeness", "metrics/completeness.py"),
        "attributions.double().sum((1, 2, 3))",
        "attributions[:, :1].double().sum((1, 2, 3))",
        ("completeness",),
    ),
    Mutant(
        *("perturbations accumulate over the units", "Quantus Infidelity", "metrics/_subsets.py"),
        "return torch.arange(count, device=draw.device) == draw[:, None]",
        "return torch.arange(count, device=draw.device) <= draw[:, None]",
        ("single_deletion", "faithfulness_estimate"),
    ),
    Mutant(
        *("perturbations accumulate over the draws", "Quantus Infidelity", "metrics/infidelity.py"),
        "return absence.without(image, _inside(top, left, side, batch))",
        "return absence.without(image, _inside(top, left, side, batch).int().cummax(0).values.bool())",
        ("infidelity",),
    ),
    Mutant(
        *("beta is that of the whole batch", "plausible", "metrics/infidelity.py"),
        "beta = (predicted * change).sum(1) / predicted.square().sum(1)",
        "beta = ((predicted * change).sum() / predicted.square().sum()).expand(len(predicted))",
        ("infidelity", "infidelity_gaussian"),
    ),
    Mutant(
        *(
            "the perturbation is added and not taken away",
            "captum and the authors differ in this",
            "metrics/infidelity.py",
        ),
        "return whole[image] - self._noise(key, batch)",
        "return whole[image] + self._noise(key, batch)",
        ("infidelity_gaussian", "infidelity_noisy_baseline"),
    ),
    Mutant(
        *("a correlation over images and not within one", "Quantus Sensitivity-n", "metrics/sensitivity_n.py"),
        'return Scores({"sensitivity_n": curve.mean(1)}, {"sensitivity_n": curve})',
        'over = pearson(*(t.flatten(1).T for t in (self.foretold(batch, attributions, prepared), prepared["drop"])))\n'
        '        return Scores({"sensitivity_n": over.nanmean().expand(len(batch))}, {"sensitivity_n": curve})',
        ("sensitivity_n",),
    ),
    Mutant(
        *("a map is summed unsigned over subsets", "plausible", "metrics/_subsets.py"),
        "values = maps.reduce_channels(attributions, self.reduce).double()",
        "values = maps.reduce_channels(attributions, self.reduce).double().abs()",
        ("sensitivity_n", "faithfulness_correlation", "mu_fidelity", "single_deletion"),
    ),
    Mutant(
        *("an undefined correlation is written as 0", "xplique mu-Fidelity", "metrics/_subsets.py"),
        "return torch.where(defined, found.clamp(-1, 1), torch.nan)",
        "return torch.where(defined, found.clamp(-1, 1), 0.0)",
        ("sensitivity_n", "faithfulness_correlation", "faithfulness_estimate"),
    ),
    Mutant(
        *(
            "subsets of any size where one size is asked for",
            "xplique mu-Fidelity",
            "metrics/faithfulness_correlation.py",
        ),
        'if self.design == "bernoulli":',
        "if self.design:",
        ("faithfulness_correlation", "mu_fidelity"),
    ),
    Mutant(
        *("ranks without gaps where values are tied", "OpenXAI rank correlation", "benchmark/maps.py"),
        "return torch.empty_like(first, dtype=torch.float64).scatter_(-1, order, (first + last).double() / 2)",
        "flat = [row.unique(return_inverse=True)[1] for row in values.reshape(-1, values.shape[-1])]\n"
        "    return torch.stack(flat).view(values.shape).to(torch.float64)",
        ("single_deletion", "auroc", "monotonicity_correlation", "random_logit"),
    ),
    Mutant(
        *(
            "units come from the baseline and go back to it",
            "Quantus Monotonicity: always true",
            "metrics/monotonicity.py",
        ),
        "curve = follow(count[:, None] - there)",
        "curve = follow(count[:, None] - 0 * there)",
        ("monotonicity",),
    ),
    Mutant(
        *("the area over the curve grows with the number of segments", "Quantus IROF", "metrics/irof.py"),
        "1 - torch.trapezoid(share, gone / count[:, None].double())",
        "count - torch.trapezoid(share, dx=1.0)",
        ("irof",),
    ),
    Mutant(
        *("groups that lose the same speak for the map", "the code of SaCo", "metrics/saco.py"),
        "order = (drops[:, :, None] - drops[:, None, :]).sign() * pairs",
        "order = (2.0 * (drops[:, :, None] >= drops[:, None, :]) - 1) * pairs",
        ("saco",),
    ),
    Mutant(
        *("maps are scaled by the extremes of the batch", "Quantus and others", "metrics/average_drop.py"),
        "low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)",
        "low, high = values.amin().expand(len(values), 1, 1, 1), values.amax().expand(len(values), 1, 1, 1)",
        ("average_drop",),
    ),
    Mutant(
        *("the drop is not divided by the score", "pytorch-grad-cam DropInConfidence", "metrics/average_drop.py"),
        '"drop": (before - after).clamp(min=0) / before,',
        '"drop": (before - after).clamp(min=0),',
        ("average_drop",),
    ),
    Mutant(
        *("holes are filled with one colour where imputation is asked for", "plausible", "benchmark/baselines.py"),
        'if self.fill == "nli":\n            return impute',
        'if self.fill == "none":\n            return impute',
        ("road",),
    ),
    Mutant(
        *("the least relevant 1 - p go instead of p", "the authors' code of ROAD", "metrics/road.py"),
        "morf, lerf = follow(gone), follow(gone, last_first=True)",
        "morf, lerf = follow(gone), follow(count[:, None] - gone, last_first=True)",
        ("road",),
    ),
    Mutant(
        *("the least relevant units are revealed first", "plausible", "metrics/pic.py"),
        "self._seen(model, batch, units.spread(ranks, unit), kept)",
        "self._seen(model, batch, units.spread(count[:, None] - 1 - ranks, unit), kept)",
        ("pic",),
    ),
    Mutant(
        *("the least likely class counts as predicted", "plausible", "metrics/pic.py"),
        "(logits.argmax(1) == targets)",
        "(logits.argmin(1) == targets)",
        ("pic",),
    ),
    Mutant(
        *("units are revealed in an order that the map has no part in", "plausible", "metrics/pic.py"),
        "self.rank(batch, attributions, unit)",
        "self.rank(batch, 0 * attributions, unit)",
        ("pic",),
    ),
    Mutant(
        *("units are ranked by the negative of the map", "plausible", "metrics/_curves.py"),
        "worth = self.relevance(attributions, unit)",
        "worth = -self.relevance(attributions, unit)",
        ("pic",),
    ),
    Mutant(
        *("uniform noise is one grey", "plausible", "benchmark/baselines.py"),
        'pixels = randomness.uniform(batch.keys("baseline")[:, 0], *inputs.shape[1:]).to(inputs.dtype)',
        "pixels = torch.full_like(inputs, 0.5)",
        ("region_perturbation",),
    ),
    Mutant(
        *("another image of the batch stands for one of the data set", "plausible", "benchmark/baselines.py"),
        "return whole.inputs[chosen].to(batch.inputs.device)",
        "return batch.inputs.flip(0)",
        ("region_perturbation",),
    ),
    Mutant(
        *("complexity counts values above epsilon", "Quantus EffectiveComplexity", "metrics/effective_complexity.py"),
        "share = kept.gather(1, enough)[:, 0] / count.double()",
        "share = (attributions.sum(1).abs() > self.epsilon).double().mean((1, 2))",
        ("effective_complexity",),
    ),
    Mutant(
        *("entropy of a histogram of ten bins", "pnpxai Complexity", "metrics/complexity.py"),
        'return Scores({"entropy": torch.special.entr(share).sum(1)})',
        "binned = torch.stack([torch.histc(row, 10) / row.numel() for row in share.nan_to_num()])\n"
        '        return Scores({"entropy": torch.special.entr(binned).sum(1)})',
        ("entropy",),
    ),
    Mutant(
        *("every layer is initialised from the same seed", "Quantus MPRT", "metrics/_randomised.py"),
        'randomness.integer("cascade", stream, name)',
        'randomness.integer("cascade", stream)',
        ("parameter_randomisation",),
    ),
    Mutant(
        *("the comparison of a map with itself enters the mean", "Quantus MPRT", "metrics/_similarity.py"),
        "values = {name: curve.mean(1) for name, curve in curves.items()}",
        "one = {name: torch.ones_like(curve[:, :1]) for name, curve in curves.items()}\n"
        "    values = {name: torch.cat([one[name], curve], 1).mean(1) for name, curve in curves.items()}",
        ("parameter_randomisation",),
    ),
    Mutant(
        *("parameters without reset_parameters stay as they are", "Quantus MPRT", "metrics/_randomised.py"),
        "if torch.equal(parameter, before[name]):",
        "if parameter is None:",
        ("parameter_randomisation",),
    ),
    Mutant(
        *(
            "the class that the randomised model predicts is explained",
            "the notebook of Adebayo",
            "metrics/_randomised.py",
        ),
        "yield explain(copy, replace(batch, logits=logits, baseline_logits=absent))",
        "yield explain(copy, replace(batch, targets=logits.argmax(1), logits=logits, baseline_logits=absent))",
        ("parameter_randomisation",),
    ),
    Mutant(
        *("the other class may be the target itself", "plausible", "metrics/random_logit.py"),
        "return (batch.targets + 1 + step.long()) % classes",
        "return (batch.targets + step.long()) % classes",
        ("random_logit",),
    ),
    Mutant(
        *("sensitivity by the largest map of the batch", "plausible", "metrics/sensitivity.py"),
        "size = norm(attributions)[:, None]",
        "size = norm(attributions).max().expand(len(attributions))[:, None]",
        ("sensitivity",),
    ),
    Mutant(
        *("neighbours are moved upwards only", "xplique AverageStability", "metrics/_neighbours.py"),
        "return self.radius * (2 * randomness.uniform(keys, *inputs.shape[1:]).to(inputs.dtype) - 1)",
        "return self.radius * randomness.uniform(keys, *inputs.shape[1:]).to(inputs.dtype)",
        ("sensitivity", "local_lipschitz"),
    ),
    Mutant(
        *("one perturbation for all images of a batch", "attribench draws one place for all", "metrics/_neighbours.py"),
        'keys = batch.inputs, batch.keys("neighbours", self.samples)[image, draw]',
        'keys = batch.inputs, batch.keys("neighbours", self.samples)[0 * image, draw]',
        ("sensitivity", "local_lipschitz"),
    ),
    Mutant(
        *("any of several maxima in the mask is a hit", "Quantus PointingGame", "metrics/localisation.py"),
        "return (largest & _grown(masks, self.tolerance)).sum((1, 2)).double() / largest.sum((1, 2))",
        "return (largest & _grown(masks, self.tolerance)).any(2).any(1).double()",
        ("pointing_game",),
    ),
    Mutant(
        *("an image without an object is a hit", "Quantus PointingGame", "metrics/localisation.py"),
        "self.compare(batch, values, batch.masks), torch.nan)",
        "self.compare(batch, values, batch.masks), 1.0)",
        ("pointing_game", "relevance_mass"),
    ),
    Mutant(
        *("the mass is divided by a signed total", "Quantus RelevanceMassAccuracy", "metrics/_mass.py"),
        "positive = values.clamp(min=0)\n",
        "positive = values\n",
        ("relevance_mass", "energy_pointing_game"),
    ),
    Mutant(
        *("rows and columns of a mosaic change places", "Quantus Focus", "metrics/grid_pointing_game.py"),
        "owner = (down[:, None] * self.grid + across)",
        "owner = (down[:, None] + self.grid * across)",
        ("grid_pointing_game",),
    ),
    Mutant(
        *("a pass of many images counts as one", "plausible", "benchmark/passes.py"),
        "passes.forwards += len(output)",
        "passes.forwards += 1",
        ("throughput",),
    ),
)


@dataclass(frozen=True)
class Verdict:
    """What the certificate said of a mutant: the checks that failed, and those of the unchanged code that failed."""

    mutant: Mutant
    failed: tuple[str, ...]

    @property
    def caught(self) -> bool:
        return bool(self.failed)


def verdicts(mutants: tuple[Mutant, ...] = MUTANTS) -> list[Verdict]:
    """Run the certificate on each mutant, in a process of its own that has torch already."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for package in _PACKAGES:
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "conf").symlink_to(ROOT / "conf")
        found = []
        for mutant in mutants:
            path = folder / mutant.file
            source = path.read_text()
            assert source.count(mutant.old) == 1, f"{mutant.defect}: {source.count(mutant.old)} places in {mutant.file}"
            path.write_text(source.replace(mutant.old, mutant.new))
            found.append(Verdict(mutant, _certified(folder, mutant.metrics)))
            path.write_text(source)
        assert _certified(folder, ("srg",)) == (), "the unchanged code fails too"
    return found


def _certified(folder: Path, metrics: tuple[str, ...]) -> tuple[str, ...]:
    """What fails in the packages under `folder`: the claims, or the error that stopped it."""
    told = folder / "told.json"
    if (child := os.fork()) == 0:
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(folder))
        for module in [name for name in sys.modules if name.split(".")[0] in _PACKAGES]:
            del sys.modules[module]
        failed: list[str] = []
        try:
            from benchmark import certify

            assert certify.__file__ is not None
            assert Path(certify.__file__).is_relative_to(folder)
            with contextlib.redirect_stderr(io.StringIO()) as stderr, contextlib.redirect_stdout(io.StringIO()):
                certify.main(list(metrics))
            lines = [line.removeprefix("FAIL ") for line in stderr.getvalue().splitlines() if line]
            failed = [line for line in lines if not line.endswith("uncertified")]
        except BaseException as error:
            failed = [f"{_BROKEN} {type(error).__name__}: {error}"]
        finally:
            told.write_text(json.dumps(failed))
            os._exit(0)
    os.waitpid(child, 0)
    failed = json.loads(told.read_text())
    told.unlink()
    assert not any(line.startswith(_BROKEN) for line in failed), f"a mutant must compute something: {failed}"
    return tuple(failed)


def page(found: list[Verdict]) -> str:
    """The table defect x caught by."""
    lines = [
        "# Defects that the certificate catches",
        "",
        f"Each of these {len(found)} defects was put into the code, alone, and `python -m benchmark.certify` run on "
        "the metrics that could notice. `python tests/mutants.py docs/mutants.md` does it again; the tests do it too. "
        "Where a library is named, its definition differs in this way from ours; some do so by intention and say so.",
        "",
        "| defect | seen in | checks that fail | for example |",
        "|:--|:--|--:|:--|",
    ]
    for verdict in found:
        example = verdict.failed[0].split(": expected")[0] if verdict.failed else "**not caught**"
        cells = (verdict.mutant.defect, verdict.mutant.seen, str(len(verdict.failed)), example.replace("|", "\\|"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    found = verdicts()
    if arguments:
        Path(arguments[0]).write_text(page(found))
    else:
        print(page(found))
    missed = [verdict.mutant.defect for verdict in found if not verdict.caught]
    print(f"{len(found) - len(missed)} of {len(found)} defects are caught", *missed, sep="\n  ", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
