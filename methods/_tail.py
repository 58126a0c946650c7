"""The tail of a network: what it makes of other outputs of a layer, without running again what came before the layer.

One forward pass records what every module returned that finished before the layer did, outermost modules alone. A pass
through the tail runs the model with those modules returning what is recorded, and the layer what is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import passes
from benchmark.errors import NotApplicable
from methods._layers import layer_of


@dataclass(frozen=True)
class Tail:
    """What comes after a layer, as a function of that layer's output, for the images of one batch.

    Exactly the model with the layer's output replaced, differentiable with respect to the replacement, and at the cost
    of the tail alone. Where the trunk cannot be left out (its modules hand on something else than tensors, or rows that
    are no images) the whole model runs instead. A layer that runs several times counts where it runs last.

    Attributes:
        activation: the layer's output for each image, `(N, ...)`.
        logits: the model's output `(N, K)`.
        shortened: whether the trunk is left out; False where the whole model has to run.
    """

    activation: Tensor
    logits: Tensor
    _model: nn.Module = field(repr=False)
    _layer: nn.Module = field(repr=False)
    _inputs: Tensor = field(repr=False)
    _runs: int = field(repr=False)
    _trunk: _Trunk | None = field(repr=False)

    @property
    def shortened(self) -> bool:
        return self._trunk is not None

    def __call__(self, rows: Tensor, activation: Tensor) -> Tensor:
        """The model's output `(R, K)` for the images at `rows (R,)` with the layer's output replaced by `activation`.

        Rows may name an image many times and mix images. `activation (R, ...)` is not written to.
        """
        if self._trunk is not None:
            try:
                with self._trunk.replayed(rows, self._layer, activation) as inputs:
                    return _fetched(self._model(inputs))
            except _NeverRead:
                pass
        with _replaced(self._layer, self._runs, activation):
            return self._model(self._inputs[rows])


def tail_of(model: nn.Module, inputs: Tensor, name: str, chunk: int) -> Tail:
    """The tail of `model` behind the layer called `name`, for `inputs (N, C, H, W)`: one forward pass, at most `chunk`
    images at a time.

    Raises:
        UserError: the model has no such layer.
        NotApplicable: the layer does not run, or its output is no tensor with a row for each image.
    """
    if not name:
        raise NotApplicable("the network has no layer with a spatial map")
    layer = layer_of(model, name)

    @torch.no_grad()
    def part(start: int, stop: int) -> tuple[Tensor, Tensor, int, _Recording | None]:
        recording = _Recording(model, layer, inputs[start:stop].clone())
        try:
            with recording.hooks():
                logits = _fetched(model(recording.inputs))
            activation = recording.activation()
            recording.finish()
            return activation, logits, recording.runs, recording
        except NotApplicable:
            raise
        except Exception as error:
            # Whatever a model does that stand-ins for tensors do not allow; a fault of its own comes again.
            if isinstance(error, RuntimeError) and passes.out_of_memory(error):
                raise
        with _watched(layer) as outputs:
            logits = model(inputs[start:stop].clone())
        return _checked(outputs, name), logits, len(outputs), None

    parts = list(passes.chunked(part, len(inputs), chunk))
    activations, logits, runs, recordings = zip(*parts, strict=True)
    whole = (torch.cat(activations), torch.cat(logits), model, layer, inputs, runs[0])
    if len(whole[0]) != len(inputs):
        raise NotApplicable(f"layer {name!r} splits images into windows: its rows are no images")
    if len(set(runs)) > 1:
        raise NotApplicable(f"how often layer {name!r} runs depends on the image")
    tail = Tail(*whole, _merged(recordings))
    return tail if _agrees(tail, len(activations[0])) else Tail(*whole, None)


def _agrees(tail: Tail, images: int) -> bool:
    """Whether the tail makes the known logits of the known activation for a few images, recorded `images` at a time.

    The last guard against a trunk that does what a recording does not see, such as rows that are no images.
    """
    if tail._trunk is None:
        return True
    # Not as many rows as there were images, so that a number of images among the outputs is found out.
    rows = torch.tensor([0, len(tail.logits) - 1, 0][: 3 if images == 2 else 2], device=tail.logits.device)
    try:
        with torch.no_grad(), tail._trunk.replayed(rows, tail._layer, tail.activation[rows]) as inputs:
            # The model's own hooks stay out: nobody asked for this pass.
            found = _fetched(tail._model.forward(inputs))
    except Exception as error:
        if isinstance(error, RuntimeError) and passes.out_of_memory(error):
            raise
        return False
    expected = tail.logits[rows]
    if found.shape != expected.shape or expected.is_meta:
        return found.shape == expected.shape
    # What is wrong here is wrong by much; kernels differ with the number of rows by more than the last bit.
    allowed = torch.finfo(expected.dtype).eps ** (1 / 3) * expected.abs().max()
    return bool(((found - expected).abs() <= allowed).all())


class _NeverRead(Exception):
    """A pass reads what the recorded one did not, as where the course of a model depends on its data."""


_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "requires_grad", "is_cuda")
_FORM = {getattr(Tensor, name).__get__ for name in _ATTRIBUTES} | {Tensor.size, Tensor.dim, Tensor.numel}
"""What is asked of a tensor without reading it."""


class _StandIn(Tensor):
    """Stands for a tensor of the trunk. It knows its form; an operation that reads it gets the tensor itself."""

    place: int
    fetch: Callable[[], Tensor]

    @classmethod
    def of(cls, place: int, shape: tuple[int, ...], like: Tensor, fetch: Callable[[], Tensor]) -> _StandIn:
        made = Tensor._make_wrapper_subclass(cls, shape, dtype=like.dtype, device=like.device)
        made.place, made.fetch = place, fetch
        return made

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _FORM:
            return super().__torch_function__(function, types, args, kwargs)
        return function(*_fetched(args), **_fetched(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise TypeError(f"{function} reads a stand-in unseen")


@dataclass(frozen=True)
class _Place:
    """Where in a list of tensors the tensor is that stood here."""

    number: int


def _mapped(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """`value` with `change` made to everything of `kind` in it, through tuples, lists and dictionaries."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, tuple):
        inner = [_mapped(each, kind, change) for each in value]
        return type(value)(*inner) if hasattr(value, "_fields") else type(value)(inner)
    if type(value) is list:
        return [_mapped(each, kind, change) for each in value]
    if type(value) is dict:
        return {key: _mapped(each, kind, change) for key, each in value.items()}
    return value


