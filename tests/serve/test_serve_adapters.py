"""Adapters on a served base: their answers are the merged model's, the base's stay its own, weights are there once."""

import asyncio
import copy
import shutil
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import torch
from serve_samples import Served, chat_model, get, made, running

from inkstone.chat import Message
from inkstone.errors import InputError
from inkstone.generate import SamplingSettings, stream_reply
from inkstone.model import load_model, open_directory
from inkstone.model.decoder.lora import LoraShape, attach_lora, attach_prefix, lora_modules
from inkstone.model.decoder.prefix import draw_prefix
from inkstone.model.files.adapter import beside, save_adapter
from inkstone.model.opened import adapted
from inkstone.serve.adapters import find_adapters
from inkstone.serve.guard import Guard
from inkstone.serve.models import Library, ServeSettings, find_models
from inkstone.tune.merge import merge_adapter

SHAPES = {
    "plain": LoraShape(4, 8),
    "dora": LoraShape(2, 8, ("q_proj", "v_proj"), rslora=True, dora=True),
    "whole": LoraShape(2, 4, also=("embed_tokens", "lm_head")),
}
NAMES = [*SHAPES, "prefix"]
ASKED = {"messages": [{"role": "user", "content": "你好 hello"}], "max_tokens": 16, "temperature": 0}


def make_adapter(base: Path, directory: Path, shape: LoraShape) -> None:
    """One that changes what is said."""
    model, draw = load_model(base), torch.Generator().manual_seed(7)
    attach_lora(model, shape, draw)
    with torch.no_grad():
        for one in lora_modules(model).values():
            one.lora_B.copy_(torch.rand(one.lora_B.shape, generator=draw) - 0.5)
            if shape.dora:
                one.magnitude.mul_(20)
        if shape.also:
            weight = model.model.embed_tokens.weight
            weight.add_(0.05 * torch.randn(weight.shape, generator=draw))
    save_adapter(model, directory, str(base))


