"""Geometry of a knee label map: depth maps, landmarks, simple solids and smooth random fields.

A depth map holds millimetres to the surface of a structure, positive inside, on a coarse grid
of about 1 mm. Depth maps stay sharp when up-sampled, where masks would turn into steps; their
minimum and maximum are intersection and union. Arrays are (z, y, x) with z inferior to
superior, y posterior to anterior and x across the knee; coordinates are mm along these axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter1d

FEMUR, TIBIA, PATELLA = (1, 2, 7), (3, 4, 8), (5, 6, 9)  # bone, cartilage, lesion
CARTILAGE = (2, 4, 6)
NOWHERE_MM = -1e3  # depth of a structure that the label map lacks
# The spline averages neighbouring knots: per axis, 151 / 315 of their variance is left.
SPLINE_GAIN = np.float32((315 / 151) ** 1.5)
REACH_MM = 200.0  # random anatomy is laid out this far around the joint


def resample(coarse: np.ndarray, positions: tuple[np.ndarray, ...]) -> np.ndarray:
    """Cubic B-spline with the samples of `coarse` as coefficients, at separable positions.

    Parameters
    ----------
    coarse : (Z, Y, X) float32
    positions : per axis, the output positions in index units of `coarse`.

    Returns
    -------
    (len(positions[0]), len(positions[1]), len(positions[2])) float32; the spline smooths
    slightly, which rounds the stairs of a coarse distance map.
    """
    z, y, x = (_spline_weights(p, n) for p, n in zip(positions, coarse.shape, strict=True))
    rows = np.matmul(y, coarse @ x.T)
    return (z @ rows.reshape(len(rows), -1)).reshape(len(z), len(y), len(x))


def smooth_field(rng: np.random.Generator, shape, spacing, scale_mm) -> np.ndarray:
    """Smooth random field, about N(0, 1) at every voxel, with features of `scale_mm`.

    `scale_mm` is one length or one per axis (z, y, x); `spacing` is in the same order.
    """
    scale = np.broadcast_to(np.asarray(scale_mm, float), 3)
    offset = rng.uniform(1, 2, 3)  # the knots must not sit at the same voxels in every image
    axes = zip(offset, shape, spacing, scale, strict=True)
    positions = [o + np.arange(n) * s / k for o, n, s, k in axes]
    knots = rng.standard_normal([int(p[-1]) + 3 for p in positions], dtype=np.float32)
    return resample(knots * SPLINE_GAIN, tuple(positions))


def _spline_weights(positions: np.ndarray, knots: int) -> np.ndarray:
    t = np.abs(np.asarray(positions)[:, None] - np.arange(knots))
    weights = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Knee:
    """A label map on the coarse grid, with the landmarks that soft tissues hang on (mm)."""

    labels: np.ndarray  # (Z, Y, X)
    spacing: tuple[float, float, float]  # mm, (z, y, x)

    @cached_property
    def grid(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Open grids z, y, x in mm."""
        axes = (np.arange(n) * s for n, s in zip(self.labels.shape, self.spacing, strict=True))
        return np.ix_(*(axis.astype(np.float32) for axis in axes))

    def depth(self, values: tuple[int, ...]) -> np.ndarray:
        """Depth below the surface of the given labels together, in mm."""
        mask = np.isin(self.labels, values)
        if not mask.any():
            return np.full(mask.shape, NOWHERE_MM, np.float32)
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing(self.spacing[::-1])
        distance = sitk.SignedMaurerDistanceMap(
            image, insideIsPositive=True, squaredDistance=False, useImageSpacing=True
        )
        return sitk.GetArrayViewFromImage(distance).astype(np.float32)

    @cached_property
    def femur(self) -> np.ndarray:
        return self.depth(FEMUR)

    @cached_property
    def tibia(self) -> np.ndarray:
        return self.depth(TIBIA)

    @cached_property
    def patella(self) -> np.ndarray:
        return self.depth(PATELLA)

    @cached_property
    def hard(self) -> np.ndarray:
        return np.maximum(np.maximum(self.femur, self.tibia), self.patella)

    def points(self, values: tuple[int, ...]) -> np.ndarray:
        """(N, 3) positions of the voxels of these labels, mm."""
        return np.argwhere(np.isin(self.labels, values)) * np.asarray(self.spacing)

    @cached_property
    def plateau(self) -> np.ndarray:
        """Middle of the tibial plateau at the height of the joint line, (z, y, x) in mm."""
        for values, height in (((4,), 50), (TIBIA, 100), (FEMUR, 0), (PATELLA, 0)):
            points = self.points(values)
            if len(points):
                middle = (points.min(0) + points.max(0)) / 2
                return np.array([np.percentile(points[:, 0], height), *middle[1:]])
        raise ValueError("label map has no femur, tibia or patella; found background only")

    def field(self, rng: np.random.Generator, scale_mm) -> np.ndarray:
        """Smooth random field, about N(0, 1), that moves with the joint: the same `rng` state
        gives two images of a subject the same field around the plateau.
        """
        scale = np.broadcast_to(np.asarray(scale_mm, float), 3)
        counts = [int(2 * REACH_MM / k) + 4 for k in scale]
        knots = rng.standard_normal(counts, dtype=np.float32) * SPLINE_GAIN
        axes = zip(self.grid, self.plateau, scale, counts, strict=True)
        return resample(
            knots,
            tuple(np.clip((a.ravel() - o + REACH_MM) / k + 1, 1, n - 2) for a, o, k, n in axes),
        )

    def front(self, depth: np.ndarray, height: float) -> float:
        """Most anterior y (mm) of a structure, in a band of heights round `height` (mm)."""
        z, y, _ = self.grid
        hit = ((depth > 0) & (np.abs(z - height) < 3)).any((0, 2))
        return float(y.ravel()[hit].max()) if hit.any() else float(self.plateau[1] + 15)

    def profile(self, anterior: bool) -> np.ndarray:
        """Anterior or posterior edge of the bones per height, (Z, 1, 1) in mm, smoothed."""
        z, y, _ = (axis.ravel() for axis in self.grid)
        covered = (self.hard > 0).any(2)
        filled = covered.any(1)
        edge = (y[None] * covered).max(1) if anterior else np.where(covered, y, np.inf).min(1)
        edge = np.interp(z, z[filled], edge[filled])
        return gaussian_filter1d(edge, 7 / self.spacing[0], mode="nearest")[:, None, None]


def slab(grid, start, end, thickness: float, width: float) -> np.ndarray:
    """Depth in a flat band from point to point (mm): `thickness` in the sagittal plane, `width`
    across, both in mm.
    """
    z, y, x = grid
    (z0, y0, x0), (z1, y1, x1) = start, end
    length = (z1 - z0) ** 2 + (y1 - y0) ** 2
    t = np.clip(((z - z0) * (z1 - z0) + (y - y0) * (y1 - y0)) / length, 0, 1)
    off = np.hypot(z - z0 - t * (z1 - z0), y - y0 - t * (y1 - y0))
    across = np.abs(x - x0 - t * (x1 - x0))
    # An elliptic section, as depth in units of the thinner half axis.
    return (1 - np.hypot(off / (thickness / 2), across / (width / 2))) * thickness / 2


def ellipsoid(grid, centre, radii) -> np.ndarray:
    """Depth in an ellipsoid (mm), exact at its surface along the shortest axis."""
    parts = (((a - c) / r) ** 2 for a, c, r in zip(grid, centre, radii, strict=True))
    return (1 - np.sqrt(sum(parts))) * min(radii)
