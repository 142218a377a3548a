import torch
from torch import nn

from spikefold.models import OverTime


def test_layer_sees_every_step_and_sample():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, padding=1)
    x = torch.randn(4, 5, 2, 6, 6)
    out = OverTime(conv)(x)
    assert out.shape == (4, 5, 3, 6, 6)
    torch.testing.assert_close(out[2], conv(x[2]))


def test_batch_norm_uses_one_map_for_all_steps():
    torch.manual_seed(0)
    x = torch.randn(4, 5, 2, 6, 6) * 3 + 1
    out = OverTime(nn.BatchNorm2d(2))(x)
    torch.testing.assert_close(out.mean((0, 1, 3, 4)), torch.zeros(2), atol=1e-5, rtol=0)
    assert out[0].mean().abs() > 1e-4
