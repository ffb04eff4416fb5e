"""Soft tissues of a knee, placed around the bones and cartilages of a label map.

Each tissue is a depth map (mm, positive inside), painted from back to front. Lengths in the
recipes are those of an adult knee; each function draws one group of structures.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import gaussian_filter1d

from workflow.data.knee import (
    CARTILAGE,
    FEMUR,
    NOWHERE_MM,
    PATELLA,
    TIBIA,
    Knee,
    ellipsoid,
    slab,
)


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
    pad = ellipsoid(
        knee.grid,
        ((low + tubercle) / 2 + 6, (pole[1] + foot[1]) / 2 - 9, x),
        ((low - tubercle) / 2 + 4, 16, 27),
    )
    yield "hoffa", np.minimum(pad, fascia - 2)
    top = knee.spacing[0] * len(knee.labels) + 20
    thigh = knee.front(knee.femur, top - 24)
    pouch_end = min(high + rng.uniform(20, 40), top)
    pouch = (high - 4, ahead - 15, x), (pouch_end, thigh + 5, x)
    folds = knee.field(rng, 12)
    yield (
        "fluid",
        slab(knee.grid, *pouch, rng.uniform(2, 6), rng.uniform(30, 45)) + 0.7 * folds - 0.5,
    )
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
