"""What a token sees: packing, caching and causality, by property and against plain scaled dot-product attention."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from model_samples import SHAPE, tiny_model, tokens

from inkstone.model import BLOCK, BlockPool, CacheContext, Decoder, PackedContext, Span
from inkstone.model.decoder.config import RopeScaling
from inkstone.model.decoder.cpu_attention import first_keys, masked_attention
from inkstone.model.decoder.packed import EXPLICIT_LENGTH
from inkstone.model.decoder.position import alibi_slopes


def packed(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and document ids [1, T] of documents laid end to end."""
    positions = torch.cat([torch.arange(length) for length in lengths])
    ids = torch.cat([torch.full((length,), number) for number, length in enumerate(lengths)])
    return positions[None], ids[None]


def check_packed_row_equals_documents(model: Decoder, lengths: list[int]) -> None:
    row = tokens(1, sum(lengths), seed=len(lengths))
    together = model(row, PackedContext.documents(*packed(lengths)))[0]
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


@pytest.mark.parametrize(("tile", "prefix"), [(128, 0), (8, 0), (5, 0), (128, 3), (8, 3)])
def test_explicit_attention_and_its_gradients_equal_scaled_dot_product_attention(
    tile: int, prefix: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inkstone.model.decoder.cpu_attention.TILE", tile)
    generator = torch.Generator().manual_seed(0)
    q, gradient = (torch.randn(2, 3, 21, 8, generator=generator) for _ in range(2))
    k, v = (torch.randn(2, 3, prefix + 21, 8, generator=generator) for _ in range(2))
    ids = torch.cat([packed(lengths)[1] for lengths in ([5, 9, 7], [21])])
    visible = (ids[:, None, :, None] == ids[:, None, None, :]) & torch.ones(21, 21, dtype=torch.bool).tril()
    visible = F.pad(visible, (prefix, 0), value=True)
    bias = torch.zeros(visible.shape).masked_fill(~visible, -torch.inf)
    results = []
    for attend in (
        lambda *qkv: masked_attention(*qkv, bias, first_keys(bias))[0],
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
        monkeypatch.setattr("inkstone.model.decoder.packed.EXPLICIT_LENGTH", explicit_length)
        loss = model(row, PackedContext.documents(*packed([11, 6, 7]))).square().sum()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for explicit, flash in zip(*gradients, strict=True):
        torch.testing.assert_close(explicit, flash, atol=1e-3, rtol=1e-4)


def test_explicit_attention_keeps_the_promises_torch_compile_relies_on() -> None:
    q, k, v = (torch.randn(1, 2, 6, 4).transpose(2, 1).contiguous().transpose(2, 1).requires_grad_() for _ in range(3))
    bias = torch.zeros(1, 1, 6, 6)
    torch.library.opcheck(masked_attention, (q, k, v, bias, first_keys(bias)))


def in_pieces(model: Decoder, row: torch.Tensor, pieces: list[int], together: bool = False) -> torch.Tensor:
    """Logits of rows [B, T] decoded piece by piece, in blocks that alternate between the rows."""
    rows, length = row.shape
    pool = BlockPool(model.config.num_layers, rows * -(-length // BLOCK))
    blocks = [list(range(number, pool.blocks, rows)) for number in range(rows)]
    logits, start = [], 0
    for piece in row.split(pieces, dim=1):
        context = CacheContext(pool, [Span(own, start, piece.shape[1]) for own in blocks], together=together)
        logits.append(model(piece.reshape(context.positions_BT.shape), context).view(*piece.shape, -1))
        start += piece.shape[1]
    return torch.cat(logits, 1)


@torch.no_grad()
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 19), min_size=1, max_size=3), st.booleans())
def test_decoding_in_any_pieces_through_the_cache_equals_one_whole_forward(pieces: list[int], together: bool) -> None:
    model, row = tiny_model(), tokens(2, sum(pieces))
    torch.testing.assert_close(in_pieces(model, row, pieces, together), model(row), atol=2e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("together", [False, True])
def test_sequences_of_a_pool_may_be_at_different_positions_and_bring_any_number_of_tokens(together: bool) -> None:
    model, row = tiny_model(), tokens(4, 40)
    pool = BlockPool(model.config.num_layers, 12)
    blocks = [[0, 1, 2], [5, 3, 4], [11, 10, 9], [6, 7, 8]]
    lengths, more = [37, 4, 18, 0], [1, 1, 1, 9]
    context = CacheContext(pool, [Span(own, 0, length) for own, length in zip(blocks, lengths, strict=True) if length])
    model.hidden(torch.cat([one[:length] for one, length in zip(row, lengths, strict=True)])[None], context)
    spans = [Span(*each) for each in zip(blocks, lengths, more, strict=True)]
    new = torch.cat([one[span.start : span.stop] for one, span in zip(row, spans, strict=True)])
    decoded = model(new[None], CacheContext(pool, spans, together=together))[0].split(more)
    for logits, one, span in zip(decoded, row, spans, strict=True):
        whole = model(one[None, : span.stop])[0, span.start :]
        torch.testing.assert_close(logits, whole, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_the_pool_has_the_shape_of_its_contract_and_the_heads_of_what_it_is_given() -> None:
    model = tiny_model()
    pool = BlockPool(model.config.num_layers, 3)
    model(tokens(1, 20), CacheContext(pool, [Span([2, 0], 0, 20)]))
    expected = (model.config.num_layers, 3, BLOCK, model.config.num_kv_heads, model.config.head_dim)
    assert pool.keys.shape == pool.values.shape == expected
    assert bool(pool.keys[:, 2].all()) and not bool(pool.keys[:, 1].any())


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
    context = PackedContext.documents(*packed([24]))
    exact = torch.autograd.grad(model(row, context).float().logsumexp(-1).sum(), list(model.parameters()))
    model.compute_dtype = torch.bfloat16
    context = PackedContext.documents(*packed([24]))
    logits = model(row, context)
    assert logits.dtype == torch.bfloat16
    rounded = torch.autograd.grad(logits.float().logsumexp(-1).sum(), list(model.parameters()))
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.98


KINDS = {
    "alibi, 6 heads": {"position": "alibi", "num_heads": 6, "num_kv_heads": 6, "norm": "layer", "qkv_bias": True},
    "alibi, grouped queries": {"position": "alibi"},
    "sliding window": {"sliding_window": 4},
    "alibi in a sliding window": {"position": "alibi", "sliding_window": 5},
    "half of each head turns": {"rotary_dim": 4, "qkv_bias": True},
    "linear scaling": {"rope_scaling": RopeScaling("linear", 3.0, 64)},
    "llama3 scaling": {"rope_scaling": RopeScaling("llama3", 8.0, 16)},
    "experts": {"num_experts": 4},
    "plain MLP with biases": {"gated": False, "activation": "gelu_tanh", "mlp_bias": True, "out_bias": True},
    "prefix": {"prefix": 5},
    "prefix and alibi": {"prefix": 18, "position": "alibi"},
    "prefix and sliding window": {"prefix": 3, "sliding_window": 4},
    "normalised head": {"normalised_head": True, "tie_embeddings": False, "embedding_norm": True},
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


@torch.no_grad()
@EVERY_KIND
def test_packing_changes_no_logits_of_any_kind_of_decoder(kind: str) -> None:
    check_packed_row_equals_documents(tiny_model(**KINDS[kind]), [13, 1, 30, 9])


@torch.no_grad()
@EVERY_KIND
def test_the_cache_changes_no_logits_of_any_kind_of_decoder(kind: str) -> None:
    model, row = tiny_model(**KINDS[kind]), tokens(2, 25)
    for together in (False, True):
        logits = in_pieces(model, row, [11, 1, 1, 9, 3], together)
        torch.testing.assert_close(logits, model(row), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "prefix" not in kind])
def test_every_weight_of_any_kind_of_decoder_is_trained_and_counted(kind: str) -> None:
    model = tiny_model(**KINDS[kind])
    loss = model.hidden(tokens(4, 20)).float() @ model.head_weight().T
    gradients = torch.autograd.grad(loss.square().sum(), list(model.parameters()), allow_unused=True)
    for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        # A key's bias changes every score of a query alike, which softmax does not see.
        assert gradient is not None and (bool(gradient.any()) or name.endswith("k_proj.bias")), name
    assert model.config.num_parameters() == sum(weight.numel() for weight in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["alibi, 6 heads", "alibi in a sliding window", "prefix and alibi"])
@pytest.mark.parametrize("lengths", [[1100], [700, 5, 395]], ids=["one document", "three documents"])
def test_a_bias_too_large_to_keep_is_made_in_pieces_with_the_same_logits(
    kind: str, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, row = tiny_model(**KINDS[kind]), tokens(2, 1100)
    positions, ids = (x.expand(2, -1) for x in packed(lengths))

    def logits() -> torch.Tensor:
        return model(row, PackedContext.documents(positions, ids) if len(lengths) > 1 else None)

    kept = logits()
    monkeypatch.setattr("inkstone.model.decoder.packed.KEPT_BIAS_BYTES", 0)
    torch.testing.assert_close(logits(), kept, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_a_window_closes_what_lies_beyond_it_layer_by_layer() -> None:
    model, row = tiny_model(sliding_window=3), tokens(1, 20)
    changed = row.clone()
    changed[0, 5] = (row[0, 5] + 1) % SHAPE.vocab_size
    reached = (model(row)[0] != model(changed)[0]).any(dim=1)
    # Two layers, each reaching two tokens further.
    assert reached.nonzero().flatten().tolist() == [5, 6, 7, 8, 9]


def test_alibi_slopes_of_40_heads_are_those_of_32_and_every_second_of_64() -> None:
    slopes = alibi_slopes(40)
    assert torch.equal(slopes[:32], alibi_slopes(32)) and torch.equal(slopes[32:], alibi_slopes(64)[::2][:8])
    assert alibi_slopes(8).tolist() == [2.0**-n for n in range(1, 9)]


@torch.no_grad()
def test_a_normalised_head_gives_the_same_logits_after_its_weight_changes_in_place() -> None:
    model, row = tiny_model(normalised_head=True, tie_embeddings=False), tokens(1, 9)
    before = model(row)
    model.lm_head.weight.mul_(torch.linspace(0.1, 4, SHAPE.vocab_size)[:, None])
    torch.testing.assert_close(model(row), before)
    with torch.enable_grad():
        torch.testing.assert_close(model(row).detach(), before)
    torch.testing.assert_close(model.hidden(row) @ model.head_weight().T, before)
