"""Training images without end: phantom people drawn anew all the time, in contrasts drawn anew.

Each person is made once, as maps of how much of each voxel each tissue covers
(`dess.tissue_fractions`), on the working grid. An image is the sum of these maps, each times the
signal of its tissue, with texture, bias, blur and noise: so every batch has contrasts of its own,
at the cost of one product. A part of the pairs has the usual contrast of the simulator; the others
are of random appearance, alike in both images or each its own (SynthMorph: Hoffmann et al., IEEE
TMI 2022). Images whose contrasts differ are judged in the usual one: the similarity of the paper's
losses compares intensities.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import random
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from avsm.data import Pairs
from avsm.files import written_aside
from avsm.images import canonical
from avsm.losses import both_directions
from avsm.pyramid import downsample
from avsm.settings import Phase
from workflow.data import dess, knee, phantom, phantom_anatomy, phantom_variation, tissues
from workflow.data.dess import BIAS_MAX, BIAS_MM, MOTTLE_MM, NOISE_SD, TISSUES, tissue_fractions
from workflow.data.phantom import FIELD_OF_VIEW, phantom_label
from workflow.errors import ConfigError

log = logging.getLogger(__name__)
Job = tuple[int, int, tuple[int, int, int], Path]  # seed, number, size, file of a person
VISITS = 2
FINE = 2  # people are made on a grid finer by this factor per axis, and averaged to the working one
GRAIN = 0.45  # sd of the trabecular grain behind that average, as a part of a tissue's texture
MOTTLE = 0.6  # of the knots of the smooth part of the texture
PERCENTILE = 0.001  # part of the intensities that become 0, and 1
SPARSE = 3  # one voxel in so many tells the percentiles
OUTER = ("skin", "fat", "fascia")  # tissues that random appearance may turn into air, from outside

MEANS = torch.tensor([tissue.mean for tissue in TISSUES.values()], dtype=torch.float32)
SPREADS = torch.tensor([tissue.sd for tissue in TISSUES.values()], dtype=torch.float32)
TEXTURES = torch.tensor([tissue.texture for tissue in TISSUES.values()], dtype=torch.float32)


class Appearance(NamedTuple):
    """How an image looks, in the simulator's units of intensity.

    means, textures : signal and texture of each tissue, in the order of `dess.TISSUES`.
    noise, bias : sd of the noise of a voxel of the fine grid; largest deviation of the coil's field
        from 1.
    blur : sd of a Gaussian, in voxels.
    cut : whether faces of the field of view may be black.
    """

    means: torch.Tensor
    textures: torch.Tensor
    noise: float
    bias: float
    blur: float = 0.0
    cut: bool = False


def usual_appearance(generator: torch.Generator) -> Appearance:
    """Draw what `dess.simulate_dess` draws for an image."""
    jitter = torch.randn(len(MEANS), generator=generator).clamp(-2, 2)
    noise, bias = _uniform(generator, *NOISE_SD), BIAS_MAX * _uniform(generator, 0.4, 1)
    return Appearance(MEANS * (1 + SPREADS * jitter), TEXTURES, noise, bias)


def random_appearance(generator: torch.Generator) -> Appearance:
    """Draw an image of any contrast: signal, texture, noise, bias, blur, outline, field of view."""
    means = float(MEANS.max()) * torch.rand(len(MEANS), generator=generator)
    names = list(TISSUES)
    if _uniform(generator) < 0.8:
        means[names.index("air")] = 0
    for name in OUTER:
        if _uniform(generator) > 0.25:
            break
        means[names.index(name)] = means[names.index("air")]
    textures = 20 * torch.rand(len(MEANS), generator=generator)
    noise, bias, blur = (_uniform(generator, 0, high) for high in (10, 0.35, 1))
    return Appearance(means, textures, noise, bias, blur, cut=True)


def render(
    fractions: torch.Tensor, look: Appearance, generator: torch.Generator, scale: float = 1.0
) -> torch.Tensor:
    """Make an image of tissue fractions.

    Parameters
    ----------
    fractions : uint8 (tissue, D, H, W), see `dess.tissue_fractions`.
    look : how it looks.
    generator : of texture, bias, noise and field of view.
    scale : part of the working grid's resolution along each axis at which the fractions are.

    Returns
    -------
    float32 (D, H, W) in [0, 1], on the fractions' device.
    """
    device, shape = fractions.device, fractions.shape[1:]
    weights = torch.stack([look.means, look.textures]).to(device) / 255
    image, texture = torch.tensordot(weights, fractions.float(), 1)
    grain = torch.randn(shape, generator=generator).to(device)
    mottle = _smooth_noise(shape, MOTTLE_MM, generator, device)
    image = (image + texture * (MOTTLE * mottle + GRAIN * scale * grain)).clamp_min(0)
    bias = _smooth_noise(shape, BIAS_MM, generator, device)
    image = image * (1 + look.bias * bias / bias.abs().max())
    if look.blur:
        image = _blur(image, look.blur)
    # Rician noise of the fine grid, averaged over the voxels that this grid's voxel covers.
    noise = torch.randn(shape, generator=generator).to(device)
    averaged = look.noise * (scale / FINE) ** 1.5
    image = (image.square() + look.noise**2).sqrt() + averaged * noise
    some = image.flatten()[::SPARSE]
    rank = max(1, round(PERCENTILE * len(some)))
    low, high = some.kthvalue(rank).values, some.kthvalue(len(some) - rank + 1).values
    image = ((image - low) / (high - low).clamp_min(1e-3)).clamp(0, 1)
    return _cut_faces(image, generator) if look.cut else image


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand(1, generator=generator))


def _smooth_noise(
    shape: torch.Size, scale_mm: float, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    """Draw a field with features of `scale_mm` over the phantom's field of view."""
    knots = [max(2, math.ceil(extent / scale_mm) + 1) for extent in FIELD_OF_VIEW[::-1]]
    coarse = torch.randn((1, 1, *knots), generator=generator).to(device)
    return F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0, 0]


