"""How the networks are trained: one named recipe for each training that a paper or its code describes.

What a source leaves open is chosen here, and said in the recipe's ``source``. Left out of all of them: mixed precision
(SMA), and evaluation over several crops of a clip (ASA), because accuracy here means one verdict a clip.

Recipes for static images (CIFAR-10, CIFAR-100, ImageNet) are missing: they need AutoAugment and image loaders, which
this package does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from spikefold.errors import InputError
from spikefold.models.augment import Augmentation
from spikefold.models.losses import LossName
from spikefold.models.systems.entry import Option

OptimiserName = Literal["adam", "adamw", "lamb", "nadam", "sgd"]
ScheduleKind = Literal["cosine", "one-cycle", "plateau"]


@dataclass(frozen=True)
class Schedule:
    """How the learning rate goes.

    Attributes
    ----------
    kind : {"cosine", "one-cycle", "plateau"}
        ``cosine``: falls to ``eta_min``, epoch by epoch. ``one-cycle``: rises over a fifth of the training and falls,
        step by step. ``plateau``: a tenth after more than five epochs without a lower training loss.
    warm_up : int
        Epochs in which it first rises linearly (cosine).
    eta_min : float
        Where it ends (cosine).
    """

    kind: ScheduleKind
    warm_up: int = 0
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no schedule."""
        _check_choice("schedule", self.kind, get_args(ScheduleKind))
        _check_least("warm_up", self.warm_up, 0)
        _check_least("eta_min", self.eta_min, 0)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes
    ----------
    network : str
        Registered network that the source trains so; others may be trained so too.
    source : str
        Paper and data set, and what is chosen here.
    optimiser : {"adam", "adamw", "lamb", "nadam", "sgd"}
        ``lamb`` needs the extra ``train``.
    learning_rate : float
        Its highest value.
    epochs, batch_size : int
        Passes over the training clips, and clips an optimiser step.
    schedule : Schedule
        Of the learning rate.
    loss : {"cross-entropy", "mse", "bce", "tet"}
        See `spikefold.models.losses`.
    weight_decay : float
        As the optimiser understands it.
    momentum : float
        Of SGD.
    momentum_decay : float
        Of NAdam.
    label_smoothing : float
        Share of the target spread over all classes.
    augmentation : Augmentation
        What is done to training clips.
    build : mapping
        Options of the network that belong to the recipe. They hold for networks that have them (the same network
        without attention may lack some), and those that a user gives go before.
    """

    network: str
    source: str
    optimiser: OptimiserName
    learning_rate: float
    epochs: int
    batch_size: int
    schedule: Schedule
    loss: LossName
    weight_decay: float = 0.0
    momentum: float = 0.0
    momentum_decay: float = 4e-3
    label_smoothing: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    build: Mapping[str, Option] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse names that do not exist and numbers that make no sense."""
        _check_choice("optimiser", self.optimiser, get_args(OptimiserName))
        _check_choice("loss", self.loss, get_args(LossName))
        for name in ("epochs", "batch_size"):
            _check_least(name, getattr(self, name), 1)
        for name in ("weight_decay", "momentum", "momentum_decay", "label_smoothing"):
            _check_least(name, getattr(self, name), 0)
        if not self.learning_rate > 0.0:
            raise InputError(f"learning_rate = {self.learning_rate}: must be greater than 0")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} = {value!r}: must be one of {', '.join(choices)}")


def _check_least(name: str, value: float, least: int) -> None:
    if not value >= least:
        raise InputError(f"{name} = {value}: must be at least {least}")


