"""Photographs from files as a person sees them: upright, in colours, on white where they are transparent."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmark.errors import UserError

ENDINGS = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
_NARROWEST = 100  # sides to one; cropping scales the shorter side up, so that a thin strip would fill the memory


def find(names: Iterable[str]) -> tuple[list[Path], list[str]]:
    """The files that `names` stand for, each once, all images below those that are folders; a sentence for a name that
    stands for none."""
    found: dict[Path, None] = {}
    problems = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = [each for each in sorted(path.rglob("*")) if each.suffix.lower() in ENDINGS and each.is_file()]
            if not inside:
                problems.append(f"{name} holds no image: expected files such as *.jpg or *.png")
            found |= dict.fromkeys(inside)
        elif path.is_file():
            found[path] = None
        else:
            problems.append(f"{name} does not exist: expected an image or a folder of images")
    return list(found), problems


def named(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """A name for each file, its own without folders unless another has the same; random draws depend on it."""
    count = Counter(path.name for path in paths)
    return [(path.name if count[path.name] == 1 else str(path), path) for path in paths]


def read(path: Path) -> Image.Image:
    """The image in a file, in RGB.

    It is turned as its EXIF orientation says, what is transparent shows white, 16 bits become 8, and of an animation
    there is the first picture.

    Raises:
        UserError: the file is no image, damaged, or of a kind that has no colours to show.
    """
    try:
        with warnings.catch_warnings(), Image.open(path) as photo:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = _colours(ImageOps.exif_transpose(photo))
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is no image that can be read: it is damaged or of another kind") from error
    if max(image.size) > _NARROWEST * min(image.size):
        raise UserError(f"{path} is a strip of {image.width} x {image.height} pixels: too thin to be cropped")
    return image


def _colours(photo: Image.Image) -> Image.Image:
    if photo.mode == "F":
        raise UserError("has pixels with a floating point, of unknown range: save it with 8 or 16 bits")
    if photo.mode.startswith("I"):  # PIL would clip at 255 what runs to 65,535
        values = np.asarray(photo).astype(np.int64)
        return Image.fromarray((values >> 8 if values.max() > 255 else values).clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
    if photo.has_transparency_data:
        clear = photo.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return photo.convert("RGB")
