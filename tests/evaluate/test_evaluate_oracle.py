"""Our scoring against two outside oracles: lm-evaluation-harness' recorded log-likelihoods and transformers' logits."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as HuggingFaceTokenizer

from inkstone.evaluate.items import Item
from inkstone.evaluate.quiz import ask_choices, letter_sketch, text_sketch
from inkstone.evaluate.requests import Sketch, plan
from inkstone.generate import score
from inkstone.model import Decoder, load_model

ORACLE = Path(__file__).parents[2].parent / "shared" / "data" / "eval" / "oracle"
needs_oracle = pytest.mark.skipif(not ORACLE.is_dir(), reason=f"no recorded log-likelihoods at {ORACLE}")


class PlainEncoder:
    """The recorded model's tokenizer, without any special tokens added."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = HuggingFaceTokenizer.from_file(str(path))
        self.start_ids = [1]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.fixture(scope="module")
def model() -> Decoder:
    return load_model(ORACLE / "tiny_llama", torch.float32)


@pytest.fixture(scope="module")
def encoder() -> PlainEncoder:
    return PlainEncoder(ORACLE / "tiny_llama" / "tokenizer.json")


def golden(per_kind: int, longest: int) -> list[dict]:  # type: ignore[type-arg]
    """Records of each kind of benchmark, spread over the file; few-shot MMLU prompts beyond `longest` characters cost
    too much here."""
    with gzip.open(ORACLE / "lm_eval_golden.jsonl.gz", "rt", encoding="utf-8") as stream:
        records = [json.loads(line) for line in stream]
    chosen = []
    for kind in ("cmmlu", "mmlu", "hellaswag"):
        rows = [row for row in records if row["task"].startswith(kind) and len(row["context"]) < longest]
        chosen += rows[:: max(1, len(rows) // per_kind)][:per_kind]
    return chosen


@needs_oracle
def test_scores_equal_the_loglikelihoods_recorded_by_lm_eval(model: Decoder, encoder: PlainEncoder) -> None:
    records = golden(per_kind=15, longest=1800)
    assert len(records) >= 40
    pairs, expected, greedy = [], [], []
    for record in records:
        [context] = encoder.encode_batch([record["context"]])
        for continuation, logprob, is_greedy in zip(
            record["continuations"], record["loglikelihoods"], record["is_greedy"], strict=True
        ):
            [whole] = encoder.encode_batch([record["context"] + continuation])
            pairs.append((context, whole[len(context) :]))
            expected.append(logprob)
            greedy.append(is_greedy)
    scored = score(model, pairs)
    assert [one.logprob for one in scored] == pytest.approx(expected, abs=1e-3)
    assert [one.greedy for one in scored] == greedy


@needs_oracle
def test_planned_requests_pick_the_choice_that_lm_eval_picked(model: Decoder, encoder: PlainEncoder) -> None:
    """The harness begins without BOS, so the planned BOS is taken off; the choice and the sums must then agree."""
    records = [row for row in golden(per_kind=10, longest=1500) if row["task"] != "hellaswag"]
    sketches = [Sketch("", (), row["context"], tuple(row["continuations"])) for row in records]
    requests = plan(sketches, encoder, model.config.max_positions)
    pairs = [(request.context[1:], ids) for request in requests for ids in request.continuations]
    sums = [one.logprob for one in score(model, pairs)]
    assert sums == pytest.approx([value for row in records for value in row["loglikelihoods"]], abs=1e-3)


@needs_oracle
def test_letter_and_text_scores_equal_transformers_on_whole_sequences(model: Decoder, encoder: PlainEncoder) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoModelForCausalLM.from_pretrained(ORACLE / "tiny_llama", dtype=torch.float32).eval()
    item = Item(
        id="a",
        subject="诗词",
        lang="zh",
        question="《静夜思》的作者是谁？",
        choices=("李白", "杜甫", "王维", "白居易"),
        answer=0,
    )
    example = Item(
        id="b",
        subject="诗词",
        lang="zh",
        question="《春望》的作者是谁？",
        choices=("李白", "杜甫", "王维", "苏轼"),
        answer=1,
    )
    for sketch in (letter_sketch(item, [example]), text_sketch(item, [example])):
        [request] = plan([sketch], encoder, model.config.max_positions)
        [(_, logprobs)] = ask_choices(model, [request])
        for ids, logprob in zip(request.continuations, logprobs, strict=True):
            whole = torch.tensor([request.context + ids])
            with torch.no_grad():
                table = reference(whole).logits[0].log_softmax(-1)
            before = range(len(request.context) - 1, whole.shape[1] - 1)
            assert logprob == pytest.approx(sum(float(table[at, whole[0, at + 1]]) for at in before), abs=1e-3)
