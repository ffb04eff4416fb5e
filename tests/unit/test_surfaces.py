"""Distances between surfaces: analytic answers, brute force on an oblique grid, empty masks."""

import numpy as np
import pytest
import SimpleITK as sitk

from tests.conftest import oblique_grid
from workflow.referee.metrics import surface_distances, surface_measures

SPACING = (0.9, 0.7, 1.4)  # mm, (z, y, x)


def box(shape, *ranges):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


def ball(shape, centre, radius):
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.linalg.norm((grid - centre) * SPACING, axis=-1) < radius


def test_plates_two_voxels_apart():
    """Every voxel of a one-voxel plate is a surface voxel, 2 x 1.4 mm from the other plate."""
    a = box((6, 7, 8), (0, 6), (0, 7), (2, 3))
    b = box((6, 7, 8), (0, 6), (0, 7), (4, 5))
    found = surface_measures(a, b, SPACING)
    assert found == {"hd95": pytest.approx(2.8), "assd": pytest.approx(2.8)}


def test_percentile_ignores_a_twentieth_and_the_mean_does_not():
    """A lone voxel 7 mm off one plate of 99 voxels: the other 99 are matched exactly."""
    plate = box((9, 11, 12), (0, 9), (0, 11), (2, 3))
    outlier = plate | box((9, 11, 12), (4, 5), (5, 6), (7, 8))
    found = surface_measures(plate, outlier, SPACING)
    assert found["hd95"] == 0
    assert found["assd"] == pytest.approx(5 * 1.4 / (99 + 100))


def test_percentile_is_the_95th_of_the_worse_direction():
    """7 and 3 voxels lie 2.8 and 5.6 mm off a plate of 100, which itself is matched exactly.

    Of those 110 distances the 90th percentile is 0, the 95th 2.8, and the 98th above that.
    """
    plate = box((10, 10, 12), (0, 10), (0, 10), (2, 3))
    near = box((10, 10, 12), (0, 1), (0, 7), (4, 5))
    far = box((10, 10, 12), (5, 6), (3, 6), (6, 7))
    for a, b in ((plate, plate | near | far), (plate | near | far, plate)):
        found = surface_measures(a, b, SPACING)
        assert found["hd95"] == pytest.approx(2.8)
        assert found["assd"] == pytest.approx((7 * 2.8 + 3 * 5.6) / (100 + 110))


def test_distances_equal_brute_force_between_physical_points():
    """The grid is oblique and anisotropic; points are compared in physical space."""
    grid = oblique_grid((13, 12, 11))
    masks = [ball((11, 12, 13), centre, 3) for centre in ((5, 6, 6), (6, 5, 4))]
    points = [physical_surface(mask, grid) for mask in masks]
    distances = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    there, back = surface_distances(*masks, grid.GetSpacing()[::-1])
    np.testing.assert_allclose(np.sort(there), np.sort(distances.min(axis=1)), atol=1e-6)
    np.testing.assert_allclose(np.sort(back), np.sort(distances.min(axis=0)), atol=1e-6)
    assert there.max() > 1


def physical_surface(mask, grid):
    """Return the points of voxels with a face neighbour outside, one by one."""
    padded = np.pad(mask, 1)
    points = []
    for z, y, x in np.argwhere(mask):
        steps = np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
        neighbours = steps + np.array([z + 1, y + 1, x + 1])
        if not padded[tuple(neighbours.T)].all():
            points.append(grid.TransformIndexToPhysicalPoint((int(x), int(y), int(z))))
    return np.array(points)


def test_largest_distance_equals_itk():
    grid = sitk.GetImageFromArray(np.zeros((14, 15, 16), np.uint8))
    grid.SetSpacing(SPACING[::-1])
    masks = [ball((14, 15, 16), centre, 3.5) for centre in ((6, 7, 8), (7, 7, 6))]
    images = []
    for mask in masks:
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.CopyInformation(grid)
        images.append(image)
    contours = [sitk.LabelContour(image) for image in images]
    itk = sitk.HausdorffDistanceImageFilter()
    itk.Execute(*contours)
    there, back = surface_distances(*masks, SPACING)
    assert max(there.max(), back.max()) == pytest.approx(itk.GetHausdorffDistance(), abs=1e-5)


def test_empty_masks():
    empty, full = np.zeros((3, 4, 5), bool), box((3, 4, 5), (1, 2), (1, 2), (1, 2))
    diagonal = np.linalg.norm((2.7, 2.8, 7.0))
    assert surface_measures(full, empty, SPACING)["hd95"] == pytest.approx(diagonal)
    assert surface_measures(empty, full, SPACING)["assd"] == pytest.approx(diagonal)
    assert np.isnan(list(surface_measures(empty, empty, SPACING).values())).all()
