"""Knee phantoms: label maps of subjects and visits varied from one template anatomy.

A scan is made by mapping its points back to the template (:func:`scan_to_template`): undo the
pose of the knee in the field of view, undo the posture (flexion) of the visit, undo the shape of
the subject. All variation of shape lies in this map, so points of any two scans that meet in the
template are true correspondences. Only the thickness of the cartilage is a property of the
subject and the visit instead. Frames, all in mm and right, anterior, superior (RAS) if not said
otherwise:

physical
    Scanner coordinates of the image header, left, posterior, superior (LPS) as in ITK.
box
    Axes of the image, origin in the centre of the field of view.
knee
    Axes of the tibia, origin at the centre of the joint; a left knee is mirrored to a right one.
template
    The knee frame of the mean right knee, see ``phantom_anatomy``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from workflow.data.phantom_anatomy import (
    CONDYLAR_AXIS,
    Array,
    matrix_times,
    smoothstep,
    template_label,
)
from workflow.data.phantom_variation import ANCHORS, Shape, draw_cartilage, draw_scan, draw_shape

FIELD_OF_VIEW = np.array([112.0, 140.0, 140.0])  # mm
LPS_FROM_RAS = np.array([-1.0, -1.0, 1.0])
SIDES = ("right", "left")
# Components of a tissue smaller than this share of its largest one are artefacts of sampling.
SPECK = 0.05


def _check(subject: int, visit: int, side: str) -> None:
    if side not in SIDES:
        raise ValueError(f"side: found {side!r}, expected one of {SIDES}")
    if subject < 0 or visit < 0:
        raise ValueError(f"subject and visit: found {subject} and {visit}, expected 0 or more")


def _right_ras(side: str) -> Array:
    """Return the signs, shape (3,), between LPS and the RAS frame in which the knee is right."""
    return LPS_FROM_RAS * (1 if side == "right" else [-1, 1, 1])


def _apply(matrix: Array, p: Array, origin: ArrayLike = (0, 0, 0)) -> Array:
    """Return ``matrix @ (p - origin)`` of points ``(3, N)`` in their own dtype."""
    offset = np.asarray(origin, p.dtype)[:, None]
    return matrix_times(matrix.astype(p.dtype), p - offset)


def _undo_posture(p: Array, posture: Array) -> Array:
    """Turn the femur back about the axis of its condyles; blend to none at tibia and patella."""
    centre = (0.0, *CONDYLAR_AXIS)
    weight = smoothstep(p[2], -8, 14) * smoothstep(p[1], 57, 37)
    return p + weight * _apply(posture.T - np.eye(3), p, centre)


def _undo_shape(p: Array, shape: Shape) -> Array:
    """Map knee points ``(3, N)`` of a subject to the template."""
    p = p / shape.scale.astype(p.dtype)[:, None]
    moved = p + shape.waves(p)
    for anchor, scale, shift in zip(ANCHORS.values(), shape.scales, shape.shifts, strict=True):
        offset = p - np.asarray(anchor.centre, p.dtype)[:, None]
        squared = np.einsum("ij,ij->j", offset, offset)
        window = np.exp(squared / p.dtype.type(-2 * anchor.radius**2))
        moved += window * (p.dtype.type(scale) * offset + shift.astype(p.dtype)[:, None])
    return moved


def _to_template(p: Array, seed: int, subject: int, visit: int, side: str) -> Array:
    """Map physical points ``(3, N)``, mm LPS, to the template."""
    scan = draw_scan(seed, subject, visit)
    ras = p * _right_ras(side).astype(p.dtype)[:, None]
    knee = _apply(scan.pose.T, _apply(scan.box_axes.T, ras, scan.box_centre), scan.joint)
    return _undo_shape(_undo_posture(knee, scan.posture), draw_shape(seed, subject))


def scan_to_template(
    points: ArrayLike, subject: int, visit: int, side: str, seed: int = 2019
) -> NDArray[np.float64]:
    """Map physical points of a scan to the anatomically same points of the template.

    Parameters
    ----------
    points : array_like, shape (N, 3)
        Physical points of the scan, mm, LPS as in the header of :func:`phantom_label`.
    subject, visit, side, seed
        The scan, as in :func:`phantom_label`.

    Returns
    -------
    ndarray, shape (N, 3)
        Points of the template, mm: x medial to lateral, y posterior to anterior, z inferior to
        superior, origin between the two plateaus.

    Raises
    ------
    ValueError
        If the points have another shape, or for a scan that cannot be.
    """
    _check(subject, visit, side)
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points: found shape {points.shape}, expected (N, 3)")
    return _to_template(points.T, seed, subject, visit, side).T


def _relative_thickness(p: Array, label: int, seed: int, subject: int, visit: int) -> Array:
    """Return the thickness of a cartilage at template points, relative to the template."""
    cartilage = draw_cartilage(seed, subject, label)
    log_thickness, log_loss = cartilage.field(p)
    kept = 1 - cartilage.loss * visit * np.exp(log_loss)
    thickness = cartilage.scale * np.exp(log_thickness) * np.maximum(kept, 0)
    for *centre, radius, depth in cartilage.defects:
        offset = p - np.array(centre, p.dtype)[:, None]
        window = np.exp(np.einsum("ij,ij->j", offset, offset) / p.dtype.type(-2 * radius**2))
        # A defect deepens with the visits, and reaches the bone at most.
        thickness *= 1 - min(depth * (0.5 + 0.25 * visit), 1) * window
    return thickness


def _grid(
    size: tuple[int, int, int], subject: int, visit: int, side: str, seed: int
) -> tuple[Array, Array, Array]:
    """Return spacing (3,), direction (3, 3) and origin (3,), mm LPS, of the image of a scan."""
    scan = draw_scan(seed, subject, visit)
    signs = _right_ras(side)
    spacing = FIELD_OF_VIEW / size
    first = scan.box_axes @ ((spacing - FIELD_OF_VIEW) / 2 * signs * LPS_FROM_RAS)
    direction = signs[:, None] * scan.box_axes * (signs * LPS_FROM_RAS)
    return spacing, direction, signs * (scan.box_centre + first)


def _sample(
    label_at: Callable[[Array], NDArray[np.uint8]],
    size: tuple[int, int, int],
    columns: Array,
    origin: Array,
) -> NDArray[np.uint8]:
    """Return ``label_at`` of the voxel centres, shape (z, y, x), plane by plane to save memory."""
    columns, origin = columns.astype(np.float32), origin.astype(np.float32)
    index = np.indices(size[1::-1], np.float32)[::-1].reshape(2, -1)
    plane = matrix_times(columns[:, :2], index) + origin[:, None]
    planes = [label_at(plane + z * columns[:, 2:]) for z in range(size[2])]
    return np.stack(planes).reshape(size[::-1])


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
    subject, visit : int
        Numbers, from 0 on. A subject keeps its shape; a visit has a pose, a posture and an
        oblique field of view of its own, and thinner cartilage than the visit before.
    side : {"right", "left"}
        The left knee is the mirror image of the right one: their label maps are equal after
        flipping x, and physically they are mirrored at the plane x = 0.
    size : tuple of int
        Voxels along x, y, z (to the right, front, top) of a field of view of 112 x 140 x 140 mm.
    seed : int
        Seed of the whole population.

    Returns
    -------
    SimpleITK.Image
        uint8: 0 background, 1 femur, 2 femoral cartilage, 3 tibia, 4 tibial cartilage,
        5 patella, 6 patellar cartilage, sampled at the voxel centres.

    Raises
    ------
    ValueError
        For an unknown side, a size that is not three positive integers, or a negative number.
    """
    _check(subject, visit, side)
    if len(size) != 3 or not all(isinstance(n, (int, np.integer)) and n > 0 for n in size):
        raise ValueError(f"size: found {size}, expected three positive integers")
    spacing, direction, origin = _grid(size, subject, visit, side, seed)
    scan = {"seed": seed, "subject": subject, "visit": visit}

    def label_at(points: Array) -> NDArray[np.uint8]:
        template = _to_template(points, side=side, **scan)
        return template_label(template, partial(_relative_thickness, **scan))

    label = _sample(label_at, size, direction * spacing, origin)
    _drop_specks(label)
    image = sitk.GetImageFromArray(label)
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(origin.tolist())
    return image
