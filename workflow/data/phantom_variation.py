"""How phantom knees vary: random shapes, cartilages, poses and scanner positions.

Every draw depends on the seed and the numbers of the subject and the visit alone. Frames are
those of ``workflow.data.phantom``; lengths are mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from workflow.data.phantom_anatomy import (
    FEMORAL_CARTILAGE,
    PATELLAR_CARTILAGE,
    TIBIAL_CARTILAGE,
    Array,
    matrix_times,
)

# Scanner: centre of the box (mm, of a right knee) and rotation of the box about z (degrees).
BOX_CENTRE, BOX_CENTRE_SD = np.array([68.0, 5.0, 0.0]), np.array([7.5, 10.0, 10.0])
OBLIQUE_SD = 7.0
# Pose of the knee in the box: joint centre (mm) and rotation about x, y, z (degrees). A part of
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

# Shape of a subject: logarithms of its size, and of its size along each axis.
SIZE_SD, ASPECT_SD = 0.06, 0.03
# Random waves of the shape: wavelengths (mm) and root mean square displacement per axis (mm).
SHAPE_WAVES, SHAPE_WAVELENGTHS, SHAPE_RMS = 24, (25.0, 80.0), 1.1

# Thickness: log sd between subjects, of the field within one, its wavelengths (mm), and the
# range of the share lost from one visit to the next.
THICKNESS_SD, THICKNESS_FIELD_SD, THICKNESS_WAVELENGTHS = 0.10, 0.17, (18.0, 50.0)
THICKNESS_WAVES = 10
LOSS_PER_VISIT = (0.03, 0.13)
# Focal defects: the mean number per cartilage, their radii (mm), and where they may lie
# (lowest and highest corner of a box in the template, mm).
DEFECTS_PER_CARTILAGE, DEFECT_RADIUS = 0.8, (2.5, 6.0)
DEFECT_SITES = {
    FEMORAL_CARTILAGE: ((-35, -15, 0), (32, 25, 6)),
    TIBIAL_CARTILAGE: ((-32, -15, -4), (32, 15, -1)),
    PATELLAR_CARTILAGE: ((-12, 43, 28), (18, 47, 46)),
}


@dataclass(frozen=True)
class Anchor:
    """A part of the knee with a shape of its own, blended in by a Gaussian window."""

    centre: tuple[float, float, float]  # mm, template
    radius: float  # sd of the window, mm
    scale_sd: float
    shift_sd: tuple[float, float, float]  # mm


ANCHORS = {
    "medial condyle": Anchor((-26, 4, 28), 16, 0.06, (0, 0, 0)),
    "lateral condyle": Anchor((21.5, 6, 28), 16, 0.06, (0, 0, 0)),
    "trochlea": Anchor((0, 32, 28), 10, 0.0, (1.5, 0.8, 1.5)),
    "patella": Anchor((3, 54, 35), 14, 0.06, (1.5, 0.8, 4.2)),
    "femoral shaft": Anchor((0, 19, 80), 28, 0.08, (3, 2, 0)),
    "tibial shaft": Anchor((1, 5, -55), 26, 0.08, (3, 2, 0)),
    "medial plateau": Anchor((-22, 1, -4), 10, 0.0, (0.5, 0.5, 0.4)),
    "lateral plateau": Anchor((22, -1, -4), 10, 0.0, (0.5, 0.5, 0.4)),
}


@dataclass(frozen=True)
class Waves:
    """A smooth random field: a sum of plane sine waves of random direction and phase."""

    vectors: Array  # (M, 3), rad/mm
    phases: Array  # (M, 1)
    amplitudes: Array  # (C, M), one row per component

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        count: int,
        wavelengths: tuple[float, float],
        rms: list[float],
    ) -> Waves:
        """Draw ``count`` waves, lengths within ``wavelengths`` mm, and one component per rms."""
        length = np.exp(rng.uniform(*np.log(wavelengths), (count, 1)))
        direction = rng.standard_normal((count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        # Amplitudes in proportion to length: strains of all waves are alike, none folds.
        amplitudes = rng.standard_normal((len(rms), count)) * length.T
        amplitudes *= (
            np.sqrt(2) * np.array(rms)[:, None] / np.linalg.norm(amplitudes, axis=1, keepdims=True)
        )
        return cls(
            2 * np.pi * direction / length, rng.uniform(0, 2 * np.pi, (count, 1)), amplitudes
        )

    def __call__(self, p: Array) -> Array:
        """Evaluate at points ``(3, N)``; the result has shape ``(C, N)`` and the dtype of p."""
        vectors, phases, amplitudes = (
            a.astype(p.dtype) for a in (self.vectors, self.phases, self.amplitudes)
        )
        return matrix_times(amplitudes, np.sin(matrix_times(vectors, p) + phases))


@dataclass(frozen=True)
class Shape:
    """How a subject differs from the template."""

    scale: Array  # (3,), size of the template relative to the subject
    scales: Array  # (anchors,)
    shifts: Array  # (anchors, 3), mm
    waves: Waves


@dataclass(frozen=True)
class Cartilage:
    """Thickness of one cartilage of a subject, relative to the template."""

    scale: float
    field: Waves  # two components: log thickness, and log loss
    loss: float  # share lost per visit
    defects: Array  # (D, 5): centre (mm, template), radius (mm), depth as a share


@dataclass(frozen=True)
class Scan:
    """Geometry of one scan of a right knee."""

    box_axes: Array  # (3, 3), columns are the axes of the box, RAS
    box_centre: Array  # (3,), RAS
    pose: Array  # (3, 3), columns are the axes of the knee in the box
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


@lru_cache(maxsize=64)
def draw_shape(seed: int, subject: int) -> Shape:
    rng = _rng(seed, subject, 0)
    scale = np.exp(_bounded_normal(rng, SIZE_SD) + _bounded_normal(rng, [ASPECT_SD] * 3))
    scales = _bounded_normal(rng, [anchor.scale_sd for anchor in ANCHORS.values()])
    shifts = _bounded_normal(rng, [anchor.shift_sd for anchor in ANCHORS.values()])
    waves = Waves.draw(rng, SHAPE_WAVES, SHAPE_WAVELENGTHS, [SHAPE_RMS] * 3)
    return Shape(scale, scales, shifts, waves)


@lru_cache(maxsize=64)
def draw_cartilage(seed: int, subject: int, label: int) -> Cartilage:
    rng = _rng(seed, subject, 1, label)
    scale = float(np.exp(_bounded_normal(rng, THICKNESS_SD)))
    rms = [THICKNESS_FIELD_SD, 2 * THICKNESS_FIELD_SD]
    field = Waves.draw(rng, THICKNESS_WAVES, THICKNESS_WAVELENGTHS, rms)
    count = rng.poisson(DEFECTS_PER_CARTILAGE)
    low, high = DEFECT_SITES[label]
    centre = rng.uniform(low, high, (count, 3))
    radius, depth = rng.uniform(*DEFECT_RADIUS, (count, 1)), rng.uniform(0.3, 1, (count, 1))
    return Cartilage(scale, field, rng.uniform(*LOSS_PER_VISIT), np.hstack([centre, radius, depth]))


@lru_cache(maxsize=64)
def draw_scan(seed: int, subject: int, visit: int) -> Scan:
    rng = _rng(seed, subject, 2, visit)
    own = _bounded_normal(_rng(seed, subject, 3), SUBJECT_JOINT_SD)
    return Scan(
        box_axes=Rotation.from_rotvec([0, 0, _bounded_normal(rng, OBLIQUE_SD)], True).as_matrix(),
        box_centre=BOX_CENTRE + _bounded_normal(rng, BOX_CENTRE_SD),
        pose=Rotation.from_rotvec(_bounded_normal(rng, POSE_SD, POSE_LIMIT), True).as_matrix(),
        joint=JOINT + own + _bounded_normal(rng, VISIT_JOINT_SD, JOINT_LIMIT),
        posture=Rotation.from_rotvec(_bounded_normal(rng, POSTURE_SD), True).as_matrix(),
    )
