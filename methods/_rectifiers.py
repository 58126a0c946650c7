"""The rectifiers of a network, in whatever form it writes them, under another rule for the backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from benchmark.errors import NotApplicable
from methods._operations import Rule, with_backward


class Rectifiers:
    """Rules for `Operations` under which the gradient behind each rectifier is itself rectified.

    A rectifier is 0 below 0 and the identity above, up to a bound where it has one: ReLU, ReLU6, hardtanh and clamp
    from 0. Everything else keeps its gradient, smooth activations and leaky ones too.

    guided      passed on where the rectifier's input and the arriving gradient are positive
    deconvnet   passed on where the arriving gradient is positive, whatever the input was

    Attributes:
        found: whether a rectifier ran on something that depends on the image.
        active: False lets the plain gradient through the same graph.
    """

    def __init__(self, rule: str) -> None:
        self.rule, self.found, self.active = rule, False, True

    @property
    def rules(self) -> Mapping[str, Rule]:
        found: dict[str, Rule] = dict.fromkeys(("relu", "relu6"), self._rectifier)
        bounds: dict[str, Callable[..., float]] = {
            "hardtanh": _hardtanh,
            "threshold": _threshold,
            "_threshold": _threshold,
        }
        bounds |= dict.fromkeys(("clamp", "clip", "clamp_min"), _clamp)
        for name, bound in bounds.items():
            found[name] = self._where(bound)
        return found

    def check(self) -> None:
        """Refuse a network that has none.

        Raises:
            NotApplicable: nothing was a rectifier.
        """
        if not self.found:
            raise NotApplicable("the network has no ReLU whose backward pass could be changed")

    def _where(self, bound: Callable[..., float]) -> Rule:
        def rule(function: Callable[..., Tensor], inputs: Tensor, *args: Any, **options: Any) -> Tensor:
            rectifies = bound(*args, **options) == 0
            return (self._rectifier if rectifies else _plain)(function, inputs, *args, **options)

        return rule

    def _rectifier(self, function: Callable[..., Tensor], inputs: Tensor, *args: Any, **options: Any) -> Tensor:
        output = function(inputs, *args, **options)
        if not output.requires_grad:
            return output
        self.found = True
        if self.rule == "guided":
            output.register_hook(lambda gradient: gradient.relu() if self.active else None)
            return output
        return with_backward(output.detach(), (inputs,), lambda gradient: (gradient.relu(),))


def _plain(function: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
    return function(*args, **options)


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> float:
    return min_val


def _clamp(min: Any = None, max: Any = None) -> float:
    return math.nan if min is None or isinstance(min, Tensor) else float(min)


def _threshold(threshold: float, value: float, inplace: bool = False) -> float:
    return max(abs(threshold), abs(value))
