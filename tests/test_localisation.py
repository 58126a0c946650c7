"""Localisation metrics against hand values, slow versions that follow the papers, and other libraries."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score, roc_auc_score
from torch import Tensor, nn

from benchmark import baselines
from benchmark.batches import freeze
from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch, Metric
from methods.ground_truth import GroundTruth
from methods.input_x_gradient import InputXGradient
from metrics.grid_pointing_game import GridPointingGame
from metrics.localisation import (
    AUROC,
    AttributionIoU,
    EnergyPointingGame,
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    TopKIntersection,
)

ON_MASKS: tuple[Metric, ...] = (
    PointingGame(),
    RelevanceMass(),
    RelevanceRank(),
    EnergyPointingGame(),
    TopKIntersection(0.05),
    AUROC(),
    AttributionIoU(),
    AttributionIoU("top", 0.1),
    AttributionIoU("mask"),
)


def random_maps(count: int, side: int = 16, seed: int = 0, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, side, side, dtype=torch.float64, generator=generator)


def score(metric: Metric, batch: Batch, maps: Tensor) -> Tensor:
    """A metric against masks looks at neither model nor method."""

    def forbidden(*args: object) -> Tensor:
        raise AssertionError("not needed")

    return metric.score(nn.Identity(), batch, maps, forbidden, {}).values[metric.measures[0].name]


@pytest.fixture
def masked(batch) -> Batch:
    """Eight images with masks of many shapes; the last has two objects in opposite corners."""
    masks = random_maps(8, seed=5)[:, 0] > torch.linspace(-0.5, 1.5, 8)[:, None, None]
    masks[6] = False
    masks[6, 4:9, 5:12] = True
    masks[7] = False
    masks[7, 1:3, 2] = masks[7, 11, 9:14] = True
    return replace(batch, masks=masks)


class TestByHand:
    def test_three_pixels(self, batch) -> None:
        """Positive 3 on the object and 1 beside it; 1/4 of the 253 zeros and the negative one are no evidence."""
        phi = torch.zeros(8, 1, 16, 16, dtype=torch.float64)
        phi[:, 0, 4, 5], phi[:, 0, 0, 0], phi[:, 0, 1, 1] = 3.0, 1.0, -7.0
        m, d = 35, 256
        expected = {
            PointingGame(): 1.0,
            RelevanceMass(): 0.75,
            EnergyPointingGame(): 0.75,
            AttributionIoU(): 1 / 36,
            AttributionIoU("maximum", 0.5): 1 / 35,
            TopKIntersection(2 / d): 0.5,
            # One pixel of the object is above all 221 others, the 34 zeros are above 1, level with 219, below 1.
            AUROC(): (221 + 34 * (1 + 219 / 2)) / (m * (d - m)),
        }
        for metric, value in expected.items():
            assert score(metric, batch, phi).tolist() == pytest.approx([value] * 8), metric
        phi[:, 0, 0, 0] = 3.0
        assert score(PointingGame(), batch, phi).tolist() == [0.5] * 8

    def test_tolerance_is_a_distance(self, batch) -> None:
        for row, column, distance in ((2, 7, 2.0), (2, 3, math.hypot(2, 2))):
            phi = torch.zeros(8, 1, 16, 16, dtype=torch.float64)
            phi[:, 0, row, column] = 1.0
            for tolerance in (0, 1, 2, 3):
                assert bool(score(PointingGame(tolerance), batch, phi)[0]) == (distance <= tolerance)

    def test_best_and_worst(self, masked) -> None:
        truth = masked.masks[:, None].double()
        first = TopKIntersection(1 / 256)
        exact = (PointingGame(), RelevanceMass(), first, AUROC(), AttributionIoU())
        for metric in (*exact, RelevanceRank(), EnergyPointingGame(), AttributionIoU("mask")):
            assert score(metric, masked, truth).tolist() == [1.0] * 8, metric
        for metric in exact:
            assert score(metric, masked, 1 - truth).tolist() == [0.0] * 8, metric
        half = torch.full((8,), 128.0, dtype=torch.float64)
        both = torch.minimum(truth.sum((1, 2, 3)), half)
        assert score(TopKIntersection(0.5), masked, truth).equal(both / half), "an object smaller than k"
        box = score(EnergyPointingGame(), masked, 1 - truth)
        assert float(box[6]) == 0.0, "an object that fills its box"
        assert float(box[7]) == (11 * 12 - 7) / (256 - 7), "two small ones far apart"

    def test_constant_map_scores_as_random_ones(self, masked) -> None:
        ones = torch.ones(8, 1, 16, 16, dtype=torch.float64)
        area = masked.masks.double().mean((1, 2))
        for metric in (RelevanceMass(), PointingGame(), AttributionIoU()):
            torch.testing.assert_close(score(metric, masked, ones), area)
        torch.testing.assert_close(score(AUROC(), masked, ones), torch.full((8,), 0.5, dtype=torch.float64))
        box = EnergyPointingGame()
        assert float(score(box, masked, ones)[7]) == 11 * 12 / 256
        assert float(score(box, masked, ones)[6]) == 35 / 256

    def test_ties_fall_at_random_and_not_in_raster_order(self, batch) -> None:
        count = 2000
        masks = torch.zeros(count, 16, 16, dtype=torch.bool)
        masks[:, :4] = True  # what an unstable or a stable sort by place would find first
        many = Batch(
            *(torch.zeros(count, 1, 16, 16), torch.zeros(count, dtype=torch.long), tuple(map(str, range(count)))),
            *(torch.zeros(count, 1, 16, 16), torch.zeros(count, 2), torch.zeros(count, 2), masks),
        )
        ones = torch.ones(count, 1, 16, 16)
        for metric, k in ((RelevanceRank(), 64), (TopKIntersection(0.05), 13)):
            found = score(metric, many, ones)
            variance = 0.25 * 0.75 / k * (256 - k) / 255  # hypergeometric
            assert abs(float(found.mean()) - 0.25) < 4 * math.sqrt(variance / count)
            assert float(found.var()) == pytest.approx(variance, rel=0.15)

    def test_undefined_is_nan(self, batch) -> None:
        """No object, nothing but the object, no positive evidence: NaN, and the neighbours are not touched by it."""
        masks = batch.masks.clone()
        masks[0], masks[1] = False, True
        odd = replace(batch, masks=masks)
        maps = random_maps(8)
        maps[2] = -maps[2].abs() - 1
        maps[3] = 0
        for metric in ON_MASKS:
            undefined = {0}
            undefined |= {1} if isinstance(metric, AUROC) else set()
            positive = isinstance(metric, RelevanceMass | EnergyPointingGame) or metric == AttributionIoU()
            undefined |= {2, 3} if positive else set()
            found = score(metric, odd, maps)
            assert set(found.isnan().nonzero()[:, 0].tolist()) == undefined, metric
            rest = [i for i in range(8) if i not in (0, 1, 2, 3)]
            torch.testing.assert_close(found[rest], score(metric, batch, maps)[rest], rtol=0, atol=0)

    @pytest.mark.parametrize("metric", ON_MASKS, ids=str)
    def test_channels_are_summed_before_anything_else(self, metric, masked) -> None:
        phi = random_maps(8)
        lopsided = torch.cat([phi * 0 + 50, phi, phi * 0 - 50], 1)
        torch.testing.assert_close(score(metric, masked, lopsided), score(metric, masked, phi))

    @pytest.mark.parametrize("metric", [RelevanceRank(), TopKIntersection(), AUROC(), PointingGame()], ids=str)
    def test_only_the_order_counts(self, metric, masked) -> None:
        phi = random_maps(8)
        assert torch.equal(score(metric, masked, phi), score(metric, masked, (phi / 3).exp() * 7 - 1))

    def test_iou_of_as_many_pixels_is_a_function_of_the_rank_accuracy(self, masked) -> None:
        rank = score(RelevanceRank(), masked, random_maps(8))
        torch.testing.assert_close(score(AttributionIoU("mask"), masked, random_maps(8)), rank / (2 - rank))


def slow(metric: Metric, values: np.ndarray, mask: np.ndarray) -> float:
    """The papers' definitions in plain Python, for one map without ties."""
    height, width = values.shape
    pixels = [(r, c) for r in range(height) for c in range(width)]
    inside = {p for p in pixels if mask[p]}
    ordered = sorted(pixels, key=lambda p: -values[p])
    match metric:
        case PointingGame(tolerance):
            near = min(math.dist(ordered[0], p) for p in inside)
            return float(near <= tolerance)
        case RelevanceMass():
            return sum(max(values[p], 0) for p in inside) / sum(max(values[p], 0) for p in pixels)
        case EnergyPointingGame():
            rows, columns = [r for r, _ in inside], [c for _, c in inside]
            box = [p for p in pixels if min(rows) <= p[0] <= max(rows) and min(columns) <= p[1] <= max(columns)]
            return sum(max(values[p], 0) for p in box) / sum(max(values[p], 0) for p in pixels)
        case RelevanceRank():
            return len(inside & set(ordered[: len(inside)])) / len(inside)
        case TopKIntersection(share):
            k = max(1, round(share * len(pixels)))
            return len(inside & set(ordered[:k])) / k
        case AUROC():
            beside = set(pixels) - inside
            return sum(values[p] > values[q] for p in inside for q in beside) / (len(inside) * len(beside))
        case AttributionIoU(rule, threshold):
            kept = {
                "maximum": {p for p in pixels if values[p] >= threshold * values.max()},
                "top": set(ordered[: max(1, round(threshold * len(pixels)))]),
                "mask": set(ordered[: len(inside)]),
            }[rule]
            return len(kept & inside) / len(kept | inside)
    raise AssertionError(metric)


