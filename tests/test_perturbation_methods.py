"""Methods that take parts of the image away: exact games, indices with closed forms, slow versions, refusals."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmark import baselines, passes, randomness, units
from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch
from benchmark.sharing import Shared, Store
from methods import _coalitions, kernel_shap
from methods._coalitions import Coalitions, exact_number, least_squares, number, ranked
from methods.extremal_perturbation import ExtremalPerturbation, _blurred, _perturbed, _upsampled
from methods.feature_ablation import FeatureAblation
from methods.hsic import HSIC, dependence
from methods.kernel_shap import KernelSHAP, enumerated
from methods.lime import LIME
from methods.occlusion import Occlusion
from methods.rise import RISE
from methods.shapley_sampling import ShapleySampling
from methods.sobol import Sobol, scrambled

EXACT = {"atol": 1e-9, "rtol": 1e-9}
CONTRIBUTIONS = [
    FeatureAblation(unit="pixel"),
    LIME(samples=40, unit="pixel", output="logit", ridge=0.0),
    LIME(samples=40, unit="pixel", output="logit", ridge=0.0, distance="l2", width=2.0),
    KernelSHAP(samples=90, unit="pixel"),
    ShapleySampling(permutations=1, unit="pixel"),
    ShapleySampling(permutations=2, unit="pixel", antithetic=True),
]


class Function(nn.Module):
    """A scalar function of the input values as the first of two logits."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        value = self.function(x.flatten(1))
        return torch.stack([value, torch.zeros_like(value)], 1)


