"""Preprocessing: orientation, mirroring, intensities, area down-sampling and true geometry."""

import numpy as np
import pytest
import SimpleITK as sitk

from avsm.errors import UserError
from avsm.fields import warp_image
from avsm.grid import WorkingGrid, axis_weights, majority_vote, normalise, resample_by_area
from avsm.images import canonical, write_image
from tests.conftest import blobs, oblique_grid
from workflow.data.preprocess import merge_labels, preprocess_image, preprocess_label
from workflow.data.scans import Scan

RIGHT = Scan("a", "1", "right", None, None)
LEFT = Scan("a", "1", "left", None, None)


def test_canonical_axes_point_right_anterior_superior():
    image = blobs(oblique_grid())
    turned = sitk.Flip(sitk.PermuteAxes(image, (2, 0, 1)), (True, False, True))
    back = canonical(turned)
    np.testing.assert_allclose(back.GetDirection(), image.GetDirection(), atol=1e-12)
    np.testing.assert_allclose(back.GetOrigin(), image.GetOrigin(), atol=1e-9)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(image))
    # In ITK's LPS frame, RAS+ axes run against x, against y and along z.
    assert (np.sign(np.diag(np.reshape(back.GetDirection(), (3, 3)))) == (-1, -1, 1)).all()


def test_area_weights_of_a_fractional_ratio():
    weights = axis_weights(5, np.array([0, 2.5, 5]))
    np.testing.assert_allclose(weights, [[0.4, 0.4, 0.2, 0, 0], [0, 0, 0.2, 0.4, 0.4]])


def test_area_weights_pad_with_nothing():
    weights = axis_weights(2, np.array([-1.0, 0.0, 1.0, 2.0, 3.0]))
    np.testing.assert_allclose(weights, [[0, 0], [1, 0], [0, 1], [0, 0]])


def test_up_sampling_interpolates_linearly():
    weights = axis_weights(3, np.arange(0, 3.1, 0.5))
    ramp = weights @ np.array([0.0, 1.0, 2.0])
    np.testing.assert_allclose(ramp, [0, 0.25, 0.75, 1.25, 1.75, 2.0], atol=1e-6)


def test_up_sampling_knows_nothing_outside():
    weights = axis_weights(2, np.arange(-1.5, 3.6, 0.5))
    centres = np.arange(-1.5, 3.5, 0.5) + 0.25 - 0.5  # in voxel index: half a voxel off the edges
    np.testing.assert_allclose(weights.sum(axis=1), (centres > -0.5) & (centres < 1.5))


