"""Relevance propagation against zennit, captum and LXT."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torchvision.models import MobileNetV2
from torchvision.models.mobilenetv2 import InvertedResidual

from benchmark.protocols import Batch, Method
from methods.attn_lrp import AttnLRP
from methods.excitation_backprop import ExcitationBackprop
from methods.lrp import LRP
from tests.parity.pairs import CNNS, Pair

TINY = 1e-12
"""Libraries stabilise different denominators: with this they differ by less than rounding."""


class _InSight:
    """Canonizers of zennit that make modules of the sums and the pooling that MobileNetV2 does in `forward`."""

    @staticmethod
    def attributes(name: str, module: nn.Module) -> dict[str, Any] | None:
        from zennit.layer import Sum

        if isinstance(module, InvertedResidual) and module.use_res_connect:

            def block(x: Tensor) -> Tensor:
                return module.canonizer_sum(torch.stack([x, module.conv(x)], -1))  # type: ignore[operator]

            return {"forward": block, "canonizer_sum": Sum()}
        if isinstance(module, MobileNetV2):

            def network(x: Tensor) -> Tensor:
                pooled = module.canonizer_pool(module.features(x))  # type: ignore[operator]
                return module.classifier(pooled.flatten(1))

            return {"forward": network, "canonizer_pool": nn.AdaptiveAvgPool2d(1)}
        return None


def by_zennit(model: nn.Module, batch: Batch, composite: Any, start: Tensor | None = None) -> Tensor:
    """`composite(canonizers)` on the network, from the logit or from `start`."""
    from zennit.canonizers import AttributeCanonizer
    from zennit.torchvision import ResNetCanonizer

    model = deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # zennit leaves its own eps behind in a norm that it has merged
            module.running_var, module.eps = module.running_var + module.eps, 0.0
    with composite(canonizers=[ResNetCanonizer(), AttributeCanonizer(_InSight.attributes)]).context(model):
        leaf = batch.inputs.clone().requires_grad_()
        scores = model(leaf).gather(1, batch.targets.unsqueeze(1)).squeeze(1)
        return torch.autograd.grad(scores, leaf, scores.detach() if start is None else start)[0]


def uniform(rule: str, **options: Any) -> Any:
    """One rule of zennit in every layer."""

    def theirs(model: nn.Module, batch: Batch, layer: str) -> Tensor:
        from zennit import rules
        from zennit.composites import LayerMapComposite, layer_map_base
        from zennit.types import Linear

        hook = getattr(rules, rule)(**options)
        return by_zennit(
            model, batch, lambda canonizers: LayerMapComposite([*layer_map_base(TINY), (Linear, hook)], canonizers)
        )

    return theirs


def composite(name: str) -> Any:
    """A composite of zennit, under its own name for it."""

    def theirs(model: nn.Module, batch: Batch, layer: str) -> Tensor:
        from zennit.composites import COMPOSITES

        box = {"low": batch.normalise(torch.zeros(1, 3, 1, 1)), "high": batch.normalise(torch.ones(1, 3, 1, 1))}
        box = {key: bound.to(batch.inputs) for key, bound in box.items()} if name == "epsilon_gamma_box" else {}
        return by_zennit(
            model,
            batch,
            lambda canonizers: COMPOSITES[name](canonizers=canonizers, epsilon=TINY, stabilizer=TINY, **box),
        )

    return theirs


def excitation(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from zennit.composites import ExcitationBackprop as Peer

    def make(canonizers: list[Any]) -> Any:
        return Peer(stabilizer=TINY, zero_params="bias", canonizers=canonizers)

    return by_zennit(model, batch, make, start=torch.ones_like(batch.logits[:, 0]))


def captum(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from captum.attr import LRP as Peer

    copied = deepcopy(model)
    for module in copied.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return Peer(copied).attribute(batch.inputs.clone(), batch.targets)


@contextmanager
def _patched_by_lxt() -> Iterator[None]:
    """LXT's rules for layer norm, GELU and attention, put into timm's transformer, which it does not know."""
    # Its models need a release of transformers that is gone; its rules do not.
    with mock.patch.dict(sys.modules, {"lxt.efficient.models": mock.Mock()}):
        from lxt.efficient import patches, rules
    from timm.models import vision_transformer
    from torch.nn import functional

    fused, gelu = functional.scaled_dot_product_attention, nn.GELU.forward

    def attention(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        return patches.wrap_attention_forward(lambda _, q, k, v: fused(q, k, v))(None, q, k, v)

    def identity(module: nn.Module, x: Tensor) -> Tensor:
        return rules.identity_rule_implicit(lambda inner: gelu(module, inner), x)

    with (
        mock.patch.object(functional, "scaled_dot_product_attention", attention),
        mock.patch.object(nn.GELU, "forward", identity),
        mock.patch.object(vision_transformer.LayerNorm, "forward", patches.layer_norm_forward),
    ):
        yield


def lxt(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    with _patched_by_lxt():
        leaf = batch.inputs.clone().requires_grad_()
        scores = model(leaf).gather(1, batch.targets.unsqueeze(1)).sum()
        return batch.inputs * torch.autograd.grad(scores, leaf)[0]


def lxt_gamma(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    with mock.patch.dict(sys.modules, {"lxt.efficient.models": mock.Mock()}):
        from lxt.efficient import zennit_patches
    from zennit.composites import LayerMapComposite
    from zennit.core import BasicHook, Composite
    from zennit.rules import Epsilon, Gamma

    rules = LayerMapComposite(
        [(nn.Conv2d, Gamma(0.25, TINY)), (nn.Linear, Gamma(0.05, TINY))],
    )

    def by_name(context: Any, name: str, module: nn.Module) -> Any:
        return Epsilon(TINY) if name.endswith(("attn.qkv", "attn.proj")) else rules.mapping(context, name, module)

    with (
        mock.patch.object(BasicHook, "forward", zennit_patches.forward),
        mock.patch.object(BasicHook, "backward", zennit_patches.backward),
        Composite(by_name).context(model),
    ):
        return lxt(model, batch, layer)


NORMS = "zennit leaves its eps behind in a merged batch norm; the reference gets norms whose eps is 0"


def by_rule(name: str) -> Pair:
    """One rule in every layer, `lrp_<name>`, beside that of zennit."""
    peer = {"epsilon": "Epsilon", "gamma": "Gamma", "z_plus": "ZPlus", "alpha_beta": "AlphaBeta"}[name]
    stabiliser = "epsilon" if name == "epsilon" else "stabilizer"
    theirs = uniform(peer, **{stabiliser: TINY})
    return Pair(f"lrp_{name}", lambda _: LRP(name, name, epsilon=TINY), f"zennit {peer}", theirs, CNNS, note=NORMS)


def by_composite(name: str, ours: Method, peer: str) -> Pair:
    """`lrp_<name>` beside the composite of zennit."""
    return Pair(f"lrp_{name}", lambda _: ours, f"zennit {peer}", composite(name), CNNS, note=NORMS)


PAIRS = (
    Pair(
        "lrp_epsilon",
        lambda _: LRP(epsilon=1e-9),
        "captum LRP",
        captum,
        ("squeezenet1_1",),
        note="captum has no rule for ReLU6 and folds no batch norm",
    ),
    *(by_rule(name) for name in ("epsilon", "gamma", "z_plus", "alpha_beta")),
    by_composite("epsilon_plus_flat", LRP("z_plus", first="flat", epsilon=TINY), "EpsilonPlusFlat"),
    by_composite("epsilon_gamma_box", LRP("gamma", first="z_box", epsilon=TINY), "EpsilonGammaBox"),
    Pair(
        "excitation_backprop",
        lambda _: ExcitationBackprop(),
        "zennit ExcitationBackprop",
        excitation,
        ("squeezenet1_1",),
        note="sums of activations get negative probabilities from zennit, so no residual network",
    ),
    Pair("attn_lrp", lambda _: AttnLRP(0.0, 0.0, 0.0), "lxt AttnLRP, epsilon", lxt, ("vit",)),
    Pair("attn_lrp", lambda _: AttnLRP(epsilon=TINY), "lxt AttnLRP, gamma outside of attention", lxt_gamma, ("vit",)),
)
