"""Attention methods against hand-made graphs, other ways to the same matrices, and slow versions that follow papers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import networkx
import pytest
import timm
import torch
import torchvision
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from benchmark import passes
from benchmark.batches import freeze
from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch, Method
from methods._attention import Tokens, attentions, attentions_and_gradients, rolled, tokens_of
from methods.attention_flow import AttentionFlow, flows
from methods.attention_rollout import AttentionRollout, discarded
from methods.generic_attention import GenericAttention
from methods.legrad import LeGrad
from methods.raw_attention import RawAttention
from methods.transformer_attribution import TransformerAttribution, gradients_and_relevances
from tests.architectures import network

EXACT = {"atol": 1e-10, "rtol": 1e-10}
AGNOSTIC = (RawAttention(), AttentionRollout(), AttentionRollout("min", 0.5), AttentionRollout("max"), AttentionFlow())
METHODS = (*AGNOSTIC, GenericAttention(), TransformerAttribution(), LeGrad())
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 4}
named = pytest.mark.parametrize("method", METHODS, ids=repr)


def ready(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    for weights in model.parameters():
        scale = weights.shape[-1] ** -0.5 if weights.dim() > 1 else 0.3
        weights.data = scale * torch.randn(weights.shape, generator=generator) + (weights.dim() == 1) * 0.5
    return model.double().eval().requires_grad_(False)


def images_for(model: nn.Module, count: int = 3, size: tuple[int, int] = (32, 32), **options: object) -> Batch:
    pixels = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    uids = [f"image-{i}" for i in range(count)]
    return freeze(model, pixels, uids, mean=(0.5,), std=(0.25,), **options)


def vit(**options: object) -> nn.Module:
    return ready(timm.models.VisionTransformer(**{**TINY, **options}))


def unfused(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return model


def by_hooks(model: nn.Module, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Attention and its gradient by hooks on the dropout of attention, as other libraries find them."""
    model, kept = unfused(model), []
    for name, module in model.named_modules():
        if name.endswith("attn_drop"):
            module.register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.enable_grad():
        score = passes.class_scores(model(batch.inputs.clone().requires_grad_()), batch.targets).sum()
        return list(zip([each.detach() for each in kept], torch.autograd.grad(score, kept), strict=True))


class Routed(nn.Module):
    """2 x 2 pixels as tokens behind a class token, attention as given, `x <- x + A x v_h` a layer; logits `x_0 w`."""

    def __init__(self, matrices: Sequence[Tensor], values: Tensor | None = None) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 3))
        self.scores = [matrix.double().log() for matrix in matrices]
        heads = matrices[0].shape[0]
        self.values = torch.eye(3).double().repeat(heads, 1, 1) if values is None else values
        self.head = nn.Linear(3, 2, bias=False)
        self.double().eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), images.flatten(2).transpose(1, 2)], 1)
        for scores in self.scores:
            attention = torch.softmax(scores.to(tokens).expand(len(images), *scores.shape), -1)
            tokens = tokens + (attention @ (tokens.unsqueeze(1) @ self.values)).sum(1)
        return self.head(tokens[:, 0])


def stochastic(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).pow(3).softmax(-1)


# Where the matrices come from --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2, "init_values": 0.5}, {"qk_norm": True, "qkv_bias": True}])
def test_matrices_and_gradients_are_those_that_hooks_find(options) -> None:
    model = vit(**options)
    batch = images_for(model)
    expected = by_hooks(model, batch)
    for each in (model, unfused(model)):
        found = attentions_and_gradients(each, batch, 0, 3)
        plain = attentions(each, batch, 0, 3, torch.clone)
        assert len(found) == len(plain) == 2
        for mine, alone, theirs in zip(found, plain, expected, strict=True):
            torch.testing.assert_close(mine[0], theirs[0], **EXACT)
            torch.testing.assert_close(mine[1], theirs[1], **EXACT)
            torch.testing.assert_close(alone, theirs[0], **EXACT)
            assert mine[1].abs().max() > 1e-6


def test_gradient_is_the_finite_difference() -> None:
    model = vit()
    batch = images_for(model, 1)
    found = attentions_and_gradients(model, batch, 0, 1)
    apart, step = unfused(model), 1e-5
    for layer, head, row, column in ((0, 2, 3, 5), (1, 1, 0, 7), (0, 0, 16, 0)):
        scores = []
        for sign in (1, -1):
            nudge = torch.zeros_like(found[layer][0])
            nudge[0, head, row, column] = sign * step
            handle = apart.blocks[layer].attn.attn_drop.register_forward_hook(lambda *call, by=nudge: call[2] + by)
            scores.append(passes.class_scores(apart(batch.inputs), batch.targets))
            handle.remove()
        slope = (scores[0] - scores[1]) / (2 * step)
        torch.testing.assert_close(found[layer][1][0, head, row, column], slope[0], atol=1e-8, rtol=1e-6)


