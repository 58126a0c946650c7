"""ROAD, performance information curves and average drop: slow versions, hand values, other libraries."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmark import baselines, randomness
from benchmark.baselines import Absence
from benchmark.batches import freeze
from benchmark.certificate.checks import build, gradient, outcome
from benchmark.errors import UserError
from benchmark.imputation import impute
from benchmark.passes import counted
from benchmark.protocols import Batch, Scores


@pytest.fixture
def batch(network, images) -> Batch:
    """Four smooth images, so that imputation gets them about right."""
    pixels = nn.functional.interpolate(images(4, side=5), size=(16, 16), mode="bilinear")
    return freeze(network, pixels, [f"image-{i}" for i in range(4)], chunk=7)


def found(name: str, model: nn.Module, batch: Batch, maps: Tensor, **options: object) -> Scores:
    return outcome(build(name, **options), model, batch, maps)


def probability(model: nn.Module, image: Tensor, target: Tensor) -> float:
    with torch.inference_mode():
        return float(model(image[None])[0].softmax(0)[target])


def order(values: Tensor, key: Tensor) -> list[int]:
    """Pixels from the largest value, ties by their hash."""
    hashed = randomness.uniform(key, values.numel()).tolist()
    return sorted(range(values.numel()), key=lambda i: (-float(values.flatten()[i]), hashed[i]))


class TestRoad:
    def test_slow_version(self, network, batch) -> None:
        maps = gradient(network, batch)
        scores = found("road", network, batch, maps)
        for i in range(len(batch)):
            ranked = order(maps[i].sum(0), batch.keys("ties")[i, 0])
            for name, sequence in (("morf", ranked), ("lerf", ranked[::-1])):
                points = []
                for tenth in range(1, 10):
                    gone = torch.zeros(256, dtype=torch.bool)
                    gone[sequence[: round(tenth / 10 * 256)]] = True
                    one = batch.inputs[i : i + 1]
                    holed = impute(one, gone.view(1, 16, 16), one, batch.keys("imputation")[i])
                    points.append(probability(network, holed[0], batch.targets[i]))
                torch.testing.assert_close(scores.curves[name][i], torch.tensor(points).double(), atol=1e-7, rtol=0)
                assert float(scores.values[name][i]) == pytest.approx(np.mean(points), abs=1e-7)
        half = (scores.values["lerf"] - scores.values["morf"]) / 2
        torch.testing.assert_close(scores.values["combined"], half)

    def test_exact_counts_where_most_values_are_zero(self, network, batch, monkeypatch: pytest.MonkeyPatch) -> None:
        """pytorch-grad-cam's threshold takes nothing of a map with a ReLU, or nearly all; here the part is exact."""
        maps = torch.zeros_like(batch.inputs[:, :1])
        maps[:, :, 4:11, 5:11] = torch.rand(4, 1, 7, 6, generator=torch.Generator().manual_seed(0)) + 0.1
        by_threshold = [int((maps[0] < np.percentile(maps[0], percent)).sum()) for percent in (10, 50, 80)]
        assert by_threshold == [0, 0, 0]  # of the 26, 128 and 205 pixels that were asked for
        taken, without = [], Absence.without

        def watched(self: Absence, row: Tensor, gone: Tensor) -> Tensor:
            taken.extend(gone.flatten(1).sum(1).tolist())
            return without(self, row, gone)

        monkeypatch.setattr(Absence, "without", watched)
        metric = build("road")
        prepared = metric.prepare(network, batch)
        taken.clear()
        metric.score(network, batch, maps, gradient, prepared)
        assert taken == [round(tenth / 10 * 256) for tenth in range(1, 10)] * 4 * 2

    def test_reversed_map_exchanges_its_ends(self, network, batch) -> None:
        maps = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(1)).double()
        scores, reverse = (found("road", network, batch, each).values for each in (maps, -maps))
        torch.testing.assert_close(scores["morf"], reverse["lerf"])
        torch.testing.assert_close(scores["combined"], -reverse["combined"])

    def test_one_colour_is_found_by_the_hole_but_not_by_its_filling(self, network, batch) -> None:
        """On images of one colour, imputation changes nothing but the noise, whatever the map."""
        flat = freeze(network, torch.full((2, 3, 16, 16), 0.3).double(), ["a", "b"])
        curves = found("road", network, flat, torch.randn(2, 1, 16, 16).double()).curves["morf"]
        clean = flat.logits.softmax(1).gather(1, flat.targets[:, None])
        torch.testing.assert_close(curves, clean.expand_as(curves), atol=5e-3, rtol=0)

    def test_passes(self, network, batch) -> None:
        metric = build("road")
        with counted(network) as passes:
            prepared = metric.prepare(network, batch)
        assert passes.forwards == len(batch)  # the image of nothing, once for all methods
        with counted(network) as passes:
            metric.score(network, batch, batch.inputs, gradient, prepared)
        assert passes.forwards == 18 * len(batch)

    @pytest.mark.parametrize("fractions", [[], [0.0, 0.5], [0.5, 1.0]])
    def test_fractions_lie_between_none_and_all(self, fractions: list[float]) -> None:
        with pytest.raises(UserError, match="road needs fractions between 0 and 1"):
            build("road", fractions=fractions)


