"""Grid pointing game: in a mosaic of images of different classes, does a map find the one it is asked for?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import maps, passes, randomness
from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores


@dataclass(frozen=True)
class GridPointingGame(Metric):
    """Positive relevance inside the own cell of a mosaic over all positive relevance, in [0, 1]; higher is better.

    For each image a mosaic of `grid` x `grid` images is put together: itself in a random cell, in the others images of
    the data set with other targets, each of another class as long as there are such. The method explains the target of
    the image on the mosaic, and L = sum_{i in cell} R+_i / sum_i R+_i. The cells are the same for all methods.
    A constant map and maps of independent, equally distributed pixels score 1 / grid^2 in expectation. No object masks
    are needed: what shows the class is where it was put, unless the model sees the class elsewhere too.

    An image is undefined if the model is less sure of it than `min_confidence`, if the data set has too few such
    images of other targets, or if its map has no positive values: the source gives 0 where they sum to less than 1e-7,
    which would depend on the scale of the map.

    Attributes:
        grid: images along each side of the mosaic.
        resize: shrink each image (bilinear, antialiased), so that the mosaic is as large as one image and any network
            takes it; the classes then appear at a scale that the network may not know, which lowers the scores of all
            methods. Otherwise, as in the source, the mosaic is `grid` times larger each way, which needs a network that
            takes any size. The two are different benchmarks.
        min_confidence: softmax probability of its frozen target that each image of a mosaic needs (0.99 in the source).
        reduce: channel reduction of the map.

    Raises:
        NotApplicable: no image of the data set finds company, or the network takes no mosaic of this size.

    Source: Böhle, Fritz & Schiele 2021, arXiv:2104.00032; Rao, Böhle & Schiele 2022, arXiv:2205.10435.
    """

    grid: int = 2
    resize: bool = True
    min_confidence: float = 0.5
    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "localisation"

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (Measure("grid_pointing_game", higher_is_better=True, range=(0.0, 1.0), null=1 / self.grid**2),)

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)
        if self.grid < 2 or not 0 <= self.min_confidence <= 1:
            raise UserError(
                "the grid pointing game needs grid >= 2 and 0 <= min_confidence <= 1, "
                f"not {self.grid} and {self.min_confidence}"
            )

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Which image is where, and what the model makes of the mosaics of the images and of their baselines.

        `members (N, grid^2)` are places in the data set, cell by cell, -1 for an image without a mosaic. The mosaics
        themselves would be a second data set, so they are put together again for every method.
        """
        whole = batch.whole or batch
        found = self._drawn(batch, whole)
        drawn = (found["members"][:, 0] >= 0).nonzero()[:, 0]
        for name, images in (("logits", whole.inputs), ("baseline_logits", whole.baseline)):
            found[name] = torch.full_like(batch.logits, torch.nan)
            if len(drawn):
                mosaics = self._mosaics(images, found["members"][drawn])
                found[name][drawn] = self._logits(model, mosaics, batch.chunk)
        return found

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        drawn = (prepared["members"][:, 0] >= 0).nonzero()[:, 0]
        found = torch.full((len(batch),), torch.nan, dtype=torch.float64, device=drawn.device)
        if len(drawn):
            mosaics = self._explained(
                batch.select(drawn.tolist()), {name: tensor[drawn] for name, tensor in prepared.items()}
            )
            assert mosaics.masks is not None
            positive = maps.reduce_channels(explain(model, mosaics), self.reduce).double().clamp(min=0)
            found[drawn] = (positive * mosaics.masks).sum((1, 2)) / positive.sum((1, 2))
        return Scores({"grid_pointing_game": found})

    def _drawn(self, batch: Batch, whole: Batch) -> dict[str, Tensor]:
        """`members`, see `prepare`, and the `cell (N,)` that each image itself is in."""
        # By name, so that the order of the data set is no matter.
        order = sorted(range(len(whole)), key=whole.uids.__getitem__)
        position = {whole.uids[place]: at for at, place in enumerate(order)}
        own = torch.tensor([position[uid] for uid in batch.uids])[:, None]
        places, count = torch.tensor(order), self.grid**2
        sure = (passes.class_scores(whole.logits, whole.targets, "prob").cpu() >= self.min_confidence)[places]
        targets = whole.targets.cpu()[places]
        company = sure.sum() - torch.bincount(targets[sure], minlength=int(targets.max()) + 1)[targets]
        if not (sure & (company >= count - 1)).any():
            raise NotApplicable(
                f"a mosaic needs {count - 1} images of other targets beside its own, all of softmax >= "
                f"{self.min_confidence:g}, and no image of the data set finds them"
            )
        allowed = (sure & (targets != batch.targets.cpu()[:, None])).scatter(1, own, False)
        possible = sure[own[:, 0]] & (allowed.sum(1) >= count - 1)

        keys = batch.keys("mosaic", 2).cpu()
        priority = randomness.uniform(keys[:, 0], len(whole)).double().masked_fill(~allowed, torch.inf)
        chosen = [own]
        for _ in range(count - 1):
            best = priority.argmin(1, keepdim=True)
            chosen.append(best)
            # Another image of this class comes after those of all classes that are not there yet.
            priority = (priority + (targets == targets[best])).scatter(1, best, torch.inf)
        cell = (randomness.uniform(keys[:, 1]) * count).long()
        slot = torch.arange(count).expand(len(batch), -1)
        source = torch.where(slot == cell[:, None], 0, torch.where(slot == 0, cell[:, None], slot))
        members = places[torch.cat(chosen, 1).gather(1, source)].masked_fill(~possible[:, None], -1)
        return {"members": members.to(batch.inputs.device), "cell": cell.to(batch.inputs.device)}

    def _mosaics(self, images: Tensor, members: Tensor) -> Tensor:
        """`images` of the data set at `members (R, grid^2)`, put together: `(R, C, height, width)`."""
        sizes = [(height, width) for height in self._sides(images.shape[2]) for width in self._sides(images.shape[3])]
        cells = [images[place.to(images.device)].to(members.device) for place in members.T]
        if self.resize:
            cells = [
                nn.functional.interpolate(cell, size, mode="bilinear", antialias=True)
                for cell, size in zip(cells, sizes, strict=True)
            ]
        return torch.cat([torch.cat(cells[at : at + self.grid], 3) for at in range(0, len(cells), self.grid)], 2)

    def _sides(self, extent: int) -> list[int]:
        """Height or width of each cell in a row or column of the mosaics of images of this height or width."""
        if not self.resize:
            return [extent] * self.grid
        return [(at + 1) * extent // self.grid - at * extent // self.grid for at in range(self.grid)]

    def _logits(self, model: nn.Module, mosaics: Tensor, chunk: int) -> Tensor:
        try:
            return passes.logits(model, mosaics, self._chunk(chunk))
        except (RuntimeError, AssertionError, ValueError) as error:
            if self.resize or (isinstance(error, RuntimeError) and passes.out_of_memory(error)):
                raise
            size = f"{mosaics.shape[2]}x{mosaics.shape[3]}"
            raise NotApplicable(f"the network takes no mosaic of {size} pixels: set resize=true") from error

    def _chunk(self, chunk: int) -> int:
        """As many pixels in a pass as in `chunk` images."""
        return chunk if self.resize else max(1, chunk // self.grid**2)

    def _explained(self, batch: Batch, prepared: Mapping[str, Tensor]) -> Batch:
        """The mosaics of `batch` as images of a data set of their own, their cells as masks."""
        whole = batch.whole or batch
        down, across = (
            torch.arange(self.grid).repeat_interleave(torch.tensor(self._sides(extent)))
            for extent in batch.inputs.shape[2:]
        )
        owner = (down[:, None] * self.grid + across).to(batch.inputs.device)
        return replace(
            batch,
            inputs=self._mosaics(whole.inputs, prepared["members"]),
            uids=_named(batch.uids),
            baseline=self._mosaics(whole.baseline, prepared["members"]),
            logits=prepared["logits"],
            baseline_logits=prepared["baseline_logits"],
            masks=owner == prepared["cell"][:, None, None],
            chunk=self._chunk(batch.chunk),
            whole=replace(whole, uids=_named(whole.uids)),
        )


def _named(uids: tuple[str, ...]) -> tuple[str, ...]:
    """Names of mosaics, so that what is drawn for one is not what is drawn for its image."""
    return tuple(f"{uid}/mosaic" for uid in uids)
