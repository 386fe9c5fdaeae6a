"""Five defenses that the attacker has never seen, each one opaque function.

They draw from NumPy's global generator, as most code that is published does.
"""
# ruff: noqa: NPY002, TID251

import io

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps
from skimage import restoration, transform


def shifted_jpeg(picture):
    """Pillow: moved by (3, 2) pixels round the edge, then JPEG at a quality drawn at random."""
    moved = ImageChops.offset(picture, 3, 2)
    buffer = io.BytesIO()
    moved.save(buffer, "JPEG", quality=int(np.random.randint(50, 90)))
    return Image.open(buffer).convert("RGB")


def mirrored_posters(picture):
    """Pillow: mirrored, smoothed, and fewer levels."""
    return ImageOps.posterize(ImageOps.mirror(picture).filter(ImageFilter.MedianFilter(3)), 5)


def shaken_dither(image):
    """NumPy: rolled by up to two pixels each way, 16 levels with random dither."""
    image = np.roll(image, np.random.randint(-2, 3, 2), (0, 1))
    return np.clip(np.floor(image * 15 + np.random.rand(*image.shape)) / 15, 0, 1)


def swirled(image):
    """scikit-image: a swirl of random strength, then total variation."""
    image = transform.swirl(image, strength=np.random.uniform(0.5, 1.0), radius=30, mode="reflect")
    return np.clip(restoration.denoise_tv_chambolle(image, 0.03, channel_axis=-1), 0, 1)


def turned_wavelets(image):
    """scikit-image: turned by up to ten degrees and enlarged a little, then wavelet shrinkage."""
    h = image.shape[0]
    move = transform.SimilarityTransform(translation=(-(h - 1) / 2, -(h - 1) / 2))
    turn = transform.SimilarityTransform(
        rotation=np.deg2rad(np.random.uniform(-10, 10)), scale=np.random.uniform(1.0, 1.1)
    )
    back = transform.SimilarityTransform(translation=((h - 1) / 2, (h - 1) / 2))
    image = transform.warp(image, (move + turn + back).inverse, mode="reflect")
    return np.clip(restoration.denoise_wavelet(image, 0.03, channel_axis=-1), 0, 1)
