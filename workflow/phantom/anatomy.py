"""The template anatomy of the knee phantom: one right knee as implicit functions, fitted to the
mean of 42 manual segmentations of OAI scans.

Points are ``(3, N)`` in mm, x medial to lateral, y posterior to anterior, z inferior to superior,
from an origin between the two plateaus. A bone is a signed distance, negative inside, of smoothly
joined quadrics; a cartilage is the layer on its surface up to the local thickness.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

FEMUR, FEMORAL_CARTILAGE, TIBIA, TIBIAL_CARTILAGE, PATELLA, PATELLAR_CARTILAGE = range(1, 7)

# Where the axis of the femoral condyles runs: (y, z).
CONDYLAR_AXIS = (5.0, 28.0)
# No cartilage is thicker, so points farther from a bone need no thickness.
MAX_THICKNESS = 6.0
# Nominal thickness before the falloff towards the edges of each cartilage.
NOMINAL_THICKNESS = {FEMORAL_CARTILAGE: 1.95, TIBIAL_CARTILAGE: 2.05, PATELLAR_CARTILAGE: 2.65}
# Where a cartilage may have defects: lowest and highest corner of a box.
DEFECT_SITES = {
    FEMORAL_CARTILAGE: ((-35, -15, 0), (32, 25, 6)),
    TIBIAL_CARTILAGE: ((-32, -15, -4), (32, 15, -1)),
    PATELLAR_CARTILAGE: ((-12, 43, 28), (18, 47, 46)),
}


def matrix_times(matrix: Array, points: Array) -> Array:
    """Return ``matrix @ points`` in one thread: those of BLAS only wait for one another here."""
    return np.einsum("ij,jn->in", matrix, points)


def smoothstep(value: Array, low: float, high: float) -> Array:
    """Rise smoothly from 0 at ``low`` to 1 at ``high`` (falls where ``high < low``)."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _smooth_min(a: Array, b: Array, radius: float) -> Array:
    """Return the minimum of two signed distances, its crease filleted over ``radius`` mm."""
    overlap = np.maximum(radius - np.abs(a - b), 0)
    return np.minimum(a, b) - overlap * overlap / (4 * radius)


def _smooth_max(a: Array, b: Array, radius: float) -> Array:
    """Return the maximum of two signed distances, its edge rounded over ``radius`` mm."""
    return -_smooth_min(-a, -b, radius)


def _quadric(p: Array, centre: tuple, semi: tuple) -> Array:
    """Return the distance (mm) to an ellipsoid, exact to first order at its surface."""
    u, v, w = ((c - m) / s for c, m, s in zip(p, centre, semi, strict=True))
    k = np.sqrt(u * u + v * v + w * w) + 1e-6
    gradient = np.sqrt((u / semi[0]) ** 2 + (v / semi[1]) ** 2 + (w / semi[2]) ** 2) + 1e-6
    return (k - 1) * k / gradient


def _barrel(p: Array, centre: tuple, semi: tuple, squareness: float) -> Array:
    """Return the distance (mm) to a barrel along x, exact to first order at its surface.

    ``u^2 + 2 (1 - squareness) u r + r^2 = 1`` with u = (x/a)^2 and r = (y/b)^2 + (z/c)^2.
    """
    (a, b, c), cross = semi, 2 * (1 - squareness)
    x, y, z = (value - middle for value, middle in zip(p, centre, strict=True))
    u, r = (x / a) ** 2, (y / b) ** 2 + (z / c) ** 2
    power = u * u + cross * u * r + r * r + 1e-6
    along_u, along_r = 2 * u + cross * r, 2 * r + cross * u
    gradient = np.sqrt((along_u * x / a**2) ** 2 + along_r**2 * ((y / b**2) ** 2 + (z / c**2) ** 2))
    k = np.sqrt(np.sqrt(power))
    return (k - 1) * 2 * k * k * k / (gradient + 1e-6)


def _column(x: Array, y: Array, a: Array, b: Array, squareness: float) -> Array:
    """Return the in-plane distance (mm) to a column of semi-axes ``a(z)``, ``b(z)``."""
    u, v = (x / a) ** 2, (y / b) ** 2
    cross = 2 * (1 - squareness)
    power = u * u + v * v + cross * u * v + 1e-6
    gx, gy = x / a**2 * (2 * u + cross * v), y / b**2 * (2 * v + cross * u)
    k = np.sqrt(np.sqrt(power))
    return (k - 1) * 2 * k * k * k / (np.sqrt(gx * gx + gy * gy) + 1e-6)


