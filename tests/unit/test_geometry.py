"""Frames and conversions, on oblique anisotropic grids whose headers differ."""

import numpy as np
import pytest
import SimpleITK as sitk

from avsm.fields import warp_image
from avsm.grid import same_grid
from tests.conftest import blobs, oblique_grid
from workflow import geometry
from workflow.referee.metrics import warp_labels

FIXED = {"size": (18, 22, 20), "spacing": (1.5, 0.6, 0.8), "origin": (12, -40, 7)}
MOVING = {"size": (21, 19, 23), "origin": (13, -41, 4), "angles": (-0.15, 0.25, 0.1)}


@pytest.fixture
def grids():
    return oblique_grid(**FIXED), oblique_grid(**MOVING)


def random_displacement(grid, scale_mm=3.0, seed=1):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(0, scale_mm, (3, *grid.GetSize()[::-1]))
    return geometry.vector_image(vectors, grid)


def test_index_to_physical_agrees_with_itk(grids):
    matrix, origin = geometry.index_to_physical(grids[0])
    index = (3.25, 1.5, 7.75)
    expected = grids[0].TransformContinuousIndexToPhysicalPoint(index)
    np.testing.assert_allclose(matrix @ index + origin, expected, atol=1e-9)


def test_index_map_agrees_with_itk_point_by_point(grids):
    fixed, moving = grids
    displacement = random_displacement(fixed)
    mapping = geometry.index_map(displacement, moving)
    for index in [(0, 0, 0), (17, 3, 11), (5, 21, 19)]:
        point = np.array(fixed.TransformIndexToPhysicalPoint(index)) + displacement[index]
        expected = moving.TransformPhysicalPointToContinuousIndex(point)
        np.testing.assert_allclose(mapping[(slice(None), *index[::-1])], expected, atol=1e-4)


def test_index_map_round_trip(grids):
    displacement = random_displacement(grids[0])
    mapping = geometry.index_map(displacement, grids[1])
    back = geometry.displacement_from_index_map(mapping, *grids)
    difference = sitk.GetArrayFromImage(back) - sitk.GetArrayFromImage(displacement)
    assert np.abs(difference).max() < 2e-5


def test_stripped_displacement_warps_the_same_voxels(grids):
    """A field found without headers pulls the same voxels once it is carried back to mm."""
    fixed, moving = grids
    image = blobs(moving)
    stripped_field = random_displacement(geometry.strip_header(fixed), scale_mm=1.5)
    expected = warp_image(geometry.strip_header(image), stripped_field, outside=0.0)
    field = geometry.displacement_from_stripped(stripped_field, fixed, moving)
    found = warp_image(image, field, outside=0.0)
    a, b = sitk.GetArrayFromImage(expected), sitk.GetArrayFromImage(found)
    # Points on the very border of the image may fall in or out by rounding.
    assert np.quantile(np.abs(a - b), 0.995) < 1e-4
    assert a.std() > 0.05


def test_affine_displacement_agrees_with_itk(grids):
    fixed = grids[0]
    rng = np.random.default_rng(3)
    matrix, translation = np.eye(3) + rng.normal(0, 0.1, (3, 3)), rng.normal(0, 5, 3)
    transform = sitk.AffineTransform(matrix.ravel().tolist(), translation.tolist())
    expected = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, fixed.GetSize(), fixed.GetOrigin(),
        fixed.GetSpacing(), fixed.GetDirection(),
    )  # fmt: skip
    found = geometry.displacement_from_affine(matrix, translation, fixed)
    difference = sitk.GetArrayFromImage(found) - sitk.GetArrayFromImage(expected)
    assert np.abs(difference).max() < 1e-4


def test_ras_conversions_agree_and_invert():
    rng = np.random.default_rng(4)
    ras = np.eye(4)
    ras[:3] += rng.normal(0, 0.5, (3, 4))
    matrix, translation = geometry.affine_lps_from_ras(ras)
    point = rng.normal(0, 50, 3)
    flip = np.array([-1, -1, 1])
    expected = flip * (ras[:3, :3] @ (flip * point) + ras[:3, 3])
    np.testing.assert_allclose(matrix @ point + translation, expected, atol=1e-9)

    vectors = rng.normal(size=(3, 2, 3, 4))
    flipped = geometry.vectors_lps_from_ras(vectors)
    np.testing.assert_array_equal(flipped[:2], -vectors[:2])
    np.testing.assert_array_equal(geometry.vectors_lps_from_ras(flipped), vectors)


