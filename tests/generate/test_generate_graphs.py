"""Steps in fixed shapes give what others give, ask nothing of the host, and are few programs; on a GPU, captured."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from generate_samples import SHAPE, prompts, tiny_model
from test_generate_requests import GREEDY, alone, run, traffic
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from inkstone.errors import InkstoneError, InputError
from inkstone.generate import Engine, Request, SamplingSettings, engine, generate, graphs
from inkstone.model import BLOCK, Decoder
from inkstone.model.decoder.config import RopeScaling
from inkstone.model.decoder.lora import attach_prefix
from inkstone.model.decoder.paged import paged_attention
from inkstone.model.decoder.position import alibi_slopes
from inkstone.model.decoder.prefix import draw_prefix
from inkstone.model.packed.pack import prepack_model

KINDS: dict[str, dict[str, Any]] = {
    "rope": {},
    "alibi": {"position": "alibi", "norm": "layer", "embedding_norm": True, "num_kv_heads": 4, "normalised_head": True},
    "window": {"sliding_window": 7, "rotary_dim": 4, "qk_norm": True},
    "experts": {"num_experts": 4, "num_kv_heads": 1},
    "dynamic": {"rope_scaling": RopeScaling("dynamic", 4.0, 24), "max_positions": 24},
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


def model_of(kind: str) -> Decoder:
    return tiny_model(replace(SHAPE, **KINDS[kind]))


def ask(engine: Engine, lengths: list[int], new: int = 9) -> None:
    for prompt in prompts(lengths):
        engine.submit(Request(prompt, SamplingSettings(max_new_tokens=new)))


@EVERY_KIND
def test_traffic_in_fixed_shapes_is_answered_as_if_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrivals, cancels, shared beginnings, and those that are pushed out."""
    monkeypatch.setattr("inkstone.generate.engine._MARGIN", 1)
    model = model_of(kind)
    for seed, (blocks, rows) in enumerate([(5, 3), (8, 5), (30, 8)]):
        engine = Engine(model, blocks * BLOCK, rows, step_tokens=16, graphs=True)
        traffic(model, engine, random.Random(seed), seed)
        assert engine.blocks.free == engine.blocks.count == blocks


