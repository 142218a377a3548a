import pytest
import torch
from torch.nn import functional

from registered import CLASSES, clip, narrow, narrow_arguments
from spikefold.errors import InputError
from spikefold.models import (
    ASA,
    ENTRIES,
    FSTA,
    LIF,
    MODEL_NAMES,
    CheckpointMeta,
    build,
    load_checkpoint,
    save_checkpoint,
)
from spikefold.models.registry import full_name, parse_options

PROMISED = {
    *(f"fsta-resnet{n}" for n in (18, 19, 20, 34)),
    *("staa-resnet20", "staa-resnet19", "asa-a", "asa-b", "asa-c", "asa-d", "sma-vgg8"),
    *(f"sma-msresnet{n}" for n in (18, 34, 104)),
    *("tcsa-a", "tcja-dvs128", "dta-msresnet18"),
    *(f"{attention}-dvsnet" for attention in ("plain", "fsta", "staa", "asa", "sma", "tcsa")),
    *(f"plain-resnet{n}" for n in (18, 19, 20, 34)),
    *(f"plain-msresnet{n}" for n in (18, 34, 104)),
    *("plain-vgg8", "plain-a", "plain-b", "plain-c", "plain-d", "plain-dvs128"),
}
ATTENTION = {"asa": ASA, "fsta": FSTA}


def test_every_promised_name_is_there():
    assert set(MODEL_NAMES) >= PROMISED


@pytest.mark.parametrize("name", ["plain-dvsnet", "asa-dvsnet", "fsta-dvsnet"])
def test_network_has_its_attention_in_every_block(name):
    kinds = [type(module) for module in build(name).modules()]
    for short, kind in ATTENTION.items():
        assert kinds.count(kind) == (3 if name.startswith(short) else 0)


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("plain", (0.3, 0.3, 0.0, False, 1.0)),
        ("asa", (0.3, 0.3, 0.0, False, 1.0)),
        ("fsta", (0.25, 0.5, 0.0, True, 1.0)),
        ("sma", (0.5, 1.0, 0.0, False, 0.5)),
        ("tcsa", (0.3, 0.3, 0.3, False, 1.0)),
        ("staa", (0.25, 0.5, 0.0, True, 1.0)),
        ("asa-a", (0.3, 0.3, 0.0, False, 1.0)),
        ("asa-b", (0.5, 1.0, 0.0, False, 0.5)),
        ("fsta-resnet20", (0.25, 0.5, 0.0, True, 1.0)),
        ("sma-vgg8", (0.5, 1.0, 0.0, False, 0.5)),
        ("sma-msresnet18", (0.25, 0.5, 0.0, True, 1.0)),
        ("tcsa-a", (0.3, 0.3, 0.3, False, 1.0)),
        ("tcja-dvs128", (0.5, 1.0, 0.0, False, 0.5)),
        ("dta-msresnet18", (0.5, 1.0, 0.0, True, 1.0)),
    ],
)
def test_every_neuron_has_its_papers_constants(name, spec):
    found = [module.neuron_spec() for module in narrow(full_name(name)).modules() if isinstance(module, LIF)]
    assert len(found) >= 3
    for s in found:
        assert (s.decay, s.v_threshold, s.v_reset, s.strict, s.input_gain) == pytest.approx(spec)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_forward_and_backward_at_batch_one_and_two_then_save_and_load(name, tmp_path):
    net = narrow(name)
    for samples in (1, 2):
        x = clip(name, samples, seed=samples)
        scores = net.train()(x)
        assert scores.shape == (samples, CLASSES)
        net.zero_grad()
        functional.mse_loss(scores, torch.ones_like(scores)).backward()
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        assert grads
        assert all(bool(torch.isfinite(g).all()) for g in grads)
        assert any(bool(g.any()) for g in grads)
    net.eval()
    x = clip(name, 2, seed=3)
    with torch.no_grad():
        wanted = net(x)
    save_checkpoint(tmp_path / "net.safetensors", net, CheckpointMeta(name, narrow_arguments(name)))
    again, meta = load_checkpoint(tmp_path / "net.safetensors")
    assert (meta.model, meta.build) == (name, narrow_arguments(name))
    with torch.no_grad():
        assert torch.equal(again(x), wanted)


@pytest.mark.parametrize("name", ["plain", "asa", "fsta"])
@pytest.mark.parametrize("size", [32, 34])
def test_logits_have_one_entry_a_class(name, size):
    torch.manual_seed(0)
    net = build(name, in_channels=3, time_steps=4, num_classes=7, input_size=size).eval()
    assert net(torch.rand(4, 2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", [n for n in MODEL_NAMES if n.endswith("-dvsnet")])
def test_network_can_be_exported(name):
    torch.manual_seed(0)
    net = build(name, time_steps=3, input_size=8).eval()
    x = torch.rand(3, 2, 2, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))


@pytest.mark.parametrize("name", [n for n, entry in ENTRIES.items() if entry.coupling == "none"])
def test_a_network_without_time_coupling_takes_any_number_of_steps(name):
    net = narrow(name).eval()
    with torch.no_grad():
        assert net(clip(name, 1)[:2]).shape == (1, CLASSES)


@pytest.mark.parametrize("name", [n for n, entry in ENTRIES.items() if entry.coupling == "whole clip"])
def test_a_network_with_time_coupling_refuses_clips_of_another_length(name):
    with torch.no_grad(), pytest.raises(InputError, match="2"):
        narrow(name).eval()(clip(name, 1)[:2])


def test_unknown_name_lists_the_names():
    with pytest.raises(InputError, match=r"'vgg'.*plain, asa, fsta.*plain-dvsnet, asa-dvsnet, fsta-dvsnet"):
        build("vgg")


def test_short_and_full_names_mean_the_same():
    assert full_name("asa") == full_name("asa-dvsnet") == "asa-dvsnet"


@pytest.mark.parametrize(
    ("field", "value"), [("time_steps", 0), ("in_channels", 65), ("num_classes", "ten"), ("input_size", 3)]
)
def test_impossible_size_is_refused_by_name(field, value):
    with pytest.raises(InputError, match=f"{field} = .*{value}"):
        build("plain", **{field: value})


def test_unknown_option_lists_the_options():
    with pytest.raises(InputError, match=r"fsta-resnet20: no option 'depth'; it has .*width"):
        build("fsta-resnet20", depth=3)


def test_option_of_another_type_is_refused_by_name():
    with pytest.raises(InputError, match=r"fsta-resnet20: width = 'wide'; expected int"):
        build("fsta-resnet20", width="wide")


def test_how_a_network_was_built_stays_with_it():
    built_as = narrow("fsta-resnet20").built_as
    assert built_as.name == "fsta-resnet20"
    assert built_as.arguments["width"] == 8
    assert built_as.arguments["time_steps"] == 6


def test_words_become_options_of_the_right_type():
    words = ["time_steps=4", "width=8", "lam=0.25", "mask_mode=batch_union", "dead_parameters=False"]
    assert parse_options("asa-a", words) == {
        "time_steps": 4, "width": 8, "lam": 0.25, "mask_mode": "batch_union", "dead_parameters": False,
    }  # fmt: skip


@pytest.mark.parametrize("word", ["width", "depth=3", "width=wide", "dead_parameters=perhaps"])
def test_a_word_that_is_no_option_is_refused(word):
    with pytest.raises(InputError, match=f"--option {word}"):
        parse_options("asa-a", [word])
