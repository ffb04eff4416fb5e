"""The knee phantom: geometry, anatomy against population figures, variation, errors."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from workflow.phantom.labels import (
    FIELD_OF_VIEW,
    draw_cartilage,
    draw_pose,
    draw_shape,
    phantom_label,
    scan_to_template,
)

COARSE, MEDIUM = (40, 96, 96), (60, 144, 144)
SUBJECTS = 12
NAMES = {1: "femur", 2: "fcart", 3: "tibia", 4: "tcart", 5: "patella", 6: "pcart"}

# Mean, sd, minimum and maximum over 42 manually segmented OAI knees: volumes (mm^3), extents
# and centroids (mm), thickness as volume over 2/3 of the voxel faces between it and its bone.
POPULATION = {
    "femur_volume": (184583, 37333, 133345, 257465),
    "fcart_volume": (12294, 3256, 7570, 20893),
    "tibia_volume": (123469, 27010, 90918, 184906),
    "tcart_volume": (4570, 1291, 2733, 7898),
    "patella_volume": (19426, 6296, 11731, 32207),
    "pcart_volume": (2911, 1063, 716, 5509),
    "femur_extent_x": (84.4, 6.75, 71.4, 95.9),
    "femur_extent_y": (67.6, 5.11, 58.7, 77.7),
    "femur_extent_z": (84.3, 7.92, 65.6, 101.4),
    "fcart_extent_x": (77.0, 6.60, 65.1, 88.2),
    "fcart_extent_y": (70.8, 5.24, 62.3, 81.3),
    "fcart_extent_z": (45.1, 3.96, 39.7, 56.5),
    "tibia_extent_x": (79.8, 6.32, 69.3, 91.0),
    "tibia_extent_y": (59.1, 5.82, 48.5, 71.1),
    "tibia_extent_z": (65.1, 8.26, 45.9, 83.5),
    "tcart_extent_x": (76.5, 6.44, 65.1, 88.9),
    "tcart_extent_y": (50.6, 4.34, 42.7, 61.3),
    "tcart_extent_z": (14.9, 1.58, 12.0, 18.2),
    "patella_extent_x": (45.8, 5.34, 38.5, 56.0),
    "patella_extent_y": (24.3, 2.68, 19.3, 29.9),
    "patella_extent_z": (45.2, 6.44, 36.5, 62.0),
    "fcart_centroid_x": (58.2, 2.82, 52.2, 65.1),
    "fcart_centroid_y": (68.0, 3.59, 60.1, 77.5),
    "fcart_centroid_z": (70.4, 7.76, 53.7, 87.6),
    "patella_centroid_y": (115.5, 3.82, 107.7, 124.6),
    "fcart_thickness": (2.11, 0.43, 1.51, 3.62),
    "tcart_thickness": (1.98, 0.30, 1.33, 2.46),
    "pcart_thickness": (2.33, 0.52, 1.09, 3.50),
}


@cache
def label_array(subject: int, visit: int = 0, side: str = "right", size=COARSE) -> np.ndarray:
    """Return the labels as (x, y, z)."""
    return sitk.GetArrayFromImage(phantom_label(subject, visit, side, size)).transpose(2, 1, 0)


def figures(labels: np.ndarray) -> dict[str, float]:
    """Return the figures of POPULATION of one label map."""
    spacing = FIELD_OF_VIEW / labels.shape
    out = {}
    for value, name in NAMES.items():
        index = np.argwhere(labels == value)
        out[f"{name}_volume"] = len(index) * spacing.prod()
        for axis, letter in enumerate("xyz"):
            extent = np.ptp(index[:, axis]) + 1
            out[f"{name}_extent_{letter}"] = extent * spacing[axis]
            out[f"{name}_centroid_{letter}"] = (index[:, axis].mean() + 0.5) * spacing[axis]
    for bone, cartilage in ((1, 2), (3, 4), (5, 6)):
        area = 0.0
        for axis in range(3):
            pairs = np.diff((labels == cartilage) * 1 + (labels == bone) * 3, axis=axis)
            area += (np.abs(pairs) == 2).sum() * spacing.prod() / spacing[axis]
        name = NAMES[cartilage]
        out[f"{name}_thickness"] = out[f"{name}_volume"] / (area * 2 / 3)
    return out


@pytest.fixture(scope="module")
def population() -> dict[str, np.ndarray]:
    """Figures of SUBJECTS phantom knees, one array per figure."""
    rows = [figures(label_array(subject, size=MEDIUM)) for subject in range(SUBJECTS)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def cartilage_dice(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean Dice of the femoral and the tibial cartilage."""
    return np.mean(
        [2 * ((a == v) & (b == v)).sum() / ((a == v).sum() + (b == v).sum()) for v in (2, 4)]
    )


