import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from annotations_schema.geometry import grid_sample_theta, warp_affine
from training.losses import separable_resize
from training.losses.region_crops import face_canvases, text_banners
from training.losses.separable_resize import resize_matrices

ZERO = torch.tensor([0])


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32)


BOXES = {
    "shrinks both ways": (0, 3, 60, 45),
    "enlarges both ways": (10, 12, 19, 17),
    "shrinks in height alone": (5, 0, 12, 48),
    "one pixel": (7, 9, 8, 10),
    "whole image": (0, 0, 64, 48),
}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
def test_banner_is_torch_s_antialiased_resize_of_the_crop(box):
    image = torch.rand(1, 3, 48, 64, dtype=torch.float64)
    x0, y0, x1, y1 = box

    banner = text_banners(image, boxes(box), ZERO, (16, 24))

    expected = F.interpolate(
        image[:, :, y0:y1, x0:x1], (16, 24), mode="bilinear", antialias=True, align_corners=False
    )
    torch.testing.assert_close(banner, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
def test_bilinear_banner_is_torch_s_plain_resize_of_the_crop(box):
    images = torch.rand(3, 3, 48, 64, dtype=torch.float64)
    x0, y0, x1, y1 = box

    banner = text_banners(images, boxes(box), torch.tensor([1]), (16, 24), "bilinear")

    expected = F.interpolate(images[1:2, :, y0:y1, x0:x1], (16, 24), mode="bilinear")
    torch.testing.assert_close(banner, expected, rtol=0, atol=1e-9)


def test_banner_agrees_with_pillow_on_a_photograph(coffee):
    image = torch.from_numpy(coffee.copy()).permute(2, 0, 1)[None].double()

    banner = text_banners(image, boxes((100, 50, 400, 350)), ZERO)

    pillow = Image.fromarray(coffee[50:350, 100:400]).resize((128, 32), Image.Resampling.BILINEAR)
    difference = banner[0].permute(1, 2, 0).numpy() - np.asarray(pillow)
    assert np.abs(difference).max() <= 1.0


def test_each_banner_comes_from_its_own_image():
    images = torch.arange(3.0)[:, None, None, None].expand(3, 3, 8, 8)

    banners = text_banners(images, boxes(*[(1, 1, 6, 5)] * 4), torch.tensor([2, 0, 2, 1]))

    assert banners[:, 0, 0, 0].tolist() == [2.0, 0.0, 2.0, 1.0]


def test_a_box_sees_the_pixels_it_touches_and_no_other():
    image = torch.rand(1, 3, 20, 20, requires_grad=True)

    text_banners(image, boxes((4.5, 6.2, 11.3, 9.0)), ZERO).sum().backward()

    seen = (image.grad[0, 0] != 0).nonzero()
    assert seen.amin(0).tolist() == [6, 4]
    assert seen.amax(0).tolist() == [8, 11]


@pytest.mark.parametrize("sampling", ["antialiased", "bilinear"])
@pytest.mark.parametrize(
    "box", [(30, 2, 40, 8), (-9, 2, -1, 8), (5, 5, 5, 5)], ids=["right", "left", "empty"]
)
def test_a_box_that_touches_no_pixel_gives_zeros(box, sampling):
    image = torch.rand(1, 3, 20, 20) + 1

    banner = text_banners(image, boxes(box), ZERO, sampling=sampling)

    assert torch.equal(banner, torch.zeros(1, 3, 32, 128))


def test_rows_of_resize_matrices_are_averages():
    start, end = torch.tensor([0.0, 3.3, 44.0]), torch.tensor([50.0, 9.1, 56.0])

    matrices = resize_matrices(start, end, 50, 16)

    assert (matrices >= 0).all()
    torch.testing.assert_close(matrices[:2].sum(-1), torch.ones(2, 16))
    # Half of the last interval lies beyond the pixels: the rows that see none of them are empty.
    torch.testing.assert_close(matrices[2, :8].sum(-1), torch.ones(8))
    assert not matrices[2, 10:].any()


def test_narrow_floats_keep_their_boxes():
    images = torch.rand(1, 3, 16, 600).bfloat16()
    box = boxes((501.0, 2.0, 533.0, 12.0))

    with torch.autocast("cpu", torch.bfloat16):
        banner = text_banners(images, box, ZERO)

    assert torch.equal(banner, text_banners(images.float(), box, ZERO))


def similarity(scale, angle, shift):
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


def theta_of(crop_from_image, image):
    return torch.from_numpy(grid_sample_theta(crop_from_image[None], image.shape[:2])).float()


TURNED = similarity(1.4, 0.2, (-180, -20))
SHIFTED = similarity(1.0, 0.0, (-150.25, -40.5))


@pytest.mark.parametrize("crop_from_image", [TURNED, SHIFTED], ids=["turned", "shifted"])
def test_canvas_reads_the_image_where_the_inverse_map_points(crop_from_image):
    # On a ramp bilinear sampling is exact: the value read is the position that was read.
    ramp = torch.arange(512.0) / 256 - 1
    image = torch.stack([ramp.expand(512, 512), ramp[:, None].expand(512, 512)])[None]

    canvas = face_canvases(image, theta_of(crop_from_image, np.empty((512, 512))), ZERO)

    y, x = np.mgrid[0:112, 0:112]
    linear, shift = crop_from_image[:, :2], crop_from_image[:, 2]
    points = np.linalg.solve(linear, np.stack([x.ravel(), y.ravel()]) - shift[:, None])
    inside = ((points >= 0) & (points <= 511)).all(0)
    read = (canvas[0].reshape(2, -1).numpy() + 1) * 256
    assert inside.mean() > 0.6
    np.testing.assert_allclose(read[:, inside], points[:, inside], atol=1e-2)


@pytest.mark.parametrize("crop_from_image", [TURNED, SHIFTED], ids=["turned", "shifted"])
def test_canvas_is_the_format_s_inverse_warping(astronaut, crop_from_image):
    x = torch.from_numpy(astronaut.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1

    canvas = face_canvases(x, theta_of(crop_from_image, astronaut), ZERO)

    pixels = (canvas[0].permute(1, 2, 0).numpy() + 1) * 127.5
    difference = np.abs(pixels - warp_affine(astronaut, crop_from_image))
    # OpenCV's rule rounds positions to 1/32 px, worth several grey levels at a sharp edge.
    assert difference.mean() < 0.5
    assert difference.max() < 255 / 32


def test_outside_of_the_image_is_black(astronaut):
    x = torch.full((1, 3, 64, 64), 0.5)
    theta = theta_of(similarity(1.0, 0.0, (60, 0)), np.empty((64, 64)))

    canvas = face_canvases(x, theta, ZERO)

    assert canvas[0, 0, 10, 5] == pytest.approx(-1.0)
    assert canvas[0, 0, 10, 80] == pytest.approx(0.5)


def test_a_large_face_is_filtered_before_it_shrinks():
    stripes = (torch.arange(448) % 2).float().mul(2).sub(1).expand(1, 3, 448, 448)
    theta = torch.eye(2, 3)[None]

    canvas = face_canvases(stripes, theta, ZERO)

    # Point sampling would return a pattern that is not there; the mean of the stripes is grey.
    assert canvas.abs().max() < 0.05
    grid = F.affine_grid(theta * 0.99, [1, 3, 112, 112], align_corners=False)
    assert F.grid_sample(stripes, grid, align_corners=False).abs().max() > 0.5


def test_a_face_s_canvas_does_not_depend_on_the_faces_beside_it():
    images = torch.rand(2, 3, 300, 300)
    theta = torch.stack([torch.eye(2, 3), torch.eye(2, 3) * 0.2, torch.eye(2, 3) * 0.6])
    index = torch.tensor([1, 0, 1])

    together = face_canvases(images, theta, index)

    for face in range(3):
        alone = face_canvases(images, theta[face : face + 1], index[face : face + 1])
        torch.testing.assert_close(together[face : face + 1], alone)


@pytest.mark.parametrize("sampling", ["antialiased", "bilinear"])
def test_banner_gradient_is_that_of_a_linear_map_whatever_the_box_lies_in(sampling, monkeypatch):
    # Few elements at once, so that the boxes are worked through in several parts.
    monkeypatch.setattr(separable_resize, "_MAX_COPIED", {False: 2 * 7 * 9})
    images = torch.rand(2, 1, 7, 9, dtype=torch.float64, requires_grad=True)
    some = boxes((0, 0, 9, 7), (1.5, 2.2, 6.1, 6.9), (3, 3, 9, 7)).double()
    index = torch.tensor([1, 0, 1])

    assert torch.autograd.gradcheck(
        lambda x: text_banners(x, some, index, (3, 4), sampling), images
    )


def test_a_face_twice_the_canvas_is_read_from_the_2_x_2_means():
    images = torch.rand(2, 3, 64, 64)

    canvas = face_canvases(images, torch.eye(2, 3)[None], torch.tensor([1]), (32, 32))

    torch.testing.assert_close(canvas, F.avg_pool2d(images[1:], 2), rtol=0, atol=1e-4)


@pytest.mark.parametrize("crop", ["antialiased", "bilinear", "faces"])
def test_crops_are_one_graph_that_reads_nothing_back(crop):
    images = torch.rand(2, 3, 40, 40)
    index = torch.tensor([1, 0])
    two = boxes((2, 3, 30, 20), (0, 0, 40, 40))
    theta = torch.eye(2, 3).repeat(2, 1, 1)

    def cut(images):
        if crop == "faces":
            return face_canvases(images, theta, index, (8, 8))
        return text_banners(images, two, index, (8, 16), crop)

    torch._dynamo.reset()
    compiled = torch.compile(cut, fullgraph=True, backend="aot_eager")
    image, copy = images.clone().requires_grad_(), images.clone().requires_grad_()
    cut(image).square().sum().backward()
    compiled(copy).square().sum().backward()

    torch.testing.assert_close(compiled(images), cut(images))
    torch.testing.assert_close(copy.grad, image.grad)


@pytest.mark.parametrize("scale", [0.3, 0.9], ids=["enlarged", "shrunk"])
def test_canvas_gradient_is_that_of_a_linear_map(scale):
    images = torch.rand(1, 1, 9, 9, dtype=torch.float64, requires_grad=True)
    theta = torch.tensor([[[scale, 0.1, 0.05], [-0.1, scale, 0.0]]], dtype=torch.float64)

    assert torch.autograd.gradcheck(lambda x: face_canvases(x, theta, ZERO, (4, 4)), images)


def test_no_region_gives_empty_crops():
    images, none = torch.rand(2, 3, 16, 16), torch.zeros(0, dtype=torch.int64)

    assert text_banners(images, torch.zeros(0, 4), none).shape == (0, 3, 32, 128)
    assert face_canvases(images, torch.zeros(0, 2, 3), none).shape == (0, 3, 112, 112)
