"""Attention methods against torchcam and timm."""

from __future__ import annotations

import copy

import torch
import torchvision
from torch import Tensor, nn

from benchmark.protocols import Batch
from methods.legrad import LeGrad
from methods.raw_attention import RawAttention
from tests.parity.pairs import Pair


def upsampled(cam: Tensor, batch: Batch) -> Tensor:
    return nn.functional.interpolate(cam, batch.inputs.shape[2:], mode="bilinear")


def as_torchvision(model: nn.Module, side: int) -> nn.Module:
    """The timm model as torchvision writes it, with the same weights."""
    width, patch = model.embed_dim, model.patch_embed.patch_size[0]
    heads, hidden = model.blocks[0].attn.num_heads, model.blocks[0].mlp.fc1.out_features
    sizes = (side, patch, len(model.blocks), heads, width, hidden)
    made = torchvision.models.VisionTransformer(*sizes, num_classes=model.num_classes)
    pairs = [(made.conv_proj, model.patch_embed.proj), (made.encoder.ln, model.norm), (made.heads.head, model.head)]
    for block, other in zip(made.encoder.layers, model.blocks, strict=True):
        pairs += [(block.ln_1, other.norm1), (block.ln_2, other.norm2)]
        pairs += [(block.mlp[0], other.mlp.fc1), (block.mlp[3], other.mlp.fc2)]
        pairs += [(block.self_attention.out_proj, other.attn.proj)]
        block.self_attention.in_proj_weight.data = other.attn.qkv.weight.data
        block.self_attention.in_proj_bias.data = other.attn.qkv.bias.data
    for to, source in pairs:
        to.weight.data, to.bias.data = source.weight.data, source.bias.data
    made.class_token.data, made.encoder.pos_embedding.data = model.cls_token.data, model.pos_embed.data
    return made.to(model.pos_embed).eval().requires_grad_(False)


def legrad(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from torchcam.methods import LeGrad as Peer

    twin = as_torchvision(model, batch.inputs.shape[2])
    with torch.enable_grad(), Peer(twin, list(twin.encoder.layers)) as peer:
        logits = twin(batch.inputs.clone().requires_grad_())
        torch.testing.assert_close(logits, batch.logits)
        (cam,) = peer(batch.targets.tolist(), logits, normalized=False)
    return upsampled(cam.unsqueeze(1), batch)


def raw_attention(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from timm.utils import AttentionExtract

    apart = copy.deepcopy(model)
    for block in apart.blocks:
        block.attn.fused_attn = False  # it finds nothing in fused attention
    found = AttentionExtract(apart, method="fx")(batch.inputs)[f"blocks.{len(apart.blocks) - 1}.attn.softmax"]
    side = batch.inputs.shape[2] // model.patch_embed.patch_size[0]
    return upsampled(found.mean(1)[:, 0, 1:].unflatten(1, (1, side, side)), batch)


PAIRS = (
    Pair(
        "legrad",
        lambda layer: LeGrad(),
        "torchcam LeGrad, every block",
        legrad,
        subjects=("vit",),
        timed=False,
    ),
    Pair(
        "raw_attention",
        lambda layer: RawAttention(),
        "timm AttentionExtract, mean over heads of the last block",
        raw_attention,
        subjects=("vit",),
        timed=False,
    ),
)