def torchvision_vit(depth: int = 2) -> nn.Module:
    return ready(torchvision.models.VisionTransformer(32, 8, depth, 3, 24, 48, num_classes=4))


def test_matrices_of_torchvision() -> None:
    model = torchvision_vit()
    batch, kept = images_for(model), []
    for layer in model.encoder.layers:
        layer.ln_1.register_forward_hook(lambda module, args, output: kept.append(output))
    model(batch.inputs)
    expected = [
        layer.self_attention(tokens, tokens, tokens, need_weights=True, average_attn_weights=False)[1]
        for layer, tokens in zip(model.encoder.layers, kept, strict=True)
    ]
    for found in (
        attentions(model, batch, 0, 3, torch.clone),
        [m for m, _ in attentions_and_gradients(model, batch, 0, 3)],
    ):
        torch.testing.assert_close(found, expected, **EXACT)


def test_matrices_of_a_transformer_encoder_that_would_take_its_fast_path() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.class_token = nn.Parameter(torch.randn(1, 1, 8))
            self.embed = nn.Conv2d(3, 8, 8, 8)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)
            self.head = nn.Linear(8, 4)

        def forward(self, images):
            patches = self.embed(images).flatten(2).transpose(1, 2)
            return self.head(self.encoder(torch.cat([self.class_token.expand(len(images), -1, -1), patches], 1))[:, 0])

    model = ready(Encoder())
    batch = images_for(model)
    for method in METHODS:
        assert method.attribute(model, batch).std() > 0
    (first, second) = attentions(model, batch, 0, 3, torch.clone)
    assert first.shape == second.shape == (3, 2, 17, 17)
    torch.testing.assert_close(first.sum(-1), torch.ones(3, 2, 17).double())


def test_matrices_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")

    class Logits(nn.Module):
        def __init__(self, attention: str) -> None:
            super().__init__()
            sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
            config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=4)
            config._attn_implementation = attention
            self.inner = transformers.ViTForImageClassification(config)

        def forward(self, images):
            return self.inner(images).logits

    model, eager = ready(Logits("sdpa")), ready(Logits("eager"))
    batch = images_for(model)
    expected = list(eager.inner(batch.inputs, output_attentions=True).attentions)
    single = {"atol": 1e-6, "rtol": 1e-5}  # eager attention of that library is float32
    for each in (model, eager):
        torch.testing.assert_close(attentions(each, batch, 0, 3, torch.clone), expected, check_dtype=False, **single)
    for method in METHODS:
        found = method.attribute(model, batch)
        assert found.std() > 0
        assert found.dtype == torch.float64
        torch.testing.assert_close(method.attribute(eager, batch), found, **single)


# Which tokens the head reads ----------------------------------------------------------------------------------------


