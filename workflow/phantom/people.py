"""Training images without end: phantom people drawn anew all the time, in contrasts drawn anew.

A person is made once, as maps of how much of each voxel each tissue covers; an image is the sum of
these, each times the signal of its tissue, with texture, bias, blur and noise. Some pairs look as
the simulator's images do; others have a random appearance, alike in both images or each its own
(SynthMorph: Hoffmann et al., IEEE TMI 2022). Images whose contrasts differ are judged in the usual
one, as the similarity of the paper's losses compares intensities.
"""

import logging
import math
import os
import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from avsm.data import Pairs
from avsm.errors import UserError
from avsm.files import file_digest, written_aside
from avsm.images import canonical
from avsm.losses import both_directions
from avsm.maps import downsample
from avsm.settings import Phase
from workflow.phantom import dess, labels
from workflow.phantom.dess import BIAS_MAX, BIAS_MM, MOTTLE_MM, NOISE_SD, TISSUES, tissue_fractions
from workflow.phantom.labels import FIELD_OF_VIEW, phantom_label
from workflow.sources import digest

log = logging.getLogger(__name__)
Job = tuple[int, int, tuple[int, int, int], Path]  # seed, number, size, file of a person
ScanKey = tuple[int, int]  # person, visit
VISITS = 2
FINE = 2  # people are made on a grid finer by this factor per axis, and averaged to the working one
GRAIN = 0.45  # sd of the trabecular grain behind that average, as a part of a tissue's texture
MOTTLE = 0.6  # of the knots of the smooth part of the texture
PERCENTILE = 0.001  # part of the intensities that become 0, and 1
SPARSE = 3  # one voxel in so many tells the percentiles
OUTER = ("skin", "fat", "fascia")  # tissues that random appearance may turn into air, from outside

MEANS, SPREADS, TEXTURES = torch.tensor([*TISSUES.values()], dtype=torch.float32).T.contiguous()


class Appearance(NamedTuple):
    """How an image looks, in the simulator's units of intensity."""

    means: torch.Tensor  # signal of each tissue, in the order of `dess.TISSUES`
    textures: torch.Tensor  # likewise
    noise: float  # sd of the noise of a voxel of the fine grid
    bias: float  # largest deviation of the coil's field from 1
    blur: float = 0.0  # sd of a Gaussian, in voxels
    cut: bool = False  # whether faces of the field of view may be black


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
    fractions: torch.Tensor,
    looks: Sequence[Appearance],
    generator: torch.Generator,
    scale: float = 1.0,
) -> torch.Tensor:
    """Make images, float32 (B, D, H, W) in [0, 1], of tissue fractions, on their device.

    Parameters
    ----------
    fractions : uint8 (B, tissue, D, H, W), see `dess.tissue_fractions`.
    looks : how each image looks.
    generator : of texture, bias, noise and field of view. A GPU draws the fields itself, by a seed
        that this gives: the processor would draw for longer than the network computes.
    scale : part of the working grid's resolution along each axis at which the fractions are.
    """
    device, (count, _, *shape) = fractions.device, fractions.shape
    fields = generator
    if device.type != "cpu":
        seed = int(torch.randint(2**62, (1,), generator=generator))
        fields = torch.Generator(device).manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn((count, *size), generator=fields, device=device)

    def smooth_noise(scale_mm: float) -> torch.Tensor:
        """Draw fields with features of `scale_mm` over the phantom's field of view."""
        knots = [max(2, math.ceil(extent / scale_mm) + 1) for extent in FIELD_OF_VIEW[::-1]]
        return F.interpolate(
            normal(1, *knots), size=shape, mode="trilinear", align_corners=True
        )[:, 0]  # fmt: skip

    def of_each(values: Iterable[float]) -> torch.Tensor:
        return torch.tensor([*values], device=device).view(-1, 1, 1, 1)

    weights = torch.stack([torch.stack([look.means, look.textures]) for look in looks]) / 255
    products = weights.to(device) @ fractions.flatten(2).float()
    images, textures = products.unflatten(2, shape).unbind(1)
    texture = MOTTLE * smooth_noise(MOTTLE_MM) + GRAIN * scale * normal(*shape)
    images = (images + textures * texture).clamp_min(0)
    bias = smooth_noise(BIAS_MM)
    bias = bias / bias.abs().amax(dim=(1, 2, 3), keepdim=True)
    images = images * (1 + of_each(look.bias for look in looks) * bias)
    blurred = [number for number, look in enumerate(looks) if look.blur]
    if blurred:
        images[blurred] = _blur(images[blurred], of_each(looks[n].blur for n in blurred))
    # Rician noise of the fine grid, averaged over the voxels that this grid's voxel covers.
    noise = of_each(look.noise for look in looks)
    averaged = (scale / FINE) ** 1.5 * noise
    images = (images.square() + noise.square()).sqrt() + averaged * normal(*shape)
    some = images.flatten(1)[:, ::SPARSE]
    rank = max(1, round(PERCENTILE * some.shape[1]))
    low, high = (
        some.kthvalue(k, dim=1).values.view(-1, 1, 1, 1) for k in (rank, some.shape[1] - rank + 1)
    )
    images = ((images - low) / (high - low).clamp_min(1e-3)).clamp(0, 1)
    for image, look in zip(images, looks, strict=True):
        if look.cut:
            _cut_faces(image, generator)
    return images


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand(1, generator=generator))