def test_warp_pulls_from_fixed_plus_displacement(grids):
    """The object found 4 mm further left in the moving image comes back to its fixed place."""
    fixed = grids[0]
    shift = (4.0, -2.0, 3.0)
    moved = blobs(fixed, shift)
    vectors = np.broadcast_to(np.reshape(shift, (3, 1, 1, 1)), (3, *fixed.GetSize()[::-1]))
    warped = warp_image(moved, geometry.vector_image(vectors, fixed), outside=0.0)
    truth = sitk.GetArrayFromImage(blobs(fixed))
    error = np.abs(sitk.GetArrayFromImage(warped) - truth)[4:-4, 4:-4, 4:-4]
    start = np.abs(sitk.GetArrayFromImage(moved) - truth)[4:-4, 4:-4, 4:-4]
    assert error.mean() < 0.05 * start.mean()


def test_label_warp_equals_itk(grids):
    fixed, moving = grids
    labels = sitk.Cast(blobs(moving, number=20) * 5, sitk.sitkUInt8)
    displacement = random_displacement(fixed)
    expected = sitk.GetArrayFromImage(warp_image(labels, displacement, label=True))
    mapping = geometry.index_map(displacement, moving)
    found = warp_labels(sitk.GetArrayFromImage(labels), mapping)
    # Only points half-way between voxels may round differently in float32.
    assert (expected != found).mean() < 1e-3
    assert (expected > 0).mean() > 0.05


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda im: None, True),
        (lambda im: im.SetOrigin(np.add(im.GetOrigin(), 1e-4).tolist()), True),
        (lambda im: im.SetOrigin(np.add(im.GetOrigin(), 0.1).tolist()), False),
        (lambda im: im.SetSpacing((1.5, 0.6, 0.81)), False),
        (lambda im: im.SetDirection(np.diag([-1.0, -1.0, 1.0]).ravel()), False),
    ],
)
def test_same_grid(grids, change, same):
    other = sitk.Image(grids[0])
    change(other)
    assert same_grid(grids[0], other) is same
    assert not same_grid(*grids)


def test_an_affine_map_goes_between_frames_and_back(grids):
    """On oblique, anisotropic grids: images, their stripped copies, RAS."""
    fixed, moving = grids
    matrix = np.array([[1.1, 0.05, -0.1], [0.02, 0.9, 0.07], [-0.03, 0.1, 1.05]])
    translation = np.array([4.0, -3.0, 2.5])
    displacement = geometry.displacement_from_affine(matrix, translation, fixed)
    assert geometry.affine_error(matrix, translation, displacement) < 1e-3
    assert geometry.affine_error(matrix, translation + np.array([0, 2, 0]), displacement) > 1.9
    stripped = geometry.affine_to_stripped(matrix, translation, fixed, moving)
    field = geometry.displacement_from_affine(*stripped, geometry.strip_header(fixed))
    back = geometry.displacement_from_stripped(field, fixed, moving)
    expected = sitk.GetArrayFromImage(displacement)
    np.testing.assert_allclose(sitk.GetArrayFromImage(back), expected, atol=2e-3)
    for one, other in zip(
        geometry.affine_from_stripped(*stripped, fixed, moving), (matrix, translation), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-9)
    ras = geometry.affine_ras_from_lps(matrix, translation)
    np.testing.assert_allclose(geometry.affine_lps_from_ras(ras)[0], matrix)
    np.testing.assert_allclose(geometry.affine_lps_from_ras(ras)[1], translation)


def test_a_displacement_of_the_affinely_warped_image_is_composed_with_the_map(grids):
    """As SimpleITK composes them; and the warped image is the one that it would make."""
    fixed, moving = grids
    matrix = np.array([[1.1, 0.05, -0.1], [0.02, 0.9, 0.07], [-0.03, 0.1, 1.05]])
    translation = np.array([4.0, -3.0, 2.5])
    inner = random_displacement(fixed)
    affine = sitk.AffineTransform(matrix.ravel().tolist(), translation.tolist())
    field = sitk.DisplacementFieldTransform(sitk.Cast(inner, sitk.sitkVectorFloat64))
    both = sitk.CompositeTransform([affine, field])  # the one added last is applied first
    found = geometry.displacement_after_affine(inner, matrix, translation)
    for index in ((0, 0, 0), (5, 11, 3), tuple(n - 1 for n in fixed.GetSize())):
        point = fixed.TransformIndexToPhysicalPoint(index)
        expected = np.subtract(both.TransformPoint(point), point)
        np.testing.assert_allclose(found[index], expected, atol=1e-4)
    image = blobs(moving)
    expected = warp_image(
        image, geometry.displacement_from_affine(matrix, translation, fixed), outside=0.0
    )
    warped = geometry.warp_affinely(image, matrix, translation, fixed)
    arrays = (sitk.GetArrayFromImage(one) for one in (warped, expected))
    assert np.quantile(np.abs(np.subtract(*arrays)), 0.995) < 1e-4