@pytest.mark.parametrize("metric", [*ON_MASKS, PointingGame(2), TopKIntersection(0.001)], ids=str)
def test_slow_versions(metric, masked) -> None:
    phi = random_maps(8, seed=11)
    found = score(metric, masked, phi)
    for i in range(8):
        assert float(found[i]) == pytest.approx(slow(metric, phi[i, 0].numpy(), masked.masks[i].numpy())), i


class TestAgainstOthers:
    def test_auroc_is_scikit_learns_with_ties(self, masked) -> None:
        for phi in (random_maps(8), random_maps(8).round(), random_maps(8).relu()):
            expected = [roc_auc_score(m.flatten(), v.flatten()) for m, v in zip(masked.masks, phi, strict=True)]
            np.testing.assert_allclose(score(AUROC(), masked, phi), expected, atol=1e-12)

    def test_iou_is_scikit_learns(self, masked) -> None:
        phi = random_maps(8)
        kept = phi >= 0.3 * phi.amax((1, 2, 3), keepdim=True)
        expected = [jaccard_score(m.flatten(), k.flatten()) for m, k in zip(masked.masks, kept, strict=True)]
        np.testing.assert_allclose(score(AttributionIoU("maximum", 0.3), masked, phi), expected, atol=1e-12)

    def test_quantus_agrees_where_definitions_do(self, masked) -> None:
        import quantus

        phi, masks = random_maps(8), masked.masks[:, None].numpy()
        quiet = {"disable_warnings": True}
        pairs = (
            (AUROC(), quantus.AUC(**quiet), phi),
            (RelevanceRank(), quantus.RelevanceRankAccuracy(**quiet), phi),
            (TopKIntersection(20 / 256), quantus.TopKIntersection(k=20, **quiet), phi),
            (RelevanceMass(), quantus.RelevanceMassAccuracy(**quiet), phi.clamp(min=0)),
            (RelevanceMass(), quantus.AttributionLocalisation(positive_attributions=True, **quiet), phi),
            (PointingGame(), quantus.PointingGame(**quiet), phi),
        )
        for ours, theirs, maps in pairs:
            x = masked.inputs.numpy()
            found = np.asarray(theirs.evaluate_batch(x_batch=x, a_batch=maps.numpy(), s_batch=masks), float)
            # Quantus adds 1e-9 to the total of attribution localisation.
            np.testing.assert_allclose(score(ours, masked, maps), found, atol=1e-9, err_msg=str(ours))

    def test_where_quantus_departs_from_the_papers(self, batch) -> None:
        """Signed totals, any of several maxima, and an image without an object, which here is undefined."""
        import quantus

        quiet = {"disable_warnings": True}
        phi = torch.zeros(8, 1, 16, 16, dtype=torch.float64)
        phi[:, 0, 4, 5], phi[:, 0, 0, 0] = 3.0, -2.0
        x, masks = batch.inputs.numpy(), batch.masks[:, None].numpy()
        theirs = quantus.RelevanceMassAccuracy(**quiet).evaluate_batch(a_batch=phi.numpy(), s_batch=masks)
        assert theirs.tolist() == [3.0] * 8  # a share above 1: the negative part is in the total
        assert score(RelevanceMass(), batch, phi).tolist() == [1.0] * 8
        ones = torch.ones_like(phi)
        pointing = quantus.PointingGame(**quiet)
        assert np.asarray(pointing.evaluate_batch(x_batch=x, a_batch=ones.numpy(), s_batch=masks)).all()
        assert score(PointingGame(), batch, ones).tolist() == [35 / 256] * 8
        empty = replace(batch, masks=torch.zeros_like(batch.masks))
        theirs = pointing.evaluate_batch(x_batch=x, a_batch=phi.numpy(), s_batch=masks & False)
        assert np.asarray(theirs, float).tolist() == [1.0] * 8  # a hit, where there is nothing to hit
        assert score(PointingGame(), empty, phi).isnan().all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: PointingGame(tolerance=-1),
        lambda: RelevanceMass("mean"),
        lambda: RelevanceRank("mean"),
        lambda: EnergyPointingGame("mean"),
        lambda: AUROC("mean"),
        lambda: TopKIntersection(0.0),
        lambda: TopKIntersection(0.1, "mean"),
        lambda: AttributionIoU("median"),
        lambda: AttributionIoU(threshold=1.5),
        lambda: GridPointingGame(grid=1),
        lambda: GridPointingGame(min_confidence=2),
        lambda: GridPointingGame(reduce="mean"),
    ],
)
def test_options_out_of_range_are_refused_at_once(make: Callable[[], Metric]) -> None:
    with pytest.raises(UserError):
        make()