def _leaves(value: Any) -> Iterator[Any]:
    """All that `_mapped` reaches."""
    if isinstance(value, tuple) or type(value) is list:
        for each in value:
            yield from _leaves(each)
    elif type(value) is dict:
        for each in value.values():
            yield from _leaves(each)
    else:
        yield value


def _fetched(value: Any) -> Any:
    return _mapped(value, _StandIn, lambda later: later.fetch())


@dataclass
class _Held:
    """A tensor of the trunk while it is recorded, and its value when something outside of the trunk first read it."""

    tensor: Tensor
    shape: tuple[int, ...]
    value: Tensor | None = None

    def read(self) -> Tensor:
        if self.value is None:
            self.value = self.tensor.detach().clone()
        return self.tensor


@dataclass(frozen=True)
class _Call:
    """A call of a module: what it returned, and what it left in tensors of others, by their place in its arguments."""

    module: nn.Module
    output: Any
    written: tuple[tuple[int, _Place], ...]

    def leaves(self) -> list[Any]:
        return list(_leaves([self.output, self.written]))

    def places(self) -> set[int]:
        return {leaf.number for leaf in self.leaves() if isinstance(leaf, _Place)}

    @property
    def repeatable(self) -> bool:
        return all(leaf is None or isinstance(leaf, _Place | bool | int | float | str) for leaf in self.leaves())


