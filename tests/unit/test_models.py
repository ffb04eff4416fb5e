"""Networks that ship: how they get into models/, whom they fit, that damage is noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from avsm.errors import UserError
from avsm.model import AVSM, SUMS, describe_model, load_model, save_checkpoint
from avsm.settings import AVSMConfig, MomentumNetConfig
from tests.conftest import ROOT
from workflow.contract.training import start_record
from workflow.models import MODELS, check_fit, collect, published

SIZE = [40, 96, 96]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of one network."""
    folder = tmp_path / "results" / "mine" / "networks" / "affine" / "both"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = AVSM(AVSMConfig(momentum=MomentumNetConfig(width=2)))
    torch.nn.init.normal_(model.affine_net.last.weight)
    content = describe_model(model, (96, 96, 40), ("affine",))
    save_checkpoint(folder / "model.pt", content | {"step": 7, "seconds": 9.0})
    record = {"network": "affine", "phantoms": {"seed": 2}, "seconds": 12.0}
    record |= {"device": "", "processor": "one of ours"}
    (folder / "training.json").write_text(json.dumps(record))
    config = {
        "seed": 1, "preprocessing": {"size": SIZE},
        "labels": {"structures": [{"name": "a", "value": 2}, {"name": "b", "value": 4}]},
    }  # fmt: skip
    manifest = tmp_path / "results" / "mine" / "manifest.json"
    manifest.write_text(json.dumps({"config": config}))
    return tmp_path


def test_collected_networks_are_halved_listed_and_loadable(run: Path) -> None:
    (path,) = collect("mine", run)
    before = load_model(run / "results/mine/networks/affine/both/model.pt").model.affine_net
    after = load_model(path).model.affine_net
    for (name, one), two in zip(
        before.state_dict().items(), after.state_dict().values(), strict=True
    ):
        assert two.dtype == torch.float32, name
        torch.testing.assert_close(two, one.half().float(), rtol=0, atol=0)
    record = json.loads((run / MODELS / "models.json").read_text())
    assert (record["size"], record["structures"], record["seeds"]) == (SIZE, [2, 4], [1, 2])
    start = start_record(path)
    del start["sha256"]
    own = {"file": "affine.pt", "steps": 7, "seconds": 12.0, "device": "one of ours"}
    assert start == own
    assert f"{start_record(path)['sha256']}  affine.pt" in (run / MODELS / SUMS).read_text()


def test_a_changed_file_is_not_loaded(run: Path) -> None:
    (path,) = collect("mine", run)
    content = torch.load(path, weights_only=True)
    content["weights"]["affine_net.last.bias"] += 1
    torch.save(content, path)
    with pytest.raises(UserError, match=r"expected the SHA-256 .* damaged or was changed"):
        load_model(path)


def test_an_unfinished_run_is_refused(run: Path) -> None:
    (run / "results/mine/manifest.json").unlink()
    with pytest.raises(UserError, match="finish the run first"):
        collect("mine", run)


def test_networks_of_each_task_or_of_the_cohorts_own_people_are_refused(run: Path) -> None:
    folder = run / "results/mine/networks/affine"
    (folder / "both").rename(folder / "longitudinal")
    shutil.copytree(folder / "longitudinal", folder / "cross-subject")
    with pytest.raises(UserError, match="expected one network for both tasks"):
        collect("mine", run)
    shutil.rmtree(folder / "cross-subject")
    (folder / "longitudinal/training.json").write_text('{"phantoms": null}')
    with pytest.raises(UserError, match="each trained on phantom people"):
        collect("mine", run)
    assert not (run / MODELS).exists()


def test_runs_that_networks_do_not_fit_are_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, plain_config: dict
) -> None:
    collect("mine", run)
    monkeypatch.chdir(run)
    assert published("affine") == ["models/affine.pt"] and published("other") == []
    check_fit(plain_config, ["affine", "other"])  # the other begins with nothing
    plain_config["preprocessing"]["size"] = [80, 192, 192]
    plain_config["labels"]["structures"] = [{"name": "hippocampus", "value": 1}]
    plain_config["seed"] = 2
    with pytest.raises(UserError) as caught:
        check_fit(plain_config, ["affine"])
    check_fit(plain_config, ["other"])
    for part in (
        "preprocessing.size [80, 192, 192], trained on [40, 96, 96]",
        "labels.structures (values) [1], trained on [2, 4]",
        "seed 2: they were trained on the people of this cohort",
        "set training.start to scratch",
    ):
        assert part in str(caught.value)


def test_shipped_files_are_small_and_whole() -> None:
    folder = ROOT / MODELS
    if not (folder / "models.json").is_file():
        pytest.skip("no networks ship yet")
    files = sorted(folder.glob("*.pt"))
    listed = dict(line.split()[::-1] for line in (folder / SUMS).read_text().splitlines())
    assert {path.name for path in files} == {*listed}
    assert all(path.stat().st_size < 4e6 for path in files)
    assert sum(path.stat().st_size for path in files) < 25e6
    assert {path.stem for path in files} == {
        *json.loads((folder / "models.json").read_text())["networks"]
    }