def _blur(images: torch.Tensor, sd: torch.Tensor) -> torch.Tensor:
    """Blur images (B, D, H, W), each by its own sd (B, 1, 1, 1) in voxels."""
    offsets = torch.arange(-2, 3, device=images.device)
    kernels = torch.exp(-0.5 * (offsets / sd) ** 2)
    kernels = kernels / kernels.sum(dim=-1, keepdim=True)
    for axis in range(3):
        size = [5 if axis == other else 1 for other in range(3)]
        padding = [2 if axis == other else 0 for other in (2, 2, 1, 1, 0, 0)]
        padded = F.pad(images[None], padding, mode="replicate")
        images = F.conv3d(padded, kernels.view(-1, 1, *size), groups=len(images))[0]
    return images


def _cut_faces(image: torch.Tensor, generator: torch.Generator) -> None:
    """Blacken up to 15 % of the field of view at a fifth of the faces, as a tighter scan has it."""
    for axis, size in enumerate(image.shape):
        for start in (0, 1):
            if _uniform(generator) < 0.2:
                width = int(0.15 * _uniform(generator) * size)
                image.narrow(axis, start * (size - width), width).zero_()


class KneeSource:
    """Draws training pairs of phantom people, see `avsm.data.Source`.

    Parameters
    ----------
    size : voxels (x, y, z) of the working grid.
    task : `longitudinal`, `cross-subject` or `both`.
    folder : where people are kept, 1.2 MB each at 40x96x96, and found by other trainings.
    workers : processes that make the first people.
    seed : of the population. Another seed is another population: no person is in two.
    people : number of people in memory at a time, each scanned twice.
    fresh : of them, replaced by new ones after each epoch.
    random_appearance : part of the pairs that look so, half of them alike in both images.
    """

    def __init__(
        self,
        size: tuple[int, int, int],
        task: str,
        folder: Path,
        workers: int = 1,
        *,
        seed: int,
        people: int,
        fresh: int = 0,
        random_appearance: float = 0.5,
    ) -> None:
        if people < 2 or not 0 <= fresh <= people:
            raise UserError(
                "people: expected at least 2 held and no more fresh ones than that, found "
                f"{people} and {fresh}"
            )
        self.size, self.task, self.workers, self.seed = size, task, workers, seed
        self.people, self.fresh, self.random_appearance = people, fresh, random_appearance
        self.shape = size[::-1]
        # A population is all that decides it: seed, grid, and the code that makes people.
        made_by = digest(*(Path(module.__file__).resolve() for module in (dess, labels)))
        grid = "x".join(map(str, size))
        self.folder = folder / f"{seed}-{grid}-{made_by[:8]}{file_digest(__file__)[:8]}"
        self.scans: dict[ScanKey, dict[float, torch.Tensor]] = {}
        self.epoch = -1

    def make_people(self) -> None:
        """Make the people of the first epoch, so that no training's time includes it."""
        jobs = [*map(self._job, range(self.people))]
        jobs = [job for job in jobs if not job[-1].is_file()]
        # Trainings that run side by side do not make the same ones: each in an order of its own.
        random.Random(os.getpid()).shuffle(jobs)
        with ExitStack() as stack:
            run = map
            if self.workers > 1 and len(jobs) > 1:
                # A new interpreter would run the training's script again.
                pool = ProcessPoolExecutor(self.workers, mp_context=get_context("fork"))
                run = stack.enter_context(pool).map
            for done, _ in enumerate(run(make_person, jobs), start=1):
                if done % 20 == 0:
                    log.info("%d of %d phantom people made", done, len(jobs))

    def draw(
        self, phase: Phase, epoch: int, generator: torch.Generator
    ) -> tuple[list[ScanKey], float, torch.Generator]:
        """Draw the scans of pairs: all fixed ones, then all moving ones."""
        if epoch != self.epoch:
            first = epoch * self.fresh
            self._hold(range(first, first + self.people))
            self.epoch = epoch
        pairs = [self._pair(epoch, generator) for _ in range(phase.pairs)]
        return [scan for role in zip(*pairs, strict=True) for scan in role], phase.scale, generator

    def pairs(
        self, drawn: tuple[list[ScanKey], float, torch.Generator], device: torch.device
    ) -> Pairs:
        """Make the images of a batch on a device."""
        scans, scale, generator = drawn
        fractions = torch.stack([self._at(scan, scale, device) for scan in scans])
        count = len(scans) // 2
        looks = [usual_appearance(generator) for _ in scans]
        apart = []  # images whose pair's contrasts differ
        for fixed in range(count):
            moving = fixed + count
            kind = _uniform(generator)
            if kind < self.random_appearance:
                looks[fixed] = looks[moving] = random_appearance(generator)
            if kind < self.random_appearance / 2:
                looks[moving] = random_appearance(generator)
                apart += [fixed, moving]
        seen = render(fractions, looks, generator, scale)[:, None]
        both = both_directions(*seen.chunk(2))
        if not apart:
            return Pairs(*both, *both)
        judged = seen.clone()
        usual = [usual_appearance(generator) for _ in apart]
        judged[apart] = render(fractions[apart], usual, generator, scale)[:, None]
        return Pairs(*both, *both_directions(*judged.chunk(2)))

    def _pair(self, epoch: int, generator: torch.Generator) -> tuple[ScanKey, ScanKey]:
        def below(n: int) -> int:
            return int(torch.randint(n, (1,), generator=generator))

        first = epoch * self.fresh
        one, visit = below(self.people), below(VISITS)
        longitudinal = self.task == "longitudinal" or (self.task == "both" and below(2))
        if longitudinal:
            return (first + one, visit), (first + one, 1 - visit)
        other = (one + 1 + below(self.people - 1)) % self.people
        return (first + one, visit), (first + other, below(VISITS))

    def _at(self, scan: ScanKey, scale: float, device: torch.device) -> torch.Tensor:
        """Give a scan's fractions, which stay on the device from then on."""
        levels = self.scans[scan]
        if levels[1.0].device.type != device.type:
            levels = self.scans[scan] = {1.0: levels[1.0].to(device)}
        if scale not in levels:
            coarse = downsample(levels[1.0].float()[None], scale)[0]
            levels[scale] = coarse.round().clamp(0, 255).to(torch.uint8)
        return levels[scale]

    def _hold(self, numbers: range) -> None:
        """Have these people in memory and no others; make those that are not in the folder."""
        self.scans = {scan: own for scan, own in self.scans.items() if scan[0] in numbers}
        for job in map(self._job, numbers):
            _, number, _, path = job
            if (number, 0) not in self.scans:
                make_person(job)
                maps = torch.from_numpy(np.load(path)["fractions"])
                self.scans |= {(number, visit): {1.0: maps[visit]} for visit in range(VISITS)}

    def _job(self, number: int) -> Job:
        return self.seed, number, self.size, self.folder / f"{number:06d}.npz"


def make_person(job: Job) -> None:
    """Make the tissue fractions of a person's scans, unless they are there."""
    seed, number, size, path = job
    if path.is_file():
        return
    fine = tuple(FINE * n for n in size)
    maps = []
    for visit in range(VISITS):
        # All are right knees: a left one is the mirror image of the right one.
        label = canonical(phantom_label(number, visit, "right", fine, seed))
        maps.append(tissue_fractions(label, (seed, number, visit), (seed, number), FINE))
    with written_aside(path) as aside, aside.open("wb") as stream:
        np.savez_compressed(stream, fractions=np.stack(maps))
