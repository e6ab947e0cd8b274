"""Scores equal the plain forward's log-probabilities, whatever is shared, batched or reordered."""

import pytest
import torch
from generate_samples import SHAPE, prompts, tiny_model

from inkstone.errors import InputError
from inkstone.generate import Scored, score
from inkstone.model import Decoder

Request = tuple[list[int], list[int]]


@pytest.fixture(scope="module")
def model() -> Decoder:
    return tiny_model()


def plain(model: Decoder, context: list[int], continuation: list[int]) -> Scored:
    """The definition: one forward of the whole sequence, nothing shared."""
    with torch.no_grad():
        table = model(torch.tensor([context + continuation]))[0].log_softmax(-1)
    rows = table[len(context) - 1 : -1]
    target = torch.tensor(continuation)
    logprob = rows[torch.arange(len(target)), target].sum()
    return Scored(float(logprob), bool((rows.argmax(-1) == target).all()), len(target))


def check(scored: list[Scored], expected: list[Scored]) -> None:
    assert [one.logprob for one in scored] == pytest.approx([one.logprob for one in expected], abs=1e-4)
    assert [(one.greedy, one.tokens) for one in scored] == [(one.greedy, one.tokens) for one in expected]


def mixed_requests() -> list[Request]:
    contexts, continuations = prompts([1, 9, 20, 4, 30, 9]), prompts([3, 1, 8, 5, 18, 2], seed=1)
    return list(zip(contexts, continuations, strict=True))


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_scores_equal_a_plain_forward_of_each_request(batch: int, model: Decoder) -> None:
    requests = mixed_requests()
    check(score(model, requests, batch=batch), [plain(model, *request) for request in requests])


def test_shared_prefixes_do_not_change_scores(model: Decoder) -> None:
    [examples] = prompts([25], seed=2)
    pairs = zip(prompts([0, 2, 2, 7]), prompts([4, 1, 6, 3], 3), strict=True)
    requests = [(examples + question, answer) for question, answer in pairs]
    requests += [(examples, [answer]) for answer in range(4)] + [(examples, [5, 6, 7]), (examples, [5, 6])]
    check(score(model, requests), [plain(model, *request) for request in requests])


def test_one_context_may_be_the_beginning_of_another_and_of_its_continuation(model: Decoder) -> None:
    [ids] = prompts([20], seed=4)
    requests = [(ids[:cut], ids[cut:]) for cut in (5, 19, 1, 5)] + [(ids[:12], ids[12:16])]
    check(score(model, requests), [plain(model, *request) for request in requests])


def test_the_chain_rule_holds(model: Decoder) -> None:
    [ids] = prompts([24], seed=5)
    whole, head, tail = score(model, [(ids[:6], ids[6:]), (ids[:6], ids[6:15]), (ids[:15], ids[15:])])
    assert whole.logprob == pytest.approx(head.logprob + tail.logprob, abs=1e-4)


def test_the_probabilities_of_all_next_tokens_sum_to_one(model: Decoder) -> None:
    [context] = prompts([11])
    scored = score(model, [(context, [token]) for token in range(SHAPE.vocab_size)])
    assert sum(torch.tensor(one.logprob).exp().item() for one in scored) == pytest.approx(1, abs=1e-4)
    assert [one.greedy for one in scored].count(True) == 1


def test_a_request_may_fill_all_positions_but_not_more(model: Decoder) -> None:
    [ids] = prompts([SHAPE.max_positions + 1])
    check(score(model, [(ids[:40], ids[40:-1])]), [plain(model, ids[:40], ids[40:-1])])
    with pytest.raises(InputError, match="request 1 has 49 tokens, more than the model's 48 positions"):
        score(model, [(ids[:2], ids[2:4]), (ids[:40], ids[40:])])


@pytest.mark.parametrize("request_", [([], [1]), ([1], [])])
def test_empty_sides_are_refused_by_number(request_: Request, model: Decoder) -> None:
    with pytest.raises(InputError, match="request 1: context and continuation need at least one token each"):
        score(model, [([1], [2]), request_])


def test_no_requests_give_no_scores(model: Decoder) -> None:
    assert score(model, []) == []
