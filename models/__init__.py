"""What is trained: neurons, attention modules, networks, event data, training and checkpoints."""

from spikefold.models.attention import ASA, AZO, DTA, FSTA, MA, SMA, TCJA, STAALayer, topk_mask
from spikefold.models.backbones.dvsnet import DVSNet
from spikefold.models.checkpoint import CheckpointMeta, load_checkpoint, save_checkpoint
from spikefold.models.checkpoints import SHIPPED, shipped
from spikefold.models.data import EventData, load_npz, saccade_mnist
from spikefold.models.learned_lif import AdaptiveLIF, ParametricLIF
from spikefold.models.lif import LIF, NeuronSpec
from spikefold.models.over_time import OverTime
from spikefold.models.registry import ENTRIES, MODEL_NAMES, build
from spikefold.models.released import ReleasedReport, load_released
from spikefold.models.training import TrainingData, TrainResult, evaluate, train, train_checkpoint, training_data
from spikefold.models.weights import load_state_dict_file

__all__ = [
    "ASA",
    "AZO",
    "DTA",
    "ENTRIES",
    "FSTA",
    "LIF",
    "MA",
    "MODEL_NAMES",
    "SHIPPED",
    "SMA",
    "TCJA",
    "AdaptiveLIF",
    "CheckpointMeta",
    "DVSNet",
    "EventData",
    "NeuronSpec",
    "OverTime",
    "ParametricLIF",
    "ReleasedReport",
    "STAALayer",
    "TrainResult",
    "TrainingData",
    "build",
    "evaluate",
    "load_checkpoint",
    "load_npz",
    "load_released",
    "load_state_dict_file",
    "saccade_mnist",
    "save_checkpoint",
    "shipped",
    "topk_mask",
    "train",
    "train_checkpoint",
    "training_data",
]
