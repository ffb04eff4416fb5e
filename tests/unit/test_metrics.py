"""Every measure against an answer that is known and neither 0 nor 1."""

import numpy as np
import pytest
import SimpleITK as sitk

from tests.conftest import oblique_grid
from workflow.geometry import index_grid, index_map, index_to_physical, vector_image
from workflow.referee import metrics


def identity(size=(12, 10, 8)):
    return index_grid(sitk.Image(size, sitk.sitkUInt8))


def test_dice_of_half_overlap():
    a, b = np.zeros((4, 4, 4), bool), np.zeros((4, 4, 4), bool)
    a[:2], b[1:3] = True, True
    assert metrics.dice(a, b) == 0.5


def test_dice_of_empty_masks():
    empty, full = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    assert np.isnan(metrics.dice(empty, empty))
    assert metrics.dice(empty, full) == 0


def test_warp_labels_by_brute_force():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (6, 7, 8)).astype(np.uint8)
    mapping = identity((8, 7, 6)) + rng.normal(0, 2, (3, 6, 7, 8)).astype(np.float32)
    expected = np.zeros_like(labels)
    for z, y, x in np.ndindex(6, 7, 8):
        i, j, k = (int(np.floor(c + 0.5)) for c in mapping[:, z, y, x])
        if 0 <= i < 8 and 0 <= j < 7 and 0 <= k < 6:
            expected[z, y, x] = labels[k, j, i]
    np.testing.assert_array_equal(metrics.warp_labels(labels, mapping), expected)


def test_jacobian_of_a_linear_map_is_its_matrix():
    matrix = np.array([[1.2, 0.3, -0.1], [0.0, 0.9, 0.2], [0.1, -0.2, 1.1]], np.float32)
    mapping = (matrix @ identity().reshape(3, -1)).reshape(identity().shape)
    jac = metrics.jacobian(mapping)
    np.testing.assert_allclose(jac[:, :, 4, 5, 6], matrix, atol=1e-5)
    np.testing.assert_allclose(metrics.determinant(jac), np.linalg.det(matrix), atol=1e-5)


def test_folds_of_a_known_fold():
    """x runs back over four voxels; central differences see the two inner ones."""
    mapping = identity()
    profile = np.array([0, 1, 2, 3, 6, 5, 4, 3, 8, 9, 10, 11], np.float32)
    mapping[0] = profile
    slopes = np.gradient(profile)
    assert (slopes < 0).sum() == 2
    counted = metrics.regularity(mapping, volume_ratio=2.0)
    assert counted["folds"] == 2 * 8 * 10
    assert counted["folds_abs"] == pytest.approx(2.0 * -slopes[slopes < 0].sum() * 80)
    assert counted["folds_diagonal"] == 2 * 8 * 10


def test_sdlogj_and_nonpositive_percent_of_a_known_profile():
    """One half shrinks to 0.5 along x, the other grows to 1.5; two columns of voxels fold."""
    size = (12, 10, 8)
    mapping = identity(size)
    mapping[0] = np.array([0, 0.5, 1, 1.5, 2, 2.5, 4, 5.5, 7, 8.5, 10, 11.5], np.float32)
    det = np.gradient(mapping[0, 0, 0])
    found = metrics.regularity(mapping)
    assert found["nonpositive_percent"] == 0
    assert found["sdlogj"] == pytest.approx(np.log(det[2:-2] + 3).std(), abs=1e-5)
    mapping[0, :, :, 4:6] -= 10  # both ends of the dip now run backwards
    det = np.gradient(mapping[0, 0, 0])
    found = metrics.regularity(mapping)
    assert found["nonpositive_percent"] == pytest.approx(100 * (det <= 0).sum() / 12)
    clipped = np.clip(det[2:-2] + 3, 1e-9, None)
    assert found["sdlogj"] == pytest.approx(np.log(clipped).std(), rel=1e-5)
    assert np.isnan(metrics.regularity(identity((4, 10, 8)))["sdlogj"])


def test_sdlogj_is_of_physical_determinants():
    mapping = identity()
    mapping[0] = np.linspace(0, 3, 12, dtype=np.float32) ** 2
    det = 2.0 * np.gradient(mapping[0, 0, 0])
    found = metrics.regularity(mapping, volume_ratio=2.0)["sdlogj"]
    assert found == pytest.approx(np.log(det[2:-2] + 3).std(), abs=1e-5)


def test_a_determinant_of_zero_is_not_positive_and_no_fold():
    """x stands still over three voxels: central differences are 0 at the middle one."""
    mapping = identity()
    mapping[0] = np.array([0, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9], np.float32)
    found = metrics.regularity(mapping)
    assert found["folds"] == 0
    assert found["nonpositive_percent"] == pytest.approx(100 / 12)


def test_full_determinant_and_diagonal_product_disagree_on_a_rotation():
    """A rotation by 100 degrees folds nothing, but two of its diagonal terms are negative."""
    angle = np.deg2rad(100)
    matrix = np.eye(3, dtype=np.float32)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    rotated = (matrix @ identity().reshape(3, -1)).reshape(identity().shape)
    assert metrics.regularity(rotated)["folds"] == 0
    # Swapping x and y reflects: every voxel folds, while the diagonal product is 0 everywhere.
    swapped = identity()[[1, 0, 2]]
    assert metrics.regularity(swapped)["folds"] == 8 * 10 * 12
    assert metrics.regularity(swapped)["folds_diagonal"] == 0


