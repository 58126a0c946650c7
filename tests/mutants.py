"""Defects found in the wild, injected one at a time: does the certificate catch each?

    python tests/mutants.py                 the table, as Markdown
    python tests/mutants.py docs/mutants.md     written there

A mutant is a change of our source that makes it compute what somebody's code was seen to compute. It goes into a copy of
the packages, and `python -m benchmark.certify` runs there on the metrics that could notice.
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
        "shuffle = randomness.uniform(keys, values.shape[1]).sort(dim=1, stable=True).indices",
        "shuffle = torch.arange(values.shape[1], device=values.device).expand_as(values)",
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
        *(
            "only the first image of a batch counts",
            "Quantus ROAD and Sensitivity-n: the first batch",
            "metrics/completeness.py",
        ),
        "error = (attributions.double().sum((1, 2, 3)) - difference).abs()",
        "error = (attributions.double().sum((1, 2, 3)) - difference).abs()[:1].expand(len(batch))",
        ("completeness",),
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
            failed = [f"{type(error).__name__}: {error}"]
        finally:
            told.write_text(json.dumps(failed))
            os._exit(0)
    os.waitpid(child, 0)
    failed = json.loads(told.read_text())
    told.unlink()
    return tuple(failed)


def page(found: list[Verdict]) -> str:
    """The table defect x caught by."""
    lines = [
        "# Defects that the certificate catches",
        "",
        f"Each of these {len(found)} defects was put into the code, alone, and `python -m benchmark.certify` was run on the "
        "metrics named. `python tests/mutants.py docs/mutants.md` does it again; the tests do it too. Where a library is "
        "named, its definition differs in this way from ours; some do so by intention and say so.",
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
