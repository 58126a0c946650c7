"""Small networks with the habits of large ones: what every method must cope with."""

from __future__ import annotations

from functools import cache

import timm
import torch
from torch import nn
from torchvision.models import MobileNetV2, ResNet
from torchvision.models.resnet import BasicBlock

from benchmark import cam_layer

SIDE = 32
CLASSES = 4
NAMES = ("cnn", "vit", "mobilenet", "resnet")


@cache
def network(name: str) -> tuple[nn.Module, str]:
    """A network in float64, frozen, in eval mode, with random weights and statistics, and its layer for CAM methods.

    cnn         convolution, batch norm, ReLU as a tensor method, global average pooling, linear
    vit         timm: class and register tokens, fused attention, GELU, LayerNorm, LayerScale
    mobilenet   torchvision: ReLU6 in place, depthwise convolutions, residuals, dropout
    resnet      torchvision: one ReLU module in place, run twice a block, max-pooling, residuals added in place
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = _made(name)
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.8, 1.2)
                nn.init.normal_(module.bias, 0.0, 0.1)
                module.running_mean = 0.1 * torch.randn(module.num_features)
                module.running_var = 0.5 + torch.rand(module.num_features)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, module.in_features**-0.5)
                nn.init.normal_(module.bias, 0.0, 0.1)
    made = made.double().eval().requires_grad_(False)
    return made, cam_layer.last_spatial(made, (3, SIDE, SIDE))


def _made(name: str) -> nn.Module:
    if name == "cnn":
        return nn.Sequential(_Cnn(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))
    if name == "vit":
        return timm.models.VisionTransformer(
            img_size=SIDE,
            patch_size=8,
            embed_dim=24,
            depth=2,
            num_heads=3,
            reg_tokens=2,
            init_values=0.5,
            num_classes=CLASSES,
        )
    if name == "mobilenet":
        return MobileNetV2(
            CLASSES, inverted_residual_setting=[[1, 8, 1, 1], [4, 16, 2, 2], [4, 24, 1, 2]], width_mult=0.5
        )
    return ResNet(BasicBlock, [1, 1, 1, 1], CLASSES)


class _Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 16, 3, stride=2, padding=1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(inputs)).relu()).relu()
