"""Every way to compute attention gives what the dense mask gives, and the right one is chosen."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from model_samples import tiny_model, tokens
from torch import Tensor
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend

from inkstone.model import Decoder, DecoderConfig, PackedContext
from inkstone.model.decoder import gpu_attention, packed

DOCUMENTS = [[70, 3, 57], [1, 128, 1]]
KINDS = {
    "rope": {},
    "alibi": {"position": "alibi"},
    "sliding window": {"sliding_window": 5},
    "alibi in a sliding window": {"position": "alibi", "sliding_window": 40},
    "prefix": {"prefix": 7},
    "prefix, alibi and a sliding window": {"prefix": 7, "position": "alibi", "sliding_window": 40},
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
ON_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="flash attention and its gradients need CUDA")


def packed_rows(rows: list[list[int]], device: str = "cpu", known_starts: bool = True) -> PackedContext:
    """Rows of documents of these lengths, with ids and starts as batches have them."""
    lengths = [length for row in rows for length in row]
    positions = torch.cat([torch.arange(length) for length in lengths]).view(len(rows), -1)
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).view(len(rows), -1)
    starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    known = (starts.to(device), max(lengths)) if known_starts else ()
    return PackedContext.documents(positions.to(device), ids.to(device), *known)


class WithKernels(PackedContext):
    """Chooses as on a GPU."""

    def prepare(self, config: DecoderConfig, dtype: torch.dtype, prefix: int = 0) -> None:
        self._attend = self.choose(config, dtype, True, prefix)


def frozen(**changes: object) -> Decoder:
    """FlexAttention has no gradients on a CPU; the path is chosen where gradients are recorded."""
    return tiny_model(head_dim=16, **changes).requires_grad_(False)


def by_kernels(context: PackedContext) -> WithKernels:
    return WithKernels(context.positions_BT, context.document_ids_BT, context.starts, context.longest)


def chosen(context: PackedContext, flash: bool, dtype: torch.dtype = torch.bfloat16, **changes: object) -> object:
    attend = context.choose(tiny_model(head_dim=16, **changes).config, dtype, flash)
    assert isinstance(attend, partial)
    return attend.func


@EVERY_KIND
def test_flex_attention_gives_the_logits_of_the_dense_mask(kind: str) -> None:
    model, row, context = frozen(**KINDS[kind]), tokens(2, 130), packed_rows(DOCUMENTS)
    ours = by_kernels(context)
    logits = model(row, ours)
    assert ours._attend.func is gpu_attention._flex_kernels(False)[1]  # type: ignore[attr-defined]
    torch.testing.assert_close(logits, model(row, context), atol=2e-5, rtol=1e-5)
    alone = [model(piece[None])[0] for r, lengths in zip(row, DOCUMENTS, strict=True) for piece in r.split(lengths)]
    torch.testing.assert_close(logits.flatten(0, 1), torch.cat(alone), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["alibi", "sliding window"])
def test_flex_attention_of_whole_rows_gives_the_logits_of_the_dense_mask(kind: str) -> None:
    model, row, context = frozen(**KINDS[kind]), tokens(2, 130), PackedContext.whole_rows(2, 130)
    torch.testing.assert_close(model(row, by_kernels(context)), model(row, context), atol=2e-5, rtol=1e-5)


@pytest.mark.slow
def test_compiled_flex_attention_gives_the_logits_of_the_dense_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = gpu_attention._flex_kernels(True)
    monkeypatch.setattr(gpu_attention, "_flex_kernels", lambda _: compiled)
    model, row = frozen(**KINDS["alibi in a sliding window"]), tokens(2, 130)
    for documents in (DOCUMENTS, DOCUMENTS[::-1]):
        context = packed_rows(documents)
        torch.testing.assert_close(model(row, by_kernels(context)), model(row, context), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kernels", [True, False], ids=["flex", "explicit"])
@EVERY_KIND
def test_compiled_blocks_are_one_graph_for_all_layers_and_all_batches(kind: str, kernels: bool) -> None:
    model, counter = frozen(num_layers=10, **KINDS[kind]), CompileCounter()
    torch.compiler.reset()
    for block in model.model.layers:
        block.compile(backend=counter, dynamic=False)
    for documents in (DOCUMENTS, DOCUMENTS[::-1], [[65, 65], [130]]):
        context = packed_rows(documents)
        model.hidden(tokens(2, 130), by_kernels(context) if kernels else context)
    assert counter.frame_count == 1


def test_the_path_follows_from_the_batch_the_shape_and_the_device() -> None:
    known, unknown = packed_rows(DOCUMENTS), packed_rows(DOCUMENTS, known_starts=False)
    whole, flex = PackedContext.whole_rows(2, 130), gpu_attention._flex_kernels(False)[1]
    assert chosen(known, True) is gpu_attention._varlen
    assert chosen(known, True, torch.float32) is chosen(unknown, True) is flex
    assert chosen(known, True, **KINDS["alibi"]) is chosen(whole, True, **KINDS["sliding window"]) is flex
    assert chosen(known, True, sliding_window=130) is gpu_attention._varlen, (
        "a window as long as the row closes nothing"
    )
    assert chosen(whole, True) is chosen(whole, False) is packed._dense
    assert chosen(known, False) is chosen(known, False, **KINDS["alibi"]) is packed._explicit
    assert chosen(packed_rows([[2000]]), False) is packed._dense
    with torch.no_grad():
        assert chosen(known, True) is gpu_attention._varlen
        assert chosen(known, True, **KINDS["alibi"]) is packed._explicit, "scoring compiles no kernel"


def test_a_context_makes_no_mask_before_it_is_prepared() -> None:
    length = 10**6
    context = packed_rows([[length - 10, 10]])
    assert all(value.numel() <= length for value in vars(context).values() if isinstance(value, Tensor))


@given(st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=5), min_size=1, max_size=4))
def test_variable_lengths_say_the_same_as_the_ids(rows: list[list[int]]) -> None:
    length = max(map(sum, rows))
    rows = [[*row, length - sum(row)] if sum(row) < length else row for row in rows]
    context = packed_rows(rows)
    assert context.starts is not None and context.longest is not None and context.document_ids_BT is not None
    starts, longest = gpu_attention.varlen(context.starts, context.longest, length).args  # type: ignore[attr-defined]
    ids = torch.repeat_interleave(torch.arange(len(starts) - 1), starts.diff())
    same = ids.view(len(rows), 1, length) == ids.view(len(rows), length, 1)
    documents = context.document_ids_BT
    assert torch.equal(same, documents[:, None] == documents[:, :, None])
    assert starts.diff().max() <= longest <= length and starts.dtype == torch.int32
    assert len(starts).bit_count() == 1, "few numbers of documents, so that few programs are compiled"


def loop_varlen(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, *_: object, **options: object) -> Tensor:
    """torch's `varlen_attn` by its documentation: causal attention inside each run, [tokens, heads, d]."""
    assert options.pop("window_size") == (-1, 0) and options == {"enable_gqa": True}
    runs = zip(*(x.transpose(0, 1).split(starts.diff().tolist(), dim=1) for x in (q, k, v)), strict=True)
    made = [F.scaled_dot_product_attention(*run, is_causal=True, enable_gqa=True) for run in runs if run[0].shape[1]]
    return torch.cat(made, 1).transpose(0, 1)


