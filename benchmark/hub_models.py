"""Image classifiers of the Hugging Face hub, from its cache or from a folder, with their own image processor."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.models import Model, digest
from benchmark.preprocessing import Names, Preprocessing, checked_size, model
from benchmark.pretrained import knock

_PREFIX_TOKENS = ("cls_token", "distillation_token")


class Logits(nn.Module):
    """A classifier of transformers as a network: from `(N, C, H, W)` to its logits `(N, K)`.

    Attributes:
        num_prefix_tokens: class, distillation and register tokens before the patches.
        global_pool: `avg` where the head reads the mean of the patches although there is a class token.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        config: Any = network.config
        names = [name for name, _ in network.named_parameters()]
        special = sum(any(name.endswith(f".{token}") for name in names) for token in _PREFIX_TOKENS)
        registers = getattr(config, "num_register_tokens", 0) if special else 0
        self.num_prefix_tokens = special + int(registers or 0)
        self.global_pool = "avg" if getattr(config, "use_mean_pooling", False) else "token"

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(pixel_values=images).logits
        return logits


@dataclass(frozen=True, repr=False)
class Processor:
    """An image processor of transformers without its normalisation: from a photograph to `(C, H, W)` in [0, 1]."""

    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        return self.pixels(image, do_normalize=False)

    def pixels(self, image: Image.Image, **options: Any) -> Tensor:
        found: Tensor = self.processor(images=image, return_tensors="pt", **options)["pixel_values"][0]
        return found

    def __repr__(self) -> str:
        """What it does, which is a part of every record's key, without the names of classes that say it."""
        settings = self.processor.to_dict()
        kept = {key: settings[key] for key in sorted(settings) if not key.endswith(("_type", "_name", "_class"))}
        return f"{type(self.processor).__name__}({json.dumps(kept, default=str)})"


def hub(
    name: str | None = None,
    path: str | None = None,
    cache_dir: str | None = None,
    download: bool = False,
    size: list[int] | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    class_names: Names | None = None,
    layer: str | None = None,
) -> Model:
    """An image classifier of the Hugging Face hub.

    Args:
        name: on the hub, OWNER/NAME; with `path`, in tables (None takes that of the folder).
        path: a folder that `save_pretrained` wrote, in place of the hub.
        cache_dir: of the hub; None for the usual one.
        download: fetch it where the cache has none.
        size: (C, H, W) of an input; None takes what the image processor makes.
        mean: of each channel in [0, 1], subtracted before the network; None takes the image processor's.
        std: of each channel, divided by before the network; None likewise.
        class_names: a list, or a file; None takes those of its config.
        layer: for CAM methods; None finds it (see `benchmark.cam_layer`).

    Raises:
        UserError: transformers is missing, there is no such model within reach, it is no image classifier, it has no
            image processor and `size` is missing, or the model is refused.
    """
    if importlib.util.find_spec("transformers") is None:
        raise UserError('models=hub needs transformers: pip install -e ".[hub]"')
    if path is None and name is None:
        raise UserError("models=hub needs models.name=OWNER/NAME on the hub, or models.path=FOLDER")
    if path is None and Path(str(name)).is_dir():
        raise UserError(f"{name} is a folder: give it as models.path={name}")
    if path is not None and not Path(path, "config.json").is_file():
        raise UserError(f"{path} is no folder that save_pretrained wrote: it has no config.json")
    source = str(name) if path is None else path
    options: dict[str, Any] = {"cache_dir": cache_dir, "local_files_only": True}
    try:
        classifier, report = _loaded(source, options)
    except _NotThere:
        if not download:
            raise UserError(f"{source} is not in the hub's cache: models.download=true fetches it") from None
        options["local_files_only"] = False
        classifier, report = _fetched(source, options)
    if wanting := [*report["missing_keys"], *report["mismatched_keys"]]:
        raise UserError(f"{source} has no weights for {wanting[0]}: it is no whole image classifier")
    known = _known(source, classifier.config, size, options)
    network = Logits(classifier)
    known = known.stated(mean, std, class_names)
    return model(name or Path(source).resolve().name, network, known, layer, _hash(network))


def _known(source: str, config: Any, size: list[int] | None, options: dict[str, Any]) -> Preprocessing:
    """What the image processor and the config say."""
    labels = [str(config.id2label[place]) for place in range(len(config.id2label))]
    names = None if labels == [f"LABEL_{place}" for place in range(len(labels))] else labels
    processor = _processor(source, options)
    if processor is None:
        if size is None:
            raise UserError(f"{source} has no image processor: give models.size, models.mean and models.std")
        return Preprocessing(checked_size(size), class_names=names)
    known = replace(_observed(source, processor), class_names=names)
    if size is not None and checked_size(size) != known.size:
        known = replace(known, size=checked_size(size), transform=None)
    return known


def _processor(source: str, options: dict[str, Any]) -> Any:
    """The image processor, None where there is none."""
    import transformers

    try:
        return transformers.AutoImageProcessor.from_pretrained(source, **options)
    except (OSError, ValueError):
        return None


def _observed(source: str, processor: Any) -> Preprocessing:
    """What an image processor does, from what becomes of a photograph, for its options have many names.

    Raises:
        UserError: it makes images of different sizes, or ends in anything but `(x - mean) / std`.
    """
    transform = Processor(processor)
    noise = torch.randint(256, (300, 400, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = Image.fromarray(noise.numpy())
    pixels = transform(image)
    if pixels.shape != transform(image.resize((300, 500))).shape:
        raise UserError(f"the image processor of {source} makes images of several sizes: give models.size")
    channels = len(pixels)
    normalises = getattr(processor, "do_normalize", False)
    mean, std = (
        tuple(getattr(processor, f"image_{each}")) if normalises else (float(each == "std"),) * channels
        for each in ("mean", "std")
    )
    offset, scale = (pixels.new_tensor(values).view(-1, 1, 1) for values in (mean, std))
    if not torch.allclose((pixels - offset) / scale, transform.pixels(image), atol=1e-3):
        raise UserError(f"the image processor of {source} does not end in (x - mean) / std of pixels in [0, 1]")
    return Preprocessing((channels, pixels.shape[1], pixels.shape[2]), mean, std, transform)


def _hash(network: Logits) -> str:
    """SHA-256 over the weights and the config, which says what is computed with them."""
    config: Any = network.network.config
    settings = {key: value for key, value in config.to_dict().items() if key not in _NO_SETTINGS}
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(f"{digest(network)} {text}".encode()).hexdigest()


_NO_SETTINGS = {"transformers_version", "_name_or_path", "id2label", "label2id", "dtype", "torch_dtype"}
"""What a config holds that changes no number."""


class _NotThere(Exception):
    """A model is not in the hub's cache."""


def _loaded(source: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The classifier in float32, and the library's report on its weights."""
    import transformers
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        found: tuple[Any, dict[str, Any]] = transformers.AutoModelForImageClassification.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, **options
        )
        return found
    except (OSError, ValueError, KeyError, ImportError) as error:
        if isinstance(error, OSError) and not Path(source).is_dir():
            raise _NotThere from error
        text = " ".join(str(error).split())[:200]
        raise UserError(f"{source} is no image classifier of transformers that loads here: {text}") from error
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def _fetched(source: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The same from the hub, after a quick request: the hub's own client tries for long before it gives up."""
    from huggingface_hub import constants

    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        knock(constants.ENDPOINT)
        return _loaded(source, options)
    except (OSError, _NotThere) as error:
        raise UserError(f"cannot download {source}: give models.path=FOLDER, or another models.name") from error