def test_down_sampling_by_two_is_the_block_mean():
    array = np.random.default_rng(0).random((6, 8, 4), dtype=np.float32)
    edges = [np.arange(0, n + 1, 2.0) for n in (4, 8, 6)]
    expected = array.reshape(3, 2, 4, 2, 2, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(resample_by_area(array, edges), expected, atol=1e-6)


def test_majority_vote_by_brute_force():
    labels = np.random.default_rng(1).integers(0, 3, (4, 6, 8)).astype(np.uint8)
    found = majority_vote(labels, [np.arange(0, n + 1, 2.0) for n in (8, 6, 4)])
    for z, y, x in np.ndindex(*found.shape):
        block = labels[2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        assert found[z, y, x] == np.bincount(block.ravel(), minlength=3).argmax()


def test_majority_vote_counts_uncovered_space_as_background():
    labels = np.full((2, 2, 2), 7, np.uint8)
    edges = [np.array([-2.0, 1.0, 4.0])] * 3
    np.testing.assert_array_equal(np.unique(majority_vote(labels, edges)), [0])


@pytest.mark.parametrize("offset", [1e6, 2**31, 3e9])
@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_an_offset_loses_no_precision(offset, kind):
    array = np.random.default_rng(0).integers(0, 900, (9, 10, 11))
    expected = normalise(array, "image")
    found = normalise((array + int(offset)).astype(kind), "image")
    np.testing.assert_allclose(found, expected, atol=np.finfo(np.float32).eps)
    near, far = (
        sitk.GetImageFromArray((array + shift).astype(np.float64)) for shift in (0, int(offset))
    )
    field = sitk.GetImageFromArray(np.full((*array.shape, 3), 0.25), isVector=True)
    found, kept = (sitk.GetArrayFromImage(warp_image(image, field)) for image in (far, near))
    np.testing.assert_allclose(found - offset, kept, atol=1e-4)


def test_normalise_clamps_beyond_the_percentiles():
    array = np.arange(1001, dtype=np.int16)
    scaled = normalise(array, "image", (10, 90))
    assert scaled[100] == 0 and scaled[900] == 1 and scaled[0] == 0 and scaled[1000] == 1
    assert scaled[500] == pytest.approx(0.5)


def test_constant_image_is_refused():
    with pytest.raises(UserError, match="image: found the intensities 3 and 3 at the percentiles"):
        normalise(np.full(50, 3.0), "image")


@pytest.mark.parametrize("spacing_mm", [None, (1.0, 1.0, 1.0)])
def test_working_grid_keeps_physical_places(tmp_path, spacing_mm):
    """A blob's centre of mass, in mm, is the same before and after."""
    image = blobs(oblique_grid((40, 48, 44)), number=1)
    write_image(image, tmp_path / "a.nii")
    grid = WorkingGrid((20, 24, 22) if spacing_mm is None else (50, 44, 48), spacing_mm)
    found = preprocess_image(str(tmp_path / "a.nii"), grid, False, (0, 100))

    def centre_mm(im):
        array = sitk.GetArrayFromImage(im) ** 4  # the tails, cut by the border, count little
        index = [float((array * c).sum() / array.sum()) for c in np.indices(array.shape)[::-1]]
        return im.TransformContinuousIndexToPhysicalPoint(index)

    assert found.GetSize() == grid.size
    np.testing.assert_allclose(centre_mm(found), centre_mm(image), atol=0.08)
    if spacing_mm is None:
        corners = [(-0.5, -0.5, -0.5), (19.5, 23.5, 21.5)], [(-0.5, -0.5, -0.5), (39.5, 47.5, 43.5)]
        for a, b in zip(*corners, strict=True):
            np.testing.assert_allclose(
                found.TransformContinuousIndexToPhysicalPoint(a),
                image.TransformContinuousIndexToPhysicalPoint(b),
                atol=1e-4,
            )


def test_left_knees_are_mirrored_and_labels_follow(tmp_path):
    image = blobs(oblique_grid((16, 20, 18)), seed=3)
    write_image(image, tmp_path / "image.nii")
    write_image(sitk.Cast(image > 0.4, sitk.sitkUInt8) * 2, tmp_path / "label.nii")
    grid = WorkingGrid((16, 20, 18), None)
    pictures, labels = (
        {
            (scan.side, mirror): sitk.GetArrayFromImage(
                make(path, grid, mirror and scan.side == "left", last)
            )
            for scan in (RIGHT, LEFT)
            for mirror in (True, False)
        }
        for make, path, last in (
            (preprocess_image, str(tmp_path / "image.nii"), (0, 100)),
            (preprocess_label, str(tmp_path / "label.nii"), []),
        )
    )
    for found in (pictures, labels):
        np.testing.assert_array_equal(found["left", True], found["right", True][:, :, ::-1])
        np.testing.assert_array_equal(found["left", False], found["right", True])
    assert set(np.unique(labels["left", True])) == {0, 2}


def test_merged_labels():
    labels = np.array([[[0, 1, 7, 8]]], np.int16)
    merged = merge_labels(labels, [{"from": 7, "to": 1}, {"from": 8, "to": 3}])
    np.testing.assert_array_equal(merged, [[[0, 1, 1, 3]]])
    assert merged.dtype == np.uint8
