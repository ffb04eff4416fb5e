"""The contract test itself: it catches what is wrong, and says what would make it right."""

import subprocess

import numpy as np
import pytest

from tests.conftest import oblique_grid
from tests.contract.judge import changes, judge_field, time_limit
from workflow.geometry import vector_image

GRIDS = {
    "oblique": oblique_grid((30, 40, 36), (1.4, 0.7, 1.0), angles=(0.3, -0.25, 0.4)),
    "flipped": oblique_grid((26, 30, 34), (0.8, 1.3, 1.1), angles=(0.2, 0.3, -0.3)),
}


def case(grid):
    """A field of 3 to 8 mm, and where it is judged."""
    z, y, x = np.mgrid[tuple(slice(0, 3, n * 1j) for n in grid.GetSize()[::-1])]
    vectors = np.stack([3 + np.sin(y), np.cos(z) - 4, 5 + np.sin(x)])
    return vectors, np.ones(z.shape, bool), 0.2


def failure(*arguments):
    with pytest.raises(pytest.fail.Exception) as raised:
        judge_field(*arguments)
    assert "array" not in str(raised.value) and len(str(raised.value)) < 400
    assert raised.value.pytrace is False
    return str(raised.value)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("name", changes(GRIDS["oblique"]))
def test_names_the_single_change_that_makes_a_field_right(grid, name):
    vectors, *rest = case(grid)
    judge_field(vector_image(vectors, grid), vectors, *rest)
    change = changes(grid)[name]
    # Each change is affine in the vectors: undo it by solving for three unit vectors and zero.
    zero = change(np.zeros_like(vectors))
    units = np.eye(3)[:, :, None, None, None] + 0 * vectors
    matrix = np.stack([(change(unit) - zero)[:, 0, 0, 0] for unit in units], axis=1)
    wrong = np.einsum("ij,jzyx->izyx", np.linalg.inv(matrix), vectors - zero)
    np.testing.assert_allclose(change(wrong), vectors, atol=1e-9)
    text = failure(vector_image(wrong, grid), vectors, *rest)
    assert text.endswith(f"; it would be right with {name}")


def column(values):
    return np.reshape(values, (3, 1, 1, 1))


def along_axes(u, grid):
    """Return vectors along the axes of a grid."""
    return np.einsum("ji,jzyx->izyx", np.reshape(grid.GetDirection(), (3, 3)), u)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda u, _: -u, "its sign turned"),
        (lambda u, _: u[::-1], "they seem to be z, y, x"),
        (lambda u, _: u * column((-1, -1, 1)), "they seem to be RAS"),
        (lambda u, grid: u / column(grid.GetSpacing()), "in voxels of LPS axes"),
        (lambda u, grid: along_axes(u, grid) / column(grid.GetSpacing()), "in voxels along the"),
        (along_axes, "mm along the grid's axes"),
    ],
)
def test_what_methods_mistake_is_named(wrong, said):
    grid = GRIDS["oblique"]
    vectors, *rest = case(grid)
    assert said in failure(vector_image(wrong(vectors, grid), grid), vectors, *rest)


def test_says_nothing_of_a_change_where_none_helps():
    grid = GRIDS["oblique"]
    vectors, *rest = case(grid)
    text = failure(vector_image(vectors * 0.3, grid), vectors, *rest)
    assert "mm in the mean, the true one" in text and "it would be" not in text


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", [(0, 0, 0, 0), (1, 20, 20, 15)])
def test_a_single_vector_that_is_not_finite_fails(value, where):
    grid = GRIDS["oblique"]
    vectors, *rest = case(grid)
    wrong = vectors.copy()
    wrong[where] = value
    text = failure(vector_image(wrong, grid), vectors, *rest)
    assert "has 1 vectors of 43200 that are NaN or infinite" in text


@pytest.mark.parametrize("hang", [lambda: subprocess.run(["sleep", "60"], check=True), None])
def test_a_method_that_hangs_is_stopped(hang):
    stopped = pytest.raises(pytest.fail.Exception, match=r"register\(\) took more than")
    with stopped, time_limit(0.2, "register()"):
        while True:
            if hang:
                hang()
