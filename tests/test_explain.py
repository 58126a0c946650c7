"""`python -m benchmark.explain`: what is drawn and said for any image, what is refused, and what is returned."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import image as pictures
from PIL import Image
from safetensors.torch import load_file

from benchmark import canvas, colours, explanation_gallery, explanation_page, photographs
from benchmark.errors import UserError
from benchmark.explain import explain, help_page, main, parse
from benchmark.explanation_setup import class_index, prepare
from benchmark.explanations import Explanation, joined
from benchmark.models import Model

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("models=small_cnn", "threads=1", "device=cpu")
GREY = ("models=small_cnn", "datasets=digits", "threads=1", "device=cpu")

BROKEN = """
import torch
from benchmark.protocols import Method

class Raises(Method):
    def attribute(self, model, batch):
        raise ValueError("nothing works today")

class Partly(Method):
    def attribute(self, model, batch):
        maps = batch.inputs.clone()
        maps[0, :, :2] = float("nan")
        return maps

class Square(Method):
    def __init__(self, power=2, shift=0.0):
        self.power, self.shift = power, shift

    def attribute(self, model, batch):
        return (batch.inputs + self.shift) ** self.power

class Flat(Method):
    def attribute(self, model, batch):
        return torch.zeros(3)
"""


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A colour photograph that is no square: 90 x 60, red on the left, noise on the right."""
    values = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    values[:, :45] = (200, 30, 30)
    path = tmp_path / "photo.png"
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of the user's with methods that do not work."""
    (tmp_path / "my_broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_broken"
    sys.modules.pop("my_broken", None)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def example(count: int = 2, channels: int = 3, side: int = 8, classes: int = 6, **changes: object) -> Explanation:
    """An explanation made by hand."""
    generator = torch.Generator().manual_seed(0)
    values = {
        "model": "model",
        "names": tuple(f"image-{place}.png" for place in range(count)),
        "pixels": torch.rand(count, channels, side, side, generator=generator),
        "probabilities": torch.rand(count, classes, generator=generator).softmax(1),
        "targets": torch.arange(count) % classes,
        "classes": tuple(f"name {place}, other" for place in range(classes)),
        "maps": {"saliency": torch.randn(count, channels, side, side, generator=generator)},
        "reasons": {},
        "failures": frozenset(),
        "nulls": frozenset(),
        "layers": {},
    }
    return Explanation(**(values | changes))


# --- colours ---


def test_scale_of_a_signed_map_is_symmetric_and_its_middle_is_white() -> None:
    values = np.array([[-1.0, 0.0], [0.5, 4.0]])
    scale = colours.scale_of(values)
    assert (scale.low, scale.signed) == (-scale.high, True)
    np.testing.assert_allclose(scale.high, np.percentile(np.abs(values), 99))
    np.testing.assert_allclose(scale.place([scale.low, 0, scale.high]), [0, 0.5, 1])
    low, zero, high = scale.colour([scale.low, 0.0, scale.high])
    assert zero.min() > 0.95
    assert low[2] > low[0] + 0.2
    assert high[0] > high[2] + 0.2
    np.testing.assert_allclose(scale.strength([scale.low, 0, scale.high / 2]), [1, 0, 0.5])


def test_scale_of_a_map_without_negative_values_begins_at_its_lowest() -> None:
    values = np.linspace(5.0, 7.0, 100).reshape(10, 10)
    scale = colours.scale_of(values)
    assert (scale.low, scale.signed) == (5.0, False)
    assert scale.high == np.percentile(values, 99)
    assert scale.colour(5.0).min() > 0.95
    assert scale.strength([5.0, scale.high, 100.0]).tolist() == [0, 1, 1]


def test_one_pixel_of_a_hundred_is_on_the_scale() -> None:
    values = np.ones((20, 20))
    values[0, 0] = 3.0
    assert colours.scale_of(values).high == 3.0
    assert colours.scale_of(values - 1).high == 2.0


@pytest.mark.parametrize(("size", "word"), [(1e-8, "constant"), (1e-4, "")])
def test_errors_of_rounding_are_no_map(size: float, word: str) -> None:
    assert colours.flaw(1 + size * np.random.default_rng(0).random((8, 8))) == word


def test_overlay_shows_the_image_where_the_map_is_weak_and_the_colour_where_it_is_strong() -> None:
    values = np.zeros((4, 4))
    values[0], values[1] = 1.0, -1.0
    image = np.zeros((4, 4, 3))
    image[:, 2:] = 1.0
    seen = colours.overlay(values, image)
    np.testing.assert_allclose(seen[3, 0], 0.3)
    np.testing.assert_allclose(seen[3, 3], 1.0)
    strong = colours.scale_of(values).colour(values)
    np.testing.assert_allclose(seen[:2], 0.9 * strong[:2] + 0.1 * (0.3 + 0.7 * image[:2]), atol=1e-12)


# --- words ---


def test_numbers() -> None:
    given = (0.0, 0.0123, -2.5, 99.4, 104.0, -1234.0, 2.5e-4, 1e-7, 3.14e6)
    said = ["0", "0.012", "−2.5", "99", "104", "−1234", "2.5e−4", "1e−7", "3.1e6"]
    assert [explanation_page.number(value) for value in given] == said


def test_probabilities_are_never_rounded_to_certainty() -> None:
    given = (0.0, 1e-9, 0.001, 0.5, 0.999, 0.99999, 1.0)
    said = ["0.0 %", "< 0.1 %", "0.1 %", "50.0 %", "99.9 %", "> 99.9 %", "100.0 %"]
    assert [explanation_page.percent(value) for value in given] == said


def test_words_fit() -> None:
    name = "a_very_long_name_of_a_file_that_nobody_wants_to_read.jpeg"
    short = canvas.fitted(name, 20, 300)
    assert canvas.width_of(short, 20) <= 300 < canvas.width_of(name, 20)
    assert short.startswith("a_very")
    assert short.endswith(".jpeg")
    assert "…" in short
    assert canvas.fitted("short", 20, 300) == "short"
    lines = canvas.wrapped("the network has no attention among tokens and never had any " * 3, 15, 200, 3)
    assert len(lines) == 3
    assert all(canvas.width_of(line, 15) <= 200 for line in lines)
    assert 15 <= canvas.shrunk("a long name of a method", 20, 150) < 20


def test_letters_without_a_shape_are_boxes() -> None:
    assert canvas.legible("猫 cat\tü$x$\n") == "□ cat□ü$x$\n"


# --- images ---


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(("orientation", "corner"), [(1, "top left"), (3, "bottom right"), (6, "top right")])
def test_image_is_turned_as_its_exif_orientation_says(tmp_path: Path, orientation: int, corner: str) -> None:
    stored = Image.new("RGB", (40, 20))
    stored.paste((255, 255, 255), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = np.asarray(photographs.read(saved(tmp_path / "a.png", stored, exif=exif)))
    assert seen.shape == ((40, 20, 3) if orientation == 6 else (20, 40, 3))
    high, wide = seen.shape[:2]
    y = 2 if "top" in corner else high - 3
    x = 2 if "left" in corner else wide - 3
    assert seen[y, x].tolist() == [255] * 3
    assert seen.mean() == pytest.approx(255 * 100 / 800)


def test_what_is_transparent_shows_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (8, 4), (0, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (0, 0, 4, 4))
    grey = Image.new("LA", (8, 4), (0, 0))
    palette = clear.convert("RGB").convert("P")
    palette.info["transparency"] = palette.getpixel((7, 0))
    for name, image in (("a.png", clear), ("b.png", grey), ("c.png", palette)):
        seen = np.asarray(photographs.read(saved(tmp_path / name, image)))
        assert seen[0, 7].tolist() == [255, 255, 255], name
    assert np.asarray(photographs.read(tmp_path / "a.png"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I"])
def test_every_mode_becomes_colours(tmp_path: Path, mode: str) -> None:
    if mode in ("I;16", "I"):
        values = np.array([[0, 32768, 65535]], dtype=np.uint16 if mode == "I;16" else np.int32)
        image = Image.fromarray(values)
    else:
        values = np.array([[0, 128, 255]], dtype=np.uint8)
        image = Image.fromarray(values).convert("RGB").convert(mode, palette=Image.Palette.ADAPTIVE)
    path = saved(tmp_path / "a.tif", image)
    seen = photographs.read(path)
    assert (seen.mode, seen.size) == ("RGB", (3, 1))
    wanted = [0, 0 if mode == "1" else 128, 255]
    if mode == "1":
        wanted[1] = int(np.asarray(seen)[0, 1, 0])
    np.testing.assert_allclose(np.asarray(seen)[0].mean(-1), wanted, atol=3)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    whole = saved(tmp_path / "whole.png", Image.effect_noise((64, 64), 50)).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    saved(tmp_path / "float.tif", Image.new("F", (8, 8)))
    saved(tmp_path / "strip.png", Image.new("RGB", (1, 500)))
    for name, words in {
        "text.png": "is no image that can be read",
        "half.png": "is no image that can be read",
        "float.tif": "floating point, of unknown range",
        "strip.png": "strip of 1 x 500 pixels",
    }.items():
        with pytest.raises(UserError, match=words):
            photographs.read(tmp_path / name)


def test_folder_stands_for_its_images_and_each_is_found_once(tmp_path: Path) -> None:
    inner = tmp_path / "b"
    inner.mkdir()
    made = [saved(folder / name, Image.new("L", (2, 2))) for folder, name in ((tmp_path, "z.JPG"), (inner, "z.png"))]
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "empty").mkdir()
    found, problems = photographs.find([str(tmp_path), str(made[0]), str(tmp_path / "empty"), str(tmp_path / "no.png")])
    assert sorted(found) == sorted(made)
    assert [sentence.split(": ")[0].split(" ", 1)[1] for sentence in problems] == ["holds no image", "does not exist"]


def test_names_are_short_unless_two_files_share_one() -> None:
    paths = [Path("a/x.png"), Path("b/x.png"), Path("a/y.png")]
    assert [name for name, _ in photographs.named(paths)] == ["a/x.png", "b/x.png", "y.png"]


# --- the words of the command ---


def test_words_are_sorted_into_images_options_and_settings(photo: Path) -> None:
    words = [str(photo), "methods=rise,sobel", "methods.masks=8", "models=timm", "target=tabby, tabby cat", "seed=3"]
    request = parse([*words, "baseline=black", "out=folder", "maps=a.npz", "methods@methods.base=saliency"])
    assert request.images == (str(photo),)
    assert request.methods == "rise,sobel"
    assert request.options == ("methods.masks=8", "methods@methods.base=saliency")
    assert request.settings == ("models=timm", "seed=3", "datasets.baseline=black")
    assert (request.target, request.out, request.maps) == ("tabby, tabby cat", Path("folder"), Path("a.npz"))


def test_file_with_an_equals_sign_is_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seed=3").touch()
    assert parse(["seed=3", "no=image.png"]).images == ("seed=3",)


def test_all_methods_are_those_of_conf() -> None:
    chosen = parse(["methods=all"]).methods.split(",")
    there = {path.stem for path in (ROOT / "conf/methods").glob("*.yaml")}
    assert set(chosen) == there - {"custom"}


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("methods=grad_kam", "methods=grad_kam does not exist; did you mean grad_cam"),
        ("models=smal_cnn", "did you mean small_cnn"),
        ("models=small_cnn,small_vit", "names several and a page shows one"),
        ("--methods", "--methods is no option: options are key=value"),
        ("out=page.pdf", "expected a folder, FILE.png or FILE.md"),
        ("maps=maps.csv", "expected FILE.npz or FILE.safetensors"),
    ],
)
def test_mistakes_are_found_before_anything_slow(word: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse([word])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["methods=sobel", "methods.masks=3"], "methods.masks is no option of sobel"),
        (["methods=rise", "methods.masks=many"], 'methods.masks="many" is no whole number'),
        (["nothing=3"], "nothing is no option"),
        (["baseline=blakc"], "baseline=blakc does not exist; did you mean black"),
        (["target=circle"], "class circle does not exist"),
        (["target=6"], "target=6 is no class of small_cnn: expected 0 to 5"),
        (["chunk=0"], "chunk=0 is no number of images"),
        (["device=gpu"], "device=gpu cannot be used"),
        (["models=timm"], "models.name"),
        (["budget=0"], "budget=0 is no number of passes"),
        (["methods=custom"], "methods=custom needs the class"),
        (["out=PHOTO"], "is one of the images to explain"),
    ],
)
def test_mistake_is_one_sentence_and_exit_code_1(
    words: list[str], sentence: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("PHOTO", str(photo)) for word in words]
    chosen = [] if any(word.startswith("methods=") for word in words) else ["methods=sobel"]
    code, out, err = run(capsys, photo, *SMALL, *chosen, *words)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert sentence in err
    assert len(err.splitlines()) == 1


