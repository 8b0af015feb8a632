"""Two pictures are compared by what they show, also points that are stored as an image."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import pytest

from npu_parity.audit.pictures import IMAGE, difference


def scatter(moved=0.0, level=0):
    """A picture of points as matplotlib writes it, with the points in an image."""
    points = np.random.default_rng(0).random((2, 200))
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.scatter(points[0] + moved, points[1], s=4, color=(0, level / 255, 0), rasterized=True)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    file = io.BytesIO()
    with plt.rc_context({"svg.hashsalt": "x"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = file.getvalue().decode()
    assert IMAGE.search(text)
    return text


def test_an_image_in_a_picture_may_differ_by_one_level():
    picture = scatter()
    assert scatter(level=1) != picture  # as another processor may draw it
    assert difference(scatter(level=1), picture) is None
    assert difference(scatter(level=2), picture) == (
        "image 1: found other points than the results give"
    )


@pytest.mark.parametrize("moved", [0.05, -0.3])
def test_points_of_an_image_that_lie_elsewhere(moved):
    assert difference(scatter(moved), scatter()).startswith("image 1: ")


@pytest.mark.parametrize("spoilt", ["", "####", base64.b64encode(b"no image").decode()])
def test_an_image_that_cannot_be_read(spoilt):
    picture = scatter()
    image = IMAGE.search(picture)[1]
    assert difference(picture.replace(image, spoilt), picture).startswith("image 1: ")


def test_what_follows_an_image_keeps_its_line():
    picture = scatter()
    lines = picture.splitlines()
    number = next(i for i, line in enumerate(lines, 1) if 'id="text_7"' in line)
    changed = picture.replace('id="text_7"', 'id="words_7"')
    assert difference(changed, picture).startswith(f"line {number}: found ")
