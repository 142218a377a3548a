"""What a shell offers while a command is typed (``spikefold --install-completion``).

It is asked at every press of a key, so that nothing is imported here that takes time: names that live in modules which
import torch are said once more, and tests/deploy/test_completion.py keeps both equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path

SHIPPED = ("plain", "asa", "fsta", "staa", "sma", "fsta-resnet20-small", "sma-vgg8-small")
NETWORKS = (
    "plain-dvsnet", "asa-dvsnet", "fsta-dvsnet", "sma-dvsnet", "staa-dvsnet", "tcsa-dvsnet", "plain-a", "plain-b",
    "plain-c", "plain-d", "asa-a", "asa-b", "asa-c", "asa-d", "plain-dvs128", "tcja-dvs128", "plain-ma-a", "tcsa-a",
    "plain-dta18", "dta-msresnet18", "plain-resnet20", "fsta-resnet20", "plain-resnet19", "fsta-resnet19",
    "plain-resnet18", "fsta-resnet18", "plain-resnet34", "fsta-resnet34", "sma-vgg8", "plain-vgg8", "sma-msresnet18",
    "sma-msresnet34", "sma-msresnet104", "plain-msresnet18", "plain-msresnet34", "plain-msresnet104",
    "staa-resnet20", "staa-resnet19",
)  # fmt: skip
RECIPES = (
    "spikefold", "fsta-cifar10dvs", "fsta-gesture", "staa-cifar10dvs", "asa-gesture", "asa-gesture-b", "asa-gait",
    "ma-gesture", "sma-dvs128", "sma-cifar10dvs", "sma-ncaltech101", "tcja-dvs128", "tcja-cifar10dvs",
    "dta-cifar10dvs",
)  # fmt: skip
DIALECTS = (
    "nir", "snntorch", "norse", "spikingjelly", "sinabs", "sinabs-single-spike", "rockpool", "rockpool-single-spike",
)  # fmt: skip
MODES = ("static", "scheduled", "causal", "dynamic")
DATA = ("saccade-mnist", "nmnist:", "dvs128-gesture:", "cifar10-dvs:")

Completion = Callable[[str], list[str]]


def _tuned() -> list[str]:
    return [f.name.removesuffix(".nir") for f in files("spikefold.deploy.tuned").iterdir() if f.name.endswith(".nir")]


def _hardware() -> list[str]:
    found = files("spikefold.hardware_configs").iterdir()
    return [f.name.removesuffix(".yaml") for f in found if f.name.endswith(".yaml")]


def _matching(incomplete: str, names: Iterable[str], *suffixes: str) -> list[str]:
    """Names that begin so, then files of these kinds and folders, where a shell would look for them."""
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    start = incomplete[: incomplete.rfind("/") + 1]
    paths = []
    if suffixes and folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                paths.append(f"{start}{path.name}/")
            elif path.suffix in suffixes:
                paths.append(f"{start}{path.name}")
    return [name for name in (*sorted(names), *paths) if name.startswith(incomplete)]


def nets(incomplete: str) -> list[str]:
    """Shipped nets, checkpoints, and nets of other programs."""
    return _matching(incomplete, SHIPPED, ".safetensors", ".nir", ".net")


def integer_nets(incomplete: str) -> list[str]:
    """Shipped integer nets, and files of such."""
    return _matching(incomplete, _tuned(), ".nir", ".net")


def files_and_nets(incomplete: str) -> list[str]:
    """Shipped nets in either form, and every kind of file that `info` reads."""
    return _matching(incomplete, (*SHIPPED, *_tuned()), ".nir", ".onnx", ".safetensors", ".net")


def networks(incomplete: str) -> list[str]:
    """Networks that can be built by name, with the short names of the small ones."""
    short = (name.removesuffix("-dvsnet") for name in NETWORKS if name.endswith("-dvsnet"))
    return _matching(incomplete, (*short, *NETWORKS))


def recipes(incomplete: str) -> list[str]:
    """Recipes of training."""
    return _matching(incomplete, RECIPES)


def dialects(incomplete: str) -> list[str]:
    """Meanings of a foreign NIR file."""
    return _matching(incomplete, DIALECTS)


def modes(incomplete: str) -> list[str]:
    """What becomes of attention."""
    return _matching(incomplete, MODES)


def data(incomplete: str) -> list[str]:
    """Data sets by name, and files of clips."""
    return _matching(incomplete, DATA, ".npz")


def hardware(incomplete: str) -> list[str]:
    """Shipped descriptions, and files of one's own."""
    return _matching(incomplete, _hardware(), ".yaml", ".yml")
