import pytest

from spikefold.errors import InputError
from spikefold.models import MODEL_NAMES
from spikefold.models.catalogue import card


@pytest.mark.parametrize(
    ("name", "parameters", "unused"),
    [
        ("fsta-resnet20", 11_295_022, 57),
        ("fsta-resnet19", 12_735_584, 51),
        ("fsta-resnet18", 11_730_720, 51),
        ("fsta-resnet34", 21_877_664, 99),
        ("asa-a", 2_329_162, 117),
        ("asa-b", 1_701_123, 0),
        ("asa-d", 551_731, 117),
        ("sma-vgg8", 22_452_531, 0),
        ("sma-msresnet18", 71_087_400, 0),
        ("tcsa-a", 2_340_535, 0),
        ("tcja-dvs128", 1_832_576, 0),
        ("dta-msresnet18", 13_795_512, 0),
    ],
)
def test_parameters_are_the_releases_to_the_last_one(name, parameters, unused):
    described = card(name)
    assert (described.parameters, described.unused_parameters) == (parameters, unused)


def test_macs_are_those_of_the_layers():
    """Three 3x3 convolutions and a linear map, ten steps, by hand."""
    by_hand = 10 * (1024 * 2 * 16 * 9 + 1024 * 16 * 32 * 9 + 256 * 32 * 32 * 9 + 32 * 8 * 8 * 10)
    assert card("plain").macs == by_hand


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_network_has_a_card(name):
    described = card(name)
    assert described.name == name
    assert described.macs > 1e6
    assert 0 <= described.unused_parameters < described.parameters
    assert (described.coupling == "none") == name.startswith("plain")


def test_an_unknown_network_is_refused():
    with pytest.raises(InputError, match="no such network"):
        card("resnet51")
