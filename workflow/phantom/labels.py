"""Label maps of phantom knees: subjects and visits varied at random from one template anatomy.

Points of a scan are mapped back to the template: undo the pose of the knee in the field of view,
the posture (flexion) of the visit, and the shape of the subject. All variation of shape lies in
this map, so points of two scans that meet in the template correspond; the thickness of the
cartilage varies by itself. Draws depend on the seed and the numbers of subject and visit alone.

Frames, in mm: physical, LPS as in ITK; box, RAS axes of the image from the centre of the field of
view; knee, RAS axes of the tibia from the centre of the joint, a left knee mirrored to a right one;
template, the knee frame of the mean right knee (see `anatomy`).
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from avsm.grid import index_to_physical
from workflow.phantom.anatomy import (
    CONDYLAR_AXIS,
    DEFECT_SITES,
    Array,
    matrix_times,
    smoothstep,
    template_label,
)

FIELD_OF_VIEW = np.array([112.0, 140.0, 140.0])
LPS_FROM_RAS = np.array([-1.0, -1.0, 1.0])
SIDES = ("right", "left")
# Components of a tissue smaller than this share of its largest one are artefacts of sampling.
SPECK = 0.05
# Scanner: centre of the box (of a right knee) and rotation of the box about z (degrees).
BOX_CENTRE, BOX_CENTRE_SD = np.array([68.0, 5.0, 0.0]), np.array([7.5, 10.0, 10.0])
OBLIQUE_SD = 7.0
# Pose of the knee in the box: joint centre and rotation about x, y, z (degrees). A part of
# the place is the subject's own; the rest is new at every visit, drawn such that two visits are
# never more than 20 mm and 15 degrees an axis apart.
JOINT, SUBJECT_JOINT_SD = np.array([4.2, -6.3, -14.5]), np.array([1.0, 1.5, 4.5])
VISIT_JOINT_SD = np.array([2.0, 2.8, 6.5])
POSE_SD = np.array([2.8, 2.5, 4.5])
JOINT_LIMIT, POSE_LIMIT = 10.0, 7.5
# Posture: rotation of the femur against the tibia and patella about x, y, z (degrees).
POSTURE_SD = np.array([1.0, 0.4, 0.6])
# Normal deviates are drawn within this many standard deviations.
BOUND = 2.2
# Shape of a subject: logarithms of its size, and of its size along each axis; random waves with
# their number, wavelengths and root mean square displacement per axis.
SIZE_SD, ASPECT_SD = 0.06, 0.03
SHAPE_WAVES, SHAPE_WAVELENGTHS, SHAPE_RMS = 24, (25.0, 80.0), 1.1
# Thickness: log sd between subjects, and of the random waves within one; the share that is lost
# from one visit to the next.
THICKNESS_SD, THICKNESS_FIELD_SD = 0.10, 0.17
THICKNESS_WAVES, THICKNESS_WAVELENGTHS, LOSS_PER_VISIT = 10, (18.0, 50.0), (0.03, 0.13)
# Focal defects: the mean number per cartilage, and their radii.
DEFECTS_PER_CARTILAGE, DEFECT_RADIUS = 0.8, (2.5, 6.0)


class Anchor(NamedTuple):
    """A part of the knee with a shape of its own, blended in by a Gaussian window."""

    centre: tuple[float, float, float]  # template
    radius: float  # sd of the window
    scale_sd: float
    shift_sd: tuple[float, float, float]


ANCHORS = (
    Anchor((-26, 4, 28), 16, 0.06, (0, 0, 0)),  # medial condyle
    Anchor((21.5, 6, 28), 16, 0.06, (0, 0, 0)),  # lateral condyle
    Anchor((0, 32, 28), 10, 0.0, (1.5, 0.8, 1.5)),  # trochlea
    Anchor((3, 54, 35), 14, 0.06, (1.5, 0.8, 4.2)),  # patella
    Anchor((0, 19, 80), 28, 0.08, (3, 2, 0)),  # femoral shaft
    Anchor((1, 5, -55), 26, 0.08, (3, 2, 0)),  # tibial shaft
    Anchor((-22, 1, -4), 10, 0.0, (0.5, 0.5, 0.4)),  # medial plateau
    Anchor((22, -1, -4), 10, 0.0, (0.5, 0.5, 0.4)),  # lateral plateau
)


class Waves(NamedTuple):
    """A smooth random field: a sum of plane sine waves of random direction and phase."""

    vectors: Array  # (M, 3), rad/mm
    phases: Array  # (M, 1)
    amplitudes: Array  # (C, M), one row per component

    def at(self, p: Array) -> Array:
        """Return the values ``(C, N)`` at points ``(3, N)``, in their dtype."""
        vectors, phases, amplitudes = (part.astype(p.dtype) for part in self)
        return matrix_times(amplitudes, np.sin(matrix_times(vectors, p) + phases))


class Shape(NamedTuple):
    """How a subject differs from the template."""

    scale: Array  # (3,), size of the template relative to the subject
    scales: Array  # (anchors,)
    shifts: Array  # (anchors, 3)
    waves: Waves


class Cartilage(NamedTuple):
    """Thickness of one cartilage of a subject, relative to the template."""

    scale: float
    field: Waves  # two components: log thickness, and log loss
    loss: float  # share lost per visit
    defects: Array  # (D, 5): centre (template), radius, depth as a share


class Pose(NamedTuple):
    """Geometry of one scan of a right knee."""

    box_axes: Array  # (3, 3), columns are the axes of the box, RAS
    box_centre: Array  # (3,), RAS
    knee_axes: Array  # (3, 3), columns are the axes of the knee in the box
    joint: Array  # (3,), centre of the joint in the box
    posture: Array  # (3, 3), knee frame


def _rng(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _bounded_normal(rng: np.random.Generator, sd: ArrayLike, limit: float = np.inf) -> Array:
    """Draw normal deviates, each again until it lies within ``BOUND`` sd and ``limit``."""
    sd = np.asarray(sd)
    z = rng.standard_normal(sd.shape)
    while (far := (np.abs(z) > BOUND) | (np.abs(z * sd) > limit)).any():
        z = np.where(far, rng.standard_normal(z.shape), z)
    return z * sd


def _draw_waves(
    rng: np.random.Generator, count: int, wavelengths: tuple[float, float], rms: list[float]
) -> Waves:
    """Draw ``count`` waves, lengths within ``wavelengths``, and one component per rms."""
    length = np.exp(rng.uniform(*np.log(wavelengths), (count, 1)))
    direction = rng.standard_normal((count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    # Amplitudes in proportion to length: strains of all waves are alike, none folds.
    amplitudes = rng.standard_normal((len(rms), count)) * length.T
    norms = np.linalg.norm(amplitudes, axis=1, keepdims=True)
    amplitudes *= np.sqrt(2) * np.array(rms)[:, None] / norms
    return Waves(2 * np.pi * direction / length, rng.uniform(0, 2 * np.pi, (count, 1)), amplitudes)


@lru_cache(maxsize=64)
def draw_shape(seed: int, subject: int) -> Shape:
    rng = _rng(seed, subject, 0)
    scale = np.exp(_bounded_normal(rng, SIZE_SD) + _bounded_normal(rng, [ASPECT_SD] * 3))
    scales = _bounded_normal(rng, [anchor.scale_sd for anchor in ANCHORS])
    shifts = _bounded_normal(rng, [anchor.shift_sd for anchor in ANCHORS])
    waves = _draw_waves(rng, SHAPE_WAVES, SHAPE_WAVELENGTHS, [SHAPE_RMS] * 3)
    return Shape(scale, scales, shifts, waves)


@lru_cache(maxsize=64)
def draw_cartilage(seed: int, subject: int, label: int) -> Cartilage:
    rng = _rng(seed, subject, 1, label)
    scale = float(np.exp(_bounded_normal(rng, THICKNESS_SD)))
    rms = [THICKNESS_FIELD_SD, 2 * THICKNESS_FIELD_SD]
    field = _draw_waves(rng, THICKNESS_WAVES, THICKNESS_WAVELENGTHS, rms)
    count = rng.poisson(DEFECTS_PER_CARTILAGE)
    low, high = DEFECT_SITES[label]
    centre = rng.uniform(low, high, (count, 3))
    radius, depth = rng.uniform(*DEFECT_RADIUS, (count, 1)), rng.uniform(0.3, 1, (count, 1))
    return Cartilage(scale, field, rng.uniform(*LOSS_PER_VISIT), np.hstack([centre, radius, depth]))


@lru_cache(maxsize=64)
def draw_pose(seed: int, subject: int, visit: int) -> Pose:
    rng = _rng(seed, subject, 2, visit)
    own = _bounded_normal(_rng(seed, subject, 3), SUBJECT_JOINT_SD)
    return Pose(
        box_axes=Rotation.from_rotvec([0, 0, _bounded_normal(rng, OBLIQUE_SD)], True).as_matrix(),
        box_centre=BOX_CENTRE + _bounded_normal(rng, BOX_CENTRE_SD),
        knee_axes=Rotation.from_rotvec(_bounded_normal(rng, POSE_SD, POSE_LIMIT), True).as_matrix(),
        joint=JOINT + own + _bounded_normal(rng, VISIT_JOINT_SD, JOINT_LIMIT),
        posture=Rotation.from_rotvec(_bounded_normal(rng, POSTURE_SD), True).as_matrix(),
    )


def _apply(matrix: Array, p: Array, origin: ArrayLike) -> Array:
    """Return ``matrix @ (p - origin)`` of points ``(3, N)`` in their own dtype."""
    return matrix_times(matrix.astype(p.dtype), p - np.asarray(origin, p.dtype)[:, None])


def _window(p: Array, centre: ArrayLike, radius: float) -> tuple[Array, Array]:
    """Return offsets from a centre, and the Gaussian window of sd ``radius`` around it."""
    offset = p - np.asarray(centre, p.dtype)[:, None]
    squared = np.einsum("ij,ij->j", offset, offset)
    return offset, np.exp(squared / p.dtype.type(-2 * radius**2))


def _undo_posture(p: Array, posture: Array) -> Array:
    """Turn the femur back about the axis of its condyles; blend to none at tibia and patella."""
    weight = smoothstep(p[2], -8, 14) * smoothstep(p[1], 57, 37)
    return p + weight * _apply(posture.T - np.eye(3), p, (0.0, *CONDYLAR_AXIS))


def _undo_shape(p: Array, shape: Shape) -> Array:
    """Map knee points ``(3, N)`` of a subject to the template."""
    p = p / shape.scale.astype(p.dtype)[:, None]
    moved = p + shape.waves.at(p)
    for anchor, scale, shift in zip(ANCHORS, shape.scales, shape.shifts, strict=True):
        offset, window = _window(p, anchor.centre, anchor.radius)
        moved += window * (p.dtype.type(scale) * offset + shift.astype(p.dtype)[:, None])
    return moved


def _right_ras(side: str) -> Array:
    """Return the signs, shape (3,), between LPS and the RAS frame in which the knee is right."""
    return LPS_FROM_RAS * (1 if side == "right" else [-1, 1, 1])


def _to_template(p: Array, subject: int, visit: int, side: str, seed: int) -> Array:
    """Map physical points ``(3, N)``, LPS, to the template."""
    pose = draw_pose(seed, subject, visit)
    ras = p * _right_ras(side).astype(p.dtype)[:, None]
    knee = _apply(pose.knee_axes.T, _apply(pose.box_axes.T, ras, pose.box_centre), pose.joint)
    return _undo_shape(_undo_posture(knee, pose.posture), draw_shape(seed, subject))


def _check(subject: int, visit: int, side: str) -> None:
    """Raise `ValueError` for a scan that cannot be."""
    if side not in SIDES:
        raise ValueError(f"side: found {side!r}, expected one of {SIDES}")
    if subject < 0 or visit < 0:
        raise ValueError(f"subject and visit: found {subject} and {visit}, expected 0 or more")


def scan_to_template(
    points: ArrayLike, subject: int, visit: int, side: str, seed: int = 2019
) -> NDArray[np.float64]:
    """Map physical points of a scan to the anatomically same points of the template.

    Points and result are ``(N, 3)``; for the other arguments see `phantom_label`. Raises
    `ValueError` for points of another shape and for a scan that cannot be.
    """
    _check(subject, visit, side)
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points: found shape {points.shape}, expected (N, 3)")
    return _to_template(points.T, subject, visit, side, seed).T


def index_to_template(
    name: str, grid: sitk.Image, scans: Mapping[str, dict[str, Any]], mirror_left: bool
) -> Callable[[np.ndarray], NDArray[np.float64]]:
    """Return the map from voxel indices of a preprocessed scan, (N, 3), x first, to the template.

    `scans` are the arguments of `phantom_label` by name, without the size; `mirror_left` says
    whether preprocessing made left knees right ones.
    """
    matrix, origin = index_to_physical(grid)
    mirrored = mirror_left and scans[name]["side"] == "left"

    def points(index: np.ndarray) -> np.ndarray:
        own = np.array(index, dtype=float)
        if mirrored:  # the anatomy was flipped under an unchanged header
            own[:, 0] = grid.GetSize()[0] - 1 - own[:, 0]
        return scan_to_template(own @ matrix.T + origin, **scans[name])

    return points


def _relative_thickness(p: Array, label: int, seed: int, subject: int, visit: int) -> Array:
    """Return the thickness of a cartilage at template points, relative to the template."""
    cartilage = draw_cartilage(seed, subject, label)
    log_thickness, log_loss = cartilage.field.at(p)
    kept = 1 - cartilage.loss * visit * np.exp(log_loss)
    thickness = cartilage.scale * np.exp(log_thickness) * np.maximum(kept, 0)
    for *centre, radius, depth in cartilage.defects:
        _, window = _window(p, centre, radius)
        # A defect deepens with the visits, and reaches the bone at most.
        thickness *= 1 - min(depth * (0.5 + 0.25 * visit), 1) * window
    return thickness


def _drop_specks(label: NDArray[np.uint8]) -> None:
    """Clear, in place, the specks that sampling cuts off the thin rims of the tissues."""
    for value, box in enumerate(ndimage.find_objects(label), start=1):
        if box is None:
            continue
        parts, _ = ndimage.label(label[box] == value, np.ones((3, 3, 3)))
        voxels = np.bincount(parts.ravel())
        voxels[0] = 0
        label[box][(parts > 0) & (voxels < SPECK * voxels.max())[parts]] = 0


def phantom_label(
    subject: int,
    visit: int,
    side: str,
    size: tuple[int, int, int] = (80, 192, 192),
    seed: int = 2019,
) -> sitk.Image:
    """Return the label map of one scan of a phantom knee.

    Parameters
    ----------
    subject, visit : numbers, from 0 on. A subject keeps its shape; a visit has a pose, a posture
        and an oblique field of view of its own, and thinner cartilage than the visit before.
    side : the left knee is the mirror image of the right one: their label maps are equal after
        flipping x, and physically they are mirrored at the plane x = 0.
    size : voxels along x, y, z (to the right, front, top) of the field of view.
    seed : of the whole population.

    Returns a uint8 image, sampled at the voxel centres; for the values see
    `anatomy.template_label`. Raises `ValueError` for an unknown side, a size that is not three
    positive integers, or a negative number.
    """
    _check(subject, visit, side)
    if len(size) != 3 or not all(isinstance(n, (int, np.integer)) and n > 0 for n in size):
        raise ValueError(f"size: found {size}, expected three positive integers")
    pose, signs = draw_pose(seed, subject, visit), _right_ras(side)
    spacing = FIELD_OF_VIEW / size
    first = pose.box_axes @ ((spacing - FIELD_OF_VIEW) / 2 * signs * LPS_FROM_RAS)
    direction = signs[:, None] * pose.box_axes * (signs * LPS_FROM_RAS)
    origin = signs * (pose.box_centre + first)
    thickness = partial(_relative_thickness, seed=seed, subject=subject, visit=visit)
    columns = (direction * spacing).astype(np.float32)
    index = np.indices(size[1::-1], np.float32)[::-1].reshape(2, -1)
    plane = matrix_times(columns[:, :2], index) + origin.astype(np.float32)[:, None]
    planes = []
    for z in range(size[2]):  # plane by plane to save memory
        template = _to_template(plane + z * columns[:, 2:], subject, visit, side, seed)
        planes.append(template_label(template, thickness))
    label = np.stack(planes).reshape(size[::-1])
    _drop_specks(label)
    image = sitk.GetImageFromArray(label)
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(origin.tolist())
    return image