class Unknown(nn.Module):
    """A network whose parts say nothing, with `extra` tokens before the patches."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(1, extra, 24))
        self.inner = vit(class_token=False, global_pool="")
        del self.inner.global_pool
        self.inner.num_prefix_tokens = None


def beit(**options: object) -> nn.Module:
    return ready(timm.models.beit.Beit(**TINY, **options))


@pytest.mark.parametrize(
    ("model", "count", "expected"),
    [
        (vit(), 17, Tokens((0, 1), 1, (4, 4))),
        (vit(reg_tokens=4), 21, Tokens((0, 1), 5, (4, 4))),
        (vit(reg_tokens=9), 26, Tokens((0, 1), 10, (4, 4))),  # 1 + 25 would be a grid too
        (vit(class_token=False, global_pool="avg"), 16, Tokens((0, 16), 0, (4, 4))),
        (vit(class_token=False, reg_tokens=4, global_pool="avg"), 20, Tokens((4, 20), 4, (4, 4))),
        (vit(global_pool="avg"), 17, Tokens((1, 17), 1, (4, 4))),
        (nn.Sequential(nn.Identity(), vit()), 17, Tokens((0, 1), 1, (4, 4))),
        (beit(), 17, Tokens((1, 17), 1, (4, 4))),
        (ready(VisionTransformerDistilled(**TINY)), 18, Tokens((0, 2), 2, (4, 4))),
        (torchvision_vit(), 17, Tokens((0, 1), 1, (4, 4))),
        (Unknown(1), 17, Tokens((0, 1), 1, (4, 4))),
        (Unknown(1), 16, Tokens((0, 16), 0, (4, 4))),
    ],
)
def test_tokens(model, count, expected) -> None:
    batch = images_for(vit())
    assert tokens_of(model, batch, [torch.zeros(3, count, count)] * 2) == expected


def test_tokens_that_nobody_knows() -> None:
    batch = images_for(vit())
    for model, counts, why in (
        (Unknown(1), (18,), "nothing says which of the 2 tokens before the patches"),
        (vit(), (16,), "its 16 tokens are no grid"),
        (Unknown(1), (2,), "its 2 tokens are no grid"),
        (vit(), (17, 10), "changes from layer to layer"),
    ):
        with pytest.raises(NotApplicable, match=why):
            tokens_of(model, batch, [torch.zeros(3, count, count) for count in counts])


def test_patches_are_in_their_places_in_any_shape_of_image() -> None:
    model = vit(img_size=(16, 40))
    batch = images_for(model, size=(16, 40))
    tokens = tokens_of(model, batch, [torch.zeros(1, 11, 11)])
    assert tokens.map(torch.arange(11).view(1, 11)).tolist() == [[[[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]]]
    row = attentions(model, batch, 0, 3, lambda matrix: matrix.mean(1)[:, 0, 1:].view(3, 1, 2, 5))[1]
    expected = nn.functional.interpolate(row, (16, 40), mode="bilinear")
    torch.testing.assert_close(RawAttention().attribute(model, batch), expected, **EXACT)


@pytest.mark.parametrize(
    ("model", "rows"),
    [
        (vit(class_token=False, global_pool="avg"), slice(None)),
        (vit(global_pool="avg"), slice(1, None)),
        (ready(VisionTransformerDistilled(**TINY)), slice(2)),
    ],
)
def test_heads_that_read_several_tokens_get_the_mean_of_their_rows(model, rows) -> None:
    batch = images_for(model)
    (first, _), (last, _) = by_hooks(model, batch)
    eye = torch.eye(first.shape[2]).double()
    product = ((last.mean(1) + eye) / 2) @ ((first.mean(1) + eye) / 2)
    for method, matrix in ((RawAttention(), last.mean(1)), (AttentionRollout(), product)):
        row = matrix[:, rows].mean(1)[:, -16:].view(3, 1, 4, 4)
        expected = nn.functional.interpolate(row, (32, 32), mode="bilinear")
        torch.testing.assert_close(method.attribute(model, batch), expected, **EXACT)
    for method in METHODS:
        assert method.attribute(model, batch).std() > 0


# Closed forms ---------------------------------------------------------------------------------------------------------


def explained(method: Method, matrices: Sequence[Tensor], count: int = 2) -> Tensor:
    """The map of 2 x 2 pixels, `(4,)`, for a network with that attention; the same for all images."""
    model = Routed(matrices)
    found = method.attribute(model, images_for(model, count, (2, 2)))
    assert torch.equal(found[0], found[-1])
    return found[0].flatten()


@pytest.mark.parametrize("method", AGNOSTIC, ids=repr)
def test_uniform_attention_has_a_uniform_map(method) -> None:
    found = explained(method, [torch.full((2, 5, 5), 0.2)] * 3)
    torch.testing.assert_close(found, found[:1].expand(4), **EXACT)
    assert found[0] > 0


@pytest.mark.parametrize("method", METHODS[:-1], ids=repr)  # LeGrad asks what attention would do, not what it does
def test_tokens_that_look_at_themselves_tell_the_class_token_nothing(method) -> None:
    assert explained(method, [torch.eye(5).expand(2, 5, 5)] * 2).abs().max() == 0


@named
@pytest.mark.parametrize("patch", range(4))
def test_a_routed_token_has_the_whole_map(method, patch) -> None:
    matrix = torch.eye(5).double()
    matrix[0] = nn.functional.one_hot(torch.tensor(patch + 1), 5)
    model = Routed([matrix.unsqueeze(0)])
    model.head.weight[:] = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])
    pixels = torch.zeros(1, 3, 2, 2).double()
    pixels.flatten(2)[:, :, patch] = 1
    batch = freeze(model, pixels, ["it"])
    assert batch.targets.item() == 0
    if isinstance(method, LeGrad):
        with pytest.raises(NotApplicable, match="no row of equal blocks"):
            method.attribute(model, batch)
        return
    found = method.attribute(model, batch).flatten()
    assert found[patch] > 0
    assert found.sum() == found[patch]


def test_rollout_by_hand() -> None:
    low, high = torch.eye(5).double(), torch.eye(5).double()
    high[0] = torch.tensor([0.0, 0.5, 0.5, 0.0, 0.0])
    low[1] = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0])
    # Half of the class token is itself, a quarter each is patch 0 and 1, and half of patch 0 is patch 2.
    found = explained(AttentionRollout(), [low.unsqueeze(0), high.unsqueeze(0)])
    torch.testing.assert_close(found, torch.tensor([0.125, 0.25, 0.125, 0]).double(), **EXACT)
    assert explained(RawAttention(), [low.unsqueeze(0), high.unsqueeze(0)]).tolist() == [0.5, 0.5, 0, 0]
    assert explained(RawAttention(0), [low.unsqueeze(0), high.unsqueeze(0)]).tolist() == [0, 0, 0, 0]
    # The pipe from the class token to patch 0 is 1/4 wide, and from there to patch 2 it is 1/2.
    found = explained(AttentionFlow(), [low.unsqueeze(0), high.unsqueeze(0)])
    torch.testing.assert_close(found, torch.tensor([0.25, 0.25, 0.25, 0]).double(), atol=1e-8, rtol=0)


def test_rows_of_a_rollout_sum_to_one() -> None:
    every = Tokens((0, 1), 0, (1, 7))
    matrices = [3 * stochastic(3, 7, 7, seed=seed).tril() for seed in range(4)]
    torch.testing.assert_close(rolled(every, matrices, shares=True).sum((1, 2, 3)), torch.ones(3).double(), **EXACT)
    mixed = [matrix + torch.eye(7) for matrix in matrices]
    mixed = [matrix / matrix.sum(2, keepdim=True) for matrix in mixed]
    product = mixed[3] @ mixed[2] @ mixed[1] @ mixed[0]
    torch.testing.assert_close(rolled(every, matrices, shares=True).flatten(1), product[:, 0], **EXACT)
    rows = rolled(replace(every, head=(2, 5)), matrices, shares=True).flatten(1)
    torch.testing.assert_close(rows, product[:, 2:5].mean(1), **EXACT)


@pytest.mark.parametrize(("heads", "share"), [("mean", 0.0), ("min", 0.9), ("max", 0.3), ("mean", 0.5)])
def test_rollout_follows_vit_explain_where_that_is_right(heads, share) -> None:
    model = vit(reg_tokens=1)
    batch = images_for(model)
    maps = []
    for i in range(3):
        product = torch.eye(18).double()
        for matrix, _ in by_hooks(model, batch.select([i])):
            fused = {"mean": matrix.mean(1), "min": matrix.min(1).values, "max": matrix.max(1).values}[heads][0].clone()
            order = fused.flatten().argsort()[: int(fused.numel() * share)].tolist()
            for place in order:
                if place != 0:
                    fused.view(-1)[place] = 0
            mixed = fused + torch.eye(18)
            product = (mixed / mixed.sum(1, keepdim=True)) @ product
        maps.append(product[0, 2:].view(1, 4, 4))
    expected = nn.functional.interpolate(torch.stack(maps), (32, 32), mode="bilinear")
    torch.testing.assert_close(AttentionRollout(heads, share).attribute(model, batch), expected, **EXACT)


def test_what_is_discarded() -> None:
    matrix = torch.tensor([[[0.1, 0.3, 0.6], [0.2, 0.4, 0.4], [0.5, 0.25, 0.25]]])
    expected = [[0.1, 0.3, 0.6], [0, 0.4, 0.4], [0.5, 0.25, 0.25]]
    torch.testing.assert_close(discarded(matrix, 0.3, kept=1)[0], torch.tensor(expected))
    expected = [[0, 0, 0.6], [0, 0.4, 0.4], [0.5, 0, 0]]
    torch.testing.assert_close(discarded(matrix, 0.6, kept=0)[0], torch.tensor(expected))
    tied = torch.full((1, 3, 3), 1 / 3)
    assert torch.equal(discarded(tied, 0.9, kept=0), tied)


def graph_of(pipes: Sequence[Tensor], patch: int) -> float:
    graph = networkx.DiGraph()
    for i, width in enumerate(pipes[0].tolist()):
        graph.add_edge("source", (1, i), capacity=width)
    for layer, pipe in enumerate(pipes[1:], 1):
        for i, row in enumerate(pipe.tolist()):
            for j, width in enumerate(row):
                graph.add_edge((layer, i), (layer + 1, j), capacity=width)
    return networkx.maximum_flow_value(graph, "source", (len(pipes), patch))


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [2, 5])
def test_flow_is_that_of_networkx(layers, count) -> None:
    pipes = [stochastic(count, seed=9), *(stochastic(count, count, seed=layer) for layer in range(layers - 1))]
    pipes = [torch.where(pipe < pipe.median(), 0, pipe) for pipe in pipes]  # with pipes that are shut
    expected = torch.tensor([graph_of(pipes, patch) for patch in range(count)], dtype=torch.float64)
    torch.testing.assert_close(flows(pipes), expected, atol=count * count * 2**-31, rtol=0)
    assert expected.max() > 0


def test_flow_of_a_network_is_that_of_networkx() -> None:
    for model in (vit(depth=3), vit(class_token=False, global_pool="avg")):
        batch = images_for(model, 1)
        residual = [(m.mean(1)[0] + torch.eye(m.shape[2])) / 2 for m, _ in by_hooks(model, batch)]
        prefix = model.num_prefix_tokens
        top = residual[-1][0] if prefix else residual[-1].mean(0)
        expected = [graph_of([top, *residual[-2::-1]], prefix + j) for j in range(16)]
        expected = torch.tensor(expected, dtype=torch.float64).view(1, 1, 4, 4)
        expected = nn.functional.interpolate(expected, (32, 32), mode="bilinear")
        torch.testing.assert_close(AttentionFlow().attribute(model, batch), expected, atol=34 * 2**-31, rtol=0)


# Methods with gradients -----------------------------------------------------------------------------------------------


def test_generic_attention_follows_the_paper() -> None:
    model = vit(depth=3, reg_tokens=1)
    batch = images_for(model)
    maps = []
    for i in range(3):
        relevance = torch.eye(18).double()
        for matrix, gradient in by_hooks(model, batch.select([i])):
            mean = torch.zeros(18, 18).double()
            for head in range(3):
                mean += (matrix[0, head] * gradient[0, head]).clamp(min=0) / 3
            relevance = relevance + mean @ relevance
        maps.append(relevance[0, 2:].view(1, 4, 4))
    expected = nn.functional.interpolate(torch.stack(maps), (32, 32), mode="bilinear")
    torch.testing.assert_close(GenericAttention().attribute(model, batch), expected, **EXACT)


def slow_relevances(model: nn.Module, image: Tensor, target: int) -> list[Tensor]:
    """Relevance of the attention `(heads, T, T)` of each layer of a timm model, one image, formula by formula."""

    def linear(layer: nn.Linear, x: Tensor, relevance: Tensor) -> Tensor:
        products = x.unsqueeze(-2) * layer.weight  # (..., out, in)
        positive = products.clamp(min=0)
        total = positive.sum(-1, keepdim=True)
        return (positive / torch.where(total == 0, 1, total) * relevance.unsqueeze(-1)).sum(-2)

    def added(u: Tensor, v: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        to_u, to_v = u / (u + v) * relevance, v / (u + v) * relevance
        whole = to_u.sum().abs() + to_v.sum().abs()
        share_u, share_v = to_u.sum().abs() / whole, to_v.sum().abs() / whole
        return (
            to_u * share_u * relevance.sum() / to_u.sum(),
            to_v * share_v * relevance.sum() / to_v.sum(),
        )

    def multiplied(u: Tensor, v: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        ratio = relevance / (u @ v)
        to_u, to_v = u * (ratio @ v.mT), v * (u.mT @ ratio)
        whole = to_u.sum().abs() + to_v.sum().abs()
        return (
            to_u * (to_u.sum().abs() / whole) * relevance.sum() / to_u.sum(),
            to_v * (to_v.sum().abs() / whole) * relevance.sum() / to_v.sum(),
        )

    tokens = model.patch_embed(image)
    tokens = model._pos_embed(tokens)[0]
    kept = []
    for block in model.blocks:
        attn, mlp = block.attn, block.mlp
        normed = block.norm1(tokens)
        q, k, v = attn.qkv(normed).view(len(tokens), 3, attn.num_heads, -1).permute(1, 2, 0, 3)
        q = q * attn.scale
        matrix = (q @ k.mT).softmax(-1)
        mixed = (matrix @ v).transpose(0, 1).flatten(1)
        paid = block.ls1(attn.proj(mixed))
        between = tokens + paid
        hidden = mlp.act(mlp.fc1(block.norm2(between)))
        thought = block.ls2(mlp.fc2(hidden))
        kept.append((block, tokens, normed, q, k, v, matrix, mixed, paid, between, hidden, thought))
        tokens = between + thought
    relevance = torch.zeros(len(model.head.weight)).double()
    relevance[target] = 1
    if model.global_pool == "token":
        to_read = linear(model.head, model.norm(tokens)[0], relevance)
        relevance = torch.zeros_like(tokens)
        relevance[0] = to_read
    else:
        normed, prefix = model.norm(tokens), model.num_prefix_tokens
        pooled = normed[prefix:].mean(0)
        to_read = linear(model.head, model.fc_norm(pooled), relevance)
        relevance = torch.zeros_like(tokens)
        relevance[prefix:] = normed[prefix:] / len(normed[prefix:]) / pooled * to_read
    found = []
    for block, tokens, normed, q, k, v, matrix, mixed, paid, between, hidden, thought in reversed(kept):
        attn, mlp = block.attn, block.mlp
        skipped, into = added(between, thought, relevance)
        into = linear(mlp.fc1, block.norm2(between), linear(mlp.fc2, hidden, into))
        skipped, into = added(tokens, paid, skipped + into)
        into = linear(attn.proj, mixed, into).view(len(tokens), attn.num_heads, -1).transpose(0, 1)
        to_matrix, to_v = multiplied(matrix, v, into)
        to_q, to_k = multiplied(q, k.mT, to_matrix)
        to_qkv = torch.stack([to_q, to_k.mT, to_v]).permute(2, 0, 1, 3).flatten(1)
        relevance = skipped + linear(attn.qkv, normed, to_qkv)
        found.append(to_matrix)
    return found[::-1]


@pytest.mark.parametrize(
    "options", [{}, {"reg_tokens": 2, "init_values": 0.5}, {"class_token": False, "global_pool": "avg"}]
)
def test_transformer_attribution_follows_the_paper(options) -> None:
    model = vit(depth=3, qkv_bias=True, **options)
    batch = images_for(model)
    found = gradients_and_relevances(model, batch.inputs, batch.targets)
    prefix = model.num_prefix_tokens
    maps: dict[int, list[Tensor]] = {0: [], 2: []}
    for i in range(3):
        relevances = slow_relevances(model, batch.inputs[[i]], int(batch.targets[i]))
        layers = by_hooks(model, batch.select([i]))
        for start, made in maps.items():
            product = torch.eye(16 + prefix).double()
            for (_, gradient), relevance in list(zip(layers, relevances, strict=True))[start:]:
                product = (torch.eye(16 + prefix) + (gradient[0] * relevance).relu().mean(0)) @ product
            row = product[0] if prefix else product.mean(0)
            made.append(row[prefix:].view(1, 4, 4))
        for layer, (gradient, relevance) in enumerate(found):
            torch.testing.assert_close(gradient[i], layers[layer][1][0], **EXACT)
            torch.testing.assert_close(relevance[i], relevances[layer], atol=1e-9, rtol=1e-7)
    for start, made in maps.items():
        expected = nn.functional.interpolate(torch.stack(made), (32, 32), mode="bilinear")
        found_map = TransformerAttribution(start).attribute(model, batch)
        torch.testing.assert_close(found_map, expected, atol=1e-9, rtol=1e-7)


def test_relevance_of_attention_is_half_of_what_its_layer_pays() -> None:
    # One layer, and no way around it: relevance 1 reaches the product of attention and values, and half of it each.
    class Only(Routed):
        def forward(self, images):
            tokens = images.flatten(2).transpose(1, 2)
            tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
            attention = (tokens @ tokens.mT).unsqueeze(1).softmax(-1)
            return self.head((attention @ tokens.unsqueeze(1)).squeeze(1)[:, 0])

    model = Only([torch.full((1, 5, 5), 0.2)])
    model.head.weight.abs_()
    batch = images_for(model, size=(2, 2))
    batch = replace(batch, inputs=batch.inputs.abs())
    ((_, relevance),) = gradients_and_relevances(model, batch.inputs, batch.targets)
    torch.testing.assert_close(relevance.sum((1, 2, 3)), torch.full((3,), 0.5).double(), **EXACT)
    assert relevance[:, :, 1:].abs().max() == 0  # only the class token is read


@pytest.mark.parametrize(
    "model",
    [
        vit(depth=3),
        vit(depth=1),
        vit(reg_tokens=2, init_values=0.5),
        vit(class_token=False, global_pool="avg"),
        ready(VisionTransformerDistilled(**TINY)),
        torchvision_vit(),
        torchvision_vit(1),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_legrad_follows_the_paper(model, wrapped) -> None:
    batch = images_for(model)
    maps = []
    for i in range(3):
        layer_maps = []
        for layer in range(len(getattr(model, "blocks", None) or model.encoder.layers)):
            score, matrix = score_of_layer(model, batch.inputs[[i]], layer, int(batch.targets[i]))
            (gradient,) = torch.autograd.grad(score, matrix)
            layer_maps.append(gradient[0].clamp(min=0).mean((0, 1))[-16:])
        maps.append((sum(layer_maps) / len(layer_maps)).view(1, 4, 4))
    expected = nn.functional.interpolate(torch.stack(maps), (32, 32), mode="bilinear")
    subject = nn.Sequential(nn.Identity(), nn.Sequential(model)) if wrapped else model
    torch.testing.assert_close(LeGrad().attribute(subject, batch), expected, **EXACT)


def score_of_layer(model: nn.Module, image: Tensor, layer: int, target: int) -> tuple[Tensor, Tensor]:
    """The class score of the mean of the tokens of one layer, and that layer's attention, with the graph between."""
    model, kept = unfused(model), []
    if isinstance(model, torchvision.models.VisionTransformer):
        tokens = model._process_input(image)
        tokens = torch.cat([model.class_token, tokens], 1) + model.encoder.pos_embedding
        for block in model.encoder.layers[:layer]:
            tokens = block(tokens)
        block = model.encoder.layers[layer]
        normed, mha = block.ln_1(tokens), block.self_attention
        matrix = mha(normed, normed, normed, average_attn_weights=False)[1].requires_grad_()
        value = nn.functional.linear(normed, mha.in_proj_weight[48:], mha.in_proj_bias[48:]).view(1, 17, 3, 8)
        between = tokens + mha.out_proj((matrix @ value.transpose(1, 2)).transpose(1, 2).flatten(2))
        tokens = between + block.mlp(block.ln_2(between))
        return model.heads(model.encoder.ln(tokens.mean(1)))[0, target], matrix

    def leaf(module: nn.Module, args: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    tokens = model._pos_embed(model.patch_embed(image))
    for block in model.blocks[:layer]:
        tokens = block(tokens)
    model.blocks[layer].attn.attn_drop.register_forward_hook(leaf)
    pooled = model.fc_norm(model.norm(model.blocks[layer](tokens).mean(1)))
    heads = [model.head(pooled)] + ([model.head_dist(pooled)] if hasattr(model, "head_dist") else [])
    return torch.stack(heads).mean(0)[0, target], kept[0]


# All of them ----------------------------------------------------------------------------------------------------------


@named
@pytest.mark.parametrize("model", [vit(reg_tokens=2), vit(class_token=False, global_pool="avg")])
def test_same_map_fused_and_unfused_and_with_heads_in_another_order(method, model) -> None:
    batch = images_for(model)
    expected = method.attribute(model, batch)
    torch.testing.assert_close(method.attribute(unfused(model), batch), expected, **EXACT)
    mixed = copy.deepcopy(model)
    for block in mixed.blocks:
        qkv, proj = block.attn.qkv, block.attn.proj
        qkv.weight[:] = qkv.weight.view(3, 3, 8, 24)[:, [2, 0, 1]].reshape(72, 24)
        qkv.bias[:] = qkv.bias.view(3, 3, 8)[:, [2, 0, 1]].flatten()
        proj.weight[:] = proj.weight.view(24, 3, 8)[:, [2, 0, 1]].reshape(24, 24)
    torch.testing.assert_close(method.attribute(mixed, batch), expected, atol=1e-8, rtol=1e-8)
    assert expected.std() > 0
    assert expected.min() >= 0


@named
def test_model_is_left_alone(method) -> None:
    model = vit()
    batch = images_for(model)
    expected = method.attribute(model, batch)
    model.requires_grad_(True)
    model.blocks[0].norm1.weight.requires_grad_(False)
    model.train()
    model.blocks[0].mlp.eval()
    with torch.no_grad():
        torch.testing.assert_close(method.attribute(model, batch), expected, **EXACT)
    wanting = [name for name, weights in model.named_parameters() if not weights.requires_grad]
    assert wanting == ["blocks.0.norm1.weight"]
    assert all(weights.grad is None for weights in model.parameters())
    assert model.training
    assert not model.blocks[0].mlp.training
    single = Batch(**{**vars(batch), "inputs": batch.inputs.float()})
    found = method.attribute(vit().float(), single)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=2e-3)


