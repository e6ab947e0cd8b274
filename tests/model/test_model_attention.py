"""What a token sees: packing, caching and causality, by property and against plain scaled dot-product attention."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from model_samples import SHAPE, tiny_model, tokens

from inkstone.errors import InputError
from inkstone.model import CacheContext, Decoder, KVCache, PackedContext
from inkstone.model.attention import EXPLICIT_LENGTH
from inkstone.model.cpu_attention import masked_attention


def packed(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and document ids [1, T] of documents laid end to end."""
    positions = torch.cat([torch.arange(length) for length in lengths])
    ids = torch.cat([torch.full((length,), number) for number, length in enumerate(lengths)])
    return positions[None], ids[None]


def check_packed_row_equals_documents(model: Decoder, lengths: list[int]) -> None:
    row = tokens(1, sum(lengths), seed=len(lengths))
    together = model(row, PackedContext.documents(*packed(lengths), torch.float32))[0]
    alone = torch.cat([model(piece[None])[0] for piece in row[0].split(lengths)])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-5)


@torch.no_grad()
@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_packed_row_gives_the_same_logits_as_its_documents_alone(lengths: list[int]) -> None:
    check_packed_row_equals_documents(tiny_model(), lengths)


@torch.no_grad()
def test_packed_row_beyond_the_explicit_length_gives_the_same_logits_as_its_documents_alone() -> None:
    lengths = [400, 1, 37, EXPLICIT_LENGTH - 400, 60]
    check_packed_row_equals_documents(tiny_model(max_positions=2048), lengths)


def test_explicit_attention_and_its_gradients_equal_scaled_dot_product_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v, gradient = (torch.randn(2, 3, 21, 8, generator=generator) for _ in range(4))
    bias = PackedContext.documents(*packed([5, 9, 7]), torch.float32).bias_B1TT
    assert bias is not None
    results = []
    for attend in (
        lambda *qkv: masked_attention(*qkv, bias.expand(2, 1, 21, 21))[0],
        lambda *qkv: F.scaled_dot_product_attention(*qkv, attn_mask=bias),
    ):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        out = attend(*inputs)
        results.append((out.detach(), *torch.autograd.grad(out, inputs, gradient)))
    for ours, oracle in zip(*results, strict=True):
        torch.testing.assert_close(ours, oracle, atol=1e-5, rtol=1e-5)


def test_training_gradients_do_not_depend_on_which_attention_path_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, row = tiny_model(), tokens(1, 24)
    gradients = []
    for explicit_length in (EXPLICIT_LENGTH, 0):
        monkeypatch.setattr("inkstone.model.attention.EXPLICIT_LENGTH", explicit_length)
        loss = model(row, PackedContext.documents(*packed([11, 6, 7]), torch.float32)).square().sum()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for explicit, flash in zip(*gradients, strict=True):
        torch.testing.assert_close(explicit, flash, atol=1e-3, rtol=1e-4)


def test_explicit_attention_keeps_the_promises_torch_compile_relies_on() -> None:
    q, k, v = (torch.randn(1, 2, 6, 4).transpose(2, 1).contiguous().transpose(2, 1).requires_grad_() for _ in range(3))
    torch.library.opcheck(masked_attention, (q, k, v, torch.zeros(1, 1, 6, 6)))


@torch.no_grad()
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_decoding_in_any_pieces_through_the_cache_equals_one_whole_forward(pieces: list[int]) -> None:
    model, row = tiny_model(), tokens(2, sum(pieces))
    cache = KVCache(model.config, 2, sum(pieces), torch.float32)
    logits, start = [], 0
    for piece in row.split(pieces, dim=1):
        positions = torch.arange(start, start + piece.shape[1]).expand(2, -1)
        logits.append(model(piece, CacheContext(cache, positions)))
        start += piece.shape[1]
    torch.testing.assert_close(torch.cat(logits, 1), model(row), atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_rows_of_a_cache_may_be_at_different_positions() -> None:
    model, row = tiny_model(), tokens(3, 20)
    lengths = [19, 4, 11]
    cache = KVCache(model.config, 3, 20, torch.float32)
    for number, length in enumerate(lengths):
        context = CacheContext(cache, torch.arange(length)[None], slice(number, number + 1))
        model.hidden(row[number : number + 1, :length], context)
    at = torch.tensor(lengths)[:, None]
    decoded = model(row.gather(1, at), CacheContext(cache, at))[:, 0]
    whole = torch.stack([model(row[number : number + 1, : length + 1])[0, -1] for number, length in enumerate(lengths)])
    torch.testing.assert_close(decoded, whole, atol=2e-5, rtol=1e-5)


def test_cache_longer_than_the_positions_is_refused() -> None:
    with pytest.raises(InputError, match="65 tokens do not fit the model's 64 positions"):
        KVCache(SHAPE, 1, 65, torch.float32)


@torch.no_grad()
def test_no_token_sees_what_comes_after_it() -> None:
    model, row = tiny_model(), tokens(1, 30)
    changed = row.clone()
    changed[0, 17] = (row[0, 17] + 1) % SHAPE.vocab_size
    before, after = model(row)[0], model(changed)[0]
    torch.testing.assert_close(before[:17], after[:17], atol=0, rtol=0)
    assert (before[17:] != after[17:]).any(dim=1).all()


def test_half_precision_arithmetic_keeps_float32_weights_and_gradients_near_the_exact_ones() -> None:
    model, row = tiny_model(), tokens(1, 24)
    context = PackedContext.documents(*packed([24]), torch.float32)
    exact = torch.autograd.grad(model(row, context).float().logsumexp(-1).sum(), list(model.parameters()))
    model.compute_dtype = torch.bfloat16
    context = PackedContext.documents(*packed([24]), torch.bfloat16)
    logits = model(row, context)
    assert logits.dtype == torch.bfloat16
    rounded = torch.autograd.grad(logits.float().logsumexp(-1).sum(), list(model.parameters()))
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.98
