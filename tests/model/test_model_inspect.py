"""What `inkstone inspect` says: the published sizes, from config.json alone, and what a directory lacks."""

import json
from pathlib import Path

import pytest
import torch
from checkpoint_samples import CONFIGS, sample, tensors_of, write

from inkstone.errors import InputError
from inkstone.model.families import family_of
from inkstone.model.files.convert import convert_model
from inkstone.model.files.pieces import by_theirs, their_shape
from inkstone.model.files.weights import decoder_shapes
from inkstone.model.inspect import inspect_model, inspect_preset, presets, weight_bytes
from inkstone.progress import Field, Silent

PUBLISHED = {
    "baichuan-7b": (7_000_559_616, "baichuan", 4096),
    "baichuan-13b": (13_264_901_120, "baichuan", 4096),
    "baichuan2-7b": (7_505_973_248, "baichuan", 4096),
    "baichuan2-13b": (13_896_668_160, "baichuan", 4096),
    "bloom-7b1": (7_069_016_064, "bloom", 2048),
    "mixtral-8x7b": (46_702_792_704, "mixtral", 32768),
    "chinese-mixtral-8x7b": (46_702_792_704 + 2 * 25_000 * 4096, "mixtral", 32768),
    "chatglm2-6b": (6_243_584_000, "chatglm", 32768),
    "zhuzhi-6b": (6_243_584_000, "chatglm", 32768),
    "llama-7b": (6_738_415_616, "llama", 2048),
    "llama-2-7b": (6_738_415_616, "llama", 4096),
    "llama-3-8b": (8_030_261_248, "llama", 8192),
    "mistral-7b": (7_241_732_096, "llama", 32768),
    "qwen2.5-7b": (7_615_616_512, "qwen2", 131072),
    "qwen3-8b": (8_190_735_360, "qwen3", 40960),
    "glm-4-9b-chat": (9_399_951_360, "glm", 131072),
}
CONFIG_DATA = Path(__file__).parents[2] / "../shared/data/configs"


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_parameters_and_so_do_the_tensors_of_their_checkpoints(name: str) -> None:
    facts = inspect_preset(name)
    assert (facts.parameters, facts.family, facts.context_length) == PUBLISHED[name]
    values = presets()[name]
    family = family_of(values, name)
    config = family.read_config(values, name)
    shapes = decoder_shapes(config)
    stored = {theirs: their_shape(rows, shapes) for theirs, rows in by_theirs(family.layout(config, ())).items()}
    assert sum(torch.Size(shape).numel() for shape in stored.values()) == PUBLISHED[name][0]


def test_mixtral_uses_about_thirteen_billion_parameters_for_a_token() -> None:
    assert inspect_preset("mixtral-8x7b").active_parameters == 12_879_925_248
    assert inspect_preset("llama-7b").active_parameters == 6_738_415_616


def test_memory_is_two_bytes_a_weight_and_the_key_value_cache_follows_the_groups() -> None:
    thirteen = inspect_preset("baichuan-13b")
    assert thirteen.memory_gib["bfloat16"] == pytest.approx(2 * 13_264_901_120 / 2**30)
    assert thirteen.memory_gib["int8"] < 15.8e9 / 2**30 and thirteen.memory_gib["int4"] < 9.0e9 / 2**30
    assert inspect_preset("chatglm2-6b").kv_cache_mib == 28 * 2 * 2 * 128 * 2 * 1024 / 2**20


def test_int4_keeps_embedding_and_head_in_sixteen_bits() -> None:
    values = presets()["llama-7b"]
    config = family_of(values, "").read_config(values, "")
    matrices = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    expected = 2 * (6_738_415_616 - matrices) + matrices / 2 + matrices / 128 * 2
    assert weight_bytes(config)["int4"] == expected


