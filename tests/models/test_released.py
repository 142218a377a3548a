import pytest
import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models import build, load_released
from spikefold.models.released import ReleasedNames

NAMES = ReleasedNames(
    "someone/their-net@1234567",
    rules=((r"^layer(\d)\.", r"blocks.\1."), (r"\.w$", ".weight")),
    dead=(r"\.never$",),
    aliases=((r"^copy\.", "layer0."),),
)


def net():
    made = nn.Module()
    made.blocks = nn.ModuleList([nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False)])
    made.released_names = NAMES
    return made


def weights():
    generator = torch.Generator().manual_seed(0)
    return {"layer0.w": torch.rand(3, 2, generator=generator), "layer1.w": torch.rand(1, 3, generator=generator)}


def test_weights_arrive_under_our_names():
    made, given = net(), weights()
    report = load_released(made, given)
    assert torch.equal(made.blocks[0].weight, given["layer0.w"])
    assert torch.equal(made.blocks[1].weight, given["layer1.w"])
    assert report.loaded == {"layer0.w": "blocks.0.weight", "layer1.w": "blocks.1.weight"}
    assert (report.dead, report.aliases) == ((), ())


def test_the_prefix_of_data_parallel_training_is_taken_off():
    made, given = net(), weights()
    load_released(made, {f"module.{name}": tensor for name, tensor in given.items()})
    assert torch.equal(made.blocks[0].weight, given["layer0.w"])


def test_dead_names_and_aliases_are_reported():
    given = weights()
    report = load_released(net(), {**given, "layer0.never": torch.ones(4), "copy.w": given["layer0.w"].clone()})
    assert report.dead == ("layer0.never",)
    assert report.aliases == ("copy.w",)


def test_an_alias_may_stand_alone():
    given = weights()
    made = net()
    load_released(made, {"copy.w": given["layer0.w"], "layer1.w": given["layer1.w"]})
    assert torch.equal(made.blocks[0].weight, given["layer0.w"])


def test_axes_of_length_one_may_be_missing_or_extra():
    made, given = net(), weights()
    load_released(made, {**given, "layer0.w": given["layer0.w"][:, :, None, None]})
    assert torch.equal(made.blocks[0].weight, given["layer0.w"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer1.w": None}, r"blocks\.1\.weight: missing"),
        ({"layer7.w": torch.ones(1)}, r"layer7\.w: unknown"),
        ({"layer0.w": torch.ones(2, 3)}, r"layer0\.w is \(2, 3\); expected \(3, 2\)"),
        ({"copy.w": torch.zeros(3, 2)}, r"copy\.w is another name of layer0\.w but holds other values"),
    ],
)
def test_a_mismatch_is_refused_by_name_and_changes_nothing(change, message):
    made = net()
    before = made.blocks[0].weight.clone()
    given = {name: tensor for name, tensor in {**weights(), **change}.items() if tensor is not None}
    with pytest.raises(InputError, match=message):
        load_released(made, given)
    assert torch.equal(made.blocks[0].weight, before)


def test_a_network_without_released_form_is_refused():
    with pytest.raises(InputError, match=r"plain-dvsnet: no checkpoint of its authors' is known"):
        load_released(build("plain-dvsnet"), {})
    with pytest.raises(InputError, match="Linear: no checkpoint"):
        load_released(nn.Linear(1, 1), {})