@EVERY_KIND
def test_logits_are_those_of_other_steps(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sample, seen = model_of(kind), engine.sample, []
    monkeypatch.setattr(
        engine, "sample", lambda logits, choices: seen.append(logits.clone()) or sample(logits, choices)
    )
    for fixed in (True, False):
        ask(one := Engine(model, 512, graphs=fixed), [5, 1, 17, 9, 20])
        run(one)
    half = len(seen) // 2
    for ours, plain in zip(seen[:half], seen[half:], strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    assert half >= 9 and max(map(len, seen)) == 5


class _Asked(TorchDispatchMode):
    """What is called, to find what a capture forbids: numbers asked of the device, and such as are brought to it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@EVERY_KIND
def test_a_step_asks_nothing_of_the_host(kind: str) -> None:
    model = model_of(kind)
    if kind == "experts":
        model.bfloat16()  # others are multiplied one by one
    ask(engine := Engine(model, 512, graphs=True), [5, 9])
    engine.step()
    engine.step()
    assert engine.steps is not None
    with torch.inference_mode(), _Asked() as asked:
        engine.steps._logits(2)
    assert "paged_attention" in asked.names
    forbidden = {"_local_scalar_dense", "lift_fresh", "nonzero", "equal", "masked_select", "unique", "_unique2"}
    assert not asked.names & forbidden


@pytest.mark.gpu
@pytest.mark.parametrize(("size", "heads", "groups"), [(8, 4, 1), (24, 6, 3)])
@pytest.mark.parametrize(("window", "alibi"), [(None, False), (40, True)])
def test_the_kernel_gives_what_torch_gives(size: int, heads: int, groups: int, window: int | None, alibi: bool) -> None:
    """On a GPU as it is, else by Triton's interpreter, which must be asked for before Triton is imported."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("no GPU: install triton and set TRITON_INTERPRET=1")
    pytest.importorskip("triton")
    from inkstone.model.decoder.paged_kernel import attend_in_place

    torch.manual_seed(0)
    keys, values = torch.randn(2, 30 * BLOCK, heads // groups, size)
    table = torch.stack([torch.randperm(30)[:22] for _ in range(4)]).int()[:, 2:]
    slopes = alibi_slopes(heads) if alibi else None
    given = (torch.randn(4, heads, size), keys, values, table, torch.tensor([0, 15, 16, 301]), slopes)
    want = paged_attention(*given, window)[0][:, :, 0]
    moved = [None if one is None else one.to(device) for one in given]
    of_parts, weights = attend_in_place(*moved, window, 8)  # type: ignore[arg-type]
    torch.testing.assert_close((of_parts * weights.softmax(-1)[..., None]).sum(2).cpu(), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["rope", "alibi", "prepacked"])
def test_blocks_are_two_programs_for_all_layers_numbers_of_rows_and_pools(kind: str) -> None:
    model, counter = tiny_model(replace(SHAPE, num_layers=10, **KINDS.get(kind, {}))), CompileCounter()
    if kind == "prepacked":
        prepack_model(model.bfloat16())
    torch.compiler.reset()
    run_compiled = compiled_by(counter)
    for tokens, rows in ((64, 1), (256, 1), (512, 2), (512, 3), (640, 9)):
        one = Engine(model, tokens, rows, graphs=True)
        assert one.steps is not None
        one.steps.run = run_compiled
        ask(one, [5] * rows, new=4)
        run(one)
    assert counter.frame_count == 2 * 3, "what comes before the blocks, the blocks, the last norm"


def compiled_by(backend: Any) -> Callable[[Any], Any]:
    known: dict[Any, Any] = {}
    return lambda function: known.setdefault(function, torch.compile(function, backend=backend))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rope", "alibi", "window"])
def test_steps_that_are_compiled_answer_alike(kind: str) -> None:
    model = model_of(kind)
    torch.compiler.reset()
    for rows in (1, 5):
        one = Engine(model, 512, rows, graphs=True)
        assert one.steps is not None
        one.steps.run = graphs._compiled
        ask(one, [5, 1, 17, 9, 20])
        plain = generate(model, prompts([5, 1, 17, 9, 20]), GREEDY, set())
        assert list(dict(sorted(run(one).items())).values()) == plain


def test_a_capture_that_fails_names_the_switch_and_loses_nothing() -> None:
    model = tiny_model()
    ask(one := Engine(model, 256, graphs=True), [5, 9])
    one.step()
    assert one.steps is not None
    if not torch.cuda.is_available():
        one.steps.on_gpu = True
        with pytest.raises(InkstoneError, match=r"could not be captured .*CUDA.*unset INKSTONE_GRAPHS"):
            one.step()
        one.steps.on_gpu = False
    answers = list(run(one).values())
    assert [answer[-8:] for answer in answers] == [
        alone(model, Request(prompt, GREEDY))[-8:] for prompt in prompts([5, 9])
    ]


def test_what_cannot_be_captured_says_why_and_a_cpu_does_not_try() -> None:
    model = tiny_model()
    assert Engine(model, 64).steps is None
    attach_prefix(model, draw_prefix(SHAPE, 3, 3, torch.Generator().manual_seed(1)))
    with pytest.raises(InputError, match="its prefix stands before what a layer reads"):
        Engine(model, 64, graphs=True)


@pytest.mark.gpu
@ON_GPU
@EVERY_KIND
def test_on_a_gpu_captured_steps_answer_as_plain_ones(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, answers = model_of(kind).cuda(), []
    if kind == "experts":
        model.bfloat16()
    monkeypatch.setenv(graphs.SWITCH, "1")
    for fixed in (None, False):
        ask(one := Engine(model, 512, rows=3, graphs=fixed), [5, 1, 17, 9, 20])
        answers.append(run(one))
        if fixed is None and (kind != "experts" or torch.cuda.get_device_capability() >= (9, 0)):
            assert one.steps is not None and set(one.steps.graphs) == {2, 4}, "three rows, then two"
        else:
            assert one.steps is None
    assert kind == "experts" or answers[0] == answers[1]
    monkeypatch.delenv(graphs.SWITCH)
    assert Engine(model, 512).steps is None


@pytest.mark.gpu
@ON_GPU
def test_on_a_gpu_bfloat16_logits_of_a_graph_are_near_those_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, seen = engine.sample, []
    monkeypatch.setattr(
        engine, "sample", lambda logits, choices: seen.append(logits.float()) or sample(logits, choices)
    )
    plain, packed = model_of("rope").cuda(), model_of("rope").cuda().bfloat16()
    prepack_model(packed)
    for model, fixed in ((plain, False), (packed, True)):
        ask(one := Engine(model, 512, graphs=fixed), [5, 1, 17], new=2)
        run(one)
    assert (seen[1] - seen[3]).abs().max() < 0.05 * seen[1].abs().max()
