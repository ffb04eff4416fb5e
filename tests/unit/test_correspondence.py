"""Target registration error: known shifts, and the phantom's own truth on oblique grids."""

from functools import partial

import numpy as np
import pytest
import SimpleITK as sitk

from avsm.grid import WorkingGrid
from avsm.images import write_image
from tests.conftest import oblique_grid
from workflow.data.preprocess import preprocess_label
from workflow.geometry import index_grid, index_to_physical
from workflow.phantom.labels import index_to_template, phantom_label
from workflow.referee.metrics import invert, target_error

SIZE = (20, 48, 48)
SCANS = {
    "fixed": {"subject": 0, "visit": 0, "side": "left", "seed": 2019},
    "moving": {"subject": 1, "visit": 1, "side": "right", "seed": 2019},
}
TRUTH = partial(index_to_template, scans=SCANS, mirror_left=True)


def test_error_of_a_known_shift_is_its_length_in_mm():
    """Both scans show one object under one oblique, anisotropic header."""
    grid = oblique_grid((12, 10, 8))
    matrix, origin = index_to_physical(grid)
    to_template = lambda index: np.asarray(index) @ matrix.T + origin  # noqa: E731
    mask = np.zeros((8, 10, 12), bool)
    mask[2:5, 3:6, 4:9] = True
    shift = np.array([1.0, -2.0, 0.5])
    mapping = index_grid(grid) + shift.reshape(3, 1, 1, 1).astype(np.float32)
    expected = np.linalg.norm(shift * grid.GetSpacing())
    args = (to_template, to_template, matrix)
    assert target_error(mask, mapping, *args) == pytest.approx(expected, abs=1e-3)
    assert np.isnan(target_error(np.zeros_like(mask), mapping, *args))


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """Label maps of both scans as preprocessing makes them: the left knee becomes a right one."""
    folder, found = tmp_path_factory.mktemp("phantom"), {}
    for name, scan in SCANS.items():
        path = folder / f"{name}.nii.gz"
        write_image(phantom_label(**scan, size=(40, 96, 96)), path)
        found[name] = preprocess_label(
            str(path), WorkingGrid(SIZE, None), scan["side"] == "left", []
        )
    return found


def true_map(labels):
    """Return where each fixed voxel truly is in the moving scan, ``(3, z, y, x)``."""
    grid = index_grid(labels["fixed"])
    target = TRUTH("fixed", labels["fixed"])(grid.reshape(3, -1).T)
    moving = TRUTH("moving", labels["moving"])
    index, missed = invert(moving, target, np.array(SIZE))
    assert np.quantile(missed, 0.99) < 0.01
    return index.T.reshape(grid.shape)


def test_truth_matches_the_labels_and_has_no_error(labels):
    mapping = true_map(labels)
    a, b = (sitk.GetArrayFromImage(labels[name]) for name in ("fixed", "moving"))
    nearest = np.rint(mapping).astype(int)
    inside = np.all([(n >= 0) & (n < s) for n, s in zip(nearest, SIZE, strict=True)], axis=0)
    bones = inside & np.isin(a, (1, 3))
    x, y, z = nearest[:, bones]
    assert np.mean(a[bones] == b[z, y, x]) > 0.93  # the rest is rounding at the surfaces
    maps = [TRUTH(name, labels[name]) for name in ("fixed", "moving")]
    matrix = index_to_physical(labels["moving"])[0]
    cartilage = np.isin(a, (2, 4))
    assert target_error(cartilage, mapping, *maps, matrix) < 0.01
    before = target_error(cartilage, index_grid(labels["fixed"]), *maps, matrix)
    assert 3 < before < 40


def test_a_wrong_side_would_be_seen(labels):
    """Without knowing that the left knee was mirrored the same map is far off."""
    wrong = partial(index_to_template, scans=SCANS, mirror_left=False)
    maps = [wrong(name, labels[name]) for name in ("fixed", "moving")]
    cartilage = np.isin(sitk.GetArrayFromImage(labels["fixed"]), (2, 4))
    matrix = index_to_physical(labels["moving"])[0]
    assert target_error(cartilage, true_map(labels), *maps, matrix) > 5
