"""Choices of many questions that begin alike: what they share is computed once, each question is one row.

    scored = score_choices(model, [Choices(context_ids, [ids_of_A, ids_of_B]), ...])

The questions of a subject share its worked examples, so contexts are sorted and cut into runs; a run's common prefix is
one forward, whose keys and values everybody reads. After it a row holds the rest of one question and, behind it, the
tokens of each ending, which see the question and themselves but not each other. Attention to the prefix is one product
for all rows, merged with the attention inside the row by their log-sum-exps (Juravsky et al. 2024, arXiv 2402.05099).
Only positions that predict something scored meet the output head.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from inkstone.generate.score import Scored, score
from inkstone.model import Decoder, DecoderConfig, PackedContext
from inkstone.model.decoder.attention import before, position_bias
from inkstone.model.decoder.position import head_slopes

ROW_TOKENS = 4096
"""Padded tokens of one forward."""
_HEAD_ROWS = 512
_WORTH_SHARING = 64


@dataclass(frozen=True)
class Choices:
    """Score each continuation after the context; with `whole` also the context's own tokens, from its second one on."""

    context: list[int]
    continuations: list[list[int]]
    whole: bool = False


@torch.inference_mode()
def score_choices(
    model: Decoder, requests: Sequence[Choices], only: Sequence[int] | None = None, row_tokens: int = ROW_TOKENS
) -> Iterator[tuple[int, list[Scored]]]:
    """(index, one result per continuation) of every request, run after run; the sums are those of whole forwards.

    `only`: runs without one of these indices are left out; what is computed together never depends on it. Contexts and
    continuations must not be empty and must fit the model's positions, as in `score`.
    """
    longest = max((len(one.context) + max(map(len, one.continuations)) for one in requests), default=0)
    if model.config.angles_depend_on_length and longest > model.config.max_positions:
        yield from _one_by_one(model, requests, only)
        return
    for run in alike([one.context for one in requests]):
        if only is None or not set(only).isdisjoint(run):
            yield from _score_run(model, [(index, requests[index]) for index in run], row_tokens)


def alike(contexts: Sequence[list[int]]) -> list[list[int]]:
    """Indices in runs whose contexts share a beginning worth computing once; sorted, so equal calls give equal runs."""
    order = sorted(range(len(contexts)), key=lambda index: (contexts[index], index))
    shared = [_common(contexts[one], contexts[other]) for one, other in itertools.pairwise(order)]
    runs, last = [order[:1]] if order else [], len(shared) - 1
    for place, index in enumerate(order[1:]):
        around = max(shared[max(0, place - 1)], shared[min(last, place + 1)])
        if around >= _WORTH_SHARING and 2 * shared[place] < around:
            runs.append([])
        runs[-1].append(index)
    return runs


class _Keeping:
    """One whole row that keeps its keys and values, layer by layer."""

    def __init__(self, length: int, device: torch.device) -> None:
        self.inner = PackedContext.whole_rows(1, length, device)
        self.positions_BT = self.inner.positions_BT
        self.kept: list[tuple[Tensor, Tensor]] = []

    def prepare(self, config: DecoderConfig, dtype: torch.dtype, prefix: int = 0) -> None:
        self.inner.prepare(config, dtype, prefix)

    def attend(
        self, layer: int, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor, prefix_2KPd: Tensor | None = None
    ) -> Tensor:
        self.kept.append((k_BKTd, v_BKTd))
        return self.inner.attend(layer, q_BHTd, k_BKTd, v_BKTd, prefix_2KPd)


