import pytest
import torch

from spikefold.errors import InputError
from spikefold.models import ASA, FSTA, LIF, MODEL_NAMES, build
from spikefold.models.registry import full_name

ATTENTION = {"plain-dvsnet": None, "asa-dvsnet": ASA, "fsta-dvsnet": FSTA}


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_network_has_its_attention_in_every_block(name):
    kinds = [type(module) for module in build(name).modules()]
    for kind in (ASA, FSTA):
        assert kinds.count(kind) == (3 if kind is ATTENTION[name] else 0)


@pytest.mark.parametrize(
    ("name", "decay", "threshold", "strict"),
    [("plain", 0.3, 0.3, False), ("asa", 0.3, 0.3, False), ("fsta", 0.25, 0.5, True)],
)
def test_network_has_its_papers_neuron(name, decay, threshold, strict):
    specs = [module.neuron_spec() for module in build(name).modules() if isinstance(module, LIF)]
    assert [(s.decay, s.v_threshold, s.strict) for s in specs] == [(decay, threshold, strict)] * 3


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("size", [32, 34])
def test_logits_have_one_entry_a_class(name, size):
    torch.manual_seed(0)
    net = build(name, in_channels=3, time_steps=4, num_classes=7, input_size=size).eval()
    assert net(torch.rand(4, 2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_network_can_be_exported(name):
    torch.manual_seed(0)
    net = build(name, time_steps=3, input_size=8).eval()
    x = torch.rand(3, 2, 2, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))


def test_unknown_name_lists_the_names():
    with pytest.raises(InputError, match=r"'vgg'.*plain, asa, fsta, plain-dvsnet, asa-dvsnet, fsta-dvsnet"):
        build("vgg")


def test_short_and_full_names_mean_the_same():
    assert full_name("asa") == full_name("asa-dvsnet") == "asa-dvsnet"


@pytest.mark.parametrize(
    ("field", "value"), [("time_steps", 0), ("in_channels", 65), ("num_classes", "ten"), ("input_size", 3)]
)
def test_impossible_size_is_refused_by_name(field, value):
    with pytest.raises(InputError, match=f"{field} = .*{value}"):
        build("plain", **{field: value})
