"""Soft tissues of a knee, placed around the bones and cartilages of a label map.

Each is a depth map, mm to its surface, positive inside, on a coarse grid: sharp when up-sampled,
where masks would turn into steps. Minimum and maximum are intersection and union. Arrays are
(z, y, x), inferior to superior and posterior to anterior; lengths are those of an adult knee.
"""

from collections.abc import Iterator
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
    """Cubic B-spline with the samples of `coarse` as coefficients, float32.

    `positions` are those of the output along each axis, in index units of `coarse`. The spline
    smooths slightly, which rounds the stairs of a coarse distance map.
    """
    z, y, x = (_spline_weights(p, n) for p, n in zip(positions, coarse.shape, strict=True))
    rows = np.matmul(y, coarse @ x.T)
    return (z @ rows.reshape(len(rows), -1)).reshape(len(z), len(y), len(x))


def smooth_field(rng: np.random.Generator, shape, spacing, scale_mm) -> np.ndarray:
    """Smooth random field, about N(0, 1) at every voxel, with features of `scale_mm`: one length
    or one per axis (z, y, x), as `spacing`.
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


@dataclass
class Knee:
    """A label map on the coarse grid, with the landmarks that soft tissues hang on (mm)."""

    labels: np.ndarray  # (Z, Y, X)
    spacing: tuple[float, float, float]  # mm, (z, y, x)

    def __post_init__(self) -> None:
        axes = (np.arange(n) * s for n, s in zip(self.labels.shape, self.spacing, strict=True))
        self.grid = np.ix_(*(axis.astype(np.float32) for axis in axes))  # open: z, y, x in mm
        bones = self.femur, self.tibia, self.patella = [*map(self.depth, (FEMUR, TIBIA, PATELLA))]
        self.hard = np.maximum.reduce(bones)

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
        at = (np.clip((a.ravel() - o + REACH_MM) / k + 1, 1, n - 2) for a, o, k, n in axes)
        return resample(knots, tuple(at))

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


def soft_tissues(
    knee: Knee, subject: np.random.Generator, visit: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """Soft tissues from back to front: name in the tissue table, depth map in mm.

    Generator `subject` shapes the limb and `visit` the fluid and synovium.
    """
    skin, fascia = _outline(knee, subject)
    yield "skin", skin
    yield "fat", skin - 1.5
    yield "fascia", fascia
    yield "fat", fascia - 0.8
    yield "muscle", _muscle(knee, fascia, subject)
    yield from _vessels(knee, fascia, subject)
    yield from _extensors(knee, fascia, visit)
    yield from _fibula(knee)
    yield from _fluid(knee, visit)
    yield from _cruciates(knee, visit)
    yield "meniscus", _menisci(knee)


def _outline(knee: Knee, rng) -> tuple[np.ndarray, np.ndarray]:
    """Skin surface and, below the subcutaneous fat, the fascia."""
    z, y, x = knee.grid
    joint, _, middle = knee.plateau
    # Tendons span the steps at both poles of the patella: no steeper than 0.4 along the limb.
    front = knee.profile(anterior=True).ravel()
    reach = np.abs(z.ravel() - z.ravel()[:, None])
    front = gaussian_filter1d((front - 0.4 * reach).max(1), 6 / knee.spacing[0], mode="nearest")
    front = front[:, None, None] + rng.uniform(7, 11)
    back = knee.profile(anterior=False).min() - rng.uniform(28, 38)
    back = back + rng.uniform(0, 6) * np.exp(-(((z - joint) / 30) ** 2))  # popliteal hollow
    extent = np.ptp(knee.points(FEMUR + TIBIA + PATELLA)[:, 2])
    wide = extent / 2 + rng.uniform(10, 16) - 0.06 * np.abs(z - joint)
    deep = (front - back) / 2
    # A superellipse: the exponent lies between an oval (2) and a rounded box (4).
    radius = np.abs((x - middle) / wide) ** 2.6 + np.abs((y - back - deep) / deep) ** 2.6
    skin = (1 - radius ** (1 / 2.6)) * np.minimum(wide, deep)
    skin = skin + 1.5 * knee.field(rng, 30)
    skin = np.maximum(skin, knee.hard + rng.uniform(5, 8))  # the skin never cuts a bone
    fat = rng.uniform(5, 9) + 1.5 * knee.field(rng, 25)
    return skin, np.maximum(skin - np.maximum(fat, 2), knee.hard + 1.5)


def _muscle(knee: Knee, fascia, rng) -> np.ndarray:
    """Bellies behind the joint and above the patella, parted by fat along the limb."""
    joint, centre, middle = knee.plateau
    bellies = knee.field(rng, (60, 16, 16))
    parted = np.abs(bellies + 0.3) * 6 - 0.8  # a septum at each zero crossing
    top = knee.points(PATELLA)[:, 0].max(initial=joint + 60)
    ahead = (joint - 45 + top) / 2, centre + 35, middle
    fat = ellipsoid(knee.grid, ahead, ((top - joint + 45) / 2 + 8, 45, 70))
    # Popliteal fossa: fat behind the notch, closing below the joint line between the calves.
    back = knee.profile(anterior=False).min()
    fossa = ellipsoid(knee.grid, (joint + 40, back - 2, middle), (48, 17, 15))
    fat = np.maximum(fat, fossa) + 2 * knee.field(rng, (20, 10, 10))
    return np.minimum.reduce([-fat, parted, fascia - 1])


def _vessels(knee: Knee, fascia, rng) -> Iterator[tuple[str, np.ndarray]]:
    """Popliteal artery and vein behind the notch, nearly along the limb."""
    z, y, x = knee.grid
    joint, _, middle = knee.plateau
    back = knee.profile(anterior=False).min()
    for side in (-1, 1):
        bend = [2 * knee.field(rng, 35)[:, :1, :1] for _ in range(2)]
        grid = z, y + bend[0], x + bend[1]
        across, behind = middle + side * rng.uniform(3, 6), back - rng.uniform(4, 9)
        calibre = rng.uniform(5, 8)
        ends = (-10, behind - 4, across), (joint + 90, behind + 3, across)
        yield "vessel", np.minimum(slab(grid, *ends, calibre, calibre), fascia - 3)


def _extensors(knee: Knee, fascia, rng) -> Iterator[tuple[str, np.ndarray]]:
    """Hoffa's fat pad, patellar ligament, quadriceps tendon and the suprapatellar pouch."""
    points = knee.points(PATELLA)
    if not len(points):
        return
    joint = knee.plateau[0]
    (low, _, _), (high, ahead, _) = points.min(0), points.max(0)
    x = points[:, 2].mean()
    tubercle = min(low - 25, joint - 28)
    foot = (tubercle, knee.front(knee.tibia, max(tubercle, 2)) + 1, x)
    pole = (low + 3, ahead - 5, x)
    middle = ((low + tubercle) / 2 + 6, (pole[1] + foot[1]) / 2 - 9, x)
    pad = ellipsoid(knee.grid, middle, ((low - tubercle) / 2 + 4, 16, 27))
    yield "hoffa", np.minimum(pad, fascia - 2)
    top = knee.spacing[0] * len(knee.labels) + 20
    thigh = knee.front(knee.femur, top - 24)
    pouch_end = min(high + rng.uniform(20, 40), top)
    pouch = (high - 4, ahead - 15, x), (pouch_end, thigh + 5, x)
    folds = knee.field(rng, 12)
    pouch = slab(knee.grid, *pouch, rng.uniform(2, 6), rng.uniform(30, 45))
    yield "fluid", pouch + 0.7 * folds - 0.5
    yield "tendon", slab(knee.grid, (high - 4, ahead - 6, x), (top, thigh + 14, x), 7, 34)
    yield "tendon", slab(knee.grid, pole, foot, 5.5, 28)
    yield "tendon", np.minimum(knee.patella + 1.5, knee.grid[1] - ahead + 9)  # prepatellar