def recipe_named(name: str) -> Recipe:
    """Return a recipe of `RECIPES`; InputError lists the names if there is none."""
    if name not in RECIPES:
        raise InputError(f"recipe {name!r}: no such recipe; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


_FSTA_COSINE = Schedule("cosine", warm_up=10, eta_min=1e-5)
_ASA_COSINE = Schedule("cosine", eta_min=1e-6)
_FLIP_SHIFT = Augmentation(flip=True, shift=5)

RECIPES: Mapping[str, Recipe] = {
    "spikefold": Recipe(
        network="plain-dvsnet",
        source="this package: how the shipped networks are trained on saccade-mnist",
        optimiser="adamw",
        learning_rate=3e-3,
        weight_decay=1e-3,
        epochs=18,
        batch_size=25,
        schedule=Schedule("one-cycle"),
        loss="cross-entropy",
        augmentation=Augmentation(refilm=True),
    ),
    "fsta-cifar10dvs": Recipe(
        network="fsta-resnet20",
        source="FSTA-SNN (AAAI 2025), CIFAR10-DVS, T = 10, 64 x 64. Chosen here: warm-up, final rate and smoothing "
        "of the CIFAR-10 training; shift and cutout in place of SNNAugmentWide",
        optimiser="sgd",
        learning_rate=0.02,
        momentum=0.9,
        weight_decay=1e-4,
        epochs=500,
        batch_size=32,
        schedule=_FSTA_COSINE,
        loss="cross-entropy",
        label_smoothing=0.1,
        augmentation=Augmentation(flip=True, shift=5, cutout=8, mixup=0.5),
    ),
    "fsta-gesture": Recipe(
        network="fsta-resnet20",
        source="FSTA-SNN (AAAI 2025), DVS128 Gesture, T = 16, 128 x 128. Chosen here: warm-up and final rate of the "
        "CIFAR-10 training",
        optimiser="lamb",
        learning_rate=5e-3,
        weight_decay=0.02,
        epochs=200,
        batch_size=4,
        schedule=_FSTA_COSINE,
        loss="bce",
        label_smoothing=0.1,
    ),
    "staa-cifar10dvs": Recipe(
        network="staa-resnet20",
        source="STAA-SNN (CVPR 2025), CIFAR10-DVS, T = 10: a reconstruction. The paper's: SGD with momentum from 0.1, "
        "cross-entropy, time-step random dropout 0.1. Chosen here: the rest, as FSTA-SNN (AAAI 2025) has it",
        optimiser="sgd",
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        epochs=500,
        batch_size=32,
        schedule=_FSTA_COSINE,
        loss="cross-entropy",
        augmentation=Augmentation(flip=True, shift=5, cutout=8, mixup=0.5),
        build={"skip_probability": 0.1},
    ),
    "asa-gesture": Recipe(
        network="asa-a",
        source="ASA-SNN (ICCV 2023), DVS128 Gesture, T = 60 of 15 ms, 32 x 32. Chosen here: 200 of its 100 to 200 "
        "epochs",
        optimiser="adam",
        learning_rate=1e-4,
        weight_decay=1e-4,
        epochs=200,
        batch_size=32,
        schedule=_ASA_COSINE,
        loss="mse",
        augmentation=Augmentation(time_crop=60),
    ),
    "asa-gesture-b": Recipe(
        network="asa-b",
        source="ASA-SNN (ICCV 2023), DVS128 Gesture, T = 20, 128 x 128. Chosen here: 200 of its 100 to 200 epochs",
        optimiser="adam",
        learning_rate=1e-3,
        epochs=200,
        batch_size=8,
        schedule=_ASA_COSINE,
        loss="mse",
        augmentation=Augmentation(time_crop=20),
    ),
    "asa-gait": Recipe(
        network="asa-d",
        source="ASA-SNN (ICCV 2023), Gait-night, T = 60, 32 x 32. Chosen here: 200 of its 100 to 200 epochs, batches "
        "of its Gesture training",
        optimiser="adam",
        learning_rate=1e-4,
        weight_decay=1e-4,
        epochs=200,
        batch_size=32,
        schedule=_ASA_COSINE,
        loss="mse",
        augmentation=Augmentation(time_crop=60),
    ),
    "ma-gesture": Recipe(
        network="tcsa-a",
        source="MA-SNN (TPAMI 2023), DVS128 Gesture, T = 60 of 25 ms, 32 x 32. Chosen here: batches and crops in time "
        "as ASA-SNN (ICCV 2023), by the same group, has them",
        optimiser="adam",
        learning_rate=1e-4,
        epochs=300,
        batch_size=32,
        schedule=Schedule("plateau"),
        loss="mse",
        augmentation=Augmentation(time_crop=60),
    ),
    "sma-dvs128": Recipe(
        network="sma-vgg8",
        source="SMA/AZO-SNN (AAAI 2025), DVS128 Gesture, T = 16, 128 x 128; batches are those of its four devices",
        optimiser="adamw",
        learning_rate=1e-4,
        weight_decay=1e-3,
        epochs=200,
        batch_size=36,
        schedule=Schedule("cosine"),
        loss="mse",
        build={"azo": True, "time_ratio": 4, "channel_ratio": 10},
    ),
    "sma-cifar10dvs": Recipe(
        network="sma-vgg8",
        source="SMA/AZO-SNN (AAAI 2025), CIFAR10-DVS, T = 10, 128 x 128; batches are those of its four devices",
        optimiser="adam",
        learning_rate=1e-3,
        epochs=200,
        batch_size=96,
        schedule=Schedule("cosine"),
        loss="mse",
        augmentation=_FLIP_SHIFT,
        build={"azo": True, "time_ratio": 4, "channel_ratio": 4},
    ),
    "sma-ncaltech101": Recipe(
        network="sma-vgg8",
        source="SMA/AZO-SNN (AAAI 2025), N-Caltech101, T = 14; batches are those of its four devices",
        optimiser="nadam",
        learning_rate=1e-3,
        momentum_decay=1e-3,
        epochs=300,
        batch_size=24,
        schedule=Schedule("cosine"),
        loss="tet",
        build={"azo": True, "time_ratio": 4, "channel_ratio": 24},
    ),
    "tcja-dvs128": Recipe(
        network="tcja-dvs128",
        source="TCJA-SNN, DVS128 Gesture, T = 20, 128 x 128. Chosen here: batch size",
        optimiser="adam",
        learning_rate=1e-3,
        epochs=1024,
        batch_size=16,
        schedule=Schedule("cosine"),
        loss="mse",
    ),
    "tcja-cifar10dvs": Recipe(
        network="tcja-dvs128",
        source="TCJA-SNN, CIFAR10-DVS, T = 10, 48 x 48. Chosen here: batch size, and the authors' DVS128 network, as "
        "this package lacks their VGG for CIFAR10-DVS",
        optimiser="adam",
        learning_rate=1e-3,
        epochs=1024,
        batch_size=16,
        schedule=Schedule("cosine"),
        loss="tet",
    ),
    "dta-cifar10dvs": Recipe(
        network="dta-msresnet18",
        source="DTA-SNN, CIFAR10-DVS, T = 10, 48 x 48. The paper's: SGD from 0.1 and 250 epochs, for CIFAR. Chosen "
        "here: the rest, as TCJA-SNN and FSTA-SNN have it",
        optimiser="sgd",
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        epochs=250,
        batch_size=32,
        schedule=Schedule("cosine"),
        loss="cross-entropy",
        augmentation=_FLIP_SHIFT,
    ),
}
