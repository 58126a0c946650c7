"""The tail of a network: what it makes of other outputs of a layer, without running again what came before the layer.

One forward pass of an image records what modules return until the layer has run, outermost modules alone. A pass
through the tail runs the model with those modules returning that, once for each row, and the layer what is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import passes
from benchmark.errors import NotApplicable
from methods._layers import layer_of

Call = tuple[nn.Module, Any]
"""A module that ran and what its `forward` returned."""


@dataclass(frozen=True)
class Tail:
    """What comes after a layer, as a function of that layer's output, for one image.

    Exactly the model with the layer's output replaced. Where the trunk cannot be left out (the network writes to what
    modules of the trunk returned, or reads rows of it that are no images) the whole model runs instead. A layer that
    runs several times counts where it runs last.

    Attributes:
        activation: the layer's output, `(1, ...)`.
        logits: the model's output, `(1, K)`.
        shortened: whether the trunk is left out.
    """

    activation: Tensor
    logits: Tensor
    shortened: bool
    _model: nn.Module = field(repr=False)
    _layer: nn.Module = field(repr=False)
    _image: Tensor = field(repr=False)
    _runs: int = field(repr=False)
    _trunk: Sequence[Call] = field(repr=False)

    @torch.no_grad()
    def __call__(self, activation: Tensor) -> Tensor:
        """The model's output `(R, K)` where the layer's is `activation (R, ...)`, which is not written to."""
        images = _rows(self._image, len(activation))
        if self.shortened:
            try:
                with _replayed(self._layer, self._trunk, activation):
                    return self._model(images)
            except Exception as error:
                # What the network does may depend on what it is given; a fault of its own comes again.
                _check_memory(error)
        with _replaced(self._layer, self._runs, activation):
            return self._model(images.clone())


@torch.no_grad()
def tail_of(model: nn.Module, image: Tensor, name: str) -> Tail:
    """The tail of `model` behind the layer called `name`, for `image (1, C, H, W)`: one forward pass.

    Raises:
        UserError: the model has no such layer.
        NotApplicable: the layer does not run, or its output is no tensor with a row for the image.
    """
    if not name:
        raise NotApplicable("the network has no layer with a spatial map")
    layer, recording = layer_of(model, name), _Recording()
    with _recorded(model, layer, recording):
        logits = model(image.clone())
    if not recording.outputs:
        raise NotApplicable(f"layer {name!r} does not run when the model does")
    activation = recording.outputs[-1]
    if not isinstance(activation, Tensor):
        raise NotApplicable(f"layer {name!r} returns no single tensor")
    if activation.shape[:1] != image.shape[:1]:
        raise NotApplicable(f"layer {name!r} splits images into windows: its rows are no images")
    tail = Tail(activation, logits, True, model, layer, image, len(recording.outputs), recording.trunk)
    return tail if recording.complete and _agrees(tail) else replace(tail, shortened=False, _trunk=())


def _agrees(tail: Tail) -> bool:
    """Whether the tail makes the known logits of the known activation, in both of two rows.

    The guard against all that a recording does not see, such as tensors that are written to later.
    """
    try:
        with _replayed(tail._layer, tail._trunk, _rows(tail.activation, 2)):
            # The model's own hooks stay out: nobody asked for this pass.
            found = tail._model.forward(_rows(tail._image, 2))
    except Exception as error:
        _check_memory(error)
        return False
    expected = tail.logits.expand_as(found) if found.shape[1:] == tail.logits.shape[1:] else tail.logits
    if found.shape != expected.shape or expected.is_meta:
        return found.shape == expected.shape
    # What is wrong here is wrong by much; kernels differ with the number of rows by more than the last bit.
    allowed = torch.finfo(expected.dtype).eps ** (1 / 3) * expected.abs().max()
    return bool(((found - expected).abs() <= allowed).all())


def _check_memory(error: Exception) -> None:
    """Let a lack of memory through: whoever asked takes fewer rows."""
    if isinstance(error, RuntimeError) and passes.out_of_memory(error):
        raise error


def _rows(value: Any, count: int) -> Any:
    """What was returned for one image, `count` times over: every tensor in it, through tuples, lists and dictionaries.

    A single row is a copy. Several share their memory, so that a network that writes to them fails.

    Raises:
        TypeError: there is something in it of which it is not known how to repeat it.
    """
    if isinstance(value, Tensor):
        if count == 1 or value.dim() == 0:
            return value.clone()
        if len(value) == 1:
            return value.expand(count, *value.shape[1:])
        return value.repeat(count, *[1] * (value.dim() - 1))
    if isinstance(value, tuple):
        inner = [_rows(each, count) for each in value]
        return type(value)(*inner) if hasattr(value, "_fields") else type(value)(inner)
    if type(value) is list:
        return [_rows(each, count) for each in value]
    if type(value) is dict:
        return {key: _rows(each, count) for key, each in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is no tensor")


@dataclass
class _Recording:
    """One forward pass of one image.

    Attributes:
        calls: those of outermost modules that do not contain the layer, in the order in which they finished.
        outputs: of the layer, one a run.
        trunk: the calls before the layer last finished.
        complete: all that they returned could be recorded.
    """

    calls: list[Call] = field(default_factory=list)
    outputs: list[object] = field(default_factory=list)
    trunk: list[Call] = field(default_factory=list)
    complete: bool = True


@contextmanager
def _recorded(model: nn.Module, layer: nn.Module, recording: _Recording) -> Iterator[None]:
    """Within, a pass of `model` is recorded."""
    inside: list[nn.Module] = []

    def wrapped(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            if module is layer:
                recording.trunk = list(recording.calls)
            inside.append(module)
            try:
                output = forward(*args, **options)
            finally:
                inside.pop()
            if not inside:
                try:
                    # A copy, because a later operation may act in place.
                    recording.calls.append((module, _rows(output, 1)))
                except TypeError:
                    recording.complete = False
            return output

        return run

    def keep(module: nn.Module, args: Any, output: object) -> None:
        recording.outputs.append(output.detach().clone() if isinstance(output, Tensor) else output)

    others = [each for each in model.modules() if each is layer or layer not in set(each.modules())]
    handle = layer.register_forward_hook(keep)
    try:
        with _forwards({each: wrapped(each, each.forward) for each in others}):
            yield
    finally:
        handle.remove()


@contextmanager
def _replayed(layer: nn.Module, trunk: Sequence[Call], activation: Tensor) -> Iterator[None]:
    """Within, each module of `trunk` returns what it did, for as many rows as `activation` has, and runs no more.

    After its runs in the trunk the layer returns `activation`.
    """
    answers: dict[nn.Module, list[Any]] = {}
    for module, output in trunk:
        answers.setdefault(module, []).append(output)
    given = len(answers.setdefault(layer, []))
    answers[layer].append(activation)

    def answering(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        left = iter(answers[module])

        def run(*args: Any, **options: Any) -> Any:
            for output in left:
                return output.clone() if output is activation else _rows(output, len(activation))
            return forward(*args, **options)

        return run

    with _forwards({each: answering(each, each.forward) for each in answers}), _replaced(layer, given + 1, activation):
        yield


@contextmanager
def _forwards(changed: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Within, modules have another `forward`. Hooks of their own work on what it returns."""
    own = {module: vars(module).get("forward") for module in changed}
    try:
        for module, forward in changed.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module, before in own.items():
            vars(module).pop("forward", None)
            if before is not None:
                vars(module)["forward"] = before


@contextmanager
def _replaced(layer: nn.Module, run: int, activation: Tensor) -> Iterator[None]:
    """Within, the output of run `run` (from 1) of `layer` is replaced by `activation`."""
    count = 0

    def exchange(module: nn.Module, args: Any, output: Any) -> Tensor | None:
        nonlocal count
        count += 1
        return activation.clone() if count == run else None

    handle = layer.register_forward_hook(exchange)
    try:
        yield
    finally:
        handle.remove()