class Colours(nn.Module):
    """Class c is the mean of colour channel c; takes images of any size, or of one alone."""

    def __init__(self, side: int | None = None) -> None:
        super().__init__()
        self.side = side

    def forward(self, inputs: Tensor) -> Tensor:
        assert self.side in (None, inputs.shape[2]), "another size"
        return 40 * inputs.mean((2, 3))


def colours(count: int = 24, classes: int = 5, side: int = 12, model: nn.Module | None = None, **options) -> Batch:
    """Images of one colour each, image i of class i % classes."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.zeros(count, classes, side, side, dtype=torch.float64)
    shades = 0.4 + 0.6 * torch.rand(count, side, side, dtype=torch.float64, generator=generator)
    pixels[torch.arange(count), torch.arange(count) % classes] = shades
    uids = [f"image-{i}" for i in range(count)]
    return freeze(model or Colours(), pixels, uids, **{"baseline": "uniform", "chunk": 5} | options)


def gradient_times_input(model: nn.Module, batch: Batch) -> Tensor:
    return InputXGradient().attribute(model, batch)


def play(
    metric: GridPointingGame, model: nn.Module, batch: Batch, explain=gradient_times_input
) -> tuple[Tensor, Mapping[str, Tensor]]:
    prepared = metric.prepare(model, batch)
    return metric.score(model, batch, batch.inputs, explain, prepared).values["grid_pointing_game"], prepared


def seen(metric: GridPointingGame, model: nn.Module, batch: Batch) -> Batch:
    """The mosaics that a method is given."""
    given = []

    def explain(model: nn.Module, mosaics: Batch) -> Tensor:
        given.append(mosaics)
        return mosaics.inputs

    play(metric, model, batch, explain)
    return given[0]


class TestGrid:
    @pytest.mark.parametrize("resize", [True, False])
    @pytest.mark.parametrize("grid", [2, 3, 5])
    def test_extremes_on_a_model_that_sees_one_colour_a_class(self, grid, resize) -> None:
        metric = GridPointingGame(grid, resize)
        assert metric.measures[0].null == 1 / grid**2
        batch = colours(36)
        found, prepared = play(metric, Colours(), batch)
        torch.testing.assert_close(found, torch.ones(36, dtype=torch.float64))
        oracle, _ = play(metric, Colours(), batch, lambda model, mosaics: GroundTruth().attribute(model, mosaics))
        torch.testing.assert_close(oracle, torch.ones(36, dtype=torch.float64))
        beside, _ = play(metric, Colours(), batch, lambda model, mosaics: (~mosaics.masks[:, None]).double())
        assert beside.tolist() == [0.0] * 36
        flat, _ = play(metric, Colours(), batch, lambda model, mosaics: mosaics.masks[:, None] * 0.0 + 1)
        if resize and grid == 5:  # 12 pixels in 5 cells: 2 or 3 each
            sides = [2, 2, 3, 2, 3]
            area = [sides[int(c) // 5] * sides[int(c) % 5] / 144 for c in prepared["cell"]]
            torch.testing.assert_close(flat, torch.tensor(area, dtype=torch.float64))
        else:
            torch.testing.assert_close(flat, torch.full((36,), 1 / grid**2, dtype=torch.float64))

    @pytest.mark.parametrize("resize", [True, False])
    def test_slow_version(self, resize) -> None:
        """Each mosaic put together by hand from the images that `members` names, and scored by slicing."""
        batch, metric, model = colours(), GridPointingGame(2, resize), Colours()
        phi = random_maps(24, 12 if resize else 24, channels=5)
        found, prepared = play(metric, model, batch, lambda model, mosaics: phi)
        mosaics, half = seen(metric, model, batch), phi.shape[2] // 2
        assert mosaics.chunk == (5 if resize else 1)
        assert mosaics.targets.equal(batch.targets)
        for i in range(24):
            members, cell = prepared["members"][i].tolist(), int(prepared["cell"][i])
            assert members[cell] == i
            assert len(set(members)) == 4
            assert len({int(batch.targets[m]) for m in members}) == 4, "of four classes"
            for name, whole in (("inputs", batch.inputs), ("baseline", batch.baseline)):
                for at, member in enumerate(members):
                    rows, columns = (slice(half * k, half * (k + 1)) for k in divmod(at, 2))
                    image = whole[member][None]
                    if resize:
                        image = nn.functional.interpolate(image, (6, 6), mode="bilinear", antialias=True)
                    torch.testing.assert_close(getattr(mosaics, name)[i][None, :, rows, columns], image)
            torch.testing.assert_close(mosaics.logits[i], model(mosaics.inputs[i][None])[0])
            torch.testing.assert_close(mosaics.baseline_logits[i], model(mosaics.baseline[i][None])[0])
            positive = phi[i].sum(0).clamp(min=0)
            rows, columns = (slice(half * k, half * (k + 1)) for k in divmod(cell, 2))
            assert float(found[i]) == pytest.approx(float(positive[rows, columns].sum() / positive.sum()))
            assert int(mosaics.masks[i].sum()) == half * half
            assert mosaics.masks[i, rows, columns].all()

    def test_shrinking_is_antialiased(self) -> None:
        """A checkerboard of single pixels becomes grey, where every third of its pixels is a checkerboard again."""
        pixels = torch.zeros(15, 5, 18, 18, dtype=torch.float64)
        board = (torch.arange(18)[:, None] + torch.arange(18)) % 2
        pixels[torch.arange(15), torch.arange(15) % 5] = board.double()
        batch = freeze(Colours(), pixels, [str(i) for i in range(15)], baseline="black")
        inner = seen(GridPointingGame(3), Colours(), batch).inputs.sum(1)[:, 1:5, 1:5]
        torch.testing.assert_close(inner, torch.full_like(inner, 0.5), atol=0.01, rtol=0)

    def test_cells_are_all_used_and_alike_for_every_method(self) -> None:
        _, prepared = play(GridPointingGame(), Colours(), colours(400))
        counts = Counter(prepared["cell"].tolist())
        assert all(abs(counts[cell] / 400 - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 400) for cell in range(4))
        others = prepared["members"][prepared["members"] != torch.arange(400)[:, None]]
        assert len(set(others.tolist())) > 300, "partners come from the whole data set"
        again = play(GridPointingGame(), Colours(), colours(400))[1]
        assert all(torch.equal(again[name], tensor) for name, tensor in prepared.items())

    def test_few_classes_repeat_but_never_the_target_nor_an_image(self) -> None:
        batch = colours(13, classes=3)
        _, prepared = play(GridPointingGame(), Colours(), batch)
        for i, members in enumerate(prepared["members"].tolist()):
            targets = [int(batch.targets[m]) for m in members if m != i]
            assert len(set(members)) == 4
            assert int(batch.targets[i]) not in targets
            assert sorted(Counter(targets).values()) == [1, 2], "both classes before one comes twice"

    def test_images_of_doubt_neither_play_nor_help(self) -> None:
        batch = colours(20)
        logits = batch.logits.clone()
        logits[[4, 9, 11]] *= 0.01
        doubtful = replace(batch, logits=logits)
        found, prepared = play(GridPointingGame(), Colours(), doubtful)
        assert found.isnan().nonzero()[:, 0].tolist() == [4, 9, 11]
        assert not set(prepared["members"].flatten().tolist()) & {4, 9, 11}
        assert prepared["logits"].isnan().any(1).nonzero()[:, 0].tolist() == [4, 9, 11]
        assert play(GridPointingGame(min_confidence=0), Colours(), doubtful)[0].isfinite().all()

    def test_too_little_company(self) -> None:
        batch = colours(7, classes=2)  # 4 images of class 0 have 3 others, 3 of class 1 have 4
        assert play(GridPointingGame(), Colours(), batch)[0].isfinite().all()
        few = colours(5, classes=2)  # 3 of class 0 have 2 others, 2 of class 1 have 3
        assert play(GridPointingGame(), Colours(), few)[0].isnan().tolist() == [True, False, True, False, True]
        alone = few.select([0])
        assert play(GridPointingGame(), Colours(), alone)[0].isnan().all(), "others of the data set find company"
        with pytest.raises(NotApplicable, match="3 images of other targets"):
            play(GridPointingGame(), Colours(), colours(4, classes=2))

    def test_networks_of_one_size_take_shrunk_mosaics_alone(self) -> None:
        model = Colours(side=12)
        batch = colours(model=model)
        assert (play(GridPointingGame(), model, batch)[0] == 1).all()
        with pytest.raises(NotApplicable, match="24x24 pixels: set resize=true"):
            play(GridPointingGame(resize=False), model, batch)

        class Full(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                raise torch.OutOfMemoryError("CUDA out of memory")

        with pytest.raises(UserError, match="out of memory"):
            play(GridPointingGame(resize=False), Full(), batch)

    def test_no_positive_evidence_is_undefined_at_any_scale(self) -> None:
        batch = colours()
        assert play(GridPointingGame(), Colours(), batch, lambda model, b: -b.inputs)[0].isnan().all()
        tiny = play(GridPointingGame(), Colours(), batch, lambda m, b: 1e-12 * gradient_times_input(m, b))[0]
        torch.testing.assert_close(tiny, torch.ones(24, dtype=torch.float64))

    @pytest.mark.parametrize("resize", [True, False])
    def test_same_score_in_any_company_order_and_chunk(self, resize) -> None:
        """What tests/test_contract.py asks of every metric, on a network that is sure of several classes."""
        batch, metric = colours(), GridPointingGame(resize=resize)

        def noisy(model: nn.Module, mosaics: Batch) -> Tensor:
            noise = mosaics.keys("noise")[:, 0].double() / 2**62
            return mosaics.inputs * (1 + (noise[:, None, None, None] * mosaics.inputs).sin())

        whole, _ = play(metric, Colours(), batch, noisy)
        assert len(set(whole.tolist())) == 24
        for size in (1, 3, 8):
            pieces = [batch.select(list(range(at, min(at + size, 24)))) for at in range(0, 24, size)]
            parts = [play(metric, Colours(), piece, noisy)[0] for piece in pieces]
            torch.testing.assert_close(torch.cat(parts), whole, atol=1e-12, rtol=0)
        order = torch.randperm(24, generator=torch.Generator().manual_seed(1)).tolist()
        shuffled = replace(batch.select(order), whole=None)
        torch.testing.assert_close(play(metric, Colours(), shuffled, noisy)[0], whole[order], atol=1e-12, rtol=0)
        torch.testing.assert_close(play(metric, Colours(), replace(batch, chunk=1), noisy)[0], whole)
        other = play(metric, Colours(), replace(batch, seed=1), noisy)[0]
        assert not torch.equal(other, whole)

    def test_mosaics_are_images_of_a_data_set(self) -> None:
        """A method may ask for another image of the data set, and what it draws is not what it draws for the image."""
        batch = colours()
        mosaics = seen(GridPointingGame(), Colours(), batch.select([3, 5]))
        samples = baselines.image(mosaics, "sample")
        together = seen(GridPointingGame(), Colours(), batch)
        torch.testing.assert_close(samples, baselines.image(together, "sample")[[3, 5]])
        assert not torch.equal(mosaics.keys("noise"), batch.select([3, 5]).keys("noise"))

    def test_passes_are_the_minimum(self) -> None:
        from benchmark import passes

        batch, model = colours(10), Colours()
        doubtful = replace(batch, logits=batch.logits * torch.tensor([0.01] + [1.0] * 9)[:, None])
        with passes.counted(model) as count:
            prepared = GridPointingGame().prepare(model, doubtful)
        assert count.forwards == 2 * 9
        with passes.counted(model) as count:
            GridPointingGame().score(model, doubtful, batch.inputs, lambda model, b: b.inputs, prepared)
        assert count.forwards == 0

    @pytest.mark.gpu
    def test_same_on_a_gpu(self) -> None:
        batch = colours()
        for resize in (True, False):
            metric = GridPointingGame(resize=resize)
            expected = play(metric, Colours(), batch, lambda model, b: b.inputs.sin())[0]
            part = batch.select(list(range(24))).to("cuda")
            found = play(metric, Colours(), part, lambda model, b: b.inputs.sin())[0]
            torch.testing.assert_close(found.cpu(), expected)
