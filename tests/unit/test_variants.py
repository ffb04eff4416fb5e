"""Variants: the same method or network with other settings, as rows and trainings of their own."""

import pytest

from avsm.errors import UserError
from workflow.contract.methods import load_methods
from workflow.contract.networks import load_networks


@pytest.fixture
def config(plain_config):
    """A row of SyN with other iterations, and AVSM behind another affine training."""
    config = plain_config
    config["methods"] = ["syn", "syn-long", "avsm-3step", "avsm-plain"]
    config["method_params"] = {"syn": {"iterations": [4, 3, 2, 1], "radius": 3}}
    config["network_params"] = {"affine": {"settings": {"affine.epochs": 5}}}
    config["variants"] = {
        "methods": {
            "syn-long": {
                "of": "syn",
                "label": "SyN (long)",
                "params": {"iterations": [9, 9, 9, 9]},
            },
            "avsm-plain": {"of": "avsm-3step", "networks": ["momentum-plain"]},
        },
        "networks": {
            "affine-plain": {"of": "affine", "params": {"settings": {"lambda_as": 0.0}}},
            "momentum-plain": {"of": "momentum", "needs": ["affine-plain"]},
        },
    }
    return config


def test_a_variant_begins_with_the_settings_of_its_method(config):
    methods = load_methods(config)
    assert list(methods) == config["methods"]
    long = methods["syn-long"]
    assert (long.folder, long.label, long.paper_row) == ("syn", "SyN (long)", None)
    assert long.params["iterations"] == [9, 9, 9, 9] and long.params["radius"] == 3
    assert methods["syn"].params["iterations"] == [4, 3, 2, 1]
    assert methods["syn"].paper_row == "SyN"
    plain = methods["avsm-plain"]
    assert (plain.label, plain.networks) == ("AVSM (3-step) (avsm-plain)", ("momentum-plain",))


def test_networks_and_what_they_need_may_be_variants(config):
    networks = load_networks(config, load_methods(config).values())
    assert set(networks) == {"affine", "momentum", "affine-plain", "momentum-plain"}
    plain = networks["affine-plain"]
    assert plain.folder == "affine"
    assert plain.params["settings"] == {"affine.epochs": 5, "lambda_as": 0.0}
    assert networks["affine"].params["settings"] == {"affine.epochs": 5}
    assert networks["momentum-plain"].needs == ("affine-plain",)
    assert list(networks).index("affine-plain") < list(networks).index("momentum-plain")


@pytest.mark.parametrize(
    ("kind", "name", "variant", "message"),
    [
        ("methods", "syn-long", {"of": "sin"}, "variants.methods.syn-long.of: no 'sin' (did you"),
        ("methods", "syn", {"of": "demons"}, "variants.methods.syn: is the name of a folder"),
        ("methods", "syn-long", {"of": "syn", "params": {"radus": 1}},
         "variants.methods.syn-long.params: unknown key 'radus' (did you mean 'radius'?)"),
        ("networks", "affine-plain", {"of": "afine"}, "networks.affine-plain.of: no 'afine'"),
        ("networks", "momentum-plain", {"of": "momentum", "needs": ["afine"]},
         "variants.networks.momentum-plain: needs: no network 'afine' (did you mean 'affine'?)"),
    ],
)  # fmt: skip
def test_faults_name_the_variant(config, kind, name, variant, message):
    config["variants"][kind][name] = variant
    with pytest.raises(UserError) as caught:
        load_networks(config, load_methods(config).values())
    assert message in str(caught.value)
