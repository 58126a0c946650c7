"""Random numbers keyed by (seed, purpose, uid, draw), never by the position in a batch or a global generator.

Each key starts a SplitMix64 stream (Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195) that is computed by
position, so any number of images and draws comes from one tensor expression, equal on every device.
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


def _bits(keys: Tensor, start: int, stop: int) -> Tensor:
    """Whole numbers below 2^24, all that a float32 can tell apart."""
    return _shift(_stream(keys, start, stop), 40).float()


def _filled(keys: Tensor, count: int, make: Callable[[Tensor, int, int], Tensor]) -> Tensor:
    """`make(keys, start, stop)` for all of `keys` and 0..`count`, block by block: `keys.shape + (count,)`, float32."""
    flat = keys.reshape(-1)
    wide = count if keys.is_cuda else min(count, _BLOCK)
    high = len(flat) if keys.is_cuda else max(1, _BLOCK // max(1, count))
    out = torch.empty(len(flat), count, device=keys.device)
    for top in range(0, len(flat), max(1, high)):
        for left in range(0, count, max(1, wide)):
            right = min(left + wide, count)
            out[top : top + high, left:right] = make(flat[top : top + high], left, right)
    return out.view(*keys.shape, count)


def integer(*parts: object) -> int:
    """A signed 64-bit key from anything that prints the same everywhere, such as (seed, purpose, uid)."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def keys(seed: int, purpose: str, uids: Sequence[str], draws: int = 1) -> Tensor:
    """Keys `(N, draws)` for independent streams; draw d of an image is the same however many draws are asked for."""
    return _stream(torch.tensor([integer(seed, purpose, uid) for uid in uids], dtype=torch.int64), 0, draws)


def uniform(keys: Tensor, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1), float32, of shape `keys.shape + shape`."""
    return _filled(keys, math.prod(shape), lambda *block: _bits(*block).mul_(2.0**-24)).view(*keys.shape, *shape)


def normal(keys: Tensor, *shape: int) -> Tensor:
    """Standard normal numbers, float32, of shape `keys.shape + shape` (Box & Muller 1958)."""
    count = math.prod(shape)

    def make(keys: Tensor, start: int, stop: int) -> Tensor:
        radius = _bits(keys, start, stop).add_(0.5).mul_(2.0**-24).log_().mul_(-2.0).sqrt_()
        angle = _bits(keys, count + start, count + stop).mul_(2.0 * math.pi * 2.0**-24)
        return radius.mul_(angle.cos_())

    return _filled(keys, count, make).view(*keys.shape, *shape)
