"""The non-diffeomorphic volume: analytic answers, and folds that central differences miss."""

import numpy as np
import pytest

from workflow.referee.metrics import SLAB, TETRAHEDRA, folded_volume_percent, regularity


def identity(size=(7, 6, 11)):
    """Return the identity on a grid with more layers than a slab."""
    assert size[2] - 1 > SLAB
    grid = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in size[::-1]], indexing="ij")
    return np.stack(grid[::-1])


def test_both_ways_to_cut_a_cell_fill_it():
    volumes = [np.linalg.det(np.subtract(t[1:], t[0])) / 6 for t in TETRAHEDRA]
    np.testing.assert_allclose(volumes, [1 / 6] * 8 + [1 / 3] * 2)
    assert len({frozenset(tetrahedron) for tetrahedron in TETRAHEDRA}) == 10


def test_what_keeps_its_orientation_has_no_folded_volume():
    matrix = np.array([[1.2, 0.3, -0.1], [0.0, 0.9, 0.2], [0.1, -0.2, 1.1]], np.float32)
    sheared = (matrix @ identity().reshape(3, -1)).reshape(identity().shape)
    assert folded_volume_percent(identity()) == 0
    assert folded_volume_percent(sheared) == 0


def test_a_reflection_turns_over_all_it_covers():
    """Mirroring x and doubling y turns over twice the volume of the grid."""
    mapping = identity()
    mapping[0] *= -1
    mapping[1] *= 2
    assert folded_volume_percent(mapping) == pytest.approx(200)


def test_one_column_of_cells_that_runs_back():
    """x is 0, 1, 2, 1.5, 4, ...: cells of one layer shrink to -0.5 of their volume."""
    mapping = identity()
    mapping[0, :, :, 3] = 1.5
    assert folded_volume_percent(mapping) == pytest.approx(100 * 0.5 / 6)


def test_a_displaced_voxel_by_brute_force():
    """Volumes of the tetrahedra about one voxel, one by one in double precision."""
    mapping = identity()
    mapping[:, 4, 3, 2] += (0.9, -1.3, 0.7)
    turned = 0.0
    for z, y, x in np.ndindex(10, 5, 6):
        for tetrahedron in TETRAHEDRA:
            points = [mapping[:, z + k, y + j, x + i].astype(float) for i, j, k in tetrahedron]
            turned += max(0.0, -np.linalg.det(np.subtract(points[1:], points[0])) / 6)
    expected = 100 * turned / 2 / 300
    assert folded_volume_percent(mapping) == pytest.approx(expected, rel=1e-5)
    assert expected > 0.05


def test_central_differences_miss_alternating_folds():
    """x is 0, 1, 3.5, 3, 5.5, 5, 6, 7: two layers of cells run back, no central difference does."""
    mapping = identity((8, 8, 8))
    mapping[0, :, :, 2:6:2] += 1.5
    assert regularity(mapping)["folds"] == 0
    assert folded_volume_percent(mapping) == pytest.approx(100 * 2 * 0.5 / 7)


def test_parity_with_the_authors_package():
    """Random folds away from the faces, where the package continues the map by its own rule.

    It asks for old versions of numpy, but runs: pip install --no-deps digital-diffeomorphism.
    """
    package = pytest.importorskip("digital_diffeomorphism")
    mapping = identity((12, 10, 14))
    inner = (slice(None), slice(3, -3), slice(3, -3), slice(3, -3))
    mapping[inner] += np.random.default_rng(1).normal(0, 0.8, mapping[inner].shape)
    volume = package.ndv(mapping[::-1].transpose(1, 2, 3, 0).copy())[0]
    cells = np.prod(np.subtract(mapping.shape[1:], 1))
    assert folded_volume_percent(mapping) == pytest.approx(100 * volume / cells, rel=1e-5)
    assert volume > 5
