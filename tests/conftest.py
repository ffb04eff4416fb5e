"""Small images on awkward grids that many tests share."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

from workflow.contract.descriptions import Catalogue

ROOT = Path(__file__).parent.parent


def available(word, root):
    """Return the ids of all methods or networks that the folders make, without those of others."""
    return Catalogue(word, {f"{word}_params": {}, f"{word}_rows": {}}, root).originals


def oblique_grid(
    size=(20, 26, 24), spacing=(1.4, 0.7, 0.9), origin=(-30, 55, -12), angles=(0.2, -0.1, 0.3)
):
    """Return an empty float32 image: unequal spacing, axes near RAS+, oblique direction."""
    rotation = sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix()
    direction = np.reshape(rotation, (3, 3)) @ np.diag([-1.0, -1.0, 1.0])
    image = sitk.Image(size, sitk.sitkFloat32)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction.ravel())
    return image


def blobs(grid, shift_mm=(0, 0, 0), seed=0, number=9, width=(0.13, 0.2)):
    """Return smooth blobs on `grid`, displaced by `shift_mm` in physical space; values in [0, 1].

    The blobs lie at fixed places of the grid's own middle, so two grids show the same object only
    if their centres agree up to `shift_mm`.
    """
    rng = np.random.default_rng(seed)
    size = np.array(grid.GetSize())
    extent = size * grid.GetSpacing()
    centre = np.array(grid.TransformContinuousIndexToPhysicalPoint(((size - 1) / 2).tolist()))
    places = rng.uniform(-0.25, 0.25, (number, 3)) * extent.min()
    widths = rng.uniform(*width, number) * extent.min()
    index = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij")).reshape(3, -1)
    axes = np.reshape(grid.GetDirection(), (3, 3)) * grid.GetSpacing()
    points = (axes @ index).T + np.array(grid.GetOrigin()) - centre - np.array(shift_mm)
    value = sum(
        np.exp(-((points - place) ** 2).sum(1) / (2 * width**2))
        for place, width in zip(places, widths, strict=True)
    )
    array = (value / value.max()).reshape(size).T.astype(np.float32)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.CopyInformation(grid)
    return image


def merge(base, change):
    """Merge as Snakemake does: mappings deeply, everything else replaced."""
    merged = copy.deepcopy(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


@pytest.fixture(scope="session")
def _default_config():
    """The configuration files that the Snakefile reads, in its order."""
    snakefile = (ROOT / "Snakefile").read_text(encoding="utf-8")
    config = {}
    for name in re.findall(r'^configfile: "(.+)"', snakefile, re.MULTILINE):
        config = merge(config, yaml.safe_load((ROOT / name).read_text(encoding="utf-8")))
    return config


@pytest.fixture
def config(_default_config):
    """The default configuration, free to change."""
    return copy.deepcopy(_default_config)


@pytest.fixture
def plain_config(config):
    """The default configuration without Table 2 and the curves."""
    return config | {"table2": [], "curves": {"figure8": [], "figure10": []}}