def _blur(image: torch.Tensor, sd: float) -> torch.Tensor:
    offsets = torch.arange(-2, 3, device=image.device)
    kernel = torch.exp(-0.5 * (offsets / sd) ** 2)
    kernel /= kernel.sum()
    for axis in range(3):
        size = [5 if axis == other else 1 for other in range(3)]
        padding = [2 if axis == other else 0 for other in (2, 2, 1, 1, 0, 0)]
        padded = F.pad(image[None, None], padding, mode="replicate")
        image = F.conv3d(padded, kernel.view(1, 1, *size))[0, 0]
    return image


def _cut_faces(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blacken up to 15 % of the field of view at a fifth of the faces, as a tighter scan has it."""
    for axis, size in enumerate(image.shape):
        for start in (0, 1):
            if _uniform(generator) < 0.2:
                width = int(0.15 * _uniform(generator) * size)
                image.narrow(axis, start * (size - width), width).zero_()
    return image


@dataclass(frozen=True)
class People:
    """Which phantom people are trained on.

    seed : of the population. Another seed is another population: no person is in two.
    held : people in memory at a time, each scanned twice.
    fresh : of them, replaced by new ones after each epoch.
    random : part of the pairs of random appearance, half of them alike in both images.
    """

    seed: int
    held: int
    fresh: int = 0
    random: float = 0.5


class KneeSource:
    """Draws training pairs of phantom people, see `avsm.data.Source`.

    Parameters
    ----------
    people : who they are.
    size : voxels (x, y, z) of the working grid.
    task : `longitudinal`, `cross-subject` or `both`.
    folder : where people are kept, 1.2 MB each at 40x96x96; other trainings of the same population
        find them there.
    workers : processes that make the first people.
    """

    def __init__(
        self, people: People, size: tuple[int, int, int], task: str, folder: Path, workers: int = 1
    ) -> None:
        if people.held < 2 or not 0 <= people.fresh <= people.held:
            raise ConfigError(
                "people: expected at least 2 held and no more fresh ones than that, found "
                f"{people.held} and {people.fresh}"
            )
        self.people, self.size, self.task = people, size, task
        self.folder, self.workers = folder / population(people.seed, size), workers
        self.shape = (size[2], size[1], size[0])
        self.scans: dict[tuple[int, int], dict[float, torch.Tensor]] = {}
        self.epoch = -1

    def make_people(self) -> None:
        """Make the people of the first epoch, so that no training's time includes it."""
        missing = [n for n in range(self.people.held) if not self._file(n).is_file()]
        # Trainings that run side by side do not make the same ones: each in an order of its own.
        random.Random(os.getpid()).shuffle(missing)
        jobs = [self._job(number) for number in missing]
        with ExitStack() as stack:
            run = map
            if self.workers > 1 and len(jobs) > 1:
                fork = get_context(
                    "fork"
                )  # a new interpreter would run the training's script again
                pool = ProcessPoolExecutor(self.workers, mp_context=fork)
                run = stack.enter_context(pool).map
            for done, number in enumerate(run(make_person, jobs), start=1):
                log.debug("phantom person %d made", number)
                if done % 20 == 0:
                    log.info("%d of %d phantom people made", done, len(missing))

    def draw(
        self, phase: Phase, epoch: int, generator: torch.Generator
    ) -> tuple[list[torch.Tensor], float, torch.Generator]:
        """Draw the scans of pairs: fractions at the phase's scale, fixed and moving by turns."""
        if epoch != self.epoch:
            self._hold(
                range(epoch * self.people.fresh, epoch * self.people.fresh + self.people.held)
            )
            self.epoch = epoch
        pairs = [self._pair(epoch, generator) for _ in range(phase.pairs)]
        fractions = [self._at(scan, phase.scale) for pair in pairs for scan in pair]
        return fractions, phase.scale, generator

    def pairs(
        self, drawn: tuple[list[torch.Tensor], float, torch.Generator], device: torch.device
    ) -> Pairs:
        """Make the images of a batch on a device."""
        fractions, scale, generator = drawn
        seen, judged = [], []
        for fixed, moving in zip(fractions[::2], fractions[1::2], strict=True):
            own, common = self._images((fixed.to(device), moving.to(device)), scale, generator)
            seen += own
            judged += common
        both = [
            both_directions(torch.stack(images[::2])[:, None], torch.stack(images[1::2])[:, None])
            for images in (seen, judged)
        ]
        if all(a is b for a, b in zip(seen, judged, strict=True)):
            both[1] = both[0]
        return Pairs(*both[0], *both[1])

    def _images(
        self, fractions: tuple[torch.Tensor, ...], scale: float, generator: torch.Generator
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Give the images of a pair as networks see them, and as they are judged."""
        kind = _uniform(generator)
        if kind >= self.people.random:
            images = [render(f, usual_appearance(generator), generator, scale) for f in fractions]
            return images, images
        if kind < self.people.random / 2:
            look = random_appearance(generator)
            images = [render(f, look, generator, scale) for f in fractions]
            return images, images
        seen = [render(f, random_appearance(generator), generator, scale) for f in fractions]
        judged = [render(f, usual_appearance(generator), generator, scale) for f in fractions]
        return seen, judged

    def _pair(self, epoch: int, generator: torch.Generator) -> tuple[tuple[int, int], ...]:
        def below(n: int) -> int:
            return int(torch.randint(n, (1,), generator=generator))

        first = epoch * self.people.fresh
        one, visit = below(self.people.held), below(VISITS)
        longitudinal = self.task == "longitudinal" or (self.task == "both" and below(2))
        if longitudinal:
            return (first + one, visit), (first + one, 1 - visit)
        other = (one + 1 + below(self.people.held - 1)) % self.people.held
        return (first + one, visit), (first + other, below(VISITS))

    def _at(self, scan: tuple[int, int], scale: float) -> torch.Tensor:
        levels = self.scans[scan]
        if scale not in levels:
            coarse = downsample(levels[1.0].float()[None], scale)[0]
            levels[scale] = coarse.round().clamp(0, 255).to(torch.uint8)
        return levels[scale]

    def _hold(self, numbers: range) -> None:
        """Have these people in memory and no others; make those that are not in the folder."""
        for number, visit in [*self.scans]:
            if number not in numbers:
                del self.scans[number, visit]
        for number in numbers:
            make_person(self._job(number))
        for number in numbers:
            if (number, 0) not in self.scans:
                maps = np.load(self._file(number))["fractions"]
                for visit in range(VISITS):
                    self.scans[number, visit] = {1.0: torch.from_numpy(maps[visit])}

    def _job(self, number: int) -> Job:
        return self.people.seed, number, self.size, self._file(number)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


def population(seed: int, size: tuple[int, int, int]) -> str:
    """Name a population by all that decides it: seed, grid, and the code that makes people."""
    modules = (dess, knee, phantom, phantom_anatomy, phantom_variation, tissues)
    digest = hashlib.sha256()
    for module in modules:
        digest.update(Path(module.__file__).read_bytes())
    return f"{seed}-{'x'.join(map(str, size))}-{digest.hexdigest()[:8]}"


def make_person(job: Job) -> int:
    """Make the tissue fractions of a person's scans, unless they are there; return the number."""
    seed, number, size, path = job
    if path.is_file():
        return number
    fine = tuple(FINE * n for n in size)
    maps = []
    for visit in range(VISITS):
        # All are right knees: a left one is the mirror image of the right one.
        label = canonical(phantom_label(number, visit, "right", fine, seed))
        maps.append(tissue_fractions(label, (seed, number, visit), (seed, number), FINE))
    with written_aside(path) as aside, aside.open("wb") as stream:
        np.savez_compressed(stream, fractions=np.stack(maps))
    return number
