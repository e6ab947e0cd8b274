"""Tensor-parallel slices: whole heads, the right halves of fused tensors, and all ranks together are the model."""

from pathlib import Path

import pytest
import torch
from checkpoint_samples import sample

from inkstone.errors import InputError
from inkstone.model import load_model
from inkstone.model.files.slices import load_slices, split_dimension

FAMILIES = ["llama", "baichuan-7b", "baichuan-13b", "bloom", "mixtral", "chatglm"]


def together(name: str, parts: list[torch.Tensor]) -> torch.Tensor:
    """What the ranks hold, put back."""
    dimension = split_dimension(name, parts[0].dim())
    if dimension is None:
        assert all(torch.equal(part, parts[0]) for part in parts)
        return parts[0]
    if name.endswith("gate_up_proj"):
        halves = [part.chunk(2, dim=1) for part in parts]
        return torch.cat([gate for gate, _ in halves] + [up for _, up in halves], dim=1)
    return torch.cat(parts, dim=dimension)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 2])
def test_the_slices_of_all_ranks_are_the_whole_model(family: str, size: int, tmp_path: Path) -> None:
    directory = sample(tmp_path / "m", family, shards=2)
    ranks = [load_slices(directory, rank, size) for rank in range(size)]
    model = dict(load_model(directory).named_parameters())
    assert ranks[0].keys() == model.keys()
    for name, weight in model.items():
        assert torch.equal(together(name, [rank[name] for rank in ranks]), weight), name


def test_more_ranks_than_key_value_heads_share_them(tmp_path: Path) -> None:
    directory = sample(tmp_path / "m", "llama")  # 4 heads, 2 key/value heads
    model = dict(load_model(directory).named_parameters())
    for rank in range(4):
        part, name = load_slices(directory, rank, 4), "model.layers.0.self_attn.k_proj.weight"
        head = rank // 2
        assert torch.equal(part[name], model[name][head * 8 : (head + 1) * 8])
        name = "model.layers.0.self_attn.q_proj.weight"
        assert torch.equal(part[name], model[name][rank * 8 : (rank + 1) * 8])


@torch.no_grad()
def test_an_mlp_computed_by_ranks_and_summed_is_the_whole_mlp(tmp_path: Path) -> None:
    directory = sample(tmp_path / "m", "chatglm")
    model, x = load_model(directory), torch.randn(3, 32)
    total = torch.zeros(3, 32)
    for rank in range(4):
        part = {
            name.rpartition("mlp.")[2]: t
            for name, t in load_slices(directory, rank, 4).items()
            if "layers.0.mlp" in name
        }
        hidden = torch.nn.functional.silu(x @ part["gate_proj.weight"].T) * (x @ part["up_proj.weight"].T)
        total += hidden @ part["down_proj.weight"].T
    torch.testing.assert_close(total, model.model.layers[0].mlp(x), atol=1e-3, rtol=1e-4)


def test_a_shape_that_cannot_be_shared_out_is_refused_with_all_reasons(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_slices(sample(tmp_path / "m", "llama"), 0, 5)
    assert "4 heads cannot" in str(caught.value) and "48 columns cannot" in str(caught.value)
    assert "2 key/value heads" in str(caught.value)