def physical(image: sitk.Image, index: np.ndarray) -> np.ndarray:
    """Return the physical points (N, 3) of voxel indices (N, 3)."""
    columns = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return index @ columns.T + image.GetOrigin()


def voxel(image: sitk.Image, points: np.ndarray) -> np.ndarray:
    """Return the nearest voxel indices (N, 3) of physical points (N, 3)."""
    columns = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return np.rint((points - image.GetOrigin()) @ np.linalg.inv(columns).T).astype(int)


def template_to_scan(target: np.ndarray, image: sitk.Image, scan: tuple) -> np.ndarray:
    """Invert scan_to_template by quasi-Newton steps from an affine fit to the map."""
    rng = np.random.default_rng(0)
    sample = physical(image, rng.uniform(0, image.GetSize(), (500, 3)))
    ones = np.ones((500, 1))
    fit = np.linalg.lstsq(np.hstack([scan_to_template(sample, *scan), ones]), sample, rcond=None)[0]
    points = target @ fit[:3] + fit[3]
    for _ in range(40):
        points += (target - scan_to_template(points, *scan)) @ fit[:3]
    assert np.abs(scan_to_template(points, *scan) - target).max() < 0.01  # mm
    return points


def agreement(first: tuple, second: tuple, values: list[int], erode: int) -> float:
    """Return the share of a scan's voxels with the same label at the points they match."""
    images = [phantom_label(*scan, COARSE) for scan in (first, second)]
    a, b = (sitk.GetArrayFromImage(image).transpose(2, 1, 0) for image in images)
    mask = np.isin(a, values)
    if erode:
        mask = np.any([ndimage.binary_erosion(a == v, iterations=erode) for v in values], axis=0)
    index = np.argwhere(mask)[::7]
    target = scan_to_template(physical(images[0], index), *first)
    match = voxel(images[1], template_to_scan(target, images[1], second))
    inside = ((match >= 0) & (match < COARSE)).all(axis=1)
    return np.mean(a[tuple(index[inside].T)] == b[tuple(match[inside].T)])


def test_image_has_the_labels_and_the_field_of_view():
    image = phantom_label(0, 0, "right", COARSE)
    assert image.GetSize() == COARSE
    assert image.GetPixelID() == sitk.sitkUInt8
    assert set(np.unique(sitk.GetArrayViewFromImage(image))) == set(range(7))
    np.testing.assert_allclose(np.multiply(image.GetSpacing(), COARSE), FIELD_OF_VIEW)
    direction = np.reshape(image.GetDirection(), (3, 3))
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(direction) == pytest.approx(1)
    assert (np.diag(direction) * (-1, -1, 1) > np.cos(np.radians(17))).all()


def test_deterministic_and_seeded():
    first = sitk.GetArrayFromImage(phantom_label(3, 1, "right", COARSE))
    for draw in (draw_pose, draw_shape, draw_cartilage):
        draw.cache_clear()
    again = sitk.GetArrayFromImage(phantom_label(3, 1, "right", COARSE))
    np.testing.assert_array_equal(first, again)
    other = sitk.GetArrayFromImage(phantom_label(3, 1, "right", COARSE, seed=2020))
    assert np.mean(first != other) > 0.05


def test_left_knee_mirrors_the_right_knee():
    right, left = (phantom_label(2, 0, side, COARSE) for side in ("right", "left"))
    a, b = (sitk.GetArrayFromImage(image) for image in (right, left))
    assert np.mean(a == b[..., ::-1]) > 0.9999  # rounding of coordinates may flip a voxel
    assert cartilage_dice(a, b) < 0.9
    index = np.array([[0, 0, 0], [39, 95, 95], [10, 50, 60]])
    mirrored = physical(left, (39, 0, 0) + index * (-1, 1, 1))
    np.testing.assert_allclose(physical(right, index) * (-1, 1, 1), mirrored, atol=1e-9)
    np.testing.assert_allclose(
        scan_to_template(physical(right, index), 2, 0, "right"),
        scan_to_template(mirrored, 2, 0, "left"),
        atol=1e-9,
    )


def test_right_knee_is_right_anterior_superior():
    image = phantom_label(1, 0, "right", COARSE)
    corners = physical(image, np.array([[20, 48, 48], [30, 48, 48], [20, 70, 48], [20, 48, 70]]))
    steps = np.diff(scan_to_template(corners, 1, 0, "right")[[0, 1, 0, 2, 0, 3]], axis=0)[::2]
    assert (np.diag(steps) > 0.8 * np.linalg.norm(steps, axis=1)).all()
    assert corners[0, 0] < -40  # the right knee lies on the right, which is negative in LPS