def encoded(pixels: Tensor, **options: int) -> int:
    """Bytes of `(3, H, W)` in [0, 1] as a lossless WebP."""
    buffer = io.BytesIO()
    picture = np.clip(np.rint(255 * pixels.numpy()), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(picture).save(buffer, format="webp", lossless=True, **options)
    return buffer.getbuffer().nbytes


def slow_pic(
    model: nn.Module, batch: Batch, i: int, values: Tensor, fractions: tuple[float, ...], monotone: bool, accuracy: bool
) -> float:
    """The source's algorithm for one image, with linear imputation as the interpolation."""
    image, target = batch.inputs[i], batch.targets[i]
    seeds = order(torch.zeros(256), batch.keys("pic")[i, 0])[: round(0.01 * 256)]
    ranked = order(values, batch.keys("ties")[i, 0])

    def rebuilt(fraction: float) -> Tensor:
        gone = torch.ones(256, dtype=torch.bool)
        gone[seeds + ranked[: round(fraction * 256)]] = False
        return impute(image[None], gone.view(1, 16, 16), image[None], batch.keys("pic")[i], noise=0)[0]

    def measured(picture: Tensor) -> tuple[float, float]:
        with torch.inference_mode():
            logits = model(picture[None])[0]
        size = encoded(picture * 0.5 + 0.25, method=0, quality=75)
        return size, float(logits.argmax() == target) if accuracy else float(logits.softmax(0)[target])

    (low_x, low_y), (high_x, high_y) = measured(rebuilt(0)), measured(image)
    if not (high_x > low_x and high_y > low_y):
        return float("nan")
    points, best = [(0.0, 0.0)], 0.0
    for fraction in fractions:
        size, score = measured(rebuilt(fraction))
        y = min(1.0, max(0.0, (score - low_y) / (high_y - low_y)))
        best = max(best, y)
        points.append((min(1.0, max(0.0, (size - low_x) / (high_x - low_x))), best if monotone else y))
    points = [*sorted(points, key=lambda point: point[0]), (1.0, 1.0)]
    xs, ys = zip(*points, strict=True)
    return float(np.trapezoid(ys, xs))


class Decided(nn.Module):
    """Another network with its logits about 0 on noise and far apart, so that what is revealed changes the class."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.network, (self.shift, self.spread) = network, (network(images).mean(0), network(images).std(0))

    def forward(self, inputs: Tensor) -> Tensor:
        return (self.network(inputs) - self.shift) / self.spread


class TestPIC:
    @pytest.fixture
    def model(self, network, images) -> nn.Module:
        return Decided(network, images(6, seed=2)).eval()

    @pytest.fixture
    def sharp(self, model, images) -> Batch:
        """Images in normalised space."""
        batch = freeze(model, images(6, seed=2), [f"image-{i}" for i in range(6)], chunk=7)
        return replace(batch, mean=(0.25,), std=(0.5,))

    @pytest.mark.parametrize("monotone", [True, False])
    def test_slow_version(self, model, sharp, monotone: bool) -> None:
        maps = gradient(model, sharp)
        scores = found("pic", model, sharp, maps, monotone=monotone)
        fractions = build("pic").fractions
        for measure in ("sic", "aic"):
            slow = [slow_pic(model, sharp, i, maps[i].sum(0), fractions, monotone, measure == "aic") for i in range(6)]
            expected = torch.tensor(slow).double()
            assert (~expected.isnan()).any(), measure
            torch.testing.assert_close(scores.values[measure], expected, equal_nan=True, atol=1e-6, rtol=0)
            assert scores.curves[measure].shape == (6, 101)

    def test_hand_value(self) -> None:
        """Two points out of the order of x, one of them at the x of another: (0 .4 .4 1) by (0 .5 .9 1)."""
        from metrics import pic

        x = pic._with_ends(torch.tensor([[0.4, 0.4, 0.8]], dtype=torch.float64))
        y = pic._with_ends(torch.tensor([[0.5, 0.9, 0.9]], dtype=torch.float64))
        assert float(torch.trapezoid(y, x)) == pytest.approx(0.4 * 0.25 + 0.4 * 0.9 + 0.2 * 0.95)
        line = pic._resampled(x, y)[0]
        assert line[[0, 20, 60, 90, 100]].tolist() == pytest.approx([0, 0.25, 0.9, 0.95, 1])

    def test_good_maps_beat_bad_ones(self, images) -> None:
        """A model that reads a window: the window first, or last."""

        class Window(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                score = 30 * (inputs[:, :, 4:9, 4:9].var((1, 2, 3)) - 0.06)
                return torch.stack([score, 0 * score], 1)

        model, pixels = Window(), images(6)
        batch = freeze(model, pixels, [f"image-{i}" for i in range(6)], labels=torch.zeros(6).long(), explain="label")
        maps = torch.zeros(6, 1, 16, 16).double()
        maps[:, :, 4:9, 4:9] = 1
        for measure in ("sic", "aic"):
            good, bad = (found("pic", model, batch, each).values[measure] for each in (maps, -maps))
            assert (good > bad + 0.05).all(), measure

    def test_confidence(self, model, sharp) -> None:
        maps = gradient(model, sharp)
        all_of_them = found("pic", model, sharp, maps).values["sic"]
        p = sharp.logits.softmax(1).gather(1, sharp.targets[:, None])[:, 0]
        limit = float(p.median())
        sure = found("pic", model, sharp, maps, min_confidence=limit).values["sic"]
        torch.testing.assert_close(sure, all_of_them.masked_fill(p < limit, torch.nan), equal_nan=True)

    def test_effort_moves_the_estimate_of_entropy_a_little(self) -> None:
        """On a photo; noise of a few pixels is all header."""
        from skimage import data

        photo = torch.from_numpy(data.astronaut()[:256, 128:384]).permute(2, 0, 1)[None].double() / 255
        pixels = nn.functional.avg_pool2d(photo, 2)

        class Detail(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                score = 40 * (inputs - nn.functional.avg_pool2d(inputs, 5, 1, 2)).square().mean((1, 2, 3))
                return torch.stack([score, 0 * score], 1)

        model = Detail()
        batch = freeze(model, pixels, ["astronaut"], labels=torch.zeros(1).long(), explain="label")
        maps = torch.linspace(1, 0, 128).double().expand(1, 1, 128, 128)
        fast, thorough = (found("pic", model, batch, maps, effort=e).values["sic"] for e in ("fast", "source"))
        assert not torch.equal(thorough, fast)
        torch.testing.assert_close(thorough, fast, atol=0.06, rtol=0)

    def test_the_start_is_of_the_image_and_passes_are_few(self, model, sharp) -> None:
        metric = build("pic")
        with counted(model) as passes:
            prepared = metric.prepare(model, sharp)
        assert passes.forwards == len(sharp)
        with counted(model) as passes:
            metric.score(model, sharp, sharp.inputs, gradient, prepared)
        assert passes.forwards == 13 * len(sharp)
        part = metric.prepare(model, sharp.select([3, 1]))
        torch.testing.assert_close(part["start_size"], prepared["start_size"][[3, 1]], atol=0, rtol=0)

    def test_blurred_start(self, model, sharp) -> None:
        """With another baseline and no random pixels the start is that image."""
        prepared = build("pic", baseline="blur", start=0).prepare(model, sharp)
        blurred = baselines.image(sharp, "blur")
        with torch.inference_mode():
            expected = model(blurred).softmax(1).gather(1, sharp.targets[:, None])[:, 0]
        torch.testing.assert_close(prepared["start"][:, 0], expected)
        sizes = [encoded(image * 0.5 + 0.25, method=0, quality=75) for image in blurred]
        assert prepared["start_size"].tolist() == sizes

    def test_options_are_checked(self) -> None:
        for options, message in (
            ({"fractions": [0.5, 0.1]}, "ascending"),
            ({"start": 1.0}, "0 <= start < 1"),
            ({"effort": "some"}, "expected fast or source"),
        ):
            with pytest.raises(UserError, match=message):
                build("pic", **options)


class TestAverageDrop:
    def test_slow_version(self, network, batch) -> None:
        maps = gradient(network, batch)
        scores = found("average_drop", network, batch, maps).values
        for i in range(len(batch)):
            values = maps[i].sum(0)
            mask = (values - values.min()) / (values.max() - values.min())
            p = probability(network, batch.inputs[i], batch.targets[i])
            o = probability(network, batch.inputs[i] * mask, batch.targets[i])
            assert float(scores["drop"][i]) == pytest.approx(max(0, p - o) / p, abs=1e-9)
            assert float(scores["increase"][i]) == float(o > p)
            assert float(scores["gain"][i]) == pytest.approx(max(0, o - p) / (1 - p), abs=1e-9)

    def test_torchcam_on_the_same_maps(self, network, images) -> None:
        from torchcam.methods import GradCAM
        from torchcam.metrics import ClassificationMetric

        pixels, labels = images(8), torch.arange(8) % 4
        network.head.weight.mul_(100)  # torchcam adds a small number to the range that it divides by
        batch = freeze(network, pixels, [f"image-{i}" for i in range(8)], labels=labels, explain="label")
        # A layer as large as the image, because torchcam scales a map to [0, 1] before it resizes it.
        with GradCAM(network, "first") as extractor:
            peer = ClassificationMetric(extractor, lambda logits: logits.softmax(-1))
            peer.update(pixels.clone().requires_grad_(), batch.targets.tolist())
            explained = network(pixels.clone().requires_grad_()).softmax(-1)  # as the peer explains it
            cams = extractor(batch.targets.tolist(), explained)[0].detach()[:, None]
        ours, theirs = found("average_drop", network, batch, cams).values, peer.summary()
        assert float(ours["drop"].mean()) == pytest.approx(theirs["avg_drop"], abs=1e-4)
        assert float(ours["increase"].mean()) == pytest.approx(theirs["conf_increase"])
        assert 0 < theirs["avg_drop"] < 1
        assert 0 < theirs["conf_increase"] < 1

    def test_a_constant_map_games_the_drop_and_an_empty_one_is_undefined(self, network, batch) -> None:
        for level in (1.0, -2.0):
            scores = found("average_drop", network, batch, torch.full_like(batch.inputs, level)).values
            assert all(not value.any() for value in scores.values())
            # Frozen in another chunk, f(x) may differ in its last digit, which is no increase.
            other = replace(batch, logits=batch.logits - 1e-12 * nn.functional.one_hot(batch.targets, 4))
            assert (
                not found("average_drop", network, other, torch.full_like(batch.inputs, level)).values["increase"].any()
            )
        empty = found("average_drop", network, batch, torch.zeros_like(batch.inputs)).values
        assert all(value.isnan().all() for value in empty.values())

    def test_scale_shift_and_company(self, network, batch) -> None:
        maps = gradient(network, batch)
        plain = found("average_drop", network, batch, maps).values
        moved = found("average_drop", network, batch, 7 * maps + 3).values
        louder = torch.cat([1000 * maps[:1], maps[1:]])
        company = found("average_drop", network, batch, louder).values
        for name, value in plain.items():
            torch.testing.assert_close(moved[name], value, atol=1e-9, rtol=0)
            torch.testing.assert_close(company[name], value, atol=1e-9, rtol=0)

    def test_one_pass_and_no_imputation(self, network, batch) -> None:
        with counted(network) as passes:
            found("average_drop", network, batch, batch.inputs)
        assert passes.forwards == len(batch)
        with pytest.raises(UserError, match="nothing to fill in"):
            build("average_drop", baseline="nli")
