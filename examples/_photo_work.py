"""The three kinds of work of photos.py, without a word about processes: decode, filter, statistics.

Each is a function of its input alone, so that any two runs of it, in whichever process, give the same bits. Arrays for
results are made by the function ``make(shape, dtype)`` that the caller passes: `numpy.empty` or `shared_numpy.empty`.
"""
import importlib.util
import os
import zlib

import numpy
from PIL import Image, ImageOps

# Which of scikit-image's pictures are photographs (the others are drawings and test charts).
PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "motorcycle_right.png", "retina.jpg",
    "rocket.jpg")
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".tif", ".tiff", ".webp")

# How often a photograph can be turned and mirrored before it repeats itself.
VARIANTS = 8
# Brightness as seen (the weights of Rec. 709), and one half of a Gaussian of sigma 2 pixels from its centre outwards.
LUMINANCE = (0.2126, 0.7152, 0.0722)
SIGMA = 2.0
RADIUS = 6
BINS = 64


def find_photographs(folder=None):
    """Paths of the photographs: those in ``folder``, else those in the wheel of scikit-image, which is not imported."""
    if folder is not None:
        found = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.lower().endswith(SUFFIXES)]
        if not found:
            raise RuntimeError("no photographs in {}".format(folder))
        return found
    package = importlib.util.find_spec("skimage")
    if package is not None:
        data = os.path.join(list(package.submodule_search_locations)[0], "data")
        found = [os.path.join(data, name) for name in PHOTOGRAPHS if os.path.exists(os.path.join(data, name))]
        if found:
            return found
    raise RuntimeError(
        "the photographs of scikit-image were not found: `pip install --no-deps -r examples/requirements-photos.txt`, "
        "or name a folder of your own with --photos")


def decode(path, variant, side, make):
    """The photograph as 3 x side x side float32 from 0 to 1, scaled to fill the square and turned in one of `VARIANTS` ways."""
    with Image.open(path) as photo:
        pixels = numpy.asarray(ImageOps.fit(photo.convert("RGB"), (side, side)))
    if variant & 1:
        pixels = pixels[:, ::-1]
    if variant & 2:
        pixels = pixels[::-1]
    if variant & 4:
        pixels = pixels.transpose(1, 0, 2)
    planes = make((3, side, side), numpy.float32)
    for channel in range(3):
        numpy.multiply(pixels[..., channel], 1 / 255, out=planes[channel], dtype=numpy.float32)
    return planes


def _blur_rows(plane):
    """Gaussian blur along the first axis; beyond the edges the outermost rows go on."""
    taps = numpy.exp(-0.5 * (numpy.arange(-RADIUS, RADIUS + 1) / SIGMA) ** 2)
    taps = (taps / taps.sum()).astype(numpy.float32)
    padded = numpy.concatenate((plane[:1].repeat(RADIUS, 0), plane, plane[-1:].repeat(RADIUS, 0)))
    total = numpy.zeros_like(plane)
    term = numpy.empty_like(plane)
    for offset, tap in enumerate(taps):
        numpy.multiply(padded[offset:offset + len(plane)], tap, out=term)
        total += term
    return total


def filter_edges(planes, make):
    """The strength of the edges in the blurred luminance, side x side float32."""
    weights = numpy.float32(LUMINANCE)
    luminance = planes[0] * weights[0]
    luminance += planes[1] * weights[1]
    luminance += planes[2] * weights[2]
    across = numpy.ascontiguousarray(_blur_rows(luminance).T)
    smooth = _blur_rows(across)
    edges = make(smooth.shape, numpy.float32)
    edges[...] = 0
    inner = edges[1:-1, 1:-1]
    numpy.hypot(smooth[2:, 1:-1] - smooth[:-2, 1:-1], smooth[1:-1, 2:] - smooth[1:-1, :-2], out=inner)
    return edges


def summarize(planes, edges):
    """What is known about a photograph in the end; two summaries are equal only if every pixel was."""
    levels = (planes * numpy.float32(BINS - 1)).astype(numpy.uint8)
    return {
        "mean": [float(plane.mean(dtype=numpy.float64)) for plane in planes],
        "std": [float(plane.std(dtype=numpy.float64)) for plane in planes],
        "histogram": [numpy.bincount(level.ravel(), minlength=BINS).tolist() for level in levels],
        "sharpness": float(edges.std(dtype=numpy.float64)),
        "checksums": (zlib.crc32(planes), zlib.crc32(edges)),
    }
