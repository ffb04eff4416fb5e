"""Manifests, pairs, and the images they name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from avsm.data import ImageStore, ScanSource, read_labels
from avsm.errors import UserError
from avsm.manifest import Scan, read_manifest
from avsm.maps import downsample
from avsm.pairs import PairSampler, keyed_generator, read_cohort, read_couples, validation_pairs
from avsm.settings import Augmentation, Phase
from avsm.train import train
from tests.unit.avsm.knees import SHAPE, tiny_recipe, write_cohort, write_couples


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


def edited(cohort: Path, old: str, new: str) -> Path:
    path = cohort.with_name("edited.csv")
    path.write_text(cohort.read_text().replace(old, new), encoding="utf-8")
    return path


def test_manifest_gives_scans(cohort: Path) -> None:
    scans = read_manifest(cohort)
    assert len(scans) == 12
    assert scans[0].subject == "s0" and scans[0].visit == "v0" and scans[0].split == "train"
    assert scans[0].image.is_file() and scans[0].label.is_file()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("subject,", "subjekt,", "did you mean 'subjekt'"),
        ("s1_v0_image.nii", "gone.nii", r"line 4: image .*gone.nii: no such file"),
        ("train", "trian", "did you mean 'train'"),
        ("s0,v0,train", ",v0,train", "line 2: subject is empty"),
        ("s0,v0,train", "s0,v0,validation", "subjects in both splits"),
        ("validation", "test", "no scan has the split 'validation'"),
        ("s4,v0", "s4\u200b,v0", r"subject 's4\\u200b': found a character that cannot be seen"),
    ],
)
def test_wrong_manifests_say_what_is_wrong(cohort: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_manifest(edited(cohort, old, new))


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-16")])
def test_manifests_of_spreadsheets_are_read(cohort: Path, delimiter: str, encoding: str) -> None:
    path = cohort.with_name("edited.csv")
    path.write_bytes(cohort.read_text().replace(",", delimiter).encode(encoding))
    assert read_manifest(path) == read_manifest(cohort)


def test_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        read_manifest(tmp_path / "none.csv")


def scan(subject: str, visit: str = "", side: str = "") -> Scan:
    return Scan(subject, Path("image"), Path("label"), "train", visit, side)


def test_longitudinal_pairs_are_of_one_subject_and_side() -> None:
    scans = [
        scan("a", "0", "left"),
        scan("a", "1", "left"),
        scan("a", "0", "right"),
        scan("b", "0", "left"),
    ]
    sampler = PairSampler(scans, "longitudinal")
    fixed, moving = sampler.draw(20, keyed_generator(0))
    assert set(zip(fixed, moving, strict=True)) == {(0, 1), (1, 0)}


def test_cross_subject_pairs_are_of_two_subjects_equally_often() -> None:
    scans = [scan("a"), scan("a"), scan("a"), scan("b"), scan("c")]
    fixed, moving = PairSampler(scans, "cross-subject").draw(600, keyed_generator(0))
    subjects = [scans[index].subject for index in fixed]
    assert all(scans[i].subject != scans[j].subject for i, j in zip(fixed, moving, strict=True))
    for name in "abc":
        assert 150 < subjects.count(name) < 250


LISTED = [
    ("longitudinal", "s3_v0", "s3_v1"),
    ("cross-subject", "s0_v0", "s1_v1"),
    ("cross-subject", "s3_v1", "s0_v0"),
]


def drawn(manifest: Path, task: str, couples: Path) -> set[frozenset[str]]:
    """Draw many pairs; give the couples that they are of."""
    cohort = read_cohort(manifest, task, couples)
    sampler = PairSampler(cohort.training, task, cohort.listed)
    first, second = sampler.draw(1500, keyed_generator(0))
    pairs = {(a, b) for a, b in zip(first, second, strict=True)}
    assert pairs == {pair[::-1] for pair in pairs}  # in both directions
    names = [scan.image.name.removesuffix("_image.nii") for scan in cohort.training]
    return {frozenset((names[a], names[b])) for a, b in pairs}


def test_listed_couples_are_all_that_is_drawn(cohort: Path) -> None:
    couples = write_couples(cohort, LISTED)
    across = {frozenset(names) for task, *names in LISTED if task == "cross-subject"}
    assert drawn(cohort, "cross-subject", couples) == across
    assert drawn(cohort, "both", couples) == across | {frozenset(("s3_v0", "s3_v1"))}
    used = read_cohort(cohort, "cross-subject", couples)
    assert [scan.subject for scan in used.training] == ["s0", "s1", "s3"]
    assert len(used.validation) == 4


def test_a_task_without_listed_couples_draws_from_all(cohort: Path) -> None:
    couples = write_couples(cohort, LISTED[:1])
    assert len(drawn(cohort, "both", couples)) == 4 * 3 // 2 * 4 + 1
    assert len(read_cohort(cohort, "both", couples).training) == 8
    assert drawn(cohort, "longitudinal", write_couples(cohort, [])) == {
        frozenset((f"s{subject}_v0", f"s{subject}_v1")) for subject in range(4)
    }


def test_couples_of_another_task_alone_are_refused(cohort: Path) -> None:
    with pytest.raises(UserError, match="found couples for longitudinal, none for cross-subject"):
        read_cohort(cohort, "cross-subject", write_couples(cohort, LISTED[:1]))


def test_wrong_couples_say_what_is_wrong(cohort: Path) -> None:
    wrong = [
        ("longitudinal", "s0_v0", "s1_v0"),
        ("cross-sbject", "s0_v0", "s1_v0"),
        ("cross-subject", "s0_v0", "s4_v0"),
    ]
    scans = [scan for scan in read_manifest(cohort) if scan.split == "train"]
    with pytest.raises(UserError) as caught:
        read_couples(write_couples(cohort, wrong), scans)
    message = str(caught.value)
    assert "line 2: s0_v0_image.nii and s1_v0_image.nii make no longitudinal pair" in message
    assert "line 3: task 'cross-sbject': expected longitudinal or cross-subject" in message
    assert "line 4: image s4_v0_image.nii: none of the training scans has it" in message


@pytest.mark.parametrize(
    ("task", "scans"),
    [
        ("longitudinal", [scan("a", "0"), scan("b", "0"), scan("a", "0", "left")]),
        ("longitudinal", [scan("a", "0"), scan("a", "0")]),
        ("cross-subject", [scan("a", "0"), scan("a", "1")]),
    ],
)
def test_no_pairs_is_an_error_that_says_what_is_needed(task: str, scans: list[Scan]) -> None:
    with pytest.raises(UserError, match=f"no training pairs for the task {task}"):
        PairSampler(scans, task)
    with pytest.raises(UserError, match=f"no labelled validation pairs for the task {task}"):
        validation_pairs(scans, task, 10, seed=0)


def test_validation_pairs_come_in_both_directions() -> None:
    scans = [scan("a"), scan("b"), scan("c")]
    pairs = validation_pairs(scans, "cross-subject", 4, seed=0)
    assert len(pairs) == 4
    assert pairs[1] == pairs[0][::-1]
    assert pairs == validation_pairs(scans, "cross-subject", 4, seed=0)


def test_store_gives_images_of_all_levels(cohort: Path, tmp_path: Path) -> None:
    scans = read_manifest(cohort)[:3]
    in_memory = ImageStore(scans, tmp_path)
    on_disk = ImageStore(scans, tmp_path, memory_gb=0)
    assert len(in_memory) == len(on_disk) == 3
    for scale, name in ((1.0, "images.f16"), (0.5, "images_0.5.f16")):
        batch = in_memory.read([2, 0], scale)
        assert batch.dtype == torch.float16
        assert torch.equal(batch, on_disk.read([2, 0], scale))
        assert (tmp_path / name).stat().st_size == batch[0].nbytes * 3
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(scans[2].image)))
        expected = downsample(torch.from_numpy(expected)[None, None], scale)
        # Rounded to half precision, twice where it is down-sampled: by 2^-12 of up to 1 each time.
        torch.testing.assert_close(batch[:1].float(), expected, atol=6e-4, rtol=0)
    assert not torch.equal(in_memory.read([0]), in_memory.read([2]))


def test_source_gives_pairs_both_ways(cohort: Path, tmp_path: Path) -> None:
    scans = [scan for scan in read_manifest(cohort) if scan.split == "train"]
    store, sampler = ImageStore(scans, tmp_path), PairSampler(scans, "both")
    phase = Phase(pairs=3, scale=0.5)
    first, second = sampler.draw(3, keyed_generator(5))
    source = ScanSource(store, sampler, Augmentation())
    assert source.shape == SHAPE
    pairs = source.pairs(source.draw(phase, 0, keyed_generator(5)), torch.device("cpu"))
    images = store.read([*first, *second, *first], 0.5).float()
    assert torch.equal(pairs.fixed, images[:6])
    assert torch.equal(pairs.moving, images[3:])
    assert pairs.judged_fixed is pairs.fixed and pairs.judged_moving is pairs.moving
    changed = ScanSource(store, sampler, Augmentation(gamma=0.3))
    pairs = changed.pairs(changed.draw(phase, 0, keyed_generator(5)), torch.device("cpu"))
    assert torch.equal(pairs.fixed[:3], pairs.moving[3:])  # an image has one contrast both ways
    assert torch.equal(pairs.fixed[3:], pairs.moving[:3])
    assert (pairs.fixed - images[:6]).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-3


def write_like(path: Path, array: np.ndarray, to: Path) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetDirection(sitk.ReadImage(str(path)).GetDirection())
    sitk.WriteImage(image, str(to))
    return to


def test_images_of_another_grid_or_range_or_labels_are_refused(cohort: Path, tmp_path) -> None:
    scans = read_manifest(cohort)[:2]
    noise = np.random.default_rng(0).random(SHAPE, np.float32)
    for array, message in (
        (noise[:4, :5, :6], r"expected all on the grid.*\(4, 5, 6\)"),
        (7 * noise, r"expected intensities in \[0, 1\], found .* to 6\.9"),
        (np.full(SHAPE, 0.5, np.float32), r"wrong\.nii: constant image, every voxel is 0\.5"),
        (noise.round(), r"wrong\.nii: found few values, .* as of a label map"),
    ):
        path = write_like(scans[0].image, array, tmp_path / "wrong.nii")
        wrong = Scan("x", path, None, "train")
        with pytest.raises(UserError, match="(?s)" + message):
            ImageStore([scans[0], wrong], tmp_path)


def relabelled(scan: Scan, change, to: Path) -> Scan:
    """Give the scan with another label map: what ``change`` makes of its own."""
    sitk.WriteImage(change(sitk.ReadImage(str(scan.label), sitk.sitkFloat32)), str(to))
    return dataclasses.replace(scan, label=to)


def moved(label: sitk.Image) -> sitk.Image:
    label.SetOrigin((0.5, 0, 0))
    return label


@pytest.mark.parametrize(
    ("change", "wanted", "message"),
    [
        (lambda label: label * 0.5, None, "found the label values 0.5, expected whole numbers"),
        (lambda label: label[:-1], None, "not on the grid of its image"),
        (moved, [1], "not on the grid of its image"),
        (lambda label: label * 0, None, r"found the values \[0\], without \[1\]"),
        (lambda label: label * 0, [1], r"found the values \[0\], without \[1\]"),
        (lambda label: label * 255, [1], r"found the values \[0, 255\], without \[1\]"),
        (lambda label: label * 255, None, r"found the values \[0, 255\], without \[1\].*--labels"),
        (lambda label: label * 1002, [1], "found the label values 1002, expected whole numbers"),
    ],
)
def test_labels_are_checked(cohort: Path, tmp_path: Path, change, wanted, message: str) -> None:
    scans = read_manifest(cohort)[:2]
    labels, structures = read_labels(scans, wanted)
    assert structures == (1,) and list(labels) == [0, 1]
    with pytest.raises(UserError, match=message):
        read_labels([scans[0], relabelled(scans[1], change, tmp_path / "label.nii")], wanted)


def test_structures_that_some_label_maps_lack_are_told(
    cohort: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scans = read_manifest(cohort)[:2]
    with pytest.raises(UserError, match=r"none has \[2\], found the values \[0, 1\]"):
        read_labels(scans, [1, 2])

    def two(label: sitk.Image) -> sitk.Image:
        label[0, 0, 0] = 2
        return label

    scans[1] = relabelled(scans[1], two, tmp_path / "two.nii")
    assert read_labels(scans, [1, 2])[1] == (1, 2)
    assert "s0_v0_label.nii: found the values [0, 1], without [2]" in caplog.text
    with pytest.raises(UserError, match=r"without \[2\], which others have; .* --labels"):
        read_labels(scans)


def test_copied_label_maps_are_no_validation(cohort: Path, tmp_path: Path) -> None:
    """Of two scans with one label map every registration but the identity would lose."""
    scans = read_manifest(cohort)[:2]
    copy = relabelled(scans[0], lambda label: label, tmp_path / "copy.nii").label
    with pytest.raises(UserError, match=r"copy\.nii has the voxels of .*s0_v0_label\.nii"):
        read_labels([scans[0], dataclasses.replace(scans[1], label=copy)])


def test_labels_on_other_axes_are_on_the_grid(cohort: Path, tmp_path: Path) -> None:
    scans = read_manifest(cohort)[:1]
    turned = [relabelled(scans[0], lambda i: sitk.PermuteAxes(i, (2, 0, 1)), tmp_path / "t.nii")]
    expected, found = (read_labels(own)[0][0] for own in (scans, turned))
    assert torch.equal(expected, found)


def linked(manifest: Path, link) -> Path:
    """Give a manifest in which a validation image is one that is trained on."""
    link(manifest.with_name("copy.nii"), manifest.with_name("s0_v0_image.nii"))
    return edited(manifest, "s4_v0_image.nii", "copy.nii")


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_one_image_is_not_in_both_splits(tmp_path: Path, link) -> None:
    with pytest.raises(UserError, match=r"line 10: image .*copy\.nii is the file of line 2: image"):
        read_manifest(linked(write_cohort(tmp_path), link))


def test_an_image_is_not_its_own_label_map(cohort: Path) -> None:
    manifest = edited(cohort, "s4_v0_label.nii", "s4_v0_image.nii")
    with pytest.raises(UserError, match=r"line 10: label .* is the file of line 10: image"):
        read_manifest(manifest)


def test_copied_images_are_not_in_both_splits(tmp_path: Path) -> None:
    """By their voxels: another file, of another format."""

    def copy(to: Path, source: Path) -> None:
        sitk.WriteImage(sitk.Cast(sitk.ReadImage(str(source)), sitk.sitkFloat64), str(to))

    manifest = linked(write_cohort(tmp_path), copy)
    with pytest.raises(UserError, match=r"copy\.nii has the voxels of .*s0_v0_image\.nii"):
        train(manifest, tmp_path / "out", tiny_recipe(), device="cpu")
    scan = read_manifest(manifest)[0]
    with pytest.raises(UserError, match=r"copy\.nii has the voxels of .*s0_v0_image\.nii"):
        ImageStore([scan, dataclasses.replace(scan, image=tmp_path / "copy.nii")], tmp_path)
