"""`python -m benchmark`: compose the sweep, run its jobs, print the leaderboard."""

from __future__ import annotations

import os
import re
import sys

from benchmark import choices
from benchmark.errors import UserError


def main(arguments: list[str]) -> int:
    """Run the sweep that `arguments` describe; the exit code is 0 only if every cell asked for has a record."""
    if {"-h", "--help"} & set(arguments):
        print(choices.help_page())
        return 0
    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1" or "debug=true" in arguments
    try:
        choices.check(arguments)
        return _sweep(arguments)
    except KeyboardInterrupt:
        print("interrupted: what was computed is filed; the same command goes on from there", file=sys.stderr)
        return 130
    except Exception as error:
        if traceback_wanted:
            raise
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 2


def _sweep(arguments: list[str]) -> int:
    # These must stand before torch is imported: spinning threads beside a busy core cost a factor of 20, and the
    # profiler that measures memory would log to stderr.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from omegaconf import DictConfig

    from benchmark.run import SWEEP

    sys.argv[1:] = _per_job(arguments)

    @hydra.main(version_base="1.3", config_path=str(choices.CONF), config_name="config")
    def job(config: DictConfig) -> None:
        SWEEP.job(config)

    job()
    return SWEEP.finish()


def _per_job(arguments: list[str]) -> list[str]:
    """`arguments` where an option of choices that are swept, as in datasets=a,b datasets.root=DIR, is set job by job.

    Hydra would set it once before, on the default choice, which need not have it; a sweep over one value waits.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    sweeps = {override for override in overrides if parser.parse_override(override).is_sweep_override()}
    swept = {override.partition("=")[0] for override in sweeps} & set(choices.GROUPS)

    def waiting(argument: str) -> str:
        key, _, value = argument.partition("=")
        group, dot, _ = key.partition(".")
        return f"{key}=choice({value})" if dot and value and group in swept and argument not in sweeps else argument

    return [waiting(argument) for argument in arguments]


def _sentence(error: Exception) -> str:
    """One sentence for a mistake, from us or from Hydra."""
    if isinstance(error, UserError):
        return str(error)
    text = str(error).strip() or type(error).__name__
    if match := re.search(r"Could not override '([\w.]+)'", text):
        key = match.group(1)
        if {"methods=custom", "metrics=[custom]"} & set(sys.argv):
            return f"{key} is no option yet: options of a class of your own are added, +{key}=..."
        chosen = " and ".join(choices.lacking(key, sys.argv[1:])) or "what was chosen"
        return f"{key} is no option of {chosen}: see conf/{key.split('.')[0]}/ or python -m benchmark --help"
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
