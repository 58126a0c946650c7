"""What data sets that others made have in common: a fixed subset of their images, read from disk, with masks."""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.baselines import Baseline
from benchmark.batches import Explained
from benchmark.cells import digest
from benchmark.datasets import Item, check_options, file_digest
from benchmark.errors import UserError, unknown

Edges = tuple[float, float, float, float]

ENDINGS = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))


@dataclass(frozen=True)
class Painted:
    """An object painted pixel by pixel: where a picture of the photograph's size has values from `lowest` to `highest`.

    The value of a pixel is its shade, its place in the palette, or R + 256 G + 65,536 B. With `colour` a palette stands
    for its colours, and what is transparent is black.
    """

    path: Path
    lowest: int = 1
    highest: int = 2**24
    colour: bool = False


@dataclass(frozen=True)
class Drawn:
    """An object outlined by rectangles or ellipses: left, top, right, bottom, in pixels from the corner."""

    outlines: tuple[Edges, ...]
    kind: Literal["rectangle", "ellipse"] = "rectangle"


@dataclass(frozen=True)
class Entry:
    """An image before it is read.

    Attributes:
        uid: its name, whatever its place in any list.
        image: a file, the bytes of one, or pixels `(H, W)` or `(H, W, 3)` in uint8.
        label: index of its class, or None where unknown.
        mask: where the object is, or None where unknown.
    """

    uid: str
    image: Path | bytes | NDArray[np.uint8]
    label: int | None
    mask: Painted | Drawn | None = None