class _Recording:
    """What the modules outside of a layer return in one forward pass, and which of it is read by others than them.

    A tensor that goes from one module of the trunk to the next is never needed again. One that is read by the code of
    a module around the layer, or after it, is kept as it was when read first: in-place operations do no harm.
    """

    def __init__(self, model: nn.Module, layer: nn.Module, inputs: Tensor) -> None:
        around = {each for each in model.modules() if each is not layer and layer in set(each.modules())}
        inside = {each for each in layer.modules() if each is not layer}
        self._modules = [each for each in model.modules() if each not in around and each not in inside]
        self._layer = layer
        self._open: list[list[tuple[int, Tensor, int]]] = []
        self._numbers: dict[int, int] = {}
        self.held: list[_Held] = []
        self.calls: list[_Call] = []
        self.images = len(inputs)
        self.runs = 0
        self._calls_before = 0
        self._held_before = 0
        self._nested = False
        self._last: Tensor | None = None
        self.inputs = self._stand_in(self._note(inputs))

    @contextmanager
    def hooks(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in self._modules:
                stack.callback(module.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(self._leave).remove)
            yield

    def activation(self) -> Tensor:
        if self._last is None:
            raise NotApplicable("the layer does not run when the model does")
        return self._last

    def trunk(self) -> list[_Call]:
        """The calls up to the layer's last."""
        return self.calls[: self._calls_before]

    def places(self) -> set[int]:
        """Of the tensors that a pass through the tail may read: images, outputs of the trunk, what it wrote."""
        *trunk, last = self.trunk()
        return {0, *(place.number for _, place in last.written)}.union(*(call.places() for call in trunk))

    def finish(self) -> None:
        """Let go of every tensor that is not needed: what one chunk of images takes is free for the next."""
        needed = self.places()
        for number, held in enumerate(self.held):
            held.tensor = held.tensor.new_empty(0)
            if number not in needed:
                held.value = None
        self._last = None

    @property
    def repeatable(self) -> bool:
        return not self._nested and all(call.repeatable for call in self.trunk())

    def _note(self, tensor: Tensor) -> _Place:
        """A module that works in place, or hands on what it got, returns a tensor that has a place already."""
        number = self._numbers.setdefault(id(tensor), len(self.held))
        if number == len(self.held):
            return self._note_anew(tensor)
        return _Place(number)

    def _note_anew(self, tensor: Tensor) -> _Place:
        self.held.append(_Held(tensor, tuple(tensor.shape)))
        return _Place(len(self.held) - 1)

    def _stand_in(self, place: _Place) -> _StandIn:
        held = self.held[place.number]
        return _StandIn.of(place.number, held.shape, held.tensor, held.read)

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if self._open:
            self._open.append([])
            return None
        others = []
        for position, leaf in enumerate(_leaves([args, kwargs])):
            if isinstance(leaf, _StandIn):
                held = self.held[leaf.place]
                if leaf.place < self._held_before:
                    held.read()
                if held.value is not None:
                    others.append((position, held.tensor, held.tensor._version))
            elif isinstance(leaf, Tensor):
                others.append((position, leaf, leaf._version))
        self._open.append(others)
        args, kwargs = _mapped((args, kwargs), _StandIn, lambda later: self.held[later.place].tensor)
        return args, kwargs

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        others = self._open.pop()
        own = module is self._layer
        if own:
            if not isinstance(output, Tensor):
                raise NotApplicable(f"the layer ({type(module).__name__}) returns no single tensor")
            self.runs += 1
            self._last = output.detach().clone()
            self._nested = self._nested or bool(self._open)
        if self._open:
            return None
        written = []
        for position, tensor, version in others:
            if tensor._version != version:
                written.append((position, self._note_anew(tensor.detach().clone())))
                self.held[-1].read()
        places = _mapped(output, Tensor, self._note_anew if own else self._note)
        self.calls.append(_Call(module, places, tuple(written)))
        if own:
            self._calls_before, self._held_before = len(self.calls), len(self.held) - 1
        return _mapped(places, _Place, self._stand_in)


@dataclass(frozen=True)
class _Form:
    """The shape of a tensor of the trunk: with `rows` rows an image, or without images (`rows` is None)."""

    shape: tuple[int, ...]
    rows: int | None

    @classmethod
    def of(cls, shapes: list[tuple[int, ...]], images: list[int]) -> _Form | None:
        """The form of a tensor that had each of `shapes` for so many of `images`, or None where there is no such."""
        same = len(set(shapes)) == 1
        if same and (not shapes[0] or len(set(images)) > 1 or shapes[0][0] % images[0]):
            return cls(shapes[0], None)
        found = {cls(shape[1:], shape[0] // count) for shape, count in zip(shapes, images, strict=True) if shape}
        form = found.pop()
        whole = [form.full(count) for count in images]
        return form if not found and whole == shapes else None

    def full(self, images: int) -> tuple[int, ...]:
        return self.shape if self.rows is None else (self.rows * images, *self.shape)


@dataclass(frozen=True)
class _Kept:
    """A tensor of the trunk for all images, as it lies in memory: `order` is the order of its dimensions there."""

    value: Tensor
    order: tuple[int, ...]
    rows: int | None

    @classmethod
    def of(cls, values: list[Tensor], rows: int | None) -> _Kept:
        strides = values[0].stride()
        order = tuple(sorted(range(values[0].dim()), key=lambda axis: -strides[axis]))
        laid = [value.permute(order) for value in values]
        return cls(laid[0] if rows is None else torch.cat(laid, order.index(0)), order, rows)

    def take(self, images: Tensor) -> Tensor:
        """A copy for `images`, laid out in memory as the original, because a view of it may rest on that."""
        back = [self.order.index(axis) for axis in range(len(self.order))]
        if self.rows is None:
            return self.value.clone().permute(back)
        axis = self.order.index(0)
        if self.rows == 1:
            return self.value.index_select(axis, images).permute(back)
        each = self.value.unflatten(axis, (-1, self.rows)).index_select(axis, images)
        return each.flatten(axis, axis + 1).permute(back)


@dataclass(frozen=True)
class _Trunk:
    """What the modules before a layer returned for all images, by module and in the order of their calls.

    The last call of the layer itself is there for what it wrote alone: its output is what a pass is given.
    """

    calls: dict[nn.Module, list[_Call]]
    forms: dict[int, _Form]
    likes: dict[int, Tensor]
    kept: dict[int, _Kept]

    @contextmanager
    def replayed(self, images: Tensor, layer: nn.Module, activation: Tensor) -> Iterator[Tensor]:
        """Within, a pass of the model on the tensor that is yielded runs the tail alone."""
        found: dict[int, _StandIn] = {}
        read: dict[int, Tensor] = {}

        def fetch(number: int) -> Tensor:
            if number not in read:
                if number not in self.kept:
                    raise _NeverRead
                read[number] = self.kept[number].take(images)
            return read[number]

        def stand_in(place: _Place) -> _StandIn:
            number = place.number
            if number not in found:
                shape = self.forms[number].full(len(images))
                found[number] = _StandIn.of(number, shape, self.likes[number], lambda: fetch(number))
            return found[number]

        def returned(module: nn.Module) -> Iterator[Callable[..., Any]]:
            for number, call in enumerate(calls := self.calls[module], 1):
                given = activation.clone() if module is layer and number == len(calls) else None

                def answer(*args: Any, call: _Call = call, given: Tensor | None = given, **kwargs: Any) -> Any:
                    if call.written:
                        leaves = list(_leaves([args, kwargs]))
                        with torch.no_grad():
                            for position, place in call.written:
                                _fetched(leaves[position]).copy_(fetch(place.number))
                    return _mapped(call.output, _Place, stand_in) if given is None else given

                yield answer

        with ExitStack() as stack:
            for module in self.calls:
                stack.enter_context(_answering(module, returned(module)))
            yield stand_in(_Place(0))


def _merged(recordings: tuple[_Recording | None, ...]) -> _Trunk | None:
    """One trunk of the recordings of several chunks, or None where one of them does not do."""
    chunks = [each for each in recordings if each is not None and each.repeatable]
    if len(chunks) < len(recordings):
        return None
    trunk, *others = (each.trunk() for each in chunks)
    if any(other != trunk for other in others):
        return None
    calls: dict[nn.Module, list[_Call]] = {}
    for call in trunk:
        calls.setdefault(call.module, []).append(call)
    forms, likes, kept = {}, {}, {}
    for number in chunks[0].places():
        held = [each.held[number] for each in chunks]
        form = _Form.of([each.shape for each in held], [each.images for each in chunks])
        if form is None:
            return None
        forms[number], likes[number] = form, held[0].tensor
        values = [each.value for each in held if each.value is not None]
        if values:
            if len(values) < len(held):
                return None
            kept[number] = _Kept.of(values, form.rows)
    return _Trunk(calls, forms, likes, kept)


@contextmanager
def _answering(module: nn.Module, answers: Iterator[Callable[..., Any]]) -> Iterator[None]:
    """Within, each call of `module` returns the next of `answers` to its arguments; without one left, it runs."""
    own, forward = vars(module).get("forward"), module.forward
    skipped: list[Any] = []

    def skip(*args: Any, **kwargs: Any) -> Any:
        answer = next(answers, None)
        if answer is None:
            return forward(*args, **kwargs)
        skipped.append(answer(*args, **kwargs))
        return skipped[-1]

    def final(each: nn.Module, args: Any, output: Any) -> Any:
        # What is recorded is what other hooks made of an output: they do not make it twice.
        return skipped.pop() if skipped else output

    handle = module.register_forward_hook(final)
    vars(module)["forward"] = skip
    try:
        yield
    finally:
        handle.remove()
        if own is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = own


@contextmanager
def _replaced(layer: nn.Module, run: int, activation: Tensor) -> Iterator[None]:
    """Within, the output of run `run` (from 1) of `layer` is replaced by `activation`."""
    count = 0

    def replace(module: nn.Module, args: Any, output: Any) -> Tensor | None:
        nonlocal count
        count += 1
        return activation.clone() if count == run else None

    handle = layer.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _watched(layer: nn.Module) -> Iterator[list[object]]:
    """Within, a copy of every output of `layer` is kept in the list."""
    outputs: list[object] = []

    def keep(module: nn.Module, args: Any, output: object) -> None:
        outputs.append(output.detach().clone() if isinstance(output, Tensor) else output)

    handle = layer.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()


def _checked(outputs: list[object], name: str) -> Tensor:
    if not outputs:
        raise NotApplicable("the layer does not run when the model does")
    if not isinstance(outputs[-1], Tensor):
        raise NotApplicable(f"layer {name!r} returns no single tensor")
    return outputs[-1]