@named
def test_whoever_watches_the_model_sees_its_own_passes(method) -> None:
    model = vit(depth=3)
    batch = images_for(model)
    with passes.counted(model) as count:
        method.attribute(model, batch)
    assert (count.forwards, count.backwards) == (3, 3 * (method.passes - 1))


@named
def test_target_matters_where_it_should(method) -> None:
    model = vit()
    batch = images_for(model)
    other = method.attribute(model, replace(batch, targets=(batch.targets + 1) % 4))
    assert torch.equal(other, method.attribute(model, batch)) is method.class_agnostic


SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "num_classes": 4}


@named
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: network("cnn")[0], "no attention"),
        (lambda: network("resnet")[0], "no attention"),
        (lambda: ready(timm.models.SwinTransformer(**SWIN)), "within windows"),
        (lambda: vit(class_token=False, global_pool="map"), "queries are other tokens than its keys"),
    ],
)
def test_networks_without_attention_among_all_tokens(method, make, why) -> None:
    model = make()
    batch = images_for(model, size=(64, 64) if why == "within windows" else (32, 32))
    hooks = [len(module._forward_hooks) for module in model.modules()]
    with pytest.raises(NotApplicable, match=why if not isinstance(method, LeGrad) else r"\w+ \w+ \w+"):
        method.attribute(model, batch)
    assert hooks == [len(module._forward_hooks) for module in model.modules()]