@dataclass(frozen=True, kw_only=True)
class Listed(ABC):
    """A class-balanced subset of images, drawn by `seed`, the same on every machine that has the same files.

    A data set says which images there are (`_labels`, `_entry`); this says which of them are listed, reads them and
    refuses what is missing or damaged in one sentence. Pixels that annotators left undecided are no object.

    Attributes:
        licence: under which its makers publish it.
        source: where they do.
        needs: what must lie below `root`; options stand in braces.
        splits: the parts that `split` may name, empty where there is one list alone.
        downloads: whether `download` can fetch it.
    """

    n: int | None = 1000
    seed: int = 0
    explain: Explained = "predicted"
    baseline: Baseline = "mean"
    name: str = ""

    version: ClassVar[str] = "1"
    licence: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    splits: ClassVar[tuple[str, ...]] = ()
    downloads: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.splits and (split := getattr(self, "split", "")) not in self.splits:
            raise UserError(unknown("datasets.split=", split, self.splits))
        self._find()
        if not self._listed:
            raise UserError(f"{self.name} holds no image {self._where}")
        files = [each.image for each in self._listed] + [getattr(each.mask, "path", None) for each in self._listed]
        missing = [path for path in files if isinstance(path, Path) and not path.is_file()]
        if missing:
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(f"{self.name} lists {missing[0]}{others}, which {_are(missing)} missing: {self._remedy}")

    @abstractmethod
    def _find(self) -> None:
        """Refuse, or mend, what has to be there before anything can be read."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...] | None: ...

    @property
    @abstractmethod
    def _labels(self) -> Sequence[int | None]:
        """The label of every image there is, in an order that the files alone decide."""

    @abstractmethod
    def _entry(self, place: int) -> Entry:
        """The image at `place` of `_labels`."""

    @cached_property
    def fingerprint(self) -> str:
        listed = [[each.uid, each.label, _digest(each.image), _digest(each.mask)] for each in self._listed]
        return digest([type(self).__name__, self.version, listed])

    def __len__(self) -> int:
        return len(self._listed)

    def __getitem__(self, index: int) -> Item:
        entry = self._listed[index]
        image = _read(entry.image, entry.uid).convert("RGB")
        if entry.mask is None:
            return Item(entry.uid, image, entry.label)
        return Item(entry.uid, image, entry.label, _mask(entry.mask, image))

    @cached_property
    def _listed(self) -> list[Entry]:
        return [self._entry(place) for place in balanced(self._labels, self.n, self.seed)]

    @property
    def _where(self) -> str:
        """Where it was looked for, in words."""
        return ""

    @property
    def _remedy(self) -> str:
        """How to get what is missing, in words."""
        return f"get it from {self.source}"


@dataclass(frozen=True, kw_only=True)
class OnDisk(Listed):
    """A data set below the folder `root`, fetched only where `download` asks for it and it is not there.

    Raises:
        UserError: `root` does not hold it, a file is missing or damaged, or it cannot be fetched.

    Attributes:
        root: the folder below which the files of the data set lie.
        download: whether to fetch what is not there.
    """

    root: str
    download: bool = False

    def _find(self) -> None:
        if self._absent and self.download:
            self._fetch()
        if absent := self._absent:
            looked = " and ".join(str(Path(self.root, each)) for each in absent[:2])
            looked += f" and {len(absent) - 2} more" if len(absent) > 2 else ""
            above = Path(self.root).resolve().parent
            inside = not any((above / each).exists() for each in absent)
            hint = "" if inside else f"; did you mean datasets.root={above}?"
            raise UserError(f"{self.name} is not there: {looked} {_are(absent)} missing; {self._remedy}{hint}")

    @property
    def _absent(self) -> list[str]:
        """What must lie below `root` and does not."""
        needed = [each.format_map(_options(self)) for each in self.needs]
        return [each for each in needed or ["."] if not Path(self.root, each).exists()]

    def _fetch(self) -> None:
        if not self.downloads:
            raise UserError(f"{self.name} cannot be downloaded by this program: {self._remedy}")
        try:
            self._download()
        except Exception as error:  # each server and each archive has failures of its own
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{self.name} cannot be downloaded to {self.root}: {reason}; {self._remedy}") from error

    def _download(self) -> None:
        """Put it below `root`, where `downloads` says that it can: what is still missing then is said."""

    @property
    def _where(self) -> str:
        return f"in {self.root}"

    @property
    def _remedy(self) -> str:
        return f"{'set datasets.download=true or ' if self.downloads and not self.download else ''}{super()._remedy}"

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Whatever a reader of files complains of, in a sentence that says what it was reading."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # a damaged file fails in as many ways as there are readers
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{self.name} in {self.root} is damaged ({reason}): {self._remedy}") from error


def balanced(labels: Sequence[int | None], n: int | None, seed: int) -> list[int]:
    """Places of `n` of `labels`, in order, taken as equally from the classes as they allow; of all where n is None.

    The list of n images is a part of that of more. Where labels are unknown they count as one class.
    """
    groups: dict[int, list[int]] = {}
    for place, label in enumerate(labels):
        groups.setdefault(-1 if label is None else label, []).append(place)
    turns: list[tuple[int, float, int]] = []
    for number, label in enumerate(sorted(groups)):
        rng = np.random.default_rng([seed, number])
        members = groups[label]
        turns += [(turn, rng.random(), members[index]) for turn, index in enumerate(rng.permutation(len(members)))]
    return sorted(place for _, _, place in sorted(turns)[:n])


def _options(dataset: Any) -> dict[str, Any]:
    return {name: getattr(dataset, name) for name in dataset.__dataclass_fields__}


def _are(things: Sequence[object]) -> str:
    return "is" if len(things) == 1 else "are"


def _read(image: Path | bytes | NDArray[np.uint8], name: object) -> Image.Image:
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as photo:
            photo.load()
            return photo
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        which = image if isinstance(image, Path) else name
        raise UserError(f"{which} is no image that can be read: mend or remove it") from error


def _mask(mask: Painted | Drawn, photo: Image.Image) -> Image.Image:
    """White where the object is, black elsewhere, as large as `photo`."""
    if isinstance(mask, Drawn):
        inside = np.zeros((photo.height, photo.width), bool)
        across, down = np.arange(photo.width) + 0.5, np.arange(photo.height)[:, None] + 0.5
        for left, top, right, bottom in mask.outlines:
            # 1 on the edge and less inside, from the centre, in half widths and half heights
            x, y = (2 * across - left - right) / (right - left), (2 * down - top - bottom) / (bottom - top)
            inside |= np.maximum(abs(x), abs(y)) <= 1 if mask.kind == "rectangle" else x**2 + y**2 <= 1
        return Image.fromarray(inside)
    painted = _read(mask.path, mask.path)
    if painted.size != photo.size:
        sizes = f"{painted.width}x{painted.height} pixels and its photograph {photo.width}x{photo.height}"
        raise UserError(f"{mask.path} has {sizes}: a mask must be as large")
    values = _values(painted, mask.colour)
    return Image.fromarray((mask.lowest <= values) & (values <= mask.highest))


def _values(painted: Image.Image, colour: bool) -> NDArray[np.int64]:
    """The value of each pixel, `(H, W)`, as `Painted` counts them."""
    if colour and not painted.mode.startswith("I"):
        values = np.asarray(painted.convert("RGBA")).astype(np.int64)
        return (values[..., :3] @ np.array([1, 256, 65_536])) * (values[..., 3] > 0)
    if painted.mode not in ("1", "L", "P", "I", "I;16"):
        painted = painted.convert("RGB")
    values = np.asarray(painted).astype(np.int64)
    return values if values.ndim == 2 else values @ np.array([1, 256, 65_536])


def _digest(thing: Path | bytes | NDArray[np.uint8] | Painted | Drawn | None) -> Any:
    """What fixes an image or a mask, wherever it lies."""
    if isinstance(thing, Path):
        return file_digest(thing)
    if isinstance(thing, Painted):
        return [file_digest(thing.path), thing.lowest, thing.highest, *(["colour"] if thing.colour else [])]
    if isinstance(thing, Drawn):
        return [thing.kind, *map(list, thing.outlines)]
    if isinstance(thing, np.ndarray):
        return [list(thing.shape), hashlib.sha256(thing.tobytes()).hexdigest()]
    return hashlib.sha256(thing).hexdigest() if isinstance(thing, bytes) else None
