"""A whole network in one file, program and weights: TorchScript, or what `torch.export.save` wrote.

Such a file is a program. It loads without pickle, but to run it is to run somebody's code.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import warnings
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.models import Model, Size
from benchmark.preprocessing import Names, Preprocessing, checked_size, model

_PLAIN_MEMBERS = re.compile(
    r"(archive_format|archive_version|byteorder|version|models/[^/]+\.json|\.?data/(version|serialization_id)|"
    r"data/(weights|constants)/(weight_\d+|tensor_\d+|[^/]+_config\.json)|data/sample_inputs/[^/]+\.pt)"
)
"""What a `.pt2` file of an exported program holds; compiled programs and script objects are nothing of it."""


class Exported(nn.Module):
    """An exported program as a module, always in the mode that it was exported in, its operations out of sight.

    Args:
        program: from `(N, C, H, W)` to `(N, K)`.
        alone: it takes one image at a time.
    """

    def __init__(self, program: nn.Module, alone: bool) -> None:
        super().__init__()
        self.program, self.alone = program, alone

    def forward(self, images: Tensor) -> Tensor:
        with _unseen():
            if not self.alone:
                return self.program(images)
            return torch.cat([self.program(image) for image in images.split(1)])

    def train(self, mode: bool = True) -> Exported:
        """Such a program has no modes, and raises where it is asked for one."""
        for module in self.modules():
            module.training = False
        return self


class Scripted(nn.Module):
    """A TorchScript program as a module that can be hooked and copied: its weights as a tree, itself out of sight.

    The tensors of the tree are those of the program, so what is written to them is written to it.
    """

    weights: nn.Module

    def __init__(self, program: Any) -> None:
        super().__init__()
        self.__dict__["program"] = program.eval()  # and no child of this module
        self._share()

    def forward(self, images: Tensor) -> Tensor:
        with _unseen():
            return self.__dict__["program"](images)

    def __deepcopy__(self, memo: dict[int, Any]) -> Scripted:
        return Scripted(deepcopy(self.__dict__["program"], memo)).eval()

    def _apply(self, function: Any, recurse: bool = True) -> Scripted:
        """What moves a module to a device goes to the program, whose new tensors are then shared."""
        self.__dict__["program"]._apply(function)
        self._share()
        return self.eval()

    def _share(self) -> None:
        self.weights = nn.Module()
        program = self.__dict__["program"]
        for name, tensor in program.named_parameters():
            place, last = self._place(name)
            place.register_parameter(last, nn.Parameter(tensor.requires_grad_(False), requires_grad=False))
        for name, tensor in program.named_buffers():
            place, last = self._place(name)
            place.register_buffer(last, tensor)

    def _place(self, name: str) -> tuple[nn.Module, str]:
        """The module of the tree that holds the tensor called `name`, made where need be, and its name there."""
        place = self.weights
        *path, last = name.split(".")
        for step in path:
            if step not in place._modules:
                place.add_module(step, nn.Module())
            place = place.get_submodule(step)
        return place, last


def _unseen() -> Any:
    """Within, rules for torch functions see nothing: they know nothing of those that a program is made of."""
    return torch._C.DisableTorchFunction()


def file(
    path: str,
    name: str | None = None,
    size: list[int] | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    class_names: Names | None = None,
    layer: str | None = None,
) -> Model:
    """A classifier that was saved as a TorchScript program or as an exported program (`.pt2`).

    A program has no layers to hook and no operations to see: methods that need them are not applicable.

    Args:
        path: the file that holds the program.
        name: in tables; None takes that of the file.
        size: (C, H, W) of an input; None takes that of an exported program, which knows it.
        mean: of each channel in [0, 1], subtracted before the network; None is 0.
        std: of each channel, divided by before the network; None is 1.
        class_names: a list, or a file.
        layer: a program has none; None says so.

    Raises:
        UserError: there is no such file, it is no program or needs pickle, the size is missing, or it is refused.
    """
    if layer is not None:
        raise UserError(f"models.layer={layer}: a program has no layers that can be watched, expected null")
    place = Path(path)
    try:
        content = place.read_bytes()
    except OSError as error:
        raise UserError(
            f"there is no program {path}: expected a file of torch.jit.save or torch.export.save"
        ) from error
    program, known = _program(place, content)
    if size is not None:
        known = checked_size(size)
    if known is None:
        raise UserError("a TorchScript program does not say what it takes: give models.size=[channels,height,width]")
    stated = Preprocessing(known).stated(mean, std, class_names)
    return model(name or place.stem, program, stated, "", hashlib.sha256(content).hexdigest())


def _program(path: Path, content: bytes) -> tuple[nn.Module, Size | None]:
    """The program in a file and the size that it says it takes."""
    try:
        members = zipfile.ZipFile(io.BytesIO(content)).namelist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is no program: expected a file of torch.jit.save or torch.export.save") from error
    inner = [member.partition("/")[2] for member in members]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is on its way out, and its files are not
        if "archive_format" in inner:
            return _exported(path, content, dict(zip(inner, members, strict=True)))
        if not any(member.startswith("code/") for member in inner):
            raise UserError(
                f"{path} holds weights and no program: give models.checkpoint, with the model that they fit"
            )
        try:
            return Scripted(torch.jit.load(io.BytesIO(content), map_location="cpu")), None
        except RuntimeError as error:
            raise UserError(f"{path} is no TorchScript program that loads here: {_first_line(error)}") from error


def _exported(path: Path, content: bytes, members: dict[str, str]) -> tuple[nn.Module, Size | None]:
    """The exported program in a file, after a look at whether it loads without pickle."""
    if not _is_plain(zipfile.ZipFile(io.BytesIO(content)), members):
        raise UserError(f"{path} holds more than a program and tensors, which would need pickle: export it again")
    try:
        exported = torch.export.load(io.BytesIO(content))
        graph = exported.module()
        shapes = [
            node.meta["val"].shape
            for node in exported.graph.nodes
            if node.op == "placeholder" and node.name in exported.graph_signature.user_inputs
        ]
    except Exception as error:
        raise UserError(f"{path} is no exported program that loads here: {_first_line(error)}") from error
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise UserError(
            f"{path} takes {len(shapes)} inputs of {[tuple(each) for each in shapes]}: expected images alone"
        )
    images, *size = shapes[0]
    if isinstance(images, int) and images != 1:
        raise UserError(f"{path} was exported for {images} images at a time: expected one, or a dynamic dimension")
    known = (size[0], size[1], size[2]) if all(isinstance(each, int) for each in size) else None
    return Exported(graph, alone=isinstance(images, int)), known


def _is_plain(archive: zipfile.ZipFile, members: dict[str, str]) -> bool:
    """Whether nothing in the archive of an exported program has to be unpickled beyond tensors."""
    for inner, member in members.items():
        if not _PLAIN_MEMBERS.fullmatch(inner):
            return False
        if inner.endswith("_config.json"):
            config: Any = json.loads(archive.read(member)).get("config", {})
            if any(each.get("use_pickle") for each in config.values()):
                return False
        if inner.endswith(".pt"):
            try:
                torch.load(io.BytesIO(archive.read(member)), weights_only=True)
            except (pickle.UnpicklingError, RuntimeError):
                return False
    return True


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