def smooth_displacement(grid, seed=5):
    noise = np.random.default_rng(seed).normal(0, 8, (3, *grid.GetSize()[::-1]))
    return sitk.Cast(
        sitk.SmoothingRecursiveGaussian(vector_image(noise, grid), 2.0), sitk.sitkVectorFloat32
    )


def physical_determinant(displacement, moving):
    volumes = [np.linalg.det(index_to_physical(grid)[0]) for grid in (displacement, moving)]
    mapping = index_map(displacement, moving)
    return metrics.determinant(metrics.jacobian(mapping)) * volumes[1] / volumes[0]


def test_determinant_equals_itk():
    """Anisotropic grids whose headers differ; ITK's filter knows no oblique directions."""
    fixed = oblique_grid((14, 16, 12), (1.4, 0.7, 0.9))
    fixed.SetDirection(np.eye(3).ravel())
    moving = oblique_grid((14, 16, 12), (1.0, 0.8, 1.1), angles=(0.1, 0.3, -0.2))
    displacement = smooth_displacement(fixed)
    expected = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(displacement))
    inner = (slice(1, -1),) * 3
    found = physical_determinant(displacement, moving)
    np.testing.assert_allclose(found[inner], expected[inner], atol=2e-3)
    assert expected[inner].std() > 0.1


def test_determinant_does_not_depend_on_the_frame():
    """Turning the fixed grid and its vectors together changes no determinant."""
    fixed = oblique_grid((14, 16, 12), (1.4, 0.7, 0.9))
    moving = oblique_grid((14, 16, 12), (1.0, 0.8, 1.1), angles=(0.1, 0.3, -0.2))
    displacement = smooth_displacement(fixed)
    turn = np.reshape(sitk.Euler3DTransform((0, 0, 0), 0.4, 0.7, -0.5).GetMatrix(), (3, 3))
    turned = sitk.Image(fixed)
    turned.SetDirection((turn @ np.reshape(fixed.GetDirection(), (3, 3))).ravel())
    # phi(x) = x + u must turn as a whole: u' = R (x + u) - R x about the same origin.
    vectors = sitk.GetArrayFromImage(displacement) @ turn.T
    turned_displacement = vector_image(np.moveaxis(vectors, -1, 0), turned)
    np.testing.assert_allclose(
        physical_determinant(turned_displacement, moving),
        physical_determinant(displacement, moving),
        atol=1e-3,
    )


def test_symmetry_of_known_shifts():
    """Forward by (2, 1, 0), back by (-2, 0, 0.5): the loop misses (0, 1, 0.5) voxels."""
    grid = identity((24, 26, 28))
    forward = grid + np.reshape([2, 1, 0], (3, 1, 1, 1)).astype(np.float32)
    backward = grid + np.reshape([-2, 0, 0.5], (3, 1, 1, 1)).astype(np.float32)
    found = metrics.inverse_consistency(forward, backward, (1.4, 0.7, 0.9), margin=3)
    expected = np.log((1 / 25) ** 2 + (0.5 / 27) ** 2)
    assert found["symmetry"] == pytest.approx(expected, abs=1e-4)
    assert found["inverse_error"] == pytest.approx(np.hypot(0.7, 0.45), abs=1e-4)


def test_displacements_continue_where_points_leave_the_moving_grid():
    """There by 5 voxels, back by 4.5, also from beyond the border: half a voxel is missed."""
    grid = identity((16, 14, 12))
    forward = grid + np.reshape([5, 0, 0], (3, 1, 1, 1)).astype(np.float32)
    backward = grid - np.reshape([4.5, 0, 0], (3, 1, 1, 1)).astype(np.float32)
    found = metrics.inverse_consistency(forward, backward, (1.4, 0.7, 0.9), margin=2)
    assert forward[0, :, :, -3].min() > 15
    assert found["inverse_error"] == pytest.approx(0.5 * 1.4, abs=1e-5)
    assert found["symmetry"] == pytest.approx(2 * np.log(0.5 / 15), abs=1e-5)


def test_symmetry_by_brute_force_interpolation():
    rng = np.random.default_rng(6)
    grid = identity((12, 12, 12))
    forward = grid + rng.normal(0, 0.7, grid.shape).astype(np.float32)
    backward = grid + rng.normal(0, 0.7, grid.shape).astype(np.float32)
    moved = backward - grid
    errors = []
    for z, y, x in np.ndindex(12, 12, 12):
        if not all(3 <= c < 9 for c in (x, y, z)):
            continue
        point = forward[:, z, y, x].astype(float)
        low = np.floor(point).astype(int)
        part = point - low
        value = np.zeros(3)
        for corner in np.ndindex(2, 2, 2):
            weight = np.prod([p if c else 1 - p for p, c in zip(part, corner, strict=True)])
            i, j, k = low + corner
            value += weight * moved[:, k, j, i]
        errors.append(point + value - (x, y, z))
    errors = np.array(errors)
    found = metrics.inverse_consistency(forward, backward, (1.4, 0.7, 0.9), margin=3)
    expected = np.log(np.mean(np.sum(errors**2, axis=1)) / 11**2)
    assert found["symmetry"] == pytest.approx(expected, abs=1e-4)
    expected = np.linalg.norm(errors * (1.4, 0.7, 0.9), axis=1).mean()
    assert found["inverse_error"] == pytest.approx(expected, abs=1e-4)


def test_inverse_consistency_of_the_identity_and_of_no_interior():
    found = metrics.inverse_consistency(identity(), identity(), (1, 1, 1), margin=1)
    assert found == {"symmetry": -np.inf, "inverse_error": 0}
    nothing = metrics.inverse_consistency(identity(), identity(), (1, 1, 1), margin=4)
    assert np.isnan(list(nothing.values())).all()
