import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from spikefold.errors import FileFormatError, InputError
from spikefold.models import (
    MODEL_NAMES,
    SHIPPED,
    CheckpointMeta,
    build,
    evaluate,
    load_checkpoint,
    load_state_dict_file,
    saccade_mnist,
    save_checkpoint,
    shipped,
)

SIZES = {"in_channels": 2, "time_steps": 3, "num_classes": 4, "input_size": 8}
META = CheckpointMeta(
    "asa-dvsnet", SIZES, "saccade-mnist", 7, 2, 1, {"val": 0.5, "test": 0.25}, "spikefold train asa", {"torch": "2"}
)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    net = build("asa", **SIZES).eval()
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, net, META)
    return path, net


def rewrite(path, change_header=None, change_tensors=None):
    """Write the checkpoint again with a changed header (a dict) or changed tensors."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["spikefold"])
    if change_header:
        change_header(header)
    if change_tensors:
        change_tensors(tensors)
    save_file(tensors, path, metadata={"spikefold": json.dumps(header)})


def test_round_trip_keeps_weights_and_header(saved):
    path, net = saved
    loaded, meta = load_checkpoint(path)
    assert meta == META
    assert not loaded.training
    x = torch.rand(3, 2, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(loaded(x), net(x))


def test_nothing_else_is_left_in_the_folder(saved):
    assert [entry.name for entry in saved[0].parent.iterdir()] == ["net.safetensors"]


def test_failed_save_keeps_the_old_file(saved):
    path, net = saved
    before = path.read_bytes()
    with torch.no_grad():
        net.readout.module.bias[0] = float("nan")
    with pytest.raises(InputError, match=r"readout\.module\.bias holds NaN"):
        save_checkpoint(path, net, META)
    assert path.read_bytes() == before


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"the folder .*nowhere does not exist"):
        save_checkpoint(tmp_path / "nowhere" / "a.safetensors", build("plain", **SIZES), META)


def test_truncated_file_is_refused(saved):
    path = saved[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileFormatError, match=r"net\.safetensors: damaged or not a safetensors file"):
        load_checkpoint(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="no such file"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_weights_of_another_network_are_refused(saved):
    rewrite(saved[0], change_header=lambda header: header.update(model="plain-dvsnet"))
    with pytest.raises(FileFormatError, match=r"another network.*unknown: .*attention\.alpha"):
        load_checkpoint(saved[0])


def test_missing_tensor_is_named(saved):
    rewrite(saved[0], change_tensors=lambda tensors: tensors.pop("readout.module.bias"))
    with pytest.raises(FileFormatError, match=r"missing: readout\.module\.bias; unknown: none"):
        load_checkpoint(saved[0])


def test_shape_mismatch_names_tensor_and_shapes(saved):
    rewrite(saved[0], change_header=lambda header: header["build"].update(num_classes=5))
    with pytest.raises(FileFormatError, match=r"readout\.module\.(weight|bias) is .*\(4.*expected .*\(5"):
        load_checkpoint(saved[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weight_is_named(saved, value):
    rewrite(saved[0], change_tensors=lambda tensors: tensors["blocks.1.conv.module.weight"][0, 0, 0].fill_(value))
    with pytest.raises(FileFormatError, match=r"blocks\.1\.conv\.module\.weight holds NaN or infinite"):
        load_checkpoint(saved[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spikefold_format": 2}, "spikefold_format = 2, newer than 1"),
        ({"spikefold_format": "one"}, "spikefold_format = 'one'"),
        ({"model": "vgg"}, "model 'vgg': no such network"),
        ({"model": 3}, "model = 3; expected str"),
        ({"build": {"depth": 3}}, "depth"),
        ({"build": {"time_steps": 10**9}}, "time_steps = 1000000000"),
    ],
)
def test_wrong_header_entry_is_named(saved, change, message):
    rewrite(saved[0], change_header=lambda header: header.update(change))
    with pytest.raises(FileFormatError, match=message):
        load_checkpoint(saved[0])


def test_missing_header_entry_is_named(saved):
    rewrite(saved[0], change_header=lambda header: header.pop("seed"))
    with pytest.raises(FileFormatError, match="seed is missing"):
        load_checkpoint(saved[0])


@pytest.mark.parametrize(("metadata", "message"), [(None, "no 'spikefold' entry"), ({"spikefold": "{"}, "is not JSON")])
def test_file_without_our_header_is_no_checkpoint(saved, metadata, message):
    save_file(load_file(saved[0]), saved[0], metadata=metadata)
    with pytest.raises(FileFormatError, match=message):
        load_checkpoint(saved[0])


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_checkpoint_loads_and_says_how_good_it_is(name):
    net, meta = load_checkpoint(shipped(name))
    assert meta.model in MODEL_NAMES
    assert meta.command.startswith(f"spikefold train {name.removesuffix('-small')} --data saccade-mnist")
    assert meta.accuracy["val"] > 0.9
    assert net(torch.zeros(10, 1, 2, 32, 32)).shape == (1, 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_checkpoint_is_as_good_as_its_header_says(name):
    """On the validation digits; two of 500 may turn by rounding on another machine."""
    net, meta = load_checkpoint(shipped(name))
    assert evaluate(net, saccade_mnist.load("val")) == pytest.approx(meta.accuracy["val"], abs=2 / 500)


def test_unknown_shipped_name_lists_the_names():
    with pytest.raises(InputError, match="plain, asa, fsta"):
        shipped("vgg")


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: {"state_dict": d, "epoch": 3}, lambda d: {"model": d}])
def test_users_pt_file_is_read(tmp_path, wrap):
    torch.save(wrap({"w": torch.arange(3.0)}), tmp_path / "a.pt")
    assert load_state_dict_file(tmp_path / "a.pt")["w"].tolist() == [0.0, 1.0, 2.0]


def test_users_safetensors_file_is_read(saved):
    assert load_state_dict_file(saved[0]).keys() == saved[1].state_dict().keys()


def test_pt_file_with_code_is_not_run(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(FileFormatError, match=r"torch\.save\(net\.state_dict\(\)"):
        load_state_dict_file(tmp_path / "a.pt")


def test_damaged_pt_file_is_refused(tmp_path):
    torch.save({"w": torch.arange(300.0)}, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    for number, damaged in enumerate((content[: len(content) // 2], b"", b"hello")):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match=f"{number}.pt: "):
            load_state_dict_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "holds a list"), ({}, "holds a dict"), ({"w": torch.ones(1), "epoch": 3}, "entry 'epoch' is a int")],
)
def test_pt_file_without_weights_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(FileFormatError, match=message):
        load_state_dict_file(tmp_path / "a.pt")


def test_other_suffix_and_missing_file_are_refused(tmp_path):
    with pytest.raises(FileFormatError, match=r"suffix '\.onnx'"):
        load_state_dict_file(tmp_path / "a.onnx")
    with pytest.raises(FileFormatError, match="no such file"):
        load_state_dict_file(tmp_path / "a.pt")
