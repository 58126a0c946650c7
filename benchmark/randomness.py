"""Random numbers keyed by (seed, purpose, uid, draw), never by the position in a batch or a global generator.

Each key starts a SplitMix64 stream (Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195) that is computed by
position, so any number of images and draws comes from one tensor expression, equal on every device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _stream(keys: Tensor, count: int) -> Tensor:
    """The first `count` outputs of the stream of each key: `keys.shape + (count,)`, 64 random bits each."""
    x = keys.unsqueeze(-1) + torch.arange(1, count + 1, device=keys.device) * _GAMMA
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def integer(*parts: object) -> int:
    """A signed 64-bit key from anything that prints the same everywhere, such as (seed, purpose, uid)."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def keys(seed: int, purpose: str, uids: Sequence[str], draws: int = 1) -> Tensor:
    """Keys `(N, draws)` for independent streams; draw d of an image is the same however many draws are asked for."""
    return _stream(torch.tensor([integer(seed, purpose, uid) for uid in uids], dtype=torch.int64), draws)


def uniform(keys: Tensor, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1), float32, of shape `keys.shape + shape`."""
    bits = _shift(_stream(keys, math.prod(shape)), 40)
    return (bits.float() * 2.0**-24).view(*keys.shape, *shape)


def normal(keys: Tensor, *shape: int) -> Tensor:
    """Standard normal numbers, float32, of shape `keys.shape + shape` (Box & Muller 1958)."""
    count = math.prod(shape)
    bits = _shift(_stream(keys, 2 * count), 40).float()
    radius = torch.sqrt(-2.0 * torch.log((bits[..., :count] + 0.5) * 2.0**-24))
    angle = (2.0 * math.pi * 2.0**-24) * bits[..., count:]
    return (radius * torch.cos(angle)).view(*keys.shape, *shape)
