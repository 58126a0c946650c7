"""Consensus: the mean of the maps of several methods, each brought to a common scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from benchmark import maps
from benchmark.errors import NotApplicable, UserError, unknown
from benchmark.protocols import Batch, Method

Normal = Literal["l2", "min_max", "rank"]


def normal(values: Tensor, how: Normal) -> Tensor:
    """Maps `(N, H, W)` on a common scale, image by image; a constant map is 0, with `l2` one of zeros.

    l2: divided by their Euclidean norm, so that signs and zeros stay. min_max: shifted and divided to go from 0 to 1.
    rank: the ranks of the pixels, ties sharing the mean of theirs, brought to go from 0 to 1 likewise.
    """
    flat = values.flatten(1)
    if how == "l2":
        low, size = torch.zeros_like(flat[:, :1]), flat.norm(dim=1, keepdim=True)
    else:
        flat = maps.average_ranks(flat).to(values.dtype) if how == "rank" else flat
        low = flat.amin(1, keepdim=True)
        size = flat.amax(1, keepdim=True) - low
    return torch.where(size > 0, (flat - low) / size, 0).view_as(values)


@dataclass(frozen=True)
class Consensus(Method):
    """`mean_m normal(phi_m)` over members m, each summed over its channels, `(N, 1, H, W)`.

    Signed with `l2` where members are, otherwise from 0 to 1. In a sweep members share what they have in common with
    other methods, such as the gradient. Li et al. take the mean over models in place of methods; InterpretDL leaves the
    normalisation to the user.

    Source: Rieger & Hansen 2019, arXiv:1903.00519 (the mean of several methods); Li et al. 2021, arXiv:2109.00707.

    Attributes:
        members: the methods, by name; their order is of no matter.
        normalise: `l2`, `min_max` or `rank`, see `normal`.

    Raises:
        UserError: an option is out of its range.
        NotApplicable: a member is not; names it.

    Example:
        >>> members = {"smoothgrad": SmoothGrad(), "occlusion": Occlusion()}  # doctest: +SKIP
        >>> Consensus(members).attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    members: Mapping[str, Method]
    normalise: Normal = "l2"

    def __post_init__(self) -> None:
        if self.normalise not in get_args(Normal):
            raise UserError(unknown("normalisation ", self.normalise, get_args(Normal)))
        if not self.members:
            raise UserError("a consensus needs members, and has none")
        for name, member in self.members.items():
            if not isinstance(member, Method):
                raise UserError(f"the members of a consensus are methods, and {name} is a {type(member).__name__}")
        object.__setattr__(self, "members", dict(sorted(self.members.items())))

    @property
    def role(self) -> str:  # type: ignore[override]
        """That of its members if all have one, else `oracle` if any of them knows the truth."""
        roles = {member.role for member in self.members.values()}
        return roles.pop() if len(roles) == 1 else "oracle" if "oracle" in roles else "method"

    @property
    def class_agnostic(self) -> bool:  # type: ignore[override]
        return all(member.class_agnostic for member in self.members.values())

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return any(member.stochastic for member in self.members.values())

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        return any(member.needs_gradient for member in self.members.values())

    @property
    def passes(self) -> int | None:
        each = [member.passes for member in self.members.values()]
        return None if None in each else sum(cost for cost in each if cost is not None)

    def within(self, passes: int) -> Self:
        """What members without a number of samples leave of the budget, in equal parts for the others."""
        fixed = [member.passes for member in self.members.values() if member.within(1) == member]
        rest = passes - sum(cost for cost in fixed if cost is not None)
        each = max(1, rest // max(1, len(self.members) - len(fixed)))
        return replace(self, members={name: member.within(each) for name, member in self.members.items()})

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        total = torch.zeros_like(batch.inputs[:, 0])
        for name, member in self.members.items():
            try:
                found = member.attribute(model, batch)
            except NotApplicable as reason:
                raise NotApplicable(f"its member {name} is not applicable: {reason}") from reason
            total += normal(maps.reduce_channels(found), self.normalise)
        return (total / len(self.members)).unsqueeze(1)