def _fluid(knee: Knee, rng) -> Iterator[tuple[str, np.ndarray]]:
    """A film on the cartilage, uneven, and pools in the recesses near it."""
    cartilage = knee.depth(CARTILAGE)
    film = rng.uniform(0.5, 1.3) + 0.5 * knee.field(rng, 12)
    yield "fluid", cartilage + film
    recess = 1.5 * knee.field(rng, 9) - rng.uniform(2.5, 4)
    yield "fluid", np.minimum(cartilage + 6, recess)


def _cruciates(knee: Knee, rng) -> Iterator[tuple[str, np.ndarray]]:
    """Anterior and posterior ligaments crossing in the notch."""
    joint, centre, middle = knee.plateau
    lateral = _lateral(knee)
    anterior = (joint - 1, centre + 9, middle), (joint + 28, centre - 13, middle + lateral * 9)
    posterior = (joint - 8, centre - 22, middle), (joint + 20, centre + 3, middle - lateral * 8)
    notch = ellipsoid(knee.grid, (joint + 10, centre - 6, middle), (18, 18, 10))
    yield "synovium", notch + 1.2 * knee.field(rng, 8)
    yield "cruciate", slab(knee.grid, *anterior, 7, 8)
    yield "tendon", slab(knee.grid, *posterior, 8, 8)


def _fibula(knee: Knee) -> Iterator[tuple[str, np.ndarray]]:
    """Behind the lateral plateau and below it; label maps of the knee leave it out."""
    points = knee.points(TIBIA)
    if not len(points):
        return
    joint, centre, middle = knee.plateau
    side = _lateral(knee) * np.ptp(points[:, 2]) / 2
    head = (joint - 20, centre - 20, middle + 0.85 * side)
    bone = slab(knee.grid, head, (joint - 120, centre - 24, middle + 0.75 * side), 13, 13)
    bone = np.maximum(bone, ellipsoid(knee.grid, head, (10, 9, 9)))
    yield "cortex", bone
    yield "marrow", bone - 1.5


def _lateral(knee: Knee) -> int:
    """+1 if the lateral plateau lies at high x: it has the smaller cartilage outline."""
    outline = (knee.labels == 4).any(0)
    x = knee.grid[2].ravel()
    areas = [outline[:, side].sum() for side in (x < knee.plateau[2], x >= knee.plateau[2])]
    return 1 if areas[1] <= areas[0] else -1


def _menisci(knee: Knee) -> np.ndarray:
    """Wedges in the gap between femur and tibia, round the outer rim of both plateaus."""
    outline = (knee.labels == 4).any(0)
    if not outline.any() or not (knee.labels == 2).any():
        return np.full(knee.labels.shape, NOWHERE_MM, np.float32)
    flat = Knee((outline * 4).astype(np.uint8)[None], knee.spacing)
    rim = flat.depth((4,))  # (1, Y, X), mm inward from the edge of the plateau
    _, y, x = knee.grid
    _, centre, middle = knee.plateau
    sides = np.abs(knee.points((4,))[:, 2] - middle)
    out = np.abs(x - middle) - sides.mean() + 3  # open towards the notch ...
    horns = np.minimum(np.abs(y - centre) - 11, np.abs(x - middle) - 7)  # ... except the horns
    place = np.minimum.reduce([9 - rim, rim + 3, np.maximum(out, horns)])
    gap = np.minimum(knee.femur, knee.tibia) + 4.5
    return np.minimum(gap, place)
