"""Options have the types that their classes state, and the names of conf mean their classes."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from benchmark import plugins
from benchmark.certificate.checks import build
from benchmark.errors import UserError


@pytest.mark.parametrize(
    ("metric", "options", "sentence"),
    [
        ("saco", {"groups": 2.5}, "SaCo.groups=2.5 is no whole number"),
        ("sensitivity", {"relative": "no"}, 'Sensitivity.relative="no" is no truth value, true or false'),
        ("pixel_flipping", {"regions": 2.5}, "regions=2.5 is no whole number or null"),
        ("deletion", {"steps": True}, "steps=true is no whole number or list of numbers"),
        ("deletion", {"steps": 2.5}, "steps=2.5 is no whole number or list of numbers"),
        ("deletion", {"steps": [0, "a", 1]}, 'steps=[0, "a", 1] is no whole number or list of numbers'),
        ("road", {"fractions": 0.5}, "fractions=0.5 is no list of numbers"),
        ("sensitivity", {"radius": "a"}, 'radius="a" is no number'),
        ("srg", {"output": 3}, "output=3 is no one of prob, logit, logodds"),
        ("deletion", {"steps": [0.2, 0.4]}, "no ascending fractions of the units, from 0 to 1"),
        ("deletion", {"steps": [0, 0, 1]}, "no ascending fractions of the units, from 0 to 1"),
        ("insertion", {"steps": 1}, "a curve of steps=1 knows no order"),
    ],
)
def test_an_option_of_another_type_is_refused(metric: str, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        build(metric, **options)
    assert sentence in str(refused.value)


def test_a_missing_option_without_a_word_of_its_class() -> None:
    config = OmegaConf.create({"methods": {"_target_": "methods.rise.RISE", "masks": "???", "seed": "???"}})
    with pytest.raises(UserError, match=r"methods\.seed is missing: it has no default$"):
        plugins.build(config.methods)


def test_whole_numbers_are_numbers() -> None:
    assert build("sensitivity", radius=1).radius == 1
    assert build("deletion", steps=[0, 0.5, 1]).steps == (0, 0.5, 1)


def test_a_name_of_conf_means_its_class() -> None:
    plugins.check_name("metrics", "deletion", OmegaConf.create({"_target_": "metrics.deletion.Deletion"}))
    plugins.check_name("metrics", "mine", OmegaConf.create({"_target_": "my_module.Mine"}))
    with pytest.raises(UserError, match=r"metrics=deletion is metrics\.deletion\.Deletion: choose metrics=\[custom\]"):
        plugins.check_name("metrics", "deletion", OmegaConf.create({"_target_": "metrics.insertion.Insertion"}))
    with pytest.raises(UserError, match=r"choose methods=custom methods\._target_"):
        plugins.check_name("methods", "rise", OmegaConf.create({"_target_": "my_module.Mine"}))


def test_a_single_unit_has_nothing_to_rank(network, batch) -> None:
    from benchmark.units import units

    with pytest.raises(UserError, match="unit patch999 leaves one unit of an image of 16x16 pixels"):
        units(batch, "patch999")