def _notch(p: Array) -> Array:
    """Return the distance (mm) to the intercondylar notch, a vault open to the back and below."""
    x, y, z = p
    vault = _column(x + 2, z - 1, 10.5, 27.0, 0.3)
    roof = (y - 7 + 0.45 * (z - 6)) / np.hypot(1, 0.45)
    return _smooth_max(vault, roof, 5)


def _flanks(p: Array) -> Array:
    """Return the distance (mm) beyond the slanted flanks: from above a femur is a trapezium."""
    x, y, _ = p
    return np.maximum(-0.75 * (x + 34) + 0.66 * (y - 23), 0.89 * (x - 33) + 0.45 * (y - 29))


def femur_distance(p: Array) -> Array:
    """Return the signed distance (mm) of points ``(3, N)`` to the femur."""
    x, y, z = p
    medial = _barrel(p, (-26, 5.5, 28), (18.5, 29, 27), 0.55)
    lateral = _barrel(p, (21.5, 8, 28.3), (18, 30.5, 25.5), 0.55)
    trochlea = _quadric(p, (0, 16.5, 27), (25, 19, 20.5))
    ridges = np.minimum(
        _quadric(p, (-16, 19.5, 27), (12, 18.5, 17)), _quadric(p, (16, 23.5, 31), (12, 18.5, 19))
    )
    body = _smooth_min(np.minimum(medial, lateral), _smooth_min(trochlea, ridges, 5), 7)
    # Seen from the front the condyles are narrow above.
    shoulders = np.maximum(-0.81 * (x + 42) + 0.59 * (z - 30), 0.86 * (x - 37) + 0.51 * (z - 32))
    body = _smooth_max(body, np.maximum(_flanks(p), shoulders), 11)
    flare = smoothstep(z, 74, 24)
    shaft = _column(x + 0.5, y - 20 + 4 * flare, 19.5 + 14 * flare, 16.5 + 4 * flare, 0.2)
    bone = _smooth_min(body, _smooth_max(shaft, 28 - z, 10), 8)
    return _smooth_max(bone, -_notch(p), 4)


def _plateau_height(x: Array, y: Array) -> Array:
    """Return the height (mm) of the tibial plateau: medial dish, lateral dome, two spines."""
    medial = smoothstep(x, 2, -6)
    dish = ((x + 20) ** 2 + (y - 2) ** 2) / 130 - 2.8
    dome = (x - 24) ** 2 / 130 - (y - 1) ** 2 / 130 - 2.2
    spines = 6.5 * np.exp(-((np.abs(x) - 5) ** 2) / 30 - (y + 2) ** 2 / 250)
    height = medial * np.minimum(dish, 2.5) + (1 - medial) * np.clip(dome, -7, 2.0)
    front = 5 * smoothstep(y, 8, 24) * smoothstep(np.abs(x), 14, 4)
    return height + spines - front


def tibia_distance(p: Array) -> Array:
    """Return the signed distance (mm) of points ``(3, N)`` to the tibia."""
    x, y, z = p
    flare_x, flare_y = smoothstep(z, -54, -5), smoothstep(z, -40, -4)
    a, b = 19.0 + 22 * flare_x, 21 + 7.5 * flare_y
    column = _column(x - 1, y - 5 + 4.5 * flare_y, a, b, 0.2)
    groove = _column(x - 1, y + 31, 8.0, 9.0, 0.0)
    groove = _smooth_max(groove, -22 - z, 6)
    column = _smooth_max(column, -groove, 6)
    # The plateau is nearly level: 0.95 stands for the mean cosine of its slope.
    return _smooth_max(column, 0.95 * (z - _plateau_height(x, y)), 4)


