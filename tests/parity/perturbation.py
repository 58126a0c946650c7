"""Occlusion, ablation, LIME and Shapley values against captum, lime and shap, with the same units and draws."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmark import passes, randomness, units
from benchmark.protocols import Batch
from methods.feature_ablation import FeatureAblation
from methods.kernel_shap import KernelSHAP
from methods.lime import LIME
from methods.occlusion import Occlusion
from methods.shapley_sampling import ShapleySampling
from tests.parity.pairs import Pair

SAMPLES = 20
ORDERS = 2
FEW = ("mobilenet_v2", "vit")
"""Many passes: one network of each kind."""
STRONG = ("resnet18", "vit")
"""Captum fits in float32, which leaves nothing of the small differences between the logits of the other."""


def shared_out(values: Tensor, labels: Tensor) -> Tensor:
    """The value of each unit, `(N, U)`, divided among its pixels."""
    return units.spread(values / units.sizes(labels), labels).unsqueeze(1)


def per_unit(maps: Tensor, labels: Tensor) -> Tensor:
    """Maps that hold the value of a unit at each of its pixels, as ours divide it."""
    return shared_out(units.pooled(maps[:, 0], labels), labels)


def alone(batch: Batch) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    """Each image by itself, with its image and baseline: these libraries explain one at a time."""
    for i in range(len(batch)):
        part = batch.select([i])
        yield part, part.inputs.clone(), part.baseline.clone()


def occlusion(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from captum.attr import Occlusion as Peer

    side = batch.inputs.shape[3]
    window, stride = (3, side // 4, side // 4), (3, side // 8, side // 8)
    maps = Peer(model).attribute(
        batch.inputs.clone(), window, stride, batch.baseline, batch.targets, perturbations_per_eval=4
    )
    return maps[:, :1] / (side // 4) ** 2


def feature_ablation(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from captum.attr import FeatureAblation as Peer

    labels = units.units(batch, "grid4")
    maps = Peer(model).attribute(
        batch.inputs.clone(), batch.baseline, batch.targets, feature_mask=labels[None], perturbations_per_eval=4
    )
    return per_unit(maps, labels)


def neighbours(batch: Batch, count: int) -> Tensor:
    """The draws of our LIME, before which stands the image itself: `(N, 1 + SAMPLES, count)`."""
    drawn = randomness.uniform(batch.keys("lime", SAMPLES), count) < 0.5
    return torch.cat([torch.ones_like(drawn[:, :1]), drawn], 1)


def lime(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from lime.lime_image import LimeImageExplainer

    labels = units.units(batch, "grid4")
    found = []

    class Draws:
        def __init__(self, coalitions: Tensor) -> None:
            self.coalitions = coalitions

        def randint(self, low: int, high: int, size: int):  # type: ignore[no-untyped-def]
            return self.coalitions.long().flatten().numpy()

    def probabilities(inputs):  # type: ignore[no-untyped-def]
        return model(torch.from_numpy(inputs).permute(0, 3, 1, 2)).softmax(1).numpy()

    for part, image, baseline in alone(batch):
        peer = LimeImageExplainer()
        peer.random_state = Draws(neighbours(part, 16)[0])
        target = int(part.targets)
        explained = peer.explain_instance(
            image[0].permute(1, 2, 0).numpy(),
            probabilities,
            labels=(target,),
            top_labels=None,
            hide_color=baseline[0].permute(1, 2, 0).numpy(),
            num_samples=1 + SAMPLES,
            segmentation_fn=lambda image: labels[0].numpy(),
            random_seed=0,
        )
        found.append([weight for _, weight in sorted(explained.local_exp[target])])
    return shared_out(torch.tensor(found, dtype=torch.float64), labels)


def lime_of_captum(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from captum._utils.models.linear_model import SkLearnLinearRegression
    from captum.attr import Lime

    labels = units.units(batch, "grid4")
    maps = []
    for part, image, baseline in alone(batch):
        draws = iter(neighbours(part, 16)[0])

        def draw(original: Tensor, draws: Iterator[Tensor] = draws, **facts: object) -> Tensor:
            return next(draws).long().unsqueeze(0)

        def near(original: Tensor, seen: Tensor, coalition: Tensor, **facts: object) -> float:
            distance = 1 - (coalition.sum() / 16.0) ** 0.5
            return float(torch.exp(-(distance.double() ** 2) / (2 * 0.25**2)))

        peer = Lime(model, SkLearnLinearRegression(), near, draw)
        maps.append(
            peer.attribute(image, baseline, part.targets, feature_mask=labels[None], n_samples=1 + SAMPLES).double()
        )
    return per_unit(torch.cat(maps), labels)


def kernel_shap(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    import numpy as np
    from shap import KernelExplainer

    labels = units.units(batch, "grid2")
    found = []
    for part, image, baseline in alone(batch):

        def score(coalitions, image=image, baseline=baseline, target=part.targets):  # type: ignore[no-untyped-def]
            present = units.spread(torch.from_numpy(np.asarray(coalitions)) > 0.5, labels).unsqueeze(1)
            seen = torch.where(present, image, baseline)
            return passes.class_scores(model(seen), target.expand(len(seen))).numpy()

        peer = KernelExplainer(score, np.zeros((1, 4)))
        found.append(torch.from_numpy(peer.shap_values(np.ones(4), l1_reg=False, silent=True)))
    return shared_out(torch.stack(found), labels)


def kernel_shap_of_captum(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from captum.attr import KernelShap

    labels = units.units(batch, "grid2")
    every = torch.cartesian_prod(*4 * [torch.arange(2)])
    maps = []
    for part, image, baseline in alone(batch):

        def draws(original: Tensor, **facts: object) -> Iterator[Tensor]:
            yield from every.unsqueeze(1)

        def kernel(original: Tensor, seen: Tensor, coalition: Tensor, **facts: object) -> float:
            return {0: 1e6, 1: 1 / 12, 2: 1 / 24, 3: 1 / 12, 4: 1e6}[int(coalition.sum())]

        peer = KernelShap(model)
        peer.perturb_func, peer.similarity_func = draws, kernel
        found = peer.attribute(image, baseline, part.targets, feature_mask=labels[None], n_samples=16)
        maps.append(found.double())
    return per_unit(torch.cat(maps), labels)


def shapley_values(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from captum.attr import ShapleyValues

    labels = units.units(batch, "grid2")
    maps = ShapleyValues(model).attribute(
        batch.inputs.clone(), batch.baseline, batch.targets, feature_mask=labels[None]
    )
    return per_unit(maps, labels)


def shapley_sampling(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from captum.attr import ShapleyValueSampling

    labels = units.units(batch, "grid3")
    maps = []
    for part, image, baseline in alone(batch):
        orders = randomness.uniform(part.keys("shapley_sampling", ORDERS), 9)[0].argsort(1)
        peer = ShapleyValueSampling(model)
        peer.permutation_generator = lambda count, samples, orders=orders: iter(orders.tolist())
        maps.append(peer.attribute(image, baseline, part.targets, feature_mask=labels[None], n_samples=ORDERS))
    return per_unit(torch.cat(maps), labels)


PAIRS = (
    Pair(
        "occlusion",
        lambda layer: Occlusion(),
        "captum Occlusion, divided by the pixels of a window",
        occlusion,
        subjects=FEW,
        note="captum shows a window's whole drop at each of its pixels",
    ),
    Pair(
        "feature_ablation",
        lambda layer: FeatureAblation("grid4"),
        "captum FeatureAblation, divided by the pixels of a unit",
        feature_ablation,
        note="captum shows a unit's whole drop at each of its pixels",
    ),
    Pair(
        "lime",
        lambda layer: LIME(SAMPLES, "grid4"),
        "lime LimeImageExplainer, given our segments and draws",
        lime,
        subjects=FEW,
        note="the authors' code; its kernel is the root of the paper's",
    ),
    Pair(
        "lime",
        lambda layer: LIME(SAMPLES, "grid4", output="logit", ridge=0.0),
        "captum Lime with linear regression, given our draws and weights",
        lime_of_captum,
        subjects=STRONG,
        tolerance=1e-5,
        note="captum fits in float32; by default it draws 50, by distance between pixels, and fits a Lasso",
    ),
    Pair(
        "kernel_shap",
        lambda layer: KernelSHAP(14, "grid2"),
        "shap KernelExplainer with all coalitions",
        kernel_shap,
        note="without its selection of ten features (l1_reg)",
    ),
    Pair(
        "kernel_shap",
        lambda layer: KernelSHAP(14, "grid2"),
        "captum KernelShap with all coalitions",
        kernel_shap_of_captum,
        subjects=STRONG,
        tolerance=1e-5,
        note="captum fits in float32 and holds the sum by weights of a million",
    ),
    Pair(
        "kernel_shap",
        lambda layer: KernelSHAP(14, "grid2"),
        "captum ShapleyValues, exact",
        shapley_values,
        subjects=("vit",),
        timed=False,
    ),
    Pair(
        "shapley_sampling",
        lambda layer: ShapleySampling(ORDERS, "grid3"),
        "captum ShapleyValueSampling, given our orders",
        shapley_sampling,
        subjects=FEW,
    ),
)