class Tiny(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Conv2d(3, 6, 3, padding=1)
            self.head = nn.Linear(6 * 16, 4)
        self.double().eval().requires_grad_(False)

    def forward(self, x):
        return self.head(nn.functional.adaptive_avg_pool2d(self.first(x).relu(), 4).flatten(1))


def batch_of(model, inputs, targets=None, baseline=None, chunk=7, **facts):
    baseline = torch.zeros_like(inputs) if baseline is None else baseline
    logits = passes.logits(model, inputs, 64)
    return Batch(
        inputs=inputs,
        targets=torch.zeros(len(inputs), dtype=torch.long) if targets is None else targets,
        uids=tuple(f"image-{i}" for i in range(len(inputs))),
        baseline=baseline,
        logits=logits,
        baseline_logits=passes.logits(model, baseline, 64),
        chunk=chunk,
        **facts,
    )


def images(count=3, size=(12, 12), channels=3, seed=1):
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def patchy(count=3, side=12, seed=2):
    """Images of patches and a little noise, which superpixels can find."""
    coarse = nn.functional.interpolate(images(count, (3, 3), seed=seed), (side, side))
    return coarse + 0.01 * images(count, (side, side))


def point(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def game(units=6, seed=0, rows=2):
    """A random cooperative game as a model: any value for each subset of the units of a `1 x units` image of ones."""
    values = torch.randn(2**units, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    place = 2 ** torch.arange(units)
    model = Function(lambda x: values[(x.round().long() * place).sum(1)])
    return model, batch_of(model, torch.ones(rows, 1, 1, units, dtype=torch.float64)), values


def shapley(value, players):
    """Shapley values by their definition: `value(set)` over all subsets."""
    found = [0.0] * players
    for u in range(players):
        others = [v for v in range(players) if v != u]
        for k in range(players):
            weight = math.factorial(k) * math.factorial(players - k - 1) / math.factorial(players)
            for some in itertools.combinations(others, k):
                found[u] += weight * (value({*some, u}) - value(set(some)))
    return torch.tensor(found, dtype=torch.float64)


def of_game(values, units):
    return shapley(lambda some: float(values[sum(1 << u for u in some)]), units)


# Additive models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", CONTRIBUTIONS, ids=lambda method: type(method).__name__)
def test_linear_model_gives_every_pixel_its_own_contribution(method):
    weight = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    model = Function(lambda x: x @ weight.flatten() + 0.3)
    batch = batch_of(model, images(size=(5, 6)), baseline=images(size=(5, 6), seed=2))
    contribution = (weight * (batch.inputs - batch.baseline)).sum(1, keepdim=True)
    torch.testing.assert_close(method.attribute(model, batch), contribution, **EXACT)


@pytest.mark.parametrize("unit", ["patch5", "grid3", "slic6"])
@pytest.mark.parametrize("method", CONTRIBUTIONS, ids=lambda method: type(method).__name__)
def test_additive_model_gives_every_unit_its_own_contribution(method, unit):
    model = Function(lambda x: x.view(-1, 3, 12, 12).square().sum((1, 2, 3)))
    batch = batch_of(model, patchy(), baseline=images(seed=4))
    parts = (batch.inputs.square() - batch.baseline.square()).sum(1)
    labels = units.units(batch, unit)
    expected = units.spread(units.pooled(parts, labels), labels)  # the mean over a unit: its sum over its pixels
    found = replace(method, unit=unit).attribute(model, batch)
    torch.testing.assert_close(found[:, 0], expected, **EXACT)


@pytest.mark.parametrize("baseline", ["zero", "mean", "blur", "uniform", "sample"])
@pytest.mark.parametrize("method", CONTRIBUTIONS, ids=lambda method: type(method).__name__)
def test_another_baseline_is_taken_at_its_word(method, baseline):
    model = Function(lambda x: x.view(-1, 3, 12, 12).square().sum((1, 2, 3)))
    batch = batch_of(model, images(), baseline=images(seed=4))
    other = replace(batch, baseline=baselines.image(batch, baseline))
    other = replace(other, baseline_logits=model(other.baseline))
    few = replace(method, unit="grid3", baseline=baseline)
    expected = replace(method, unit="grid3").attribute(model, other)
    torch.testing.assert_close(few.attribute(model, batch), expected, **EXACT)
    assert not getattr(few, "has_baseline", False)


def test_what_is_imputed_is_not_the_mean_colour():
    model = Tiny()
    batch = batch_of(model, images())
    imputed, plain = (FeatureAblation("grid3", fill).attribute(model, batch) for fill in ("nli", "mean"))
    assert imputed.isfinite().all()
    assert (imputed - plain).abs().max() > 1e-6


# Games ---------------------------------------------------------------------------------------------------------------

TABLE = [  # function, point, Shapley values
    (lambda x: x[:, 0] * x[:, 1], (2, 3), (3, 3)),
    (lambda x: x[:, 0] ** 2 * x[:, 1], (2, 3), (6, 6)),
    (lambda x: x[:, 0] ** 2 + x[:, 1], (2, 3), (4, 3)),
    (lambda x: x.amin(1), (2, 3), (1, 1)),
    (lambda x: x.amax(1), (2, 3), (1, 2)),
    (lambda x: x.amax(1), (3, 2, 1), (11 / 6, 5 / 6, 1 / 3)),
    (lambda x: (x[:, 0] - x[:, 1]).abs(), (1, 0), (1, 0)),
    (lambda x: (x[:, 0] - x[:, 1]).abs(), (1, 1), (0, 0)),
    (lambda x: x[:, 0] + x[:, 1] - 2 * x[:, 0] * x[:, 1], (1, 1), (0, 0)),
    (lambda x: x[:, 0] + x[:, 1] - x[:, 0] * x[:, 1], (1, 1), (0.5, 0.5)),
    (lambda x: x.prod(1), (1, 1, 1), (1 / 3, 1 / 3, 1 / 3)),
    (lambda x: x.sum(1).clamp(max=1), (1, 1), (0.5, 0.5)),
]


@pytest.mark.parametrize(("function", "x", "expected"), TABLE)
def test_two_feature_table(function, x, expected):
    model = Function(function)
    batch = batch_of(model, point(*x))
    torch.testing.assert_close(KernelSHAP(unit="pixel").attribute(model, batch), point(*expected), **EXACT)
    if len(x) == 2:  # an order and its reverse are all orders of two
        found = ShapleySampling(2, "pixel", antithetic=True).attribute(model, batch)
        torch.testing.assert_close(found, point(*expected), **EXACT)
    everything = model(point(*x))[0, 0]
    alone = [everything - model(point(*x) * (torch.arange(len(x)) != u))[0, 0] for u in range(len(x))]
    torch.testing.assert_close(FeatureAblation("pixel").attribute(model, batch), point(*alone), **EXACT)


@pytest.mark.parametrize("players", [1, 2, 3, 5, 8, 10])
def test_kernel_shap_with_all_coalitions_is_exact(players):
    model, batch, values = game(players)
    method = KernelSHAP(samples=2**players, unit="pixel")
    with passes.counted(model) as count:
        found = method.attribute(model, batch)[:, 0, 0]
    assert count.forwards == len(batch) * (2**players - 2)
    torch.testing.assert_close(found, of_game(values, players).expand(len(batch), -1), **EXACT)


@pytest.mark.parametrize("method", [KernelSHAP(300, "pixel"), ShapleySampling(60, "pixel")])
def test_sampled_shapley_values_are_unbiased(method):
    players, rows = 12, 40
    model, batch, values = game(players, rows=rows)
    found = method.attribute(model, batch)[:, 0, 0]
    error = found.std(0) / rows**0.5
    z = (found.mean(0) - of_game(values, players)) / error
    assert z.abs().max() < 4
    assert (found.std(0) > 0).all()


@pytest.mark.parametrize("method", [KernelSHAP(40, "grid4"), ShapleySampling(2, "grid4"), KernelSHAP(7, "slic9")])
def test_shapley_values_sum_to_what_is_gained(method):
    model = Tiny()
    batch = batch_of(model, patchy(), targets=torch.tensor([1, 2, 3]), baseline=images(seed=4))
    gap = passes.class_scores(batch.logits - batch.baseline_logits, batch.targets)
    torch.testing.assert_close(method.attribute(model, batch).sum((1, 2, 3)), gap, **EXACT)
    assert method.has_baseline


def test_antithetic_orders_are_exact_for_pairs():
    model = Function(lambda x: x[:, 0] * x[:, 3] - 2 * x[:, 1] * x[:, 4] + x[:, 2] * x[:, 0])
    batch = batch_of(model, point(1, 2, 3, 4, 5))
    found = ShapleySampling(2, "pixel", antithetic=True).attribute(model, batch)
    torch.testing.assert_close(found, point(3.5, -10, 1.5, 2, -10), **EXACT)
    ranks = ShapleySampling(5, "pixel", antithetic=True).ranks(batch, torch.tensor([5]))
    assert ranks.shape == (1, 5, 5)
    assert (ranks[:, 0] + ranks[:, 1] == 4).all()
    assert (ranks.sort(2).values == torch.arange(5)).all()
    assert not torch.equal(ranks[:, 0], ranks[:, 2])


def test_castro_step_by_step():
    model, batch = Tiny(), None
    batch = batch_of(model, patchy(2), targets=torch.tensor([3, 1]), baseline=images(2, seed=4))
    method = ShapleySampling(3, "slic8")
    labels = units.units(batch, "slic8")
    expected = torch.zeros(2, 12, 12, dtype=torch.float64)
    for i in range(2):
        present = int(labels[i].max()) + 1
        for key in batch.keys("shapley_sampling", 3)[i]:
            order = randomness.uniform(key, present).argsort()
            seen = batch.baseline[i].clone()
            before = model(seen[None])[0, batch.targets[i]]
            for u in order:
                inside = labels[i] == u
                seen = torch.where(inside, batch.inputs[i], seen)
                after = model(seen[None])[0, batch.targets[i]]
                expected[i] += inside * (after - before) / inside.sum() / 3
                before = after
    torch.testing.assert_close(method.attribute(model, batch)[:, 0], expected, **EXACT)


@pytest.mark.parametrize("players", range(1, 12))
@pytest.mark.parametrize("samples", [1, 5, 20, 100, 5000])
def test_enumeration_spends_the_samples_from_the_outside_in(players, samples):
    known, weights, left = enumerated(players, samples)
    assert len(known) == len(weights) <= samples
    assert len(known.unique(dim=0)) == len(known)
    sizes = known.sum(1)
    if players > 1:
        assert float(weights.sum() + left.sum()) == pytest.approx(1)
    whole = sum((players - 1) / (k * (players - k)) for k in range(1, players))
    for k in range(1, players):
        kernel = (players - 1) / (k * (players - k)) / whole
        some = weights[sizes == k]
        if len(some):
            assert len(some) == math.comb(players, k)
            assert float(some.sum()) == pytest.approx(kernel)
        else:
            half = min(k, players - k)
            assert float(left[half - 1]) == pytest.approx(kernel * (1 + (2 * k != players)))
            assert not len(weights[sizes == half])
    if samples >= 2**players - 2:
        assert len(known) == 2**players - 2
        assert not left.any()


def test_coalitions_are_drawn_for_some_images_at_a_time(monkeypatch):
    model, sizes = Tiny(), []
    batch, method = batch_of(model, images(5)), KernelSHAP(12, "grid3")
    expected = method.attribute(model, batch)
    monkeypatch.setattr(_coalitions, "_BLOCK", 120)
    monkeypatch.setattr(kernel_shap, "ranked", lambda numbers: sizes.append(numbers.numel()) or ranked(numbers))
    torch.testing.assert_close(method.attribute(model, batch), expected, **EXACT)
    assert len(sizes) == 5
    assert max(sizes) <= 120


def test_drawn_coalitions_follow_the_kernel():
    method, players, rows = KernelSHAP(101, "pixel"), 16, 300
    _, batch, _ = game(4, rows=rows)
    coalitions, weights, wanted = method.design(batch, torch.full((rows,), players))
    assert wanted.all()
    known, _, left = enumerated(players, 101)
    assert len(known) == 2 * players
    assert (coalitions[:, :32] == known).all()
    rest = coalitions[:, 32:]
    assert rest.shape[1] == 69
    assert torch.equal(rest[:, 0:68:2], ~rest[:, 1:69:2])
    torch.testing.assert_close(weights.sum(1), torch.ones(rows).double())
    size = rest.sum(2)
    assert size.min() == 2
    assert size.max() == 14
    for k in range(2, 15):
        share = float(left[min(k, 16 - k) - 1] / left.sum()) / (1 if k == 8 else 2)
        # The last of the odd number is not paired, and sizes are evenly spaced, so this is closer than a binomial.
        assert float((size == k).double().mean()) == pytest.approx(share, abs=4 * (share / size.numel()) ** 0.5 + 0.002)
    held = rest.double().mean((0, 1))
    assert (held - 0.5).abs().max() < 4 * (0.25 / size.numel()) ** 0.5


# Axioms on a network -------------------------------------------------------------------------------------------------

ALL = [
    FeatureAblation("grid4"),
    LIME(60, "grid4"),
    KernelSHAP(60, "grid4"),
    ShapleySampling(3, "grid4"),
    Sobol(4, "grid4"),
    HSIC(30, "grid4"),
]


@pytest.mark.parametrize("method", ALL, ids=lambda method: type(method).__name__)
def test_unread_units(method):
    class Window(Tiny):
        def forward(self, x):
            return super().forward(x[:, :, 3:9, 3:9])

    model = Window()
    batch = batch_of(model, images(), targets=torch.tensor([1, 2, 3]), baseline=images(seed=4))
    found = method.attribute(model, batch)[:, 0]
    inside = torch.zeros(12, 12, dtype=torch.bool)
    inside[3:9, 3:9] = True
    assert (found[:, inside].abs() > 0).all()
    if isinstance(method, FeatureAblation | ShapleySampling | Sobol):  # the others have sampling errors, see below
        assert found[:, ~inside].abs().max() < 1e-12


def test_kernel_shap_of_unread_and_equal_units_where_all_coalitions_fit():
    model = Function(lambda x: (x[:, 0] * x[:, 1]).tanh() + x[:, 3].square() + x[:, 0] * x[:, 3] + x[:, 1] * x[:, 3])
    found = KernelSHAP(unit="pixel").attribute(model, batch_of(model, point(0.7, 0.7, 9, 0.4))).flatten()
    assert abs(float(found[2])) < 1e-12
    assert float(found[0] - found[1]) == pytest.approx(0, abs=1e-12)
    assert abs(float(found[0])) > 0.1


@pytest.mark.parametrize("method", ALL, ids=lambda method: type(method).__name__)
def test_constant_model_has_an_empty_map(method):
    model = Function(lambda x: torch.full_like(x[:, 0], 0.7))
    batch = batch_of(model, images(), baseline=images(seed=4))
    assert method.attribute(model, batch).abs().max() < 1e-12


# LIME ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_lime_step_by_step(distance, ridge):
    model = Tiny()
    batch = batch_of(model, patchy(2), targets=torch.tensor([3, 1]), baseline=images(2, seed=4))
    method = LIME(30, "slic8", ridge=ridge, distance=distance, width=0.5)
    labels = units.units(batch, "slic8")
    found = method.attribute(model, batch)
    for i in range(2):
        d = int(labels[i].max()) + 1
        rows, weights, values = [], [], []
        drawn = [randomness.uniform(key, d) < 0.5 for key in batch.keys("lime", 30)[i]]
        for z in [torch.ones(d, dtype=torch.bool), *drawn]:
            seen = torch.where(z[labels[i]], batch.inputs[i], batch.baseline[i])
            if distance == "cosine":
                gap = 1 - float(z.double() @ torch.ones(d).double()) / (max(float(z.sum()) ** 0.5, 1e-12) * d**0.5)
            else:
                gap = float((1 - z.double()).norm())
            rows.append([1.0, *z.double().tolist()])
            weights.append(math.exp(-(gap**2) / (2 * 0.5**2)))
            values.append(float(model(seen[None]).softmax(1)[0, batch.targets[i]]))
        x, w, y = (torch.tensor(part, dtype=torch.float64) for part in (rows, weights, values))
        penalty = ridge * torch.eye(d + 1).double()
        penalty[0, 0] = 0
        expected = torch.linalg.solve(x.T @ (w[:, None] * x) + penalty, x.T @ (w * y))[1:]
        pixels = torch.bincount(labels[i].flatten(), minlength=d)
        torch.testing.assert_close(found[i, 0], (expected / pixels)[labels[i]], atol=1e-9, rtol=1e-7)


def test_lime_with_too_few_samples_is_finite():
    model = Tiny()
    for ridge in (0.0, 1.0):
        assert LIME(2, "grid4", ridge=ridge).attribute(model, batch_of(model, images())).isfinite().all()


def test_least_squares_is_the_shortest_and_knows_weights():
    generator = torch.Generator().manual_seed(5)
    design = torch.randn(2, 6, 9, generator=generator, dtype=torch.float64)
    design[1, :, 4] = 0
    weights, values = torch.rand(2, 6, generator=generator).double(), torch.randn(2, 6, generator=generator).double()
    found = least_squares(design, weights, values)
    for i in range(2):
        root = weights[i].sqrt()
        expected = torch.linalg.pinv(root[:, None] * design[i]) @ (root * values[i])
        torch.testing.assert_close(found[i], expected, **EXACT)
    assert abs(float(found[1, 4])) < 1e-15
    tall = torch.randn(2, 40, 9, generator=generator, dtype=torch.float64)
    tall[:, 7] += 1e3
    weights, values = torch.rand(2, 40, generator=generator).double(), torch.randn(2, 40, generator=generator).double()
    found = least_squares(tall, weights, values, ridge=0.3)
    normal = (tall.mT * weights.unsqueeze(1)) @ tall + 0.3 * torch.eye(9).double()
    expected = torch.linalg.solve(normal, (tall.mT @ (weights * values).unsqueeze(2)))
    torch.testing.assert_close(found, expected.squeeze(2), **EXACT)


def test_least_squares_keeps_the_digits_that_normal_equations_lose():
    generator = torch.Generator().manual_seed(6)
    left, _, right = torch.linalg.svd(torch.randn(40, 9, generator=generator).double(), full_matrices=False)
    design = left @ torch.diag(10 ** torch.linspace(0, -4, 9).double()) @ right
    truth = torch.randn(9, generator=generator).double()
    found = least_squares(design[None], torch.ones(1, 40).double(), (design @ truth)[None])
    torch.testing.assert_close(found[0], truth, **EXACT)


# Sobol and HSIC ------------------------------------------------------------------------------------------------------


def test_sobol_indices_of_a_linear_function():
    weight = torch.tensor([3.0, -2.0, 1.0, 0.0, 0.5], dtype=torch.float64)
    model = Function(lambda x: x @ weight + 4)
    batch = batch_of(model, torch.ones(30, 1, 1, 5, dtype=torch.float64))
    found = Sobol(64, "pixel").attribute(model, batch)[:, 0, 0]
    expected = weight.square() / weight.square().sum()
    assert (found[:, 3] == 0).all()
    mean, error = found.mean(0), found.std(0) / 30**0.5
    assert ((mean - expected).abs() < 4 * error + 0.01).all()
    assert (error[weight != 0] < 0.03).all()


def test_sobol_indices_of_ishigami():
    # f = sin x1 + 7 sin^2 x2 + 0.1 x3^4 sin x1 with uniform x in (-pi, pi): total indices in closed form.
    def ishigami(x):
        x1, x2, x3 = ((2 * x - 1) * math.pi).unbind(1)
        return x1.sin() + 7 * x2.sin().square() + 0.1 * x3**4 * x1.sin()

    v1 = 0.5 * (1 + 0.1 * math.pi**4 / 5) ** 2
    v13 = 8 * 0.1**2 * math.pi**8 / 225
    v2 = 7**2 / 8
    total = v1 + v2 + v13
    model = Function(ishigami)
    batch = batch_of(model, torch.ones(8, 1, 1, 3, dtype=torch.float64), chunk=5000)
    found = Sobol(512, "pixel").attribute(model, batch)[:, 0, 0].mean(0)
    expected = torch.tensor([(v1 + v13) / total, v2 / total, v13 / total], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_sobol_follows_jansen():
    model = Tiny()
    batch = batch_of(model, patchy(2), targets=torch.tensor([3, 1]), baseline=images(2, seed=4))
    labels = units.units(batch, "slic8")
    points = scrambled(batch.keys("sobol")[:, 0], int(labels.max()) + 1, 6)
    found = Sobol(6, "slic8").attribute(model, batch)
    for i in range(2):

        def score(mask, i=i):
            mask = mask[labels[i]]
            return model((mask * batch.inputs[i] + (1 - mask) * batch.baseline[i])[None])[0, batch.targets[i]]

        a, b = points[i]
        first = torch.stack([score(row) for row in a])
        for u in labels[i].unique():
            gap = 0.0
            for j in range(6):
                mixed = a[j].clone()
                mixed[u] = b[j, u]
                gap += (first[j] - score(mixed)) ** 2
            expected = gap / (2 * 6 * first.var(unbiased=True))
            assert found[i, 0][labels[i] == u].max().item() == pytest.approx(expected.item(), rel=1e-9)
            assert found[i, 0][labels[i] == u].min().item() == pytest.approx(expected.item(), rel=1e-9)


def test_sobol_refuses_more_units_than_a_sequence_has_dimensions():
    model = Function(lambda x: x.sum(1))
    with pytest.raises(UserError, match="up to 10600 units, and pixel makes 10609 of an image"):
        Sobol(2, "pixel").attribute(model, batch_of(model, torch.ones(1, 1, 103, 103, dtype=torch.float64)))


def test_scrambled_points_are_even_and_independent():
    keys = randomness.keys(0, "test", [str(i) for i in range(200)])[:, 0]
    points = scrambled(keys, 9, 32)
    assert points.shape == (200, 2, 32, 9)
    cells = (points * 32).long().sort(2).values
    assert (cells == torch.arange(32).view(1, 1, -1, 1)).all()  # one point in each 32nd, of every coordinate
    torch.testing.assert_close(scrambled(keys[3:5], 4, 32), points[3:5, ..., :4])
    # Between the designs: E (a - b)^2 = 1/6 at every unit, which the unscrambled sequence misses.
    gap = (points[:, 0] - points[:, 1]).square().mean(1)
    assert ((gap.mean(0) - 1 / 6).abs() < 4 * gap.std(0) / 200**0.5).all()
    assert points.mean() == pytest.approx(0.5, abs=0.002)
    odd = scrambled(keys[:20], 3, 21)
    assert odd.min() >= 0
    assert odd.max() < 1
    assert len(odd[0, 0, :, 0].unique()) == 21


def test_hsic_follows_its_definition():
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(2, 12, generator=generator, dtype=torch.float64)
    masks = torch.rand(2, 12, 5, generator=generator) < 0.5
    masks[0, :, 2] = True
    found = dependence(masks, scores)
    centre = torch.eye(12).double() - 1 / 12
    for i in range(2):
        pairs = [abs(float(a - b)) for a, b in itertools.combinations(scores[i], 2)]
        width = sorted(pairs)[(len(pairs) - 1) // 2]
        kernel = torch.exp(-((scores[i, :, None] - scores[i]) ** 2) / (2 * width**2))
        for u in range(5):
            m = masks[i, :, u].double()
            dirac = 0.5 - (m[:, None] - m) ** 2
            expected = torch.trace(dirac @ centre @ kernel @ centre) / 11**2
            assert float(found[i, u]) == pytest.approx(float(expected), abs=1e-12)
    assert abs(float(found[0, 2])) < 1e-12


def test_hsic_of_an_unread_unit_is_the_bias_of_the_estimate():
    model = Function(lambda x: (2 * x[:, 0] + x[:, 1] * x[:, 2]).tanh())
    batch = batch_of(model, torch.ones(300, 1, 1, 5, dtype=torch.float64), chunk=5000)
    method, n = HSIC(16, "pixel"), 16
    found = method.attribute(model, batch)[:, 0, 0]
    masks = method.masks(batch.keys("hsic")[:, 0], 5)
    assert (masks.sum(1) == n // 2).all()
    scores = model(masks.double().reshape(-1, 1, 1, 5))[:, 0].reshape(300, n)
    gap = (scores[:, :, None] - scores[:, None]).abs()
    i, j = torch.triu_indices(n, n, 1)
    width = gap[:, i, j].median(1).values.view(-1, 1, 1)
    kernel = torch.where(gap > 0, torch.exp(-((gap / width) ** 2) / 2), 1)
    centre = torch.eye(n).double() - 1 / n
    # A balanced column that knows nothing of the scores: E[s s^T] = H n / (n - 1).
    bias = torch.einsum("nii->n", centre @ kernel @ centre) * n / (n - 1) / (2 * (n - 1) ** 2)
    for u in (3, 4):
        assert abs(float((found[:, u] - bias).mean())) < 4 * float((found[:, u] - bias).std()) / 300**0.5
    assert float((found[:, 0] - bias).mean()) > 20 * float((found[:, 0] - bias).std()) / 300**0.5


def test_hsic_does_not_mind_shift_and_scale():
    model, other = Tiny(), Tiny()
    other.head.weight.data *= 3
    other.head.bias.data = 3 * other.head.bias + 5
    first, second = (HSIC(20, "grid4").attribute(net, batch_of(net, images())) for net in (model, other))
    torch.testing.assert_close(first, second, **EXACT)


# Extremal perturbations ----------------------------------------------------------------------------------------------


def test_the_mask_finds_the_patch_that_the_model_reads():
    weight = torch.zeros(3, 24, 24, dtype=torch.float64)
    weight[:, 6:12, 12:18] = 40 / (3 * 36)
    model = Function(lambda x: x @ weight.flatten())
    batch = batch_of(model, torch.ones(1, 3, 24, 24, dtype=torch.float64))
    method = ExtremalPerturbation((36 / 576,), 400, "baseline", cell=1 / 24, sigma=2 / 24)
    mask = method.attribute(model, batch)[0, 0]
    patch = weight[0] > 0
    assert mask.min() >= 0
    assert mask.max() <= 1
    assert mask[patch].mean() > 0.8
    assert mask[~patch].mean() < 0.03
    assert float(model(mask * batch.inputs)[0, 0]) > 0.8 * float(batch.logits[0, 0])


def test_masks_have_the_area_that_they_should():
    model = Tiny()
    batch = batch_of(model, images(2, (28, 28)), targets=torch.tensor([1, 3]))
    for area in (0.1, 0.4):
        mask = ExtremalPerturbation((area,), 300, "blur", cell=1 / 28).attribute(model, batch)
        assert (mask.mean((1, 2, 3)) - area).abs().max() < 0.03
        assert ((mask < 0.1) | (mask > 0.9)).double().mean() > 0.6
    several = ExtremalPerturbation((0.1, 0.4), 30, cell=1 / 14)
    alone = [replace(several, areas=(area,)).attribute(model, batch) for area in (0.1, 0.4)]
    torch.testing.assert_close(several.attribute(model, batch), (alone[0] + alone[1]) / 2, **EXACT)


def test_ascent_step_by_step():
    model = Tiny()
    batch = batch_of(model, images(2, (14, 10)), targets=torch.tensor([1, 3]), baseline=images(2, (14, 10), seed=4))
    method = ExtremalPerturbation((0.2,), 5, "baseline", cell=0.2, sigma=0.3)
    found = method.attribute(model, batch)
    h, w, step = 7, 5, 2
    kernel = torch.zeros(h, w, h, w, dtype=torch.float64)
    reach = 1 + math.ceil(0.3 * 10 / step)
    for a, b, c, d in itertools.product(range(h), range(w), range(h), range(w)):
        if max(abs(a - c), abs(b - d)) <= reach:
            r = math.hypot(a - c, b - d) * step / (0.3 * 10)
            kernel[a, b, c, d] = math.exp(-2 * max(r - 0.5, 0) ** 2)
    beyond = (2 * reach + 1) ** 2 - (kernel > 0).sum((2, 3))  # cells of the window that are not in the image

    def smooth(p):
        near = kernel * p
        heat = torch.exp(20 * near) * (kernel > 0)
        return (near * heat).sum((2, 3)) / (heat.sum((2, 3)) + beyond)

    for i in range(2):
        p = 1 - 0.01 * randomness.uniform(batch.keys("extremal_perturbation")[i, 0], h, w).double()
        velocity = None
        for turn in range(5):
            p.requires_grad_()
            m = smooth(p)
            large = nn.functional.interpolate(m[None, None], scale_factor=step, mode="bilinear")[0, :, :14, :10]
            score = model((large * batch.inputs[i] + (1 - large) * batch.baseline[i])[None])[0, batch.targets[i]]
            flat = m.flatten()
            wish = torch.zeros(35, dtype=torch.float64)
            wish[flat.detach().argsort()[28:]] = 1
            loss = 300 * 1.0035 ** (800 * turn / 5) * (flat - wish).square().mean() - score
            gradient = torch.autograd.grad(loss, p)[0]
            velocity = gradient if velocity is None else 0.9 * velocity + 0.1 * gradient
            p = (p.detach() - 0.01 * velocity).clamp(0, 1)
        expected = nn.functional.interpolate(smooth(p)[None, None], scale_factor=step, mode="bilinear")[0, 0, :14, :10]
        torch.testing.assert_close(found[i, 0], expected, **EXACT)


def test_levels_between_the_image_and_its_blur():
    row = torch.arange(4.0).view(1, 4, 1, 1, 1).expand(1, 4, 2, 1, 5)
    mask = torch.tensor([0.0, 0.2, 0.5, 2 / 3, 1.0]).view(1, 1, 1, 5)
    torch.testing.assert_close(_perturbed(row, mask), (3 * mask).expand(1, 2, 1, 5))
    image = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    image[0, 0, 15, 15] = 1
    spread = _blurred(image, 2.0)[0, 0]
    assert float(spread.sum()) == pytest.approx(1, abs=1e-3)
    place = torch.arange(31.0).double() - 15
    assert float((spread.sum(0) * place.square()).sum()) == pytest.approx(4, rel=0.01)
    torch.testing.assert_close(_blurred(torch.full_like(image, 0.3), 2.0), torch.full_like(image, 0.3))
    assert _upsampled(torch.rand(2, 1, 4, 3), (15, 12)).shape == (2, 1, 15, 12)


def test_the_blurred_row_ends_at_the_image():
    batch = batch_of(Tiny(), images())
    row = ExtremalPerturbation().row(batch, torch.tensor([2, 0]))
    assert row.shape == (2, 8, 3, 12, 12)
    torch.testing.assert_close(row[:, -1], batch.inputs[[2, 0]])
    rough = row.var((2, 3, 4))
    assert (rough.diff(dim=1) > 0).all()


def test_extremal_perturbation_needs_a_gradient():
    model = Function(lambda x: x.detach().sum(1))
    with pytest.raises(NotApplicable, match="no gradient"):
        ExtremalPerturbation(steps=1).attribute(model, batch_of(model, images()))


# Units, budgets, company ---------------------------------------------------------------------------------------------

BUDGETED = [
    RISE(),
    LIME(unit="grid4"),
    KernelSHAP(unit="grid4"),
    ShapleySampling(unit="grid4"),
    Sobol(unit="grid4"),
    HSIC(unit="grid4"),
    ExtremalPerturbation(areas=(0.1, 0.2), cell=0.1),
]


@pytest.mark.parametrize("method", [*BUDGETED, FeatureAblation("grid4")], ids=lambda method: type(method).__name__)
def test_budgets_are_kept_and_counted(method):
    model = Tiny()
    batch = batch_of(model, images(2), baseline=images(2, seed=4))
    for budget in (1, 70):
        few = method.within(budget)
        with passes.counted(model) as count:
            few.attribute(model, batch)
        assert count.forwards + count.backwards == 2 * few.passes
        if budget == 70:
            assert 0.5 * budget < few.passes <= budget or method == few == FeatureAblation("grid4")


@pytest.mark.parametrize("kind", [LIME, KernelSHAP, ShapleySampling, Sobol, HSIC, FeatureAblation])
def test_superpixels_are_alone_what_they_are_in_company(kind, monkeypatch):
    row = torch.arange(12)
    sides = {"image-0": 3, "image-1": 2, "image-2": 4, "image-3": 1}
    cells = {uid: (row * side // 12)[:, None] * side + row * side // 12 for uid, side in sides.items()}
    monkeypatch.setattr(_coalitions.units, "units", lambda batch, unit: torch.stack([cells[uid] for uid in batch.uids]))
    model = Tiny()
    batch = batch_of(model, images(4), targets=torch.tensor([0, 1, 2, 3]), baseline=images(4, seed=4), chunk=5)
    method = kind(unit="slic9").within(40)
    whole = method.attribute(model, batch)
    assert whole.isfinite().all()
    for index in ([0], [1], [2], [3], [2, 0], [3, 1]):
        part = replace(batch, chunk=3).select(index)
        torch.testing.assert_close(method.attribute(model, part), whole[index], **EXACT)


def parted(model):
    """Scenes of 2 to 4 parts, and the number of the part of each pixel."""
    places = torch.arange(144).view(12, 12)
    parts = torch.stack([places * count // 144 for count in (3, 2, 4, 3)]).to(torch.uint8)
    return replace(batch_of(model, images(4), baseline=images(4, seed=4)), parts=parts)


@pytest.mark.parametrize("method", [FeatureAblation("part"), KernelSHAP(14, "part"), ShapleySampling(2, "part")])
def test_additive_model_gives_every_part_its_own_contribution(method):
    model = Function(lambda x: x.square().sum(1))
    batch = parted(model)
    contributions = (batch.inputs.square() - batch.baseline.square()).sum(1)
    expected = units.spread(units.pooled(contributions, batch.parts), batch.parts)
    torch.testing.assert_close(method.attribute(model, batch)[:, 0], expected, **EXACT)


def test_parts_are_whole_numbers_on_the_cpu_first():
    model = Tiny()
    game = Coalitions.of(model, parted(model), "part", "shared")
    assert game.labels.dtype == torch.int64
    assert game.counts.tolist() == [3, 2, 4, 3]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [LIME, KernelSHAP, ShapleySampling, Sobol, HSIC, FeatureAblation])
@pytest.mark.parametrize("unit", ["part", "slic5", "grid3"])
def test_units_on_a_gpu(kind, unit):
    model = Tiny()
    batch = parted(model)
    expected = kind(unit=unit).attribute(model, batch)
    found = kind(unit=unit).attribute(model.cuda(), batch.to("cuda"))
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, atol=1e-5, rtol=1e-5)


def test_superpixels_are_made_once(monkeypatch):
    calls = []
    make = units.units
    monkeypatch.setattr(_coalitions.units, "units", lambda batch, unit: calls.append(unit) or make(batch, unit))
    model = Tiny()
    batch = batch_of(model, patchy())
    batch = replace(batch, shared=Shared(Store(), "it", model, (batch.inputs, batch.targets, batch.baseline)))
    maps = [LIME(10, "slic9").attribute(model, batch) for _ in range(2)]
    torch.testing.assert_close(*maps, atol=0, rtol=0)
    KernelSHAP(10, "slic9").attribute(model, batch)
    assert calls == ["slic9"]
    KernelSHAP(10, "slic5").attribute(model, batch)
    LIME(10, "slic9").attribute(model, replace(batch, mean=(0.1,)))
    assert calls == ["slic9", "slic5", "slic9"]


def test_units_that_can_be_counted_beforehand():
    assert number("grid7") == exact_number("grid7") == 49
    assert number("slic50") == 50
    assert exact_number("slic50") is exact_number("pixel") is number("patch16") is None
    assert FeatureAblation("patch4").passes is KernelSHAP(unit="slic9").passes is None


def test_a_budget_of_unknown_units_changes_nothing():
    assert ShapleySampling(unit="patch4").within(3) == ShapleySampling(unit="patch4")
    assert Sobol(unit="pixel").within(3) == Sobol(unit="pixel")
    assert ShapleySampling(unit="slic50").within(490).permutations == 10


def test_ties_rank_by_place():
    assert ranked(torch.tensor([[2.0, 1.0, 2.0, 1.0]])).tolist() == [[2, 0, 3, 1]]


def test_scores_of_unwanted_draws_are_those_of_the_image():
    model = Tiny()
    batch = batch_of(model, images())
    game = Coalitions.of(model, batch, "grid2", "shared")
    wanted = torch.tensor([[True, False], [False, False], [False, True]])
    with passes.counted(model) as count:
        scores = game.scores(model, lambda image, draw: torch.zeros(len(image), 4, dtype=torch.bool), wanted)
    assert count.forwards == 2
    full, empty = batch.logits[:, :1].expand(3, 2), batch.baseline_logits[:, :1].expand(3, 2)
    torch.testing.assert_close(scores, torch.where(wanted, empty, full), **EXACT)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureAblation(unit="cell"), "unit 'cell' does not exist"),
        (lambda: FeatureAblation(baseline="pink"), "baseline pink does not exist"),
        (lambda: LIME(unit="slic"), "unit 'slic' does not exist"),
        (lambda: LIME(samples=0), "LIME needs samples >= 1"),
        (lambda: LIME(ridge=-1), "ridge >= 0"),
        (lambda: LIME(width=0), "width > 0"),
        (lambda: LIME(output="loss"), "unknown output"),
        (lambda: LIME(distance="l1"), "expected cosine or l2"),
        (lambda: KernelSHAP(samples=0), "KernelSHAP needs samples >= 1"),
        (lambda: KernelSHAP(baseline="pink"), "baseline pink does not exist"),
        (lambda: ShapleySampling(permutations=0), "needs permutations >= 1"),
        (lambda: ShapleySampling(unit="grid0"), "does not exist"),
        (lambda: Sobol(designs=1), "designs >= 2"),
        (lambda: Sobol(baseline="nli"), "of any strength"),
        (lambda: HSIC(samples=1), "samples >= 2"),
        (lambda: HSIC(unit="x"), "does not exist"),
        (lambda: ExtremalPerturbation(areas=()), "areas between 0 and 1"),
        (lambda: ExtremalPerturbation(areas=(0.1, 1.0)), "areas between 0 and 1"),
        (lambda: ExtremalPerturbation(perturbation="fade"), "expected blur or baseline"),
        (lambda: ExtremalPerturbation(steps=0), "steps >= 1"),
        (lambda: ExtremalPerturbation(sigma=0), "in \\(0, 1\\)"),
        (lambda: Occlusion(stride=0.5), "0 < stride <= window"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
