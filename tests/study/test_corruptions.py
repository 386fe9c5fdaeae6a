"""Ordinary corruptions: beside other people's code, and what holds of all of them."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import hsv2rgb, rgb2hsv
from skimage.filters import gaussian
from skimage.util import random_noise

import besiege
from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.study.gate.corruptions import CORRUPTIONS, SEVERITIES, corrupted, right_under, strength
from besiege.study.judge import answers

KINDS = list(CORRUPTIONS)
MONOTONE = [kind for kind in KINDS if kind != "pixelate"]  # whose cells fit the image by chance


def picture(side, n=3, channels=3, seed=0):
    """Smooth 8-bit images (n, channels, side, side + 2)."""
    noise = Key.root(seed, range(n)).uniform(channels, side, side + 2)
    rough = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
    return (rough * 255).round() / 255


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("side", "channels"), [(9, 1), (32, 3), (70, 3)])
def test_every_corruption_gives_8_bit_images_of_the_same_shape(kind, side, channels):
    x = picture(side, channels=channels)
    before = x.clone()
    for severity in SEVERITIES:
        y = corrupted(x, kind, severity, Key.root(0, range(3)))
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        assert float(y.min()) >= 0
        assert float(y.max()) <= 1
        assert torch.equal(y, (y * 255).round() / 255)
        assert not torch.equal(y, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_never_sees_its_batch(kind):
    x, key = picture(33), Key.root(0, [5, 6, 7])
    whole = corrupted(x, kind, 4, key)
    assert torch.equal(whole[1:2], corrupted(x[1:2], kind, 4, key[1:2]))
    assert torch.equal(whole, corrupted(x, kind, 4, key))


@pytest.mark.parametrize("kind", ["gaussian-noise", "shot-noise", "impulse-noise"])
def test_noise_is_of_the_key(kind):
    x = picture(32)
    one, other = (corrupted(x, kind, 3, Key.root(seed, range(3))) for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("kind", MONOTONE)
@pytest.mark.parametrize("side", [32, 64, 150])
def test_more_severe_is_farther_away(kind, side):
    x = picture(side)
    far = [float((corrupted(x, kind, s, Key.root(0, range(3))) - x).norm()) for s in SEVERITIES]
    assert far == sorted(far)
    assert far[0] < far[-1]


def test_fewer_pixels_are_left_where_pixelate_is_more_severe():
    sizes = [int(224 * strength("pixelate", s, 224)) for s in SEVERITIES]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("side", [32, 64, 224])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_is_that_of_pillow(side, severity):
    x = picture(side)[:1, :, :, :side]
    small = int(side * strength("pixelate", severity, side))
    image = Image.fromarray((x[0].permute(1, 2, 0) * 255).round().byte().numpy())
    coarse = image.resize((small, small), Image.Resampling.BOX)
    theirs = np.asarray(coarse.resize((side, side), Image.Resampling.BOX))
    ours = (corrupted(x, "pixelate", severity, Key.root(0, [0])) * 255)[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - theirs).max() <= 1  # Pillow rounds between its two passes


def test_brightness_is_that_of_scikit_image():
    x = picture(32)
    x[0, :, :4] = 0
    hsv = rgb2hsv(x.permute(0, 2, 3, 1).numpy())
    hsv[..., 2] = np.clip(hsv[..., 2] + strength("brightness", 4, 32), 0, 1)
    theirs = torch.from_numpy(hsv2rgb(hsv)).permute(0, 3, 1, 2)
    ours = corrupted(x, "brightness", 4, Key.root(0, range(3)))
    assert float((ours - theirs).abs().max()) <= 0.51 / 255


def test_blur_is_that_of_scikit_image_inside():
    x = picture(70)
    sigma = strength("gaussian-blur", 4, 70)
    theirs = np.stack([gaussian(i, sigma=sigma, channel_axis=0, truncate=8) for i in x.numpy()])
    ours = corrupted(x, "gaussian-blur", 4, Key.root(0, range(3))).numpy()
    inside = (..., slice(10, -10), slice(10, -10))
    assert np.abs(ours[inside] - theirs[inside]).max() <= 0.52 / 255


def test_contrast_keeps_the_mean_of_each_channel():
    x = picture(32)
    y = corrupted(x, "contrast", 3, Key.root(0, range(3)))
    assert torch.allclose(y.mean((2, 3)), x.mean((2, 3)), atol=0.5 / 255)
    assert torch.allclose(y.std((2, 3)), 0.4 * x.std((2, 3)), atol=0.5 / 255)


def test_shot_noise_has_the_moments_of_poisson():
    x = torch.full((8, 3, 64, 64), 0.4)
    x[4:] = 0.0
    for severity in (1, 3):
        photons = strength("shot-noise", severity, 64)
        y = corrupted(x, "shot-noise", severity, Key.root(0, range(8))).double()
        lit = y[:4]
        assert float(lit.mean()) == pytest.approx(0.4, abs=4 * (0.4 / photons / lit.numel()) ** 0.5)
        assert float(lit.var()) == pytest.approx(0.4 / photons, rel=0.05)
        assert float(y[4:].abs().max()) == 0


def test_impulses_are_as_many_as_those_of_scikit_image():
    x = torch.full((4, 3, 64, 64), 100 / 255)
    share = strength("impulse-noise", 5, 64)
    theirs = random_noise(x.numpy(), mode="s&p", amount=share, rng=0)
    ours = corrupted(x, "impulse-noise", 5, Key.root(0, range(4))).numpy()
    for value in (0, 1):
        assert np.mean(ours == value) == pytest.approx(np.mean(theirs == value), abs=0.006)


def test_strengths_follow_the_size_of_the_image():
    assert [strength("gaussian-blur", 5, side) for side in (8, 32, 45, 46, 64, 121, 299)] == [
        *(1, 1, 1),
        *(1.5, 1.5),
        *(6, 6),
    ]


def test_a_severity_or_kind_that_is_none():
    with pytest.raises(BadSetting, match="got 6"):
        strength("jpeg", 6, 32)
    with pytest.raises(UnknownName, match="jpeg"):
        strength("jpg", 3, 32)


def test_a_defense_is_judged_on_draws_of_its_own():
    x, y, _ = besiege.load_images("digits").take(range(12))
    chain = besiege.parse_chain("noise:scale=0.5")
    defense = besiege.Defense(chain, besiege.load_model("digits-cnn"))
    key = Key.root(0, range(12))
    found = right_under(defense, x, y, key, "contrast", (5,), 6, 8)
    own = key.fold("corruption", "contrast", 5)
    changed = corrupted(x, "contrast", 5, own.fold("image"))
    by_hand = answers(defense, changed, own.fold("judge"), 6, 8)
    assert found.tolist() == (by_hand == y[:, None]).double().mean(1).tolist()
    assert 0 < found.mean() < 1
    both = right_under(defense, x, y, key, "contrast", (1, 5), 6, 8)
    mild = right_under(defense, x, y, key, "contrast", (1,), 6, 8)
    assert both.tolist() == pytest.approx(((found + mild) / 2).tolist())
    some = right_under(defense, x[3:5], y[3:5], key[3:5], "contrast", (5,), 6, 8)
    assert some.tolist() == found[3:5].tolist()