@pytest.fixture(scope="module")
def adapters(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    for name, shape in SHAPES.items():
        make_adapter(models / "chat", folder / name, shape)
        merge_adapter(models / "chat", folder / name, folder / f"{name}-merged")
    model = load_model(models / "chat")
    attach_prefix(model, draw_prefix(model.config, 9, 9, torch.Generator().manual_seed(7)))
    save_adapter(model, folder / "prefix", "chat")
    shutil.copytree(models / "chat", folder / "prefix-merged")  # as far as it can be: a model directory that has it
    shutil.copytree(folder / "prefix", folder / "prefix-merged" / "prefix")
    return folder


@pytest.fixture(scope="module")
def library(models: Path, adapters: Path) -> Library:
    served = find_models([models])
    return Library(served, ServeSettings(rows=2), find_adapters([f"{n}={adapters / n}" for n in NAMES], served))


@pytest.fixture(scope="module")
def adapting(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with running(library, Guard([]), tmp_path_factory.mktemp("store") / "console.sqlite") as one:
        yield one


def own_reply(directory: Path) -> str:
    how = SamplingSettings(max_new_tokens=16)
    said = [Message("user", ASKED["messages"][0]["content"])]
    return "".join(stream_reply(open_directory(directory, chat=True), said, how))


def test_an_adapter_answers_as_its_merged_model_and_the_base_as_before(
    adapting: Served, models: Path, adapters: Path
) -> None:
    with openai.OpenAI(base_url=f"{adapting.url}/v1", api_key="none", max_retries=0) as client:
        listed = {one.id: one for one in client.models.list()}
        assert {"chat", "base", *NAMES} == set(listed)
        assert all(listed[name].parent == "chat" and listed[name].chat for name in NAMES)
        assert not hasattr(listed["chat"], "parent")
        answers = {}
        for name in [*NAMES, "chat"]:
            answers[name] = client.chat.completions.create(model=name, **ASKED).choices[0].message.content
            merged = models / "chat" if name == "chat" else adapters / f"{name}-merged"
            assert answers[name] == own_reply(merged), name
        assert len(set(answers.values())) == 5
        vectors = [client.embeddings.create(model=name, input="水").data[0].embedding for name in ("plain", "chat")]
        assert vectors[0] != vectors[1]
    page = get(adapting, "/metrics")[1]
    assert 'inkstone_engine_held{model="plain"} 0.0' in page and 'inkstone_engine_new_tokens{model="whole"}' in page


def test_the_console_lists_adapters_with_their_base(adapting: Served, adapters: Path) -> None:
    told = {one["name"]: one for one in made(adapting, "/api/models", None, "GET")}
    assert set(told) == {"chat", "base", *NAMES} and "base" not in told["chat"]
    assert (told["plain"]["base"], told["plain"]["directory"]) == ("chat", str((adapters / "plain").resolve()))


def test_the_weights_are_there_once(adapting: Served, library: Library) -> None:
    asyncio.run(library.get("plain"))
    base, plain = library.open["chat"].opened.model, library.open["plain"].opened.model
    theirs = {name.replace(".base", ""): weight for name, weight in plain.named_parameters() if "lora" not in name}
    assert theirs and all(weight is theirs[name] for name, weight in base.named_parameters())
    assert not lora_modules(base)


def test_packed_weights_are_shared_too(models: Path, adapters: Path) -> None:
    opened = open_directory(models / "chat", quantize="int8")
    one, other = (adapted(opened, adapters / "plain").model for _ in range(2))
    for block, ours in zip(opened.model.model.layers, one.model.layers, strict=True):
        assert ours.mlp.up_proj.base is block.mlp.up_proj
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        assert torch.equal(one(tokens), other(tokens)) and not torch.equal(one(tokens), opened.model(tokens))


def test_a_tied_embedding_that_the_adapter_has_whole_is_its_own_and_still_tied(tmp_path: Path, models: Path) -> None:
    model = load_model(models / "chat")
    model.lm_head.weight = model.model.embed_tokens.weight
    before = model.lm_head.weight.clone()
    attach_lora(adapted_model := copy.deepcopy(model), LoraShape(2, 4, also=("embed_tokens",)), torch.Generator())
    with torch.no_grad():
        adapted_model.model.embed_tokens.weight.add_(1)
    save_adapter(adapted_model, tmp_path / "a", "chat")
    there = beside(model, tmp_path / "a")
    assert there.lm_head.weight is there.model.embed_tokens.weight
    assert torch.equal(there.lm_head.weight, before + 1) and torch.equal(model.lm_head.weight, before)


def test_a_base_stays_open_while_an_adapter_of_it_is_and_both_leave_for_another_model(
    models: Path, adapters: Path
) -> None:
    served = find_models([models])
    library = Library(served, ServeSettings(rows=1), find_adapters([f"plain={adapters / 'plain'}"], served))

    async def journey() -> None:
        await library.get("plain")
        assert list(library.open) == ["chat", "plain"]
        chat, plain = (library.open[name].gib for name in ("chat", "plain"))
        assert plain < chat / 2
        library.settings = ServeSettings(rows=1, memory_gib=chat * 1.1)
        await library.get("base")
        assert list(library.open) == ["base"]
        with pytest.raises(InputError, match="no room for plain"):
            await library.get("plain")
        library.settings = ServeSettings(rows=1, memory_gib=chat + plain)
        await library.get("plain")
        assert list(library.open) == ["chat", "plain"]

    asyncio.run(journey())
    library.close()


def test_what_cannot_be_an_adapter_is_refused_before_the_server_starts(
    models: Path, adapters: Path, tmp_path: Path
) -> None:
    served = find_models([models])
    plain = adapters / "plain"
    cases = {
        "plain": "write NAME=DIR",
        "=x": "write NAME=DIR",
        "x=": "write NAME=DIR",
        f"chat={plain}": "chat is already a model's name",
        "x=/no/such": "/no/such does not exist",
        f"x={models}": "has no adapter_config.json",
    }
    for given, said in cases.items():
        with pytest.raises(InputError, match=said):
            find_adapters([given], served)
    with pytest.raises(InputError, match="a is already an adapter's name"):
        find_adapters([f"a={plain}", f"a={plain}"], served)
    with pytest.raises(InputError) as several:
        find_adapters(["x", "y"], served)
    assert len(several.value.problems) == 2
    other = find_models([models / "base"])
    assert find_adapters([f"a={plain}"], other)["a"].base == "base"  # one model: its shape decides, not its name
    wide = tmp_path / "wide"
    shutil.copytree(models / "chat", wide)
    config = (wide / "config.json").read_text()
    (wide / "config.json").write_text(config.replace('"intermediate_size": 48', '"intermediate_size": 64'))
    with pytest.raises(InputError, match="the adapter is for another base"):
        find_adapters([f"a={plain}"], find_models([wide]))
    chat_model(tmp_path / "two" / "second", chat=True)
    chat_model(tmp_path / "two" / "first", chat=True)
    with pytest.raises(InputError, match=r"its base is .*chat\", which is not served"):
        find_adapters([f"a={plain}"], find_models([tmp_path / "two"]))
