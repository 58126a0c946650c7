"""What can be chosen: the files of `conf/`, read without torch, for the help page and for mistakes in names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import UserError, unknown

CONF = Path(__file__).resolve().parent.parent / "conf"
GROUPS = ("models", "datasets", "methods", "metrics", "sweeps", "tracking")


def choices(group: str, folders: Sequence[Path] = (CONF,)) -> dict[str, str]:
    """Name and one-line description of every option of `group`: the first comment of its file.

    Those that run the code of another library have its name before a slash, and come last.
    """
    found = {}
    for folder in folders:
        for path in sorted((folder / group).rglob("*.yaml"), key=lambda path: (len(path.parts), path)):
            comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
            name = path.relative_to(folder / group).with_suffix("").as_posix()
            found[name] = next((text for text in comments if not text.startswith("@")), "")
    return found


def help_page() -> str:
    """What `python -m benchmark --help` prints."""
    lines = [
        "Assay measures the quality of explanations: a sweep crosses models x datasets x methods and scores every",
        "explanation with every metric; records and ranked tables go to the folder `results`.",
        "",
        "  python -m benchmark                                    the default sweep",
        "  python -m benchmark methods=grad_cam,rise datasets.n=200   narrow or widen it",
        "  python -m benchmark metrics=[deletion,insertion,srg]   only these metrics",
        "  python -m benchmark +sweeps=photos                     a sweep of conf/sweeps",
        "  python -m benchmark methods=custom methods._target_=my_module.MyMethod",
        "  python -m benchmark.explain IMAGE...                   a picture of how methods explain an image",
        "  python -m benchmark.leaderboard [DIR]                  the tables again, nothing recomputed",
        "  python -m benchmark.certify [METRIC...]                try metrics where the right answer is a formula",
        "  python -m benchmark.verify DIR [--rows K]              check records and tables, compute K rows again",
        "",
        "Options of a choice are set as group.option=value, or swept as group.option=a,b.",
        "Commas sweep, brackets list. Each file below shows its options: conf/<group>/<choice>.yaml",
        "",
    ]
    for group in GROUPS:
        named = choices(group)
        width = max(map(len, named), default=0)
        key = f"+{group}" if group == "sweeps" else group
        lines += [f"{key}=", *(f"  {name:<{width}}  {text}" for name, text in named.items()), ""]
    lines += ["Settings (config.yaml):"]
    for line in (CONF / "config.yaml").read_text().splitlines():
        if "#" in line and not line.startswith(("#", " ")):
            setting, text = line.split("#", 1)
            lines.append(f"  {setting.strip().replace(': ', '='):<18} {text.strip()}")
    return "\n".join(lines)


def check(overrides: Sequence[str]) -> None:
    """Refuse an override that names a choice which does not exist, before anything slow is imported.

    Raises:
        UserError: with what exists, and the nearest name.
    """
    if any("searchpath" in override for override in overrides):
        return
    folders = _folders(overrides)
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key not in GROUPS or "(" in value or "$" in value:
            continue
        existing = choices(key, folders)
        for name in filter(None, (part.strip(" '\"") for part in value.strip("[]").replace("],[", ",").split(","))):
            if name.strip("[]") not in existing:
                raise UserError(unknown(f"{key}=", name.strip("[]"), existing))


def lacking(key: str, overrides: Sequence[str]) -> list[str]:
    """Which of the choices that `overrides` name have no option `key`, as far as their files say so themselves."""
    from omegaconf import OmegaConf

    group, _, option = key.partition(".")
    named = [override.partition("=")[2] for override in overrides if override.startswith(f"{group}=")]
    found = []
    for name in named[-1].split(",") if named else ():
        files = [path for folder in _folders(overrides) if (path := folder / group / f"{name}.yaml").is_file()]
        said = {str(each) for path in files[:1] for each in OmegaConf.load(path)}
        if said and not {option.partition(".")[0], "defaults"} & said:
            found.append(f"{group}={name}")
    return found


def _folders(overrides: Sequence[str]) -> list[Path]:
    """Where files of choices lie."""
    folders = [CONF]
    for position, override in enumerate(overrides):
        if override in ("--config-dir", "-cd") and position + 1 < len(overrides):
            folders.append(Path(overrides[position + 1]))
        elif override.startswith("--config-dir="):
            folders.append(Path(override.partition("=")[2]))
    return folders
