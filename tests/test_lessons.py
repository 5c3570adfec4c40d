"""What the notebooks stand on: the exact denoiser, the exercises' verdicts, the figures."""

import io
import math

import pytest
import torch
from helpers import randn
from matplotlib.colors import to_rgb
from PIL import Image

from minisd.image import to_pil
from minisd.lessons import Exercise, exact, figures, shapes, unless_fast, you_are_here
from minisd.lessons.exercise import NOT_YET
from minisd.schedule import add_noise

POINTS = torch.tensor([[-1.0, 0.5], [0.2, -0.4], [1.3, 0.9]], dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.9, 0.5, 0.05])
def test_the_exact_noise_is_the_mean_of_the_noises_that_lead_there(alpha):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1_000_000, 2, generator=generator, dtype=torch.float64)
    noisy = add_noise(POINTS[torch.randint(3, (1_000_000,), generator=generator)], noise, alpha)
    x = torch.tensor([[0.1, 0.2]], dtype=torch.float64)
    near = (noisy - x).norm(dim=1) < 0.08
    assert (noise[near].mean(dim=0) - exact.epsilon(x, POINTS, alpha)[0]).abs().max() < 0.05


@pytest.mark.parametrize("alpha", [0.999, 0.5, 0.005])
def test_the_exact_noise_is_the_slope_of_the_log_density(alpha):
    x = randn(50, 2, seed=1).double().requires_grad_()
    (slope,) = torch.autograd.grad(exact.log_density(x, POINTS, alpha).sum(), x)
    torch.testing.assert_close(exact.epsilon(x, POINTS, alpha), -math.sqrt(1 - alpha) * slope)


def test_the_density_is_one():
    line = torch.linspace(-8, 8, 400, dtype=torch.float64)
    density = exact.log_density(torch.cartesian_prod(line, line), POINTS, 0.5).exp()
    assert density.sum().item() * (16 / 399) ** 2 == pytest.approx(1)


def test_without_noise_the_exact_denoiser_returns_a_point_and_in_noise_the_mean():
    x = add_noise(POINTS, randn(3, 2, seed=2).double(), 0.9999)
    torch.testing.assert_close(exact.denoise(x, POINTS, 0.9999), POINTS)
    torch.testing.assert_close(exact.denoise(x, POINTS, 1e-12), POINTS.mean(dim=0).expand(3, 2), atol=1e-5, rtol=0)


SQUARE = Exercise(
    answer=lambda x: x**2,
    mistakes={"a square, not a double": lambda x: 2 * x},
    run=lambda f: f(torch.tensor([1.0, 2.0, 3.0])),
)


def unfinished(x):
    y = ...
    return x + y


@pytest.mark.parametrize(
    ("attempt", "verdict"),
    [
        (lambda x: x * x, "✓"),
        (lambda x: ..., NOT_YET),
        (unfinished, NOT_YET),
        (lambda x: 2 * x, "✗ hint: a square, not a double"),
        (lambda x: x**2 + 0.25, "✗ the largest difference from the right answer is 0.25"),
        (lambda x: x[:2], "✗ the shape is (2,) and should be (3,)"),
        (lambda x: x / 0 * 0, "✗ not yet"),
        (lambda x: None, "✗ not yet"),
        (lambda x: [][0], "✗ it stops with IndexError: list index out of range"),
    ],
)
def test_verdicts_of_a_function(attempt, verdict):
    assert SQUARE.verdict(attempt) == verdict


@pytest.mark.parametrize(("attempt", "verdict"), [(12.05, "✓"), (..., NOT_YET), (13, "✗ hint: a baker's"), (11, "1")])
def test_verdicts_of_a_number(attempt, verdict):
    assert Exercise(answer=12, mistakes={"a baker's": 13}, tolerance=0.1).verdict(attempt).endswith(verdict)


def test_verdicts_of_words():
    exercise = Exercise(answer=["epsilon", "padding"])
    assert exercise.verdict(["epsilon", "padding"]) == "✓"
    assert exercise.verdict(["padding", "epsilon"]) == "✗ not yet"


def test_figures_carry_their_words(monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "display", lambda data, metadata, raw: shown.append((data, metadata["image/png"])))
    figures.show(figures.pictures([torch.zeros(3, 8, 8)] * 3, ["a", "b", "c"], columns=2), "Three grey squares.")
    you_are_here("UNet", "VAE")
    (squares, squares_metadata), (_, diagram_metadata) = shown
    assert squares["image/png"].startswith(b"\x89PNG")
    assert squares_metadata == {"alt": "Three grey squares.", "width": 768}
    assert diagram_metadata["alt"].endswith("You are here: UNet, VAE.")


def test_pixels_of_pictures_become_whole_squares():
    checks = ((torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1).expand(3, 8, 8)
    file = io.BytesIO()
    figures.pictures([checks], ["checks"], columns=5).savefig(file, dpi=2 * figures.PIXELS)
    page = Image.open(file).convert("RGB")
    picture = page.crop((0, page.height - 288, 288, page.height))
    assert picture.tobytes() == to_pil(checks[None])[0].resize((288, 288), Image.Resampling.NEAREST).tobytes()


def test_there_is_no_such_place():
    with pytest.raises(ValueError, match=r"'GPU'.*text encoder"):
        you_are_here("GPU")


def test_lines_can_be_told_apart_in_grey():
    def lightness(color):
        linear = [((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92 for c in to_rgb(color)]
        return 116 * (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]) ** (1 / 3) - 16

    steps = sorted(lightness(color) for color in figures.COLORS)
    assert min(b - a for a, b in zip(steps, steps[1:])) > 9


def test_shapes_stand_side_by_side(capsys):
    shapes(x0=(torch.zeros(3, 128, 128), (4, 64, 64)))
    assert capsys.readouterr().out.split("\n")[1].split("  ") == ["x0", " (3, 128, 128)", " (4, 64, 64)"]


def test_the_faster_mode(monkeypatch):
    monkeypatch.delenv("MINISD_FAST", raising=False)
    assert unless_fast(2000, 50) == 2000
    monkeypatch.setenv("MINISD_FAST", "1")
    assert unless_fast(2000, 50) == 50