@pytest.mark.skipif(not CONFIG_DATA.is_dir(), reason="needs the shared configs")
def test_zhuzhi_6b_has_exactly_the_tensors_of_its_public_index() -> None:
    facts = inspect_model(CONFIG_DATA / "zhuzhi-6b.config.json")
    assert facts.parameters == 6_243_584_000 and facts.remarks and facts.weights == "not looked for"
    values = json.loads((CONFIG_DATA / "zhuzhi-6b.config.json").read_text())
    index = json.loads((CONFIG_DATA / "zhuzhi-6b.index.json").read_text())
    family = family_of(values, "zhuzhi")
    config = family.read_config(values, "zhuzhi")
    listed, named = set(index["weight_map"]), {piece.theirs for piece in family.layout(config, index["weight_map"])}
    assert named <= listed
    assert listed - named <= {"lm_head.weight", "transformer.rotary_pos_emb.inv_freq"}
    # In 16 bits, with the few numbers that are no parameters.
    assert 0 <= index["metadata"]["total_size"] - 2 * facts.parameters < 1000


def test_config_json_alone_is_enough_and_everything_else_is_listed_as_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["baichuan-13b"]))
    for source in (tmp_path, tmp_path / "config.json"):
        facts = inspect_model(source)
        assert facts.shape["position"] == "alibi" and facts.parameters > 0
        assert [problem.partition(":")[0] for problem in facts.missing] == [
            "weights",
            "tokenizer",
            "generation_config.json",
        ]


def test_a_lost_tensor_is_listed_as_missing_without_reading_weights(tmp_path: Path) -> None:
    directory = sample(tmp_path, "llama", shards=3)
    assert inspect_model(directory).weights.startswith("21 tensors")
    next(directory.glob("*.safetensors")).unlink()
    facts = inspect_model(directory)
    assert facts.weights == "missing or incomplete" and "is incomplete" in facts.missing[0]


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="there is no preset gpt-2; there are: baichuan-7b"):
        inspect_preset("gpt-2")


def test_inspect_says_which_of_two_contradicting_rotary_tables_is_taken(tmp_path: Path) -> None:
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    other = {"rope_type": "linear", "factor": 2.0}
    same = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "rope_theta": 10000.0}
    for parameters, remarks in ((other, 1), (same, 0)):
        values = {**presets()["llama-7b"], "rope_theta": 1e4, "rope_scaling": yarn, "rope_parameters": parameters}
        (tmp_path / "config.json").write_text(json.dumps(values))
        facts = inspect_model(tmp_path / "config.json")
        assert len(facts.remarks) == remarks
        assert "yarn" in str(facts.shape["rope_scaling"])
    (tmp_path / "config.json").write_text(json.dumps({**values, "rope_parameters": other}))
    assert "rope_scaling is taken" in inspect_model(tmp_path / "config.json").remarks[0]


def test_inspect_names_settings_of_generation_that_are_not_followed(tmp_path: Path) -> None:
    directory = write(tmp_path / "m", CONFIGS["llama"], tensors_of(CONFIGS["llama"]))
    for said, remarks in (({"num_beams": 1, "top_k": 3}, 0), ({"num_beams": 4, "suppress_tokens": [7]}, 1)):
        (directory / "generation_config.json").write_text(json.dumps(said))
        found = inspect_model(directory).remarks
        assert len(found) == remarks
    assert found[0].endswith("not followed here: num_beams, suppress_tokens")


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str, **fields: Field) -> None:
        self.said.append(message)


def test_a_stored_head_that_differs_from_the_embedding_it_is_tied_to_is_said(tmp_path: Path) -> None:
    config = {**CONFIGS["llama"], "tie_word_embeddings": True}
    tensors = tensors_of(config)
    embedding = tensors["model.embed_tokens.weight"]
    for name, head, said in (("same", embedding.clone(), 0), ("other", embedding + 1, 1)):
        directory = write(tmp_path / name, config, {**tensors, "lm_head.weight": head})
        remarks = [one for one in inspect_model(directory).remarks if "lm_head.weight, which differs from" in one]
        progress = Notes()
        convert_model(directory, tmp_path / f"{name}-converted", progress=progress)
        assert len(remarks) == said
        assert len([one for one in progress.said if "lm_head.weight, which differs from" in one]) == said
