"""DeepSHAP as the library shap does it."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from benchmark import randomness
from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch, Method


@dataclass(frozen=True)
class ShapDeep(Method):
    """The map of shap's DeepExplainer for the target logit, signed, `(N, C, H, W)`.

    DeepLIFT averaged over images of the data set, which are the same for every image. The library sees modules alone,
    and each of them once: on networks with functions, in-place or reused activations, ReLU6, SiLU or LayerNorm its own
    check of the sum fails, or it does, and the method is not applicable. `methods.deep_lift.DeepShap` runs on them.
    It works on a copy of the model, because the library leaves parameters behind.

    Source: Lundberg & Lee 2017, arXiv:1705.07874.

    Attributes:
        background: images of the data set that stand for "absent", at least 1, at most all.

    Raises:
        UserError: an option is out of its range, or shap is not installed.
        NotApplicable: the library fails on the network.

    Example:
        >>> ShapDeep(background=8).attribute(vgg, batch).shape  # doctest: +SKIP
        torch.Size([32, 3, 224, 224])
    """

    stochastic = True
    needs_gradient = True

    background: int = 16

    def __post_init__(self) -> None:
        if self.background < 1:
            raise UserError(f"shap needs background >= 1, not {self.background}")

    def within(self, passes: int) -> Self:
        # The library runs as many copies of an image beside the background, all of them forward and backward.
        return replace(self, background=max(1, (passes - 2) // 4))

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        try:
            import shap
        except ImportError:
            raise UserError('shap is not installed: pip install "assay-bench[shap]"') from None
        background, found = self.images(batch), torch.zeros_like(batch.inputs)
        for target in batch.targets.unique().tolist():
            images = (batch.targets == target).nonzero()[:, 0]
            logit = _Logit(copy.deepcopy(model), target)
            with torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of modules that it does not know; then its check fails too
                found[images] = _explained(shap, logit, background, batch.inputs[images])
        return found

    def images(self, batch: Batch) -> Tensor:
        """The images of the data set that it compares with: `(K, C, H, W)`."""
        images = batch.whole or batch
        draw = {i: randomness.integer(batch.seed, "shap", uid) for i, uid in enumerate(images.uids)}
        return images.inputs[sorted(draw, key=draw.__getitem__)[: self.background]].to(batch.inputs)


def _explained(shap: Any, logit: nn.Module, background: Tensor, inputs: Tensor) -> Tensor:
    try:
        values = shap.DeepExplainer(logit, background).shap_values(inputs)
        return torch.as_tensor(values)[..., 0].to(inputs)
    except (AssertionError, NotImplementedError) as error:
        raise NotApplicable(_sentence(error)) from error
    except RuntimeError as error:
        if "BackwardHook" not in str(error):  # its hooks meet an activation in place
            raise
        raise NotApplicable(_sentence(error)) from error


def _sentence(error: BaseException) -> str:
    first = str(error).strip().split("\n")[0].split(". ")[0].split("! ")[0]
    return f"shap fails on this network: {first or type(error).__name__}"


class _Logit(nn.Module):
    """One logit of a network, as its only output."""

    def __init__(self, model: nn.Module, target: int) -> None:
        super().__init__()
        self.model, self.target = model, target

    def forward(self, inputs: Tensor) -> Tensor:
        # A copy, because a model may begin with an in-place operation.
        logits: Tensor = self.model(inputs.clone())
        return logits[:, self.target : self.target + 1]