def test_sizes_sample_the_same_anatomy():
    # Three times as many voxels: the middle of every three lies on a coarse voxel centre.
    coarse, fine = label_array(4, size=(20, 48, 48)), label_array(4, size=MEDIUM)
    assert np.mean(coarse == fine[1::3, 1::3, 1::3]) > 0.999  # specks are dropped per size


@pytest.mark.parametrize("subject", range(4))
def test_components(subject):
    labels = label_array(subject, size=MEDIUM)
    counts = [ndimage.label(labels == v, np.ones((3, 3, 3)))[1] for v in NAMES]
    assert counts == [1, 1, 1, 2, 1, 1]


def test_shafts_are_cut_by_the_image_border():
    labels = label_array(0)
    assert (labels[:, :, -1] == 1).any() and (labels[:, :, 0] == 3).any()


@pytest.mark.parametrize("name", POPULATION)
def test_population_figures(population, name):
    mean, sd, low, high = POPULATION[name]
    values = population[name]
    assert low < values.mean() < high
    assert abs(values.mean() - mean) < 1.2 * sd
    assert 0.3 * sd < values.std(ddof=1) < 1.8 * sd


def test_bones_do_not_touch_and_cartilages_nearly_do():
    labels = label_array(1, size=(80, 192, 192))
    spacing = FIELD_OF_VIEW / labels.shape
    from_femur = ndimage.distance_transform_edt(labels != 1, sampling=spacing)
    from_cartilage = ndimage.distance_transform_edt(labels != 2, sampling=spacing)
    assert 2 < from_femur[labels == 3].min() < 5.5
    assert 2 < from_femur[labels == 5].min() < 6
    assert from_cartilage[labels == 4].min() < 2
    assert from_cartilage[labels == 6].min() < 3


def test_pairs_are_as_far_apart_as_real_ones():
    within = [cartilage_dice(label_array(s), label_array(s, 1)) for s in range(SUBJECTS)]
    between = [
        cartilage_dice(label_array(s), label_array(t)) for s in range(SUBJECTS) for t in range(s)
    ]
    assert np.mean(within) < 0.25
    assert np.mean(between) < 0.15


@pytest.mark.parametrize("subject", range(3))
def test_visits_differ_in_pose_and_cartilage_but_not_in_shape(subject):
    first, second = draw_pose(2019, subject, 0), draw_pose(2019, subject, 1)
    assert np.linalg.norm(first.joint - second.joint) > 1  # mm
    before, after = (label_array(subject, visit, size=MEDIUM) for visit in (0, 1))
    for cartilage in (2, 4, 6):
        assert 0.7 < (after == cartilage).sum() / (before == cartilage).sum() < 1
    # The patella is never cut by the border; voxel counts are good to about a percent.
    assert (after == 5).sum() == pytest.approx((before == 5).sum(), rel=0.03)


def test_labels_agree_at_corresponding_points():
    visits = (0, 0, "right"), (0, 1, "right")
    assert agreement(*visits, [1, 3, 5], erode=2) > 0.999
    assert agreement(*visits, [1, 3, 5], erode=0) > 0.95  # the nearest voxel may lie across
    assert agreement(*visits, [2, 4, 6], erode=0) > 0.6
    assert agreement((0, 0, "right"), (5, 0, "left"), [1, 3, 5], erode=2) > 0.999


@pytest.mark.parametrize("side, sign", [("right", 1), ("left", -1)])
def test_map_to_the_template_does_not_fold(side, sign):
    step = 0.01  # mm
    for subject in range(SUBJECTS):
        image = phantom_label(subject, 0, side, (2, 2, 2))
        index = np.random.default_rng(subject).uniform(-0.5, 1.5, (2000, 3))
        points = physical(image, index)
        base = scan_to_template(points, subject, 0, side)
        columns = [scan_to_template(points + d, subject, 0, side) - base for d in step * np.eye(3)]
        assert (sign * np.linalg.det(np.stack(columns, -1) / step)).min() > 0.1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 0, "Right"), "side: found 'Right', expected one of"),
        ((0, 0, "right", (40, 0, 96)), r"size: found \(40, 0, 96\), expected three positive"),
        ((0, 0, "right", (40, 96)), "size: found"),
        ((0, 0, "right", (40.5, 96, 96)), "size: found"),
        ((-1, 0, "right"), "subject and visit: found -1 and 0"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        phantom_label(*arguments)


def test_bad_points_are_named():
    with pytest.raises(ValueError, match=r"points: found shape \(3,\), expected \(N, 3\)"):
        scan_to_template([0, 0, 0], 0, 0, "left")
