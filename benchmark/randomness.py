"""Random numbers keyed by (seed, purpose, uid, draw), never by the position in a batch or a global generator.

Each key starts a SplitMix64 stream (Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195) that is computed by
position, so any number of images and draws comes from one tensor expression, equal on every device (normal numbers up
to the last bit of a logarithm, sine or cosine).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


_BLOCK = 1 << 15
"""Numbers made at a time on a CPU: a block stays in the cache, which is five times faster than one long tensor."""


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's is arithmetic."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _stream(keys: Tensor, start: int, stop: int) -> Tensor:
    """Outputs `start` to `stop` of the stream of each key, 64 random bits each: `keys.shape + (stop - start,)`."""
    x = keys.unsqueeze(-1) + torch.arange(start + 1, stop + 1, device=keys.device) * _GAMMA
    x.bitwise_xor_(_shift(x, 30)).mul_(_MIX_1)
    x.bitwise_xor_(_shift(x, 27)).mul_(_MIX_2)
    return x.bitwise_xor_(_shift(x, 31))


def _filled(keys: Tensor, count: int, width: int, make: Callable[[Tensor], tuple[Tensor, ...]]) -> Tensor:
    """`make` of `count` outputs of the stream of each key, block by block: `keys.shape + (width * count,)`, float32.

    `make` turns outputs `(R, B)` into `width` tensors of that shape; the first of each output come first.
    """
    flat = keys.reshape(-1)
    wide = count if keys.is_cuda else min(count, _BLOCK)
    high = len(flat) if keys.is_cuda else _BLOCK // max(1, count)
    out = torch.empty(len(flat), width, count, device=keys.device)
    for top in range(0, len(flat), max(1, high)):
        for left in range(0, count, max(1, wide)):
            rows, columns = slice(top, top + max(1, high)), slice(left, min(left + wide, count))
            for place, made in enumerate(make(_stream(flat[rows], columns.start, columns.stop))):
                out[rows, place, columns] = made
    return out.view(*keys.shape, width * count)


def integer(*parts: object) -> int:
    """A signed 64-bit key from anything that prints the same everywhere, such as (seed, purpose, uid)."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def keys(seed: int, purpose: str, uids: Sequence[str], draws: int = 1) -> Tensor:
    """Keys `(N, draws)` for independent streams; draw d of an image is the same however many draws are asked for."""
    return _stream(torch.tensor([integer(seed, purpose, uid) for uid in uids], dtype=torch.int64), 0, draws)


def uniform(keys: Tensor, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1), float32, of shape `keys.shape + shape`."""

    def make(bits: Tensor) -> tuple[Tensor, ...]:
        return (_shift(bits, 40).float().mul_(2.0**-24),)

    return _filled(keys, math.prod(shape), 1, make).view(*keys.shape, *shape)


def normal(keys: Tensor, *shape: int) -> Tensor:
    """Standard normal numbers, float32, of shape `keys.shape + shape`: two of each output (Box & Muller 1958)."""
    count = math.prod(shape)

    def make(bits: Tensor) -> tuple[Tensor, ...]:
        radius = _shift(bits, 40).float().add_(0.5).mul_(2.0**-24).log_().mul_(-2.0).sqrt_()
        angle = (_shift(bits, 16) & (2**24 - 1)).float().mul_(2.0 * math.pi * 2.0**-24)
        return radius * angle.cos(), radius.mul_(angle.sin_())

    return _filled(keys, (count + 1) // 2, 2, make)[..., :count].reshape(*keys.shape, *shape)
