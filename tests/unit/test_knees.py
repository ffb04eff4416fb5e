"""Training people: tissue fractions, contrasts, who is held when, and that nobody is tested on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml

from avsm.errors import UserError
from avsm.images import canonical
from avsm.pairs import keyed_generator
from avsm.settings import Phase
from tests.conftest import ROOT
from workflow.config import check_config
from workflow.phantom import dess
from workflow.phantom.labels import draw_pose, draw_shape, phantom_label
from workflow.phantom.people import (
    Appearance,
    KneeSource,
    random_appearance,
    render,
    usual_appearance,
)

SIZE = (24, 32, 32)
FINE = (48, 64, 64)
OWN = {"seed": 5, "people": 3, "fresh": 1}


@pytest.fixture(scope="module")
def label() -> sitk.Image:
    return canonical(phantom_label(0, 0, "right", FINE, 5))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> KneeSource:
    return KneeSource(SIZE, "both", tmp_path_factory.mktemp("people"), **OWN)


def test_fractions_of_a_voxel_are_all_of_it(label: sitk.Image) -> None:
    maps = dess.tissue_fractions(label, (5, 0, 0), (5, 0), reduction=2)
    assert maps.shape == (len(dess.TISSUES), 32, 32, 24) and maps.dtype == np.uint8
    total = maps.astype(int).sum(axis=0)
    assert abs(total - 255).max() <= 8  # each of 16 is rounded by half a unit at most
    assert (maps.reshape(16, -1).max(axis=1) > 0).sum() >= 12  # most tissues are in the picture


def test_fractions_times_signals_are_the_simulators_image(label: sitk.Image) -> None:
    """Without texture, bias and noise; one paints from the front, the other from the back."""
    maps = dess.tissue_fractions(label, (5, 0, 0), (5, 0))
    labels, spacing, subject, rng, table = dess._start(label, (5, 0, 0), (5, 0))
    image, _ = dess._mixture(labels, spacing, table, subject, rng)
    means = np.array([tissue.mean for tissue in table.values()]) / 255
    # Sixteen fractions, each rounded by half of 1/255, of signals up to 240.
    np.testing.assert_allclose(
        np.tensordot(means, maps.astype(float), 1), image, atol=8 * 240 / 255
    )
    assert abs(np.tensordot(means, maps.astype(float), 1) - image).mean() < 0.5


def test_render_repeats_and_is_normalised(label: sitk.Image) -> None:
    maps = torch.from_numpy(dess.tissue_fractions(label, (5, 0, 0), (5, 0), reduction=2))
    for draw in (usual_appearance, random_appearance):
        one, two, other = (
            render(maps[None], [draw(keyed_generator(n))], keyed_generator(n, "image"))
            for n in (1, 1, 2)
        )
        assert torch.equal(one, two) and not torch.equal(one, other)
        assert one.min() == 0 and one.max() == 1
    # A plain image: two tissues, nothing random, percentiles at their signals.
    plain = torch.zeros(len(dess.TISSUES), 8, 8, 8, dtype=torch.uint8)
    plain[0], plain[1, 4:], plain[0, 4:] = 255, 255, 0
    means = torch.tensor([10.0, 50.0] + [0.0] * 14)
    look = Appearance(means, torch.zeros(16), noise=0.0, bias=0.0)
    image = render(plain[None], [look], keyed_generator(3))[0]
    assert torch.equal(image[:4], torch.zeros(4, 8, 8)) and torch.equal(
        image[4:], torch.ones(4, 8, 8)
    )


def test_images_of_a_batch_do_not_mix() -> None:
    """Each has its own signals and blur; without anything random they are as if alone."""
    plain = torch.zeros(2, len(dess.TISSUES), 9, 10, 11, dtype=torch.uint8)
    plain[0, 0, :4], plain[0, 1, 4:], plain[1, 2, :, 5:], plain[1, 3, :, :5] = 255, 255, 255, 255
    means, none = torch.linspace(0, 90, len(dess.TISSUES)), torch.zeros(len(dess.TISSUES))
    looks = [Appearance(means.flip(0), none, 0.0, 0.0), Appearance(means, none, 0.0, 0.0, 0.8)]
    together = render(plain, looks, keyed_generator(3))
    alone = [
        render(maps[None], [look], keyed_generator(4))[0]
        for maps, look in zip(plain, looks, strict=True)
    ]
    torch.testing.assert_close(together, torch.stack(alone))
    kernel = torch.exp(-0.5 * (torch.arange(-2.0, 3) / 0.8) ** 2)
    edge = (kernel[:3].sum() / kernel.sum()) * (means[3] - means[2]) + means[2]  # at voxel 4
    torch.testing.assert_close(
        together[1, :, 4], ((edge - means[2]) / (means[3] - means[2])).expand(9, 11)
    )


def test_noise_bias_and_cuts_are_each_images_own() -> None:
    """Of four alike two differ in nothing but what is named; faces are cut of one image alone."""
    plain = torch.zeros(4, len(dess.TISSUES), 12, 12, 12, dtype=torch.uint8)
    plain[:, 0, :6], plain[:, 1, 6:] = 255, 255
    means, none = torch.tensor([20.0, 80.0] + 14 * [0.0]), torch.zeros(16)
    looks = [
        Appearance(means, none, 0.0, 0.0),
        Appearance(means, none, 8.0, 0.0),
        Appearance(means, none, 0.0, 0.4),
        Appearance(means, none, 0.0, 0.0, cut=True),
    ]
    still, noisy, biased, _ = render(plain, looks, keyed_generator(1))
    assert set(still.unique().tolist()) == {0, 1}
    near = noisy[:5, 0, :] - noisy[:5, 1, :]  # neighbours in one tissue
    assert near.std() > 0.02 and (biased[:5, 0, :] - biased[:5, 1, :]).std() < 0.02 < biased.std()
    cut = [render(plain, looks, keyed_generator("cut", n)) for n in range(12)]
    assert any((images[3, 6:] == 0).any() for images in cut)
    assert all(torch.equal(images[0], still) for images in cut)


def test_pairs_of_a_batch_keep_their_places(source: KneeSource) -> None:
    """All fixed images, then all moving ones; contrasts that differ are judged in the usual one."""
    phase, cpu = Phase(pairs=6), torch.device("cpu")
    drawn = source.draw(phase, 0, keyed_generator("places"))
    scans = drawn[0]
    assert all(fixed != moving for fixed, moving in zip(scans[:6], scans[6:], strict=True))
    pairs = source.pairs(drawn, cpu)
    assert torch.equal(pairs.fixed[:6], pairs.moving[6:])
    assert torch.equal(pairs.judged_fixed[6:], pairs.judged_moving[:6])
    apart = [not torch.equal(pairs.fixed[n], pairs.judged_fixed[n]) for n in range(6)]
    assert apart == [not torch.equal(pairs.moving[n], pairs.judged_moving[n]) for n in range(6)]
    assert 0 < sum(apart) < 6
    for n, (fixed, moving) in enumerate(zip(scans[:6], scans[6:], strict=True)):
        for scan, image in ((fixed, pairs.judged_fixed[n, 0]), (moving, pairs.judged_moving[n, 0])):
            air = source.scans[scan][1.0][list(dess.TISSUES).index("air")] == 255
            assert image[air].mean() < image[~air].mean() or not apart[n]


def test_a_source_that_begins_later_draws_the_same(source: KneeSource) -> None:
    """As a resumed training does; people come and go by the epoch alone."""
    phase, cpu = Phase(pairs=4, scale=0.5), torch.device("cpu")

    def draw(one: KneeSource, epoch: int) -> torch.Tensor:
        return source.pairs(one.draw(phase, epoch, keyed_generator(epoch)), cpu).fixed

    course = [draw(source, epoch) for epoch in range(3)]
    assert sorted({number for number, _ in source.scans}) == [2, 3, 4]
    later = KneeSource(SIZE, "both", source.folder.parent, **OWN)
    assert torch.equal(draw(later, 2), course[2])
    assert course[2].shape == (8, 1, 16, 16, 12)


def test_another_population_has_people_of_its_own(source: KneeSource) -> None:
    """Of another seed or on another grid, in the same folder."""
    first = (0, 0)
    source._hold(range(3))
    for seed, size in ((6, SIZE), (5, (24, 32, 28))):
        other = KneeSource(size, "both", source.folder.parent, seed=seed, people=3)
        other.make_people()
        other._hold(range(3))
        assert tuple(other.scans[first][1.0].shape[1:]) == size[::-1]
        if size == SIZE:
            assert not torch.equal(other.scans[first][1.0], source.scans[first][1.0])


def test_pairs_are_of_the_task(source: KneeSource) -> None:
    for task, same in (
        ("longitudinal", {True}),
        ("cross-subject", {False}),
        ("both", {True, False}),
    ):
        own = KneeSource(SIZE, task, source.folder.parent, **OWN)
        pairs = [own._pair(2, keyed_generator(n)) for n in range(40)]
        assert {fixed[0] == moving[0] for fixed, moving in pairs} == same
        assert all(fixed != moving for fixed, moving in pairs)
        assert {number for pair in pairs for number, _ in pair} == {2, 3, 4}


def test_images_of_different_contrast_are_judged_in_one(source: KneeSource) -> None:
    phase, cpu = Phase(), torch.device("cpu")
    kinds = set()
    for number in range(40):
        generator = keyed_generator("judged", number)
        pairs = source.pairs(source.draw(phase, 0, generator), cpu)
        differ = pairs.judged_fixed is not pairs.fixed
        kinds.add(differ)
        # Both directions: the second half is the first the other way round.
        assert torch.equal(pairs.fixed[:1], pairs.moving[1:])
        assert torch.equal(pairs.judged_fixed[1:], pairs.judged_moving[:1])
        if differ:
            assert not torch.equal(pairs.fixed, pairs.judged_fixed)
    assert kinds == {True, False}
    usual = KneeSource(SIZE, "both", source.folder.parent, seed=5, people=3, random_appearance=0.0)
    drawn = (usual.draw(phase, 0, keyed_generator(n)) for n in range(10))
    assert all(p.judged_fixed is p.fixed for p in (usual.pairs(d, cpu) for d in drawn))


def test_no_person_of_a_test_was_trained_on() -> None:
    """People differ where seeds do, and no embedded cohort has a seed of the published training."""
    published = yaml.safe_load((ROOT / "config/published.yaml").read_text(encoding="utf-8"))
    seeds = {published["seed"], published["phantom"]["training"]["seed"]}
    record = ROOT / "models/models.json"
    if record.is_file():
        seeds |= set(json.loads(record.read_text(encoding="utf-8"))["seeds"])
    own = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))["seed"]
    for path in (ROOT / "config").glob("*.yaml"):
        if path.name != "published.yaml":
            changed = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            assert changed.get("seed", own) not in seeds, path
    assert own not in seeds
    seeds.add(yaml.safe_load((ROOT / "config.yaml").read_text())["phantom"]["training"]["seed"])
    trained = {(*draw_shape(seed, n).scale, *draw_pose(seed, n, 0).joint)
               for seed in seeds for n in range(300)}  # fmt: skip
    tested = {(*draw_shape(own, n).scale, *draw_pose(own, n, 0).joint) for n in range(100)}
    assert len(trained) == 300 * len(seeds) and not trained & tested


def test_the_cohorts_own_people_are_refused(plain_config: dict) -> None:
    plain_config["phantom"]["training"] = {
        "seed": plain_config["seed"], "people": 3, "fresh": 4, "random_appearance": 0.5,
    }  # fmt: skip
    with pytest.raises(UserError) as caught:
        check_config(plain_config)
    assert "phantom.training: found 4 fresh of 3 people" in str(caught.value)
    assert "phantom.training.seed: found 2019" in str(caught.value)
