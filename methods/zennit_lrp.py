"""Layer-wise relevance propagation as the library zennit does it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from benchmark import passes
from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch, Method
from methods._operations import target_logits

Name = Literal[
    "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box"
]


@dataclass(frozen=True)
class ZennitLRP(Method):
    """A composite of zennit, signed, `(N, C, H, W)`, from R = z_t at the target logit.

    Batch norms are merged with zennit's canonizers: the one for torchvision's ResNets, or the one for chains of
    modules. A norm that is merged still divides by sqrt(1 + eps), so maps are up to 1e-4 from the definition. zennit
    changes the backward pass of modules alone, so where a forward pass itself adds or multiplies activations, relevance
    would be counted twice. Such networks are not applicable: `methods.lrp.LRP` runs on them.

    Source: Anders et al. 2021, arXiv:2106.13200.

    Attributes:
        composite: `epsilon_plus`, `epsilon_plus_flat`, `epsilon_alpha2_beta1`, `epsilon_alpha2_beta1_flat` or
            `epsilon_gamma_box`.
        epsilon: of the epsilon rule, and stabiliser of all others, above 0.
        gamma: of the gamma rule.

    Raises:
        UserError: an option is out of its range, or zennit is not installed.
        NotApplicable: zennit cannot see all that the network does, or cannot merge its norms.

    Example:
        >>> ZennitLRP("epsilon_plus_flat").attribute(resnet, batch).shape  # doctest: +SKIP
        torch.Size([32, 3, 224, 224])
    """

    needs_gradient = True
    passes = 2

    composite: Name = "epsilon_plus_flat"
    epsilon: float = 1e-6
    gamma: float = 0.25

    def __post_init__(self) -> None:
        if self.composite not in get_args(Name):
            raise UserError(f"unknown composite {self.composite!r}: expected {', '.join(get_args(Name))}")
        if self.epsilon <= 0 or self.gamma < 0:
            raise UserError(f"zennit needs epsilon > 0 and gamma >= 0, not {self.epsilon} and {self.gamma}")

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        # A copy, because zennit leaves norms half merged where it fails.
        composite, subject = self._composite(model, batch), copy.deepcopy(model)
        try:
            composite.register(subject)
        except RuntimeError as error:
            raise NotApplicable("zennit fails to merge the batch norms of this network") from error
        for module in subject.modules():
            # zennit 1.0 leaves merged norms with an eps of 0, which torch before 2.15 refuses.
            if getattr(module, "eps", None) == 0:
                module.eps = 1e-30  # type: ignore[assignment]

        def part(start: int, stop: int) -> Tensor:
            inputs, targets = batch.inputs[start:stop], batch.targets[start:stop]
            with torch.enable_grad():
                leaf, scores = target_logits(subject, inputs, targets, _UNSEEN_BY_ZENNIT)
                logits = batch.logits[start:stop]
                gap = (scores.detach() - passes.class_scores(logits, targets)).abs().max()
                if bool(gap > _MERGED * logits.abs().max()):
                    raise NotApplicable("zennit merges batch norms with layers that they do not follow here")
                return torch.autograd.grad(scores, leaf, scores.detach())[0]

        return torch.cat(list(passes.chunked(part, len(batch), batch.chunk)))

    def _composite(self, model: nn.Module, batch: Batch) -> Any:
        try:
            from zennit.canonizers import SequentialMergeBatchNorm
            from zennit.composites import COMPOSITES
            from zennit.torchvision import ResNetBasicBlock, ResNetBottleneck, ResNetCanonizer
        except ImportError:
            raise UserError('zennit is not installed: pip install "assay-bench[zennit]"') from None
        blocks = (ResNetBasicBlock, ResNetBottleneck)
        resnet = any(isinstance(module, blocks) for module in model.modules())
        options: dict[str, Any] = {"epsilon": self.epsilon, "stabilizer": self.epsilon}
        if self.composite == "epsilon_gamma_box":
            pixel = torch.zeros_like(batch.inputs[:1, :, :1, :1])
            options |= {"gamma": self.gamma, "low": batch.normalise(pixel), "high": batch.normalise(pixel + 1)}
        canonizer = ResNetCanonizer() if resnet else SequentialMergeBatchNorm()
        return COMPOSITES[self.composite](canonizers=[canonizer], **options)


def _one_activation(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    if sum(isinstance(each, Tensor) and each.requires_grad for each in (*args, *options.values())) > 1:
        raise NotApplicable(
            "zennit sees modules alone, and this network adds or multiplies activations outside of them"
        )
    return function(*args, **options)


_MERGED = 0.05
"""Of the largest logit: more than what zennit leaves of the eps of merged norms in a deep network."""

_UNSEEN_BY_ZENNIT = dict.fromkeys(("add", "sub", "mul", "div", "matmul", "bmm"), _one_activation)
