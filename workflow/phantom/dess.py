"""DESS-like knee MR images from label maps, as a partial-volume mixture.

Soft tissues are painted from depth maps; bone and cartilage are mixed in with their smoothed
fractions; texture, a coil bias field and Rician noise follow. In units in which fluid is about 230.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from workflow.phantom.tissues import Knee, resample, smooth_field, soft_tissues


class Tissue(NamedTuple):
    """Water-excitation DESS signal of a tissue."""

    mean: float  # arbitrary units
    sd: float  # between images, as a fraction of the mean
    texture: float  # within an image, arbitrary units


TISSUES = {
    "air": Tissue(0, 0, 0),
    "skin": Tissue(95, 0.10, 6),
    "fat": Tissue(54, 0.10, 8),
    "fascia": Tissue(35, 0.10, 4),
    "muscle": Tissue(92, 0.08, 7),
    "vessel": Tissue(120, 0.20, 8),
    "hoffa": Tissue(74, 0.10, 10),
    "synovium": Tissue(74, 0.10, 10),
    "tendon": Tissue(22, 0.15, 4),
    "cruciate": Tissue(42, 0.15, 8),
    "meniscus": Tissue(30, 0.15, 4),
    "fluid": Tissue(225, 0.06, 8),
    "marrow": Tissue(54, 0.10, 8),
    "lesion": Tissue(98, 0.10, 10),
    "cortex": Tissue(16, 0.15, 2),
    "cartilage": Tissue(155, 0.06, 7),
}
# Signal of the same tissues in contrasts that no network was trained on. T1: spoiled gradient
# echo without fat suppression. Inverted: dark where DESS is bright. Cut: skin, fascia and
# fat are black.
BRIGHTEST = max(tissue.mean for tissue in TISSUES.values())
CONTRASTS = {
    "dess": {},
    "t1": {
        "skin": 120, "fat": 215, "fascia": 40, "muscle": 90, "vessel": 45, "hoffa": 200,
        "synovium": 80, "tendon": 20, "cruciate": 40, "meniscus": 30, "fluid": 45, "marrow": 205,
        "lesion": 95, "cortex": 15, "cartilage": 115,
    },
    "inverted": {name: BRIGHTEST - t.mean for name, t in TISSUES.items() if name != "air"},
    "cut": {"skin": 0, "fat": 0, "fascia": 0},
}  # fmt: skip
BONES, LESIONS, CARTILAGES = (1, 3, 5), (7, 8, 9), (2, 4, 6)

EDGE_MM = 0.8  # width of the partial-volume ramp of a soft tissue
BLUR_MM = 0.35  # sd of the point spread that turns label masks into fractions
CORTEX_MM = 0.6  # sd at which a smoothed bone mask tells the outer 1 mm from the inside
CORTEX_FRACTION = (0.90, 0.98)  # of that mask: about 0.8 and 1.2 mm below a flat surface
GRID_MM = 1.2  # target spacing of the coarse grid of the soft tissues
GRAIN_MM = (0.6, 0.35, 0.35)  # sd of the trabecular grain, (z, y, x): columns along the limb
MOTTLE_MM = 5.0  # scale of the smooth part of the texture
BIAS_MAX = 0.25  # largest deviation of the multiplicative field from 1
BIAS_MM = 60.0
NOISE_SD = (3.0, 6.0)  # range of the Rician noise level between images, arbitrary units


def simulate_dess(
    label: sitk.Image,
    seed: int | Sequence[int],
    subject_seed: int | Sequence[int] | None = None,
    contrast: str = "dess",
) -> sitk.Image:
    """Simulate a sagittal DESS image with water excitation from a knee label map.

    Parameters
    ----------
    label : 3D integer image, index axes RAS+ (oblique headers are fine). 1 femur, 3 tibia,
        5 patella, 2/4/6 their cartilages, 7/8/9 lesions inside them, 0 everything else.
    seed : of contrast, texture, fluid, bias field and noise, which are new at every visit.
    subject_seed : of the soft tissues around the joint, which a subject keeps between visits; by
        default they follow `seed` too. Seeds are integers, or several such as (seed, subject).
    contrast : one of `CONTRASTS`.

    Returns an int16 image on the grid of `label`; the same label map and seeds give the same image.
    Raises `ValueError` if the label map is not 3D, not of an integer type, or has no bone.
    """
    labels, spacing, subject, rng, table = _start(label, seed, subject_seed, contrast)
    image, texture = _mixture(labels, spacing, table, subject, rng)
    texture *= _texture(labels.shape, spacing, rng)
    image += texture
    np.maximum(image, 0, out=image)
    image *= bias_field(labels.shape, spacing, rng)
    image = rician(image, rng.uniform(*NOISE_SD), rng)
    result = sitk.GetImageFromArray(np.rint(image).astype(np.int16))
    result.CopyInformation(label)
    return result


def bias_field(shape, spacing, rng: np.random.Generator) -> np.ndarray:
    """Smooth multiplicative field within 1 +- BIAS_MAX; `spacing` in mm, axes (z, y, x)."""
    field = smooth_field(rng, shape, spacing, BIAS_MM)
    field *= rng.uniform(0.4, 1) * BIAS_MAX / np.abs(field).max()
    field += 1
    return field


def rician(image: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    """Magnitude of `image` (float32) with complex Gaussian noise of `sd` per channel."""
    real, imaginary = (rng.standard_normal(image.shape, dtype=np.float32) for _ in range(2))
    real *= sd
    real += image
    imaginary *= sd
    return np.hypot(real, imaginary, out=real)


def _start(label: sitk.Image, seed, subject_seed, contrast: str = "dess") -> tuple:
    """Return labels, spacing (z, y, x), generators of subject and visit, and the tissues."""
    if label.GetDimension() != 3:
        raise ValueError(f"label map: expected 3 dimensions, found {label.GetDimension()}")
    labels = sitk.GetArrayFromImage(label)
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 3:
        kind = label.GetPixelIDTypeAsString()
        raise ValueError(f"label map: expected scalar integers, found {kind}")
    if not np.isin(labels, BONES).any():
        found = np.unique(labels).tolist()
        raise ValueError(f"label map: expected bone (1, 3 or 5), found labels {found}")
    rng = np.random.default_rng(seed)
    subject = np.random.default_rng(seed if subject_seed is None else subject_seed)
    # The contrast is drawn first, so that images and fractions of one seed have the same tissues:
    # its means are jittered by up to two sd.
    jitter = np.clip(rng.standard_normal(len(TISSUES)), -2, 2)
    means = CONTRASTS[contrast]
    table = {
        name: tissue._replace(
            mean=means.get(name, tissue.mean) * (1 + tissue.sd * z),
            texture=0 if means.get(name) == 0 else tissue.texture,
        )
        for (name, tissue), z in zip(TISSUES.items(), jitter, strict=True)
    }
    return labels, label.GetSpacing()[::-1], subject, rng, table


def _mixture(labels, spacing, table, subject, visit) -> tuple[np.ndarray, np.ndarray]:
    """Signal and texture amplitude: soft tissues from back to front, then bone and cartilage."""
    image = np.full(labels.shape, table["air"].mean, np.float32)
    texture = np.full(labels.shape, table["air"].texture, np.float32)
    for name, fraction in _paint(labels, spacing, subject, visit):
        image += (table[name].mean - image) * fraction
        texture += (table[name].texture - texture) * fraction
    hard = _hard_fractions(labels, spacing)
    soft = hard.pop("soft")
    image *= soft
    texture *= soft
    for name, fraction in hard.items():
        image += table[name].mean * fraction
        texture += table[name].texture * fraction
    return image, texture


def _paint(labels, spacing, subject, visit, front_first: bool = False):
    """Yield the soft tissues by name with how much of each voxel they cover, back to front."""
    step = [max(1, round(GRID_MM / s)) for s in spacing]
    start = [s // 2 for s in step]
    coarse = labels[tuple(slice(a, None, s) for a, s in zip(start, step, strict=True))]
    knee = Knee(coarse, tuple(s * k for s, k in zip(spacing, step, strict=True)))
    grid = zip(labels.shape, start, step, strict=True)
    positions = tuple((np.arange(n) - a) / s for n, a, s in grid)
    tissues = soft_tissues(knee, subject, visit)
    for name, depth in reversed(list(tissues)) if front_first else tissues:
        fraction = resample(depth.astype(np.float32), positions)
        fraction /= EDGE_MM
        fraction += 0.5
        yield name, np.clip(fraction, 0, 1, out=fraction)


def _hard_fractions(labels, spacing) -> dict[str, np.ndarray]:
    """How much of each voxel is bone and cartilage of each kind, and how much is left as soft.

    The smoothed masks of disjoint tissues sum to 1: no rim appears between two of them.
    """
    bone = np.isin(labels, BONES + LESIONS)
    marrow = _smooth(bone, CORTEX_MM, spacing)
    low, high = CORTEX_FRACTION
    marrow = np.clip((marrow - low) / (high - low), 0, 1)
    bone = _smooth(bone, BLUR_MM, spacing)
    cartilage = _smooth(np.isin(labels, CARTILAGES), BLUR_MM, spacing)
    lesion = _smooth(np.isin(labels, LESIONS), 2 * BLUR_MM, spacing)
    return {
        "soft": 1 - bone - cartilage,
        "cortex": bone * (1 - marrow),
        "marrow": bone * marrow * (1 - lesion),
        "lesion": bone * marrow * lesion,
        "cartilage": cartilage,
    }


def tissue_fractions(
    label: sitk.Image,
    seed: int | Sequence[int],
    subject_seed: int | Sequence[int] | None = None,
    reduction: int = 1,
) -> np.ndarray:
    """How much of each voxel each tissue covers: what `simulate_dess` paints, without contrast.

    An image of any contrast is the sum of these maps, each times the signal of its tissue. They
    are averaged over blocks of `reduction` voxels a side, which must divide the sides; the other
    arguments are those of `simulate_dess`. Returns uint8 (tissue, z, y, x), in the order of
    `TISSUES`; 255 is all of a voxel.
    """
    labels, spacing, subject, rng, _ = _start(label, seed, subject_seed)
    names = list(TISSUES)
    blocks = [size for n in labels.shape for size in (n // reduction, reduction)]
    maps = np.zeros((len(names), *blocks[::2]), np.float32)

    def add(name: str, fraction: np.ndarray) -> None:
        maps[names.index(name)] += fraction.reshape(blocks).mean((1, 3, 5))

    hard = _hard_fractions(labels, spacing)
    seen = hard.pop("soft")  # of what lies behind the tissues painted so far
    for name, fraction in hard.items():
        add(name, fraction)
    for name, fraction in _paint(labels, spacing, subject, rng, front_first=True):
        add(name, fraction * seen)
        seen *= 1 - fraction
    add("air", seen)
    return np.rint(255 * maps).clip(0, 255).astype(np.uint8)


def _smooth(mask: np.ndarray, sd_mm: float, spacing) -> np.ndarray:
    sd = [sd_mm / s for s in spacing]
    return gaussian_filter(mask.astype(np.float32), sd, mode="nearest", truncate=3)


def _texture(shape, spacing, rng) -> np.ndarray:
    """Unit-variance texture: trabecular grain on a smooth mottle."""
    sd = [mm / s for mm, s in zip(GRAIN_MM, spacing, strict=True)]
    grain = rng.standard_normal(shape, dtype=np.float32)
    grain = gaussian_filter(grain, sd, mode="wrap", truncate=2.5)
    grain *= 0.8 / grain.std()
    grain += 0.6 * smooth_field(rng, shape, spacing, MOTTLE_MM)
    return grain