def test_attention_that_is_causal() -> None:
    class Causal(Routed):
        def forward(self, images):
            tokens = images.flatten(2).transpose(1, 2).unsqueeze(1)
            mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens, is_causal=True)
            return self.head(mixed[:, 0, 0])

    model = Causal([torch.eye(5).unsqueeze(0)])
    with pytest.raises(NotApplicable, match="causal"):
        RawAttention().attribute(model, images_for(model, size=(2, 2)))


def test_operations_without_a_rule_of_relevance() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = vit()

        def forward(self, images):
            return self.inner(images.exp()).exp()

    model = Odd()
    batch = images_for(model)
    assert GenericAttention().attribute(model, batch).std() > 0
    with pytest.raises(NotApplicable, match="no rule for the operation exp"):
        TransformerAttribution().attribute(model, batch)
    model.forward = lambda images: model.inner(images.exp())  # before the first attention nobody asks
    assert TransformerAttribution().attribute(model, images_for(model)).std() > 0


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        (lambda x, y: torch.div(x, y), "no rule for div of two activations"),
        (lambda x, y: torch.add(x, other=y), "no rule for the operation add"),
        (lambda x, y: torch.einsum("nk,nk->nk", [x, y]), "no rule for the operation einsum"),
        (lambda x, y: nn.functional.conv1d(x.unsqueeze(1), y[:1].detach().unsqueeze(1)), "for the operation conv1d"),
    ],
)
def test_relevance_never_goes_where_no_rule_leads(odd, why) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = vit()

        def forward(self, images):
            logits = self.inner(images)
            return odd(logits, logits + 1).flatten(1)

    model = Odd()
    batch = replace(images_for(vit()), targets=torch.zeros(3, dtype=torch.long))
    assert GenericAttention().attribute(model, batch).isfinite().all()
    with pytest.raises(NotApplicable, match=why):
        TransformerAttribution().attribute(model, batch)


