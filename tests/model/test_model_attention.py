"""What a token sees: packing, caching and causality, by property and against plain scaled dot-product attention."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from model_samples import SHAPE, tiny_model, tokens

from inkstone.errors import InputError
from inkstone.model import CacheContext, Decoder, KVCache, PackedContext
from inkstone.model.decoder.config import RopeScaling
from inkstone.model.decoder.cpu_attention import masked_attention
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


def test_explicit_attention_and_its_gradients_equal_scaled_dot_product_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v, gradient = (torch.randn(2, 3, 21, 8, generator=generator) for _ in range(4))
    _, ids = packed([5, 9, 7])
    visible = (ids[:, None, :, None] == ids[:, None, None, :]) & torch.ones(21, 21, dtype=torch.bool).tril()
    bias = torch.zeros(visible.shape).masked_fill(~visible, -torch.inf)
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
        monkeypatch.setattr("inkstone.model.decoder.packed.EXPLICIT_LENGTH", explicit_length)
        loss = model(row, PackedContext.documents(*packed([11, 6, 7]))).square().sum()
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
    cache = KVCache(model.config, 2, 25, torch.float32)
    pieces = row.split([11, 1, 1, 9, 3], dim=1)
    starts = [0, 11, 12, 13, 22]
    at = [torch.arange(s, s + p.shape[1]).expand(2, -1) for s, p in zip(starts, pieces, strict=True)]
    logits = [model(piece, CacheContext(cache, where)) for piece, where in zip(pieces, at, strict=True)]
    torch.testing.assert_close(torch.cat(logits, 1), model(row), atol=2e-5, rtol=1e-5)


@EVERY_KIND
def test_every_weight_of_any_kind_of_decoder_is_trained_and_counted(kind: str) -> None:
    model = tiny_model(**KINDS[kind])
    loss = model.hidden(tokens(4, 20)).float() @ model.head_weight().T
    gradients = torch.autograd.grad(loss.square().sum(), list(model.parameters()), allow_unused=True)
    for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        # A key's bias changes every score of a query alike, which softmax does not see.
        assert gradient is not None and (bool(gradient.any()) or name.endswith("k_proj.bias")), name
    assert model.config.num_parameters() == sum(weight.numel() for weight in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["alibi, 6 heads", "alibi, grouped queries", "alibi in a sliding window"])
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
def test_alibi_takes_any_length_and_other_positions_name_their_limit() -> None:
    KVCache(tiny_model(position="alibi").config, 1, 1000, torch.float32)
    KVCache(tiny_model(rope_scaling=RopeScaling("dynamic", 2.0, 64)).config, 1, 128, torch.float32)
    with pytest.raises(InputError, match="129 tokens do not fit the model's 128 positions"):
        KVCache(tiny_model(rope_scaling=RopeScaling("dynamic", 2.0, 64)).config, 1, 129, torch.float32)


@torch.no_grad()
def test_a_normalised_head_gives_the_same_logits_after_its_weight_changes_in_place() -> None:
    model, row = tiny_model(normalised_head=True, tie_embeddings=False), tokens(1, 9)
    before = model(row)
    model.lm_head.weight.mul_(torch.linspace(0.1, 4, SHAPE.vocab_size)[:, None])
    torch.testing.assert_close(model(row), before)
    with torch.enable_grad():
        torch.testing.assert_close(model(row).detach(), before)
    torch.testing.assert_close(model.hidden(row) @ model.head_weight().T, before)