def test_rows_are_laid_end_to_end_for_variable_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", loop_varlen)
    config, context = tiny_model(head_dim=16).config, packed_rows(DOCUMENTS)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 130, 16, generator=generator) for heads in (4, 2, 2))
    ours = context.choose(config, torch.bfloat16, flash=True)(q, k, v)
    torch.testing.assert_close(ours, context.choose(config, torch.float32, flash=False)(q, k, v), atol=1e-5, rtol=1e-5)


def test_torch_takes_the_arguments_of_variable_lengths_and_compiles_them_once_with_gradients() -> None:
    with torch.device("meta"):
        model = Decoder(tiny_model(head_dim=16, num_layers=10).config).to(torch.bfloat16)
    counter = CompileCounterWithBackend("aot_eager")
    torch.compiler.reset()
    for block in model.model.layers:
        block.compile(backend=counter, dynamic=False)
    for documents in (DOCUMENTS, [[65, 65], [40, 50, 40]]):
        context = by_kernels(packed_rows(documents, "meta"))
        logits = model(tokens(2, 130).to("meta"), context)
        assert context._attend.func is gpu_attention._varlen and logits.shape == (2, 130, 97)  # type: ignore[attr-defined]
        gradients = torch.autograd.grad(logits.sum(), list(model.parameters()))
        assert all(gradient.is_meta for gradient in gradients)
    assert counter.frame_count == 1


@pytest.mark.gpu
@ON_CUDA
@EVERY_KIND
def test_on_a_gpu_gradients_are_those_of_the_dense_mask(kind: str) -> None:
    model = tiny_model(head_dim=32, **KINDS[kind]).cuda()
    model.compute_dtype = torch.bfloat16
    row, context, gradients = tokens(2, 130).cuda(), packed_rows(DOCUMENTS, "cuda"), []
    for flash in (True, False):
        context.prepare = lambda config, dtype, prefix=0, flash=flash: setattr(  # type: ignore[method-assign]
            context, "_attend", context.choose(config, dtype, flash, prefix)
        )
        loss = model(row, context).float().logsumexp(-1).sum()
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        gradients.append(torch.autograd.grad(loss, trained))
    for one, other in zip(*gradients, strict=True):
        assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.99