class _AfterPrefix:
    """Rows after one prefix of length P. `ending_BT`: 0 for the question, else the number of the ending."""

    def __init__(self, prefix: list[tuple[Tensor, Tensor]], positions_BT: Tensor, ending_BT: Tensor) -> None:
        self.prefix, self.positions_BT, self.ending_BT = prefix, positions_BT, ending_BT
        self.length = prefix[0][0].shape[2] if prefix else 0

    def prepare(self, config: DecoderConfig, dtype: torch.dtype, prefix: int = 0) -> None:
        slopes, window = head_slopes(config, self.positions_BT.device), config.sliding_window
        position_BT1 = self.positions_BT[..., None]
        bias = position_bias(position_BT1 - self.positions_BT[:, None], slopes, window)
        other_BTT = (self.ending_BT[:, None] != 0) & (self.ending_BT[:, None] != self.ending_BT[..., None])
        ahead = torch.ones(other_BTT.shape[1:], dtype=torch.bool, device=other_BTT.device).triu(1)
        self.bias = bias.masked_fill((other_BTT | ahead)[:, None], -torch.inf).to(dtype)
        # Two kernels and a merge where the kernel gives its log-sum-exp and every row sees the whole prefix.
        self.shares, device = bool(self.prefix) or prefix > 0, self.positions_BT.device
        self.merge = self.shares and slopes is None and window is None and device.type == "cpu"
        if self.shares and not self.merge:
            distance = position_BT1 - torch.arange(-prefix, self.length, device=device)
            self.bias = torch.cat((position_bias(distance, slopes, window, prefix).to(dtype), self.bias), -1)

    def attend(
        self, layer: int, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor, prefix_2KPd: Tensor | None = None
    ) -> Tensor:
        rows, heads, tokens, size = q_BHTd.shape
        groups = heads // k_BKTd.shape[1]
        nothing = k_BKTd[:1, :, :0]
        shared = before(prefix_2KPd, *(self.prefix[layer] if self.prefix else (nothing, nothing)))
        if self.merge:
            k_BHTd, v_BHTd = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (k_BKTd, v_BKTd))
            attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            inside, weight_BHT = attend(q_BHTd, k_BHTd, v_BHTd, 0.0, False, attn_mask=self.bias)
            # All rows' queries of the heads that share keys are one long row.
            q_1KNd = q_BHTd.unflatten(1, (-1, groups)).permute(1, 0, 2, 3, 4).reshape(1, heads // groups, -1, size)
            outside, other = attend(q_1KNd, *shared, 0.0, False)
            outside, other = (
                x.view(heads // groups, rows, groups, tokens, -1).transpose(0, 1).flatten(1, 2)
                for x in (outside, other[..., None])
            )
            share = (weight_BHT[..., None].float() - other.float()).sigmoid()
            return torch.lerp(outside.float(), inside.float(), share).to(q_BHTd.dtype)
        if self.shares:
            pairs = zip(shared, (k_BKTd, v_BKTd), strict=True)
            k_BKTd, v_BKTd = (torch.cat((kept.expand(rows, -1, -1, -1), own), 2) for kept, own in pairs)
        return F.scaled_dot_product_attention(q_BHTd, k_BKTd, v_BKTd, self.bias, enable_gqa=groups > 1)


@dataclass(frozen=True)
class _Row:
    """What a question feeds after the prefix, and where the token before each target stands in it (-1: the prefix)."""

    tokens: list[int]
    positions: list[int]
    endings: list[int]
    before: list[int]
    targets: list[int]


def _row(request: Choices, prefix: int) -> _Row:
    rest = request.context[prefix:]
    tokens, endings = list(rest), [0] * len(rest)
    positions = list(range(prefix, prefix + len(rest)))
    before = list(range(-1, len(rest) - 1)) if request.whole else []
    targets = list(rest) if request.whole else []
    for number, ids in enumerate(request.continuations, 1):
        first = len(tokens)
        before += [len(rest) - 1, *range(first, first + len(ids) - 1)]
        targets += ids
        tokens += ids[:-1]
        endings += [number] * (len(ids) - 1)
        positions += range(len(request.context), len(request.context) + len(ids) - 1)
    return _Row(tokens, positions, endings, before, targets)


def _score_run(model: Decoder, run: list[tuple[int, Choices]], row_tokens: int) -> Iterator[tuple[int, list[Scored]]]:
    contexts = [request.context for _, request in run]
    # At least one token of each context stays in its row, so that every row has something to read.
    prefix = min(_common(min(contexts), max(contexts)), min(map(len, contexts)) - 1)
    prefix = prefix if len(run) > 1 else 0
    kept: list[tuple[Tensor, Tensor]] = []
    last_D, read = torch.empty(0), (0.0, True)
    if prefix:
        context = _Keeping(prefix, model.device)
        hidden_PD = model.hidden(torch.tensor([contexts[0][:prefix]], device=model.device), context)[0]
        kept, last_D = context.kept, hidden_PD[-1]
        if any(request.whole for _, request in run) and prefix > 1:
            logprobs, greedy = _read(model, hidden_PD[:-1], contexts[0][1:prefix])
            read = float(logprobs.sum()), bool(greedy.all())
    rows = [(index, request, _row(request, prefix)) for index, request in run]
    rows.sort(key=lambda one: len(one[2].tokens))  # neighbours of one length pad each other least
    for batch in _batches(rows, row_tokens):
        width = max(len(row.tokens) for _, _, row in batch)
        table = torch.zeros(3, len(batch), width, dtype=torch.long)
        table[2] = -1  # an ending of its own: nobody sees padding, and padding sees something
        for place, (_, _, row) in enumerate(batch):
            table[:, place, : len(row.tokens)] = torch.tensor([row.tokens, row.positions, row.endings])
        tokens_BT, positions_BT, ending_BT = table.to(model.device)
        hidden_BTD = model.hidden(tokens_BT, _AfterPrefix(kept, positions_BT, ending_BT))
        first = [(place, at) for place, (_, _, row) in enumerate(batch) for at in row.before]
        hidden_ND = hidden_BTD[[place for place, _ in first], [max(0, at) for _, at in first]]
        starts = torch.tensor([at < 0 for _, at in first], device=hidden_ND.device)[:, None]
        if prefix:
            hidden_ND = torch.where(starts, last_D, hidden_ND)
        targets = [token for _, _, row in batch for token in row.targets]
        logprobs, greedy = _read(model, hidden_ND, targets)
        at = 0
        for index, request, row in batch:
            end = at + len(row.targets)
            yield index, _results(request, logprobs[at:end], greedy[at:end], prefix, read)
            at = end


def _results(request: Choices, logprobs: Tensor, greedy: Tensor, prefix: int, read: tuple[float, bool]) -> list[Scored]:
    """Cut a row's targets into its continuations; with `whole`, the context's sum goes before each of them."""
    total, all_greedy, at = 0.0, True, 0
    if request.whole:
        at = len(request.context) - prefix
        skipped = 0 if prefix else 1  # nothing predicts the first token of a text
        total = read[0] + float(logprobs[skipped:at].sum())
        all_greedy = read[1] and bool(greedy[skipped:at].all())
    results = []
    for ids in request.continuations:
        end = at + len(ids)
        count = len(ids) + (len(request.context) - 1 if request.whole else 0)
        results.append(Scored(total + float(logprobs[at:end].sum()), all_greedy and bool(greedy[at:end].all()), count))
        at = end
    return results


def _read(model: Decoder, hidden_ND: Tensor, targets: list[int]) -> tuple[Tensor, Tensor]:
    """Log-probability of each target after its hidden state, float64, and whether it is the likeliest."""
    vocab = model.known_ids or model.config.vocab_size
    target_N = torch.tensor(targets, device=hidden_ND.device)
    parts = []
    for hidden, target in zip(hidden_ND.split(_HEAD_ROWS), target_N.split(_HEAD_ROWS), strict=True):
        logits = model.lm_head(hidden)[:, :vocab].float()
        chosen = logits.gather(1, target[:, None])[:, 0] - logits.logsumexp(-1)
        parts.append((chosen.double(), logits.argmax(-1) == target))
    logprobs, greedy = zip(*parts, strict=True)
    return torch.cat(logprobs).cpu(), torch.cat(greedy).cpu()


def _batches(rows: list[tuple[int, Choices, _Row]], row_tokens: int) -> Iterator[list[tuple[int, Choices, _Row]]]:
    """Rows in order of length, at most `row_tokens` tokens with padding."""
    batch: list[tuple[int, Choices, _Row]] = []
    for one in rows:
        if batch and (len(batch) + 1) * len(one[2].tokens) > row_tokens:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def _one_by_one(
    model: Decoder, requests: Sequence[Choices], only: Sequence[int] | None
) -> Iterator[tuple[int, list[Scored]]]:
    """Nothing may be shared where angles follow from each sequence's own length."""
    for index, one in enumerate(requests):
        if only is None or index in only:
            start = 1 if one.whole else len(one.context)
            pairs = [(one.context[:start], one.context[start:] + ids) for ids in one.continuations]
            yield index, score(model, pairs, batch=1)


def _common(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((length for length, (left, right) in pairs if left != right), min(len(one), len(other)))
