import pytest
import torch

from spikefold.models import topk_mask


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_mask_marks_the_largest(dim):
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    mask = topk_mask(x, 2, dim)
    assert mask.dtype == x.dtype
    assert torch.equal(mask.sum(dim), torch.full_like(mask.sum(dim), 2.0))
    assert x[mask == 1].sum() == pytest.approx(x.topk(2, dim).values.sum().item(), rel=1e-5)


def test_nothing_selected_is_an_empty_mask():
    assert topk_mask(torch.ones(3, 4), 0, 1).sum() == 0


def test_no_gradient_passes():
    x = torch.randn(3, 4, requires_grad=True)
    assert not topk_mask(x, 2, 1).requires_grad


def test_traced_graph_shows_one_node():
    class Select(torch.nn.Module):
        def forward(self, x):
            return topk_mask(x.transpose(0, 1), 2, 1)

    graph = torch.export.export(Select(), (torch.randn(3, 4),)).graph
    assert torch.ops.spikefold.topk_mask.default in [node.target for node in graph.nodes]


def test_operation_is_well_formed_for_tracing():
    torch.library.opcheck(
        torch.ops.spikefold.topk_mask.default,
        (torch.randn(3, 4).T, 2, 1),
        test_utils=["test_schema", "test_faketensor"],
    )