def test_no_image_and_no_model(
    photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "there is no image to explain" in run(capsys, *SMALL)[2]
    monkeypatch.setattr("benchmark.explain.importlib.util.find_spec", lambda name: None)
    code, _, err = run(capsys, photo)
    assert code == 1
    assert 'pip install -e ".[offline]", or give models=NAME' in err


def test_help_is_printed_without_torch() -> None:
    code = "import sys; from benchmark.explain import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == help_page().strip()
    for word in ("methods=A,B", "target=CLASS", "integrated_gradients", "small_cnn"):
        assert word in done.stdout


# --- classes ---


def named_model(*names: str) -> Model:
    network = torch.nn.Identity()
    return Model("m", network, (3, 8, 8), (0.0,), (1.0,), len(names), names or None, "", "", lambda image: None)


def test_class_by_index_name_and_synonym() -> None:
    model = named_model("tabby, tabby cat", "tiger cat", "crane", "Crane", "tiger")
    assert [class_index(word, model) for word in ("3", "tabby", "Tabby Cat", "tabby, tabby cat", "tiger")] == [
        3,
        0,
        0,
        0,
        4,
    ]
    with pytest.raises(UserError, match="2 classes are called crane: expected target=2 or target=3"):
        class_index("crane", model)
    with pytest.raises(UserError, match=r"class cat does not exist; did you mean tabby \(0\), tiger cat \(1\)\?"):
        class_index("cat", model)
    with pytest.raises(UserError, match="class tigr does not exist; did you mean tiger"):
        class_index("tigr", model)
    nameless = replace(model, class_names=None)
    assert class_index("1", nameless) == 1
    with pytest.raises(UserError, match="m does not name its classes: expected target=0 to target=4"):
        class_index("tabby", nameless)


def test_model_of_two_channels_is_refused() -> None:
    with pytest.raises(UserError, match="m takes images of 2 channels: expected 3 for colour or 1 for grey"):
        prepare("sobel", [], ["device=cpu"], model=replace(named_model("a", "b"), size=(2, 8, 8)))


# --- methods and their options ---


def test_option_goes_to_the_methods_that_have_it_and_commas_compare() -> None:
    with pytest.raises(UserError, match="masks >= 1"):
        prepare("rise", ["methods.masks=0"], SMALL)
    setup = prepare("sobel,rise,smoothgrad", ["methods.masks=4,8", "methods.samples=3"], SMALL)
    assert list(setup.methods) == ["sobel", "rise masks=4", "rise masks=8", "smoothgrad"]
    assert [setup.methods[f"rise masks={count}"].masks for count in (4, 8)] == [4, 8]
    assert setup.methods["smoothgrad"].samples == 3


def test_method_of_a_method_is_chosen_as_in_a_sweep() -> None:
    setup = prepare("noise_tunnel,sobel", ["methods@methods.base=saliency", "methods.samples=2"], SMALL)
    assert type(setup.methods["noise_tunnel"].base).__name__ == "Saliency"


def test_pattern_stands_for_the_methods_that_fit() -> None:
    assert set(prepare("glob(rand*)", [], SMALL).methods) == {"random"}


def test_layer_and_budget_reach_the_methods() -> None:
    setup = prepare("grad_cam,rise", [], [*SMALL, "budget=5"])
    assert setup.methods["grad_cam"].layer == setup.model.layer
    assert setup.methods["rise"].masks <= 5


def test_class_of_the_users_stands_beside_others(broken: str) -> None:
    setup = prepare("rise,custom", [f"methods._target_={broken}.Square", "+methods.power=3"], SMALL)
    assert list(setup.methods) == ["rise", "square"]
    assert setup.methods["square"].power == 3


# --- what is explained ---


def test_maps_and_probabilities_are_those_of_the_model(photo: Path) -> None:
    found = explain([photo], [*SMALL, "methods=input_x_gradient,sobel"])
    setup = prepare("input_x_gradient", [], SMALL)
    pixels = setup.model.pixels(photographs.read(photo)).unsqueeze(0)
    with torch.inference_mode():
        logits = setup.model.network(setup.model.normalise(pixels))
    torch.testing.assert_close(found.pixels, pixels, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.probabilities, logits.softmax(1))
    assert found.targets.tolist() == logits.argmax(1).tolist()
    leaf = setup.model.normalise(pixels).requires_grad_()
    setup.model.network(leaf)[0, found.targets[0]].backward()
    torch.testing.assert_close(found.maps["input_x_gradient"], (leaf * leaf.grad).detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.heat("input_x_gradient"), found.maps["input_x_gradient"].sum(1))
    best = logits.softmax(1)[0].sort(descending=True)
    assert found.top(0) == list(zip(best.indices[:5].tolist(), best.values[:5].tolist(), strict=True))
    assert found.methods == ("input_x_gradient", "sobel")
    assert found.nulls == {"sobel"}
    assert found.classes[found.targets[0]] == found.label(int(found.targets[0]))


def test_class_asked_for_is_explained_and_joins_the_top(photo: Path) -> None:
    least, best = 1, int(explain([photo], [*SMALL, "methods=sobel"]).targets[0])
    found = explain([photo], [*SMALL, "methods=gradient", "target=SQUARE"])
    assert found.targets.tolist() == [least]
    assert found.top(0, 1) == [(index, float(found.probabilities[0, index])) for index in dict.fromkeys((best, least))]


def test_image_is_explained_alike_alone_and_among_others(photo: Path, tmp_path: Path) -> None:
    other = saved(tmp_path / "other.png", Image.effect_noise((70, 70), 90))
    words = [*SMALL, "methods=rise,smoothgrad", "methods.masks=4", "methods.samples=2"]
    alone, together = explain([photo], words), explain([other, photo], [*words, "chunk=1"])
    assert together.names == ("other.png", "photo.png")
    for name in alone.maps:
        torch.testing.assert_close(together.maps[name][1], alone.maps[name][0], atol=1e-5, rtol=1e-4)


def test_photographs_tensors_and_a_model_of_ones_own(photo: Path) -> None:
    model = prepare("sobel", [], SMALL).model
    with Image.open(photo) as opened:
        given = [opened.convert("RGB"), photo, model.pixels(opened.convert("RGB"))]
    found = explain(given, ["methods=gradient", "device=cpu"], model)
    assert found.names == ("image-0", "photo.png", "image-2")
    for place in (1, 2):
        torch.testing.assert_close(found.maps["gradient"][place], found.maps["gradient"][0])
    with pytest.raises(UserError, match="takes images of size 3x64x64, this one has 3x32x32"):
        explain([torch.zeros(3, 32, 32)], ["methods=sobel", "device=cpu"], model)
    with pytest.raises(UserError, match="images are the first argument"):
        explain([photo], [str(photo), *SMALL])


def test_model_of_grey_images_gets_grey(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = explain([photo], [*GREY, "methods=input_x_gradient"])
    assert found.pixels.shape == (1, 1, 32, 32)
    assert found.picture(0).shape == (32, 32)
    code, out, _ = run(capsys, photo, *GREY, "methods=input_x_gradient", f"out={tmp_path / 'o'}")
    assert code == 0
    assert (tmp_path / "o" / "photo-small_cnn.png").exists(), out


def test_images_of_a_data_set_come_with_labels_and_masks() -> None:
    words = ["models=small_cnn", "datasets=shapes", "datasets.n=3", "datasets.explain=label", "device=cpu"]
    found = explain((), [*words, "methods=ground_truth"])
    setup = prepare("sobel", [], words, from_dataset=True)
    items = list(setup.items())
    assert found.targets.tolist() == [item.label for item in items]
    assert torch.equal(found.maps["ground_truth"][:, 0].bool(), torch.stack([item.mask for item in items]))
    with pytest.raises(UserError, match="knows nothing of shapes"):
        explain((), ["models=small_cnn", "models.dataset=digits", "datasets=shapes", "methods=sobel"])


def test_stages_of_the_network_are_mapped(photo: Path) -> None:
    for model, size in (("small_cnn", 64), ("small_vit", 64)):
        found = explain([photo], [f"models={model}", "methods=sobel", "device=cpu"])
        assert len(found.layers) >= 2
        assert all(maps.shape == (1, size, size) and maps.min() >= 0 for maps in found.layers.values())


def test_batches_are_joined_and_a_method_that_failed_in_one_has_no_maps() -> None:
    first, second = example(2), example(1, reasons={"rise": "no"}, failures=frozenset({"rise"}))
    first = replace(first, maps={**first.maps, "rise": first.maps["saliency"]})
    both = joined([first, second])
    assert len(both) == 3
    assert both.maps["saliency"].shape == (3, 3, 8, 8)
    assert (set(both.maps), both.reasons, both.failures) == ({"saliency"}, {"rise": "no"}, {"rise"})


# --- what goes wrong on the way ---


def test_broken_images_cost_themselves_alone(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    out = tmp_path / "o"
    code, said, err = run(
        capsys, tmp_path / "missing.png", tmp_path / "broken.jpg", photo, *SMALL, "methods=sobel", f"out={out}"
    )
    assert code == 1
    assert "missing.png does not exist" in err
    assert "broken.jpg is no image that can be read" in err
    assert len(err.splitlines()) == 2
    assert said.startswith(f"written: {out / 'photo-small_cnn.png'}")
    assert [path.name for path in out.iterdir()] == ["photo-small_cnn.png"]


def test_broken_methods_cost_their_tile(
    photo: Path, tmp_path: Path, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SMALL, "methods=custom,ground_truth", f"out={tmp_path / 'o'}"]
    for name, code, sentence in (
        ("Raises", 1, "error: raises: ValueError: nothing works today"),
        ("Partly", 0, "warning: partly: NaN or infinity in the map of photo.png"),
    ):
        got, said, err = run(capsys, photo, *words, f"methods._target_={broken}.{name}")
        assert got == code, err
        assert sentence in err.splitlines()
        assert "not applicable: ground_truth: the data set has no object masks" in err.splitlines()
        assert "photo-small_cnn.png" in said


def test_unforeseen_error_is_one_line(
    photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanation_page, "page", lambda *args: 1 / 0)
    code, _, err = run(capsys, photo, *SMALL, "methods=sobel")
    assert (code, err) == (1, "error: ZeroDivisionError: division by zero\n")
    with pytest.raises(ZeroDivisionError):
        main([str(photo), *SMALL, "methods=sobel", "debug=true"])


def test_map_of_another_shape_is_refused(photo: Path, broken: str) -> None:
    found = explain([photo], [*SMALL, "methods=custom,sobel", f"methods._target_={broken}.Flat"])
    assert found.reasons == {"flat": "flat returned a map of shape (3,), expected (1, 3 or 1, 64, 64)"}
    assert found.methods == ("flat", "sobel")


# --- pictures ---


def columns(page: np.ndarray, colour: np.ndarray, least: int) -> np.ndarray:
    """Where on the page, from left to right, at least `least` pixels of a column have `colour`."""
    return np.flatnonzero((np.abs(page[..., :3] - colour).max(-1) < 0.02).sum(0) >= least)


def test_page_shows_image_maps_and_bars(tmp_path: Path) -> None:
    """A green image; a map of one value but for a corner: red everywhere, over the image and by itself."""
    pixels = torch.zeros(1, 3, 8, 8)
    pixels[:, 1] = 1.0
    maps = torch.ones(1, 1, 8, 8)
    maps[..., 0, 0] = -1.0
    probabilities = torch.tensor([[0.05, 0.0, 0.75, 0.2, 0.0, 0.0]])
    found = example(1, pixels=pixels, maps={"saliency": maps}, probabilities=probabilities, targets=torch.tensor([2]))
    path = tmp_path / "page.png"
    explanation_page.page(path, found, 0)
    page = pictures.imread(path)
    assert page.shape[1] == 1600
    green = columns(page, np.array([0, 1, 0]), 200)
    alone = colours.scale_of(maps[0, 0]).colour(1.0)
    over = colours.overlay(maps[0, 0], pixels[0].permute(1, 2, 0))[4, 4]
    assert columns(page, alone, 200).min() > columns(page, over, 200).max()
    assert green.min() < 60
    assert 240 < np.ptp(green) < 300
    # Bars have the length of the probabilities, the explained one in the accent.
    track = page[:, :, :3]
    accent = np.abs(track - np.array(matplotlib.colors.to_rgb("#b2182b"))).max(-1) < 0.02
    faint = np.abs(track - 0.62).max(-1) < 0.02
    rest = np.abs(track - 0.93).max(-1) < 0.02
    line = accent.sum(1).argmax()
    share = accent[line].sum() / (accent[line].sum() + rest[line].sum())
    assert share == pytest.approx(0.75, abs=0.01)
    other = (faint & (np.arange(1600) > green.max())).sum(1)
    assert other.max() / (accent[line].sum() + rest[line].sum()) == pytest.approx(0.2, abs=0.01)


def test_scale_bar_says_what_its_ends_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).standard_normal((1, 1, 8, 8))
    maps = {"gradient": torch.tensor(values), "saliency": torch.tensor(np.abs(values) + 2)}
    written: list[str] = []
    text = canvas.Page.text

    def note(self: canvas.Page, x: float, y: float, words: str, *args: object, **style: object) -> float:
        written.append(words)
        return text(self, x, y, words, *args, **style)

    monkeypatch.setattr(canvas.Page, "text", note)
    explanation_page.page(tmp_path / "page.png", example(1, maps=maps, nulls=frozenset({"saliency"})), 0)
    high = explanation_page.number(np.percentile(np.abs(values), 99))
    assert [f"−{high}", high, "0"] == written[written.index(f"−{high}") : written.index(f"−{high}") + 3]
    assert f"lowest {explanation_page.number(values.min())}" in written
    unsigned = np.abs(values) + 2
    low = explanation_page.number(unsigned.min())
    place = written.index(low)
    assert written[place + 1] == explanation_page.number(np.percentile(unsigned, 99))
    assert "null method" in written
    assert any(line.endswith("Null methods know nothing of the model.") for line in written)
    for index, probability in example(1).top(0):
        assert explanation_page.percent(probability) in written
        assert f"name {index}" in written


@pytest.mark.parametrize(("methods", "side", "stages", "channels"), [(1, (8, 8), 0, 3), (13, (16, 10), 7, 1)])
def test_page_holds_any_number_of_methods(
    tmp_path: Path, methods: int, side: tuple[int, int], stages: int, channels: int
) -> None:
    maps = {f"a_method_with_a_long_name_and_options masks={k}": torch.randn(1, 1, *side) for k in range(methods)}
    found = example(
        1,
        names=("猫$x$" * 30 + ".png",),
        pixels=torch.rand(1, channels, *side),
        maps=maps,
        reasons={"lrp": "no rule for a layer of this kind " * 9, "nan": "x"},
        layers={f"a.very.long.name.of.a.layer.{place}": torch.rand(1, *side) for place in range(stages)},
        targets=torch.tensor([4]),
    )
    maps["one"] = torch.ones(1, 1, *side)
    maps["bad"] = torch.full((1, 1, *side), torch.nan)
    explanation_page.page(tmp_path / "page.png", found, 0)
    page = pictures.imread(tmp_path / "page.png")
    assert page.shape[1] == 1600
    assert page[:, -4:].min() == 1.0  # nothing runs over the edge
    assert page[-4:].min() == 1.0


def test_same_page_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        explanation_page.page(tmp_path / name, example(), 1)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_two_images_of_one_name_have_two_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a/x.png", "b/x.png", "b/x.jpg", "y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        saved(tmp_path / name, Image.new("RGB", (64, 64), "red"))
    out = tmp_path / "o"
    code, said, _ = run(
        capsys, tmp_path / "a", tmp_path / "b", tmp_path / "y.png", *SMALL, "methods=sobel", f"out={out}"
    )
    assert code == 0
    assert len(list(out.iterdir())) == 4 == len(said.splitlines())
    assert (out / "y-small_cnn.png").exists()


def test_several_images_in_one_picture_wrap(tmp_path: Path) -> None:
    maps = {f"method_{place}": torch.randn(2, 1, 8, 8) for place in range(19)}
    found = example(2, maps=maps, reasons={"lrp": "not for this network"}, nulls=frozenset({"method_3"}))
    narrow = replace(found, maps={"method_0": maps["method_0"]}, reasons={})
    heights = []
    for each in (found, narrow):
        assert explanation_gallery.draw(tmp_path / "all.png", each, "") == [tmp_path / "all.png"]
        heights.append(pictures.imread(tmp_path / "all.png").shape[0])
    assert heights[0] > 2 * heights[1] * 0.7


def test_gallery_names_and_describes_every_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my_gallery.md"
    words = [
        "datasets=shapes",
        "datasets.n=2",
        *SMALL,
        "methods=rise,sobel,ground_truth,attention_flow",
        "methods.masks=2,3",
    ]
    code, said, _ = run(capsys, *words, f"out={path}")
    assert code == 0
    text = path.read_text()
    assert text.startswith("# My gallery\n")
    assert "| `rise masks=2` | Random masks weighted by" in text
    assert "| `sobel` | Null row" in text
    assert re.search(r"\| `attention_flow` \| .+ \| .*no attention.* \|", text)
    assert f"    python -m benchmark.explain {' '.join(words)}" in text
    assert "![rise masks=2, rise masks=3, ground_truth, sobel](images/my_gallery-1.png)" in text
    assert (tmp_path / "images" / "my_gallery-1.png").exists()
    assert said.splitlines()[-1] == f"written: {path}"


# --- maps ---


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_maps_are_written(photo: Path, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"maps.{ending}"
    words = [*SMALL, "methods=input_x_gradient"]
    code, said, _ = run(capsys, photo, *words, f"maps={path}", f"out={tmp_path / 'o'}")
    assert code == 0
    assert f"written: {path}" in said
    found = explain([photo], words)
    filed = dict(np.load(path)) if ending == "npz" else {name: t.numpy() for name, t in load_file(path).items()}
    assert np.array_equal(filed["maps/input_x_gradient"], found.maps["input_x_gradient"].numpy())
    assert np.array_equal(filed["probabilities"], found.probabilities.numpy())
    assert {f"layers/{name}" for name in found.layers} <= set(filed)
    assert filed["pixels"].shape == (1, 3, 64, 64)