def test_legrad_needs_a_row_of_blocks() -> None:
    class Parallel(nn.Module):
        """Two attentions a block."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = vit()
            self.inner.blocks = nn.Sequential(nn.Sequential(*self.inner.blocks), nn.Sequential(*vit().blocks))

        def forward(self, images):
            return self.inner(images)

    model = Parallel()
    batch = images_for(model)
    assert GenericAttention().attribute(model, batch).std() > 0
    with pytest.raises(NotApplicable, match="no layers of one attention each"):
        LeGrad().attribute(model, batch)
    assert not any(module._forward_hooks for module in model.modules())


def test_legrad_needs_an_end_that_takes_any_number_of_images() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = vit()

        def forward(self, images):
            return self.inner(images)[: len(images)]

    model = Fixed()
    with pytest.raises(NotApplicable, match="does not take more images"):
        LeGrad().attribute(model, images_for(model))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: AttentionRollout("median"), "heads from mean, min, max"),
        (lambda: AttentionRollout(discard=1.0), "0 <= discard < 1"),
        (lambda: AttentionRollout(discard=-0.1), "0 <= discard < 1"),
        (lambda: TransformerAttribution(-1), "start >= 0"),
    ],
)
def test_refusals(make, why) -> None:
    with pytest.raises(UserError, match=why):
        make()


@pytest.mark.parametrize("method", [RawAttention(2), RawAttention(-3), TransformerAttribution(2)], ids=repr)
def test_layers_that_do_not_exist(method) -> None:
    model = vit()
    with pytest.raises(NotApplicable, match="has 2 layers of attention and no layer"):
        method.attribute(model, images_for(model))
