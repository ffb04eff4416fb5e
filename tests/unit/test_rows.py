"""Rows of a folder, and rows that are others with changes: results and trainings of their own."""

import pytest
import yaml

from avsm.errors import UserError
from tests.conftest import merge
from workflow.contract.descriptions import load_methods, load_networks


@pytest.fixture
def config(plain_config):
    """A row of SyN with other iterations, and AVSM behind another affine training."""
    return merge(
        plain_config,
        {
            "methods": ["syn", "syn-long", "avsm-3step", "avsm-plain"],
            "method_params": {"syn": {"iterations": [4, 3, 2, 1], "radius": 3}},
            "network_params": {"affine": {"settings": {"affine.epochs": 5}}},
            "method_rows": {
                "syn-long": {
                    "of": "syn",
                    "label": "SyN (long)",
                    "parameters": {"iterations": [9, 9, 9, 9]},
                },
                "avsm-plain": {"of": "avsm-3step", "networks": ["momentum-plain"]},
            },
            "network_rows": {
                "affine-plain": {"of": "affine", "parameters": {"settings": {"lambda_as": 0.0}}},
                "momentum-plain": {"of": "momentum", "needs": ["affine-plain"]},
            },
        },
    )


def test_a_row_of_another_begins_with_its_settings(config):
    methods = load_methods(config)
    assert list(methods) == config["methods"]
    long = methods["syn-long"]
    assert (long.folder, long.label, long.paper_row) == ("syn", "SyN (long)", None)
    assert long.params["iterations"] == [9, 9, 9, 9] and long.params["radius"] == 3
    assert long.defaults == methods["syn"].defaults
    assert methods["syn"].params["iterations"] == [4, 3, 2, 1]
    assert methods["syn"].paper_row == "SyN"
    plain = methods["avsm-plain"]
    assert (plain.label, plain.networks) == ("AVSM (3-step) (avsm-plain)", ["momentum-plain"])


def test_rows_of_a_folder_have_defaults_of_their_own(config):
    config |= {"methods": ["avsm-2step", "avsm-3step", "avsm-refined", "avsm-4"]}
    config["method_params"] = {"avsm-3step": {"affine_steps": 5}, "avsm-4": {"device": "cpu"}}
    two, three, refined, four = load_methods(config).values()
    assert {one.folder for one in (two, three, refined, four)} == {"avsm"}
    assert [one.paper_row for one in (two, three)] == ["AVSM (2-step)", "AVSM (3-step)"]
    assert [one.params["steps"] for one in (two, three, refined, four)] == [2, 3, 1, 4]
    assert [one.params["affine_steps"] for one in (two, three, refined, four)] == [7, 5, 7, 5]
    assert two.params == two.defaults and refined.params == refined.defaults
    assert refined.params["iterations"] == 40 and not two.params["iterations"]
    # Of the row that it is `of`: tables say what it changes.
    assert four.defaults["steps"] == 3 and four.params["device"] == "cpu"


def test_networks_and_what_they_need_may_be_rows_of_others(config):
    networks = load_networks(config, load_methods(config).values())
    assert set(networks) == {"affine", "momentum", "affine-plain", "momentum-plain"}
    plain = networks["affine-plain"]
    assert plain.folder == "affine"
    assert plain.params["settings"] == {"affine.epochs": 5, "lambda_as": 0.0}
    assert networks["affine"].params["settings"] == {"affine.epochs": 5}
    assert networks["momentum-plain"].needs == ["affine-plain"]
    assert list(networks).index("affine-plain") < list(networks).index("momentum-plain")


@pytest.mark.parametrize(
    ("kind", "name", "row", "message"),
    [
        ("method", "syn-long", {"of": "sin"}, "method_rows.syn-long.of: no method 'sin' (did you"),
        ("method", "avsm-5", {"of": "demons"},
         "method_rows.avsm-5: is in baselines/avsm/method.yaml: rows.avsm-5 already"),
        ("method", "syn-long", {"of": "avsm-5"}, "method_rows.syn-long.of: no method 'avsm-5'"),
        ("method", "syn-long", {"of": "syn", "parameters": {"radus": 1}},
         "method_rows.syn-long.parameters: unknown key 'radus' (did you mean 'radius'?)"),
        ("method", "syn-long", {"of": "syn", "labl": "x"},
         "method_rows.syn-long: unknown key 'labl' (did you mean 'label'?)"),
        ("network", "affine-plain", {"of": "afine"}, "rows.affine-plain.of: no network 'af"),
        ("network", "momentum-plain", {"of": "momentum", "needs": ["afine"]},
         "network_rows.momentum-plain: needs: no network 'afine' (did you mean 'affine'?)"),
    ],
)  # fmt: skip
def test_faults_name_the_row(config, kind, name, row, message):
    config[f"{kind}_rows"][name] = row
    with pytest.raises(UserError) as caught:
        load_networks(config, load_methods(config).values())
    assert message in str(caught.value)


def test_what_is_wrong_in_a_folder_is_told_where_its_row_is_unknown(config, tmp_path):
    """And is no business of runs without it."""
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "register.py").touch()
    description = {"rows": {"mine-fast": {"labl": "Fast"}}}
    (tmp_path / "mine" / "method.yaml").write_text(yaml.safe_dump(description))
    config |= {"method_params": {}, "method_rows": {}, "methods": ["other"]}
    load_methods(config, tmp_path)
    config["methods"] = ["mine-fast"]
    with pytest.raises(UserError) as caught:
        load_methods(config, tmp_path)
    assert "methods[0]: no method 'mine-fast'" in str(caught.value)
    assert "mine/method.yaml: rows.mine-fast: unknown key 'labl' (did you" in str(caught.value)
