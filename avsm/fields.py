"""What a displacement field does: images and landmarks moved through it, by SimpleITK."""

import itertools

import numpy as np
import SimpleITK as sitk
from scipy.optimize import root

from avsm.errors import UserError, raise_all

WITHIN_MM = 1e-3  # of a point's inverse
FAR = 16  # times its range an image may be from zero before float32 loses digits of it


def warp_image(
    moving: sitk.Image,
    displacement: sitk.Image,
    label: bool = False,
    reference: sitk.Image | None = None,
    outside: float | None = None,
) -> sitk.Image:
    """Resample an image through a displacement field, see ``registration.Result``.

    Interpolation is linear, in float32, or float64 where values so far from zero lose digits; that
    of a ``label`` map by nearest neighbour keeps the pixel type. The result lies on the grid of
    ``reference``, or the field's. Where nothing of the image is seen, beyond the field too, it is
    ``outside``; None takes the image's lowest value, of a label map 0. A UserError says that the
    reference lies outside of the field, or a label map cannot hold the value.
    """
    grid = displacement if reference is None else reference
    # The transform takes the image that it is given for itself: it gets a copy.
    transform = sitk.DisplacementFieldTransform(sitk.Cast(displacement, sitk.sitkVectorFloat64))
    values = sitk.GetArrayViewFromImage(moving)
    if label:
        outside, kind, interpolator = outside or 0.0, moving.GetPixelID(), sitk.sitkNearestNeighbor
        limits = np.iinfo(values.dtype) if values.dtype.kind in "iu" else None
        if limits and outside not in range(limits.min, limits.max + 1):
            raise UserError(f"outside: found {outside:g}, which is no {values.dtype.name}")
    else:
        low, high = float(values.min()), float(values.max())
        outside = low if outside is None else outside
        far = max(abs(low), abs(high)) > FAR * (high - low)
        kind, interpolator = sitk.sitkFloat64 if far else sitk.sitkFloat32, sitk.sitkLinear
    warped = sitk.Resample(moving, grid, transform, interpolator, outside, kind)
    if reference is None:
        return warped
    # Beyond the field the transform is the identity, which nothing says is right.
    covered = sitk.Image(displacement.GetSize(), sitk.sitkUInt8) + 1
    covered.CopyInformation(displacement)
    covered = sitk.Resample(covered, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    if not sitk.GetArrayViewFromImage(covered).any():
        raise UserError("reference: lies outside of the displacement field; expected its place")
    return sitk.Mask(warped, covered, outside)


def move_points(points: np.ndarray, displacement: sitk.Image, inverse: bool = False) -> np.ndarray:
    """Carry landmarks ``(N, 3)``, mm, LPS, of the fixed image through a displacement field.

    With ``inverse`` they are the moving image's, and x_fixed is found to within ``WITHIN_MM``. A
    UserError lists points that lie, or end, outside of the field, or have no inverse.
    """
    transform = sitk.DisplacementFieldTransform(sitk.Cast(displacement, sitk.sitkVectorFloat64))
    if inverse:
        matrix, offset = _inverse_affine(displacement)

    def moved(point: np.ndarray) -> np.ndarray:
        """Beyond the field, by the displacement at its border."""
        inside = _clamped(displacement, point)
        return np.asarray(transform.TransformPoint(inside.tolist())) + point - inside

    result, faults = np.empty((len(points), 3)), []
    for number, point in enumerate(np.asarray(points, float)):
        at = point
        if inverse:  # by Powell's method: fixed-point iterations fail where the field stretches
            at = root(lambda x, y=point: moved(x) - y, matrix @ point + offset, tol=1e-6).x
        known = np.abs(_clamped(displacement, at) - at).max() < WITHIN_MM
        if known and not (inverse and np.abs(moved(at) - point).max() > WITHIN_MM):
            result[number] = at if inverse else moved(at)
        else:
            faults.append(f"point {number + 1} at {np.round(point, 2).tolist()} mm (LPS)")
    where = "have no inverse inside of the field" if inverse else "lie outside of the field"
    raise_all(f"points that {where}, or are of another frame or image:", faults)
    return result


def _clamped(image: sitk.Image, point: np.ndarray) -> np.ndarray:
    """Give the point of an image's field of view that is nearest along its axes."""
    index = np.asarray(image.TransformPhysicalPointToContinuousIndex(point.tolist()))
    index = np.clip(index, -0.499, np.asarray(image.GetSize()) - 0.501)
    return np.asarray(image.TransformContinuousIndexToPhysicalPoint(index.tolist()))


def _inverse_affine(displacement: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Fit the affine map ``x_fixed = matrix @ x_moving + offset`` to a field, by least squares."""
    indices = [*itertools.product(*(range(0, n, max(1, n // 10)) for n in displacement.GetSize()))]
    fixed = np.array([displacement.TransformIndexToPhysicalPoint(index) for index in indices])
    moving = fixed + [displacement.GetPixel(*index) for index in indices]
    solution, *_ = np.linalg.lstsq(np.insert(moving, 3, 1, axis=1), fixed, rcond=None)
    return solution[:3].T, solution[3]