def patella_distance(p: Array) -> Array:
    """Return the signed distance (mm) of points ``(3, N)`` to the patella."""
    x, y, z = p
    # The apex points down and forward; the two facets of the back meet in a vertical ridge.
    apex = smoothstep(z, 36, 10)
    body = _barrel(
        np.stack([(x - 3) * (1 + 0.5 * apex), y - 2 * apex, z]), (0, 53, 35), (23, 13.5, 23), 0.1
    )
    facets = 39.5 + 0.46 * np.sqrt((x - 0.5) ** 2 + 16) + 4 * smoothstep(z, 24, 12) - y
    return _smooth_max(body, 0.91 * facets, 3)


def _femoral_cover(p: Array) -> Array:
    """Return the share of full thickness at points on the femur: condyles and trochlea."""
    x, y, z = p
    # Angle about the condylar axis: 0 below, positive to the front (degrees).
    angle = np.degrees(np.arctan2(y - CONDYLAR_AXIS[0], CONDYLAR_AXIS[1] - z))
    trochlear = smoothstep(np.abs(x), 34, 22)
    front = 50 + 46 * trochlear
    arc = smoothstep(angle, -124, -112) * smoothstep(angle, front + 10, front)
    width = smoothstep(x, -42, -37) * smoothstep(x, 37.5, 32.5)
    in_notch = smoothstep(np.abs(x + 2), 12, 9) * smoothstep(y + 0.45 * (z - 6), 10, 6)
    # The side walls of the condyles are bare: they lie well inside the bearing profile.
    radius = np.hypot((y - CONDYLAR_AXIS[0]) / 31, (z - CONDYLAR_AXIS[1]) / 26)
    bearing = smoothstep(radius + 0.2 * smoothstep(np.abs(x), 26, 16), 0.80, 0.92)
    return arc * width * bearing * smoothstep(_flanks(p), 1, -3) * (1 - in_notch)


def _tibial_cover(p: Array) -> Array:
    """Return the share of full thickness at points on the tibia: one oval on each plateau."""
    x, y, z = p
    medial = _column(x + 22.5, y - 1, 18.0, 25.0, 0.4)
    lateral = _column(x - 22.5, y + 1, 17.5, 22.0, 0.4)
    # Cartilage is thickest, most of all laterally, in the middle of a plateau.
    medial = smoothstep(medial, 0, -4) * (0.7 + 0.4 * smoothstep(medial, -2, -14))
    lateral = smoothstep(lateral, 0, -4) * (0.8 + 0.75 * smoothstep(lateral, -2, -14))
    return (medial + lateral) * smoothstep(z - _plateau_height(x, y), -3, -1)


def _patellar_cover(p: Array) -> Array:
    """Return the share of full thickness at points on the patella: most of its back."""
    x, y, z = p
    oval = _column(x - 3, z - 38, 22.5, 17.5, 0.5)
    back = smoothstep(y, 55, 51)
    return back * smoothstep(oval, 0, -4) * (0.7 + 0.4 * smoothstep(oval, -3, -14))


_TISSUES = (
    (FEMUR, femur_distance, FEMORAL_CARTILAGE, _femoral_cover),
    (TIBIA, tibia_distance, TIBIAL_CARTILAGE, _tibial_cover),
    (PATELLA, patella_distance, PATELLAR_CARTILAGE, _patellar_cover),
)


def template_label(
    p: Array, relative_thickness: Callable[[Array, int], Array]
) -> NDArray[np.uint8]:
    """Return the label (N,) of each template point ``(3, N)``.

    0 background, 1 femur, 2 femoral cartilage, 3 tibia, 4 tibial cartilage, 5 patella, 6 patellar
    cartilage; where cartilages overlap, the one nearer to its own bone wins.
    ``relative_thickness(points, cartilage)`` gives the factor ``(M,)`` on the nominal thickness of
    a cartilage at points ``(3, M)``.
    """
    label = np.zeros(p.shape[1], np.uint8)
    depth = np.full(p.shape[1], np.inf, p.dtype)
    for bone, distance, cartilage, cover in _TISSUES:
        d = distance(p)
        near = np.flatnonzero((d > 0) & (d < MAX_THICKNESS) & (d < depth))
        q = p[:, near]
        thickness = NOMINAL_THICKNESS[cartilage] * cover(q) * relative_thickness(q, cartilage)
        inside = near[d[near] < thickness]
        label[inside] = cartilage
        depth[inside] = d[inside]
        label[d <= 0] = bone
        depth[d <= 0] = 0
    return label
