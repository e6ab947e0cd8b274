"""Public models at full size, on the meta device: parameter counts, and every stored tensor's name and shape.

The expected names are written here from the public indices, without the package's tables; Zhuzhi-6B's own config and
index are read where the shared data is. And what a config.json may not ask for.
"""

import json
import math
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from inkstone.errors import InputError
from inkstone.model import Decoder, DecoderConfig, ModelSettings
from inkstone.model.families import FAMILIES, family_of, writing_family
from inkstone.model.files.pieces import by_ours, by_theirs, their_shape

Shapes = dict[str, tuple[int, ...]]
CONFIGS = json.loads(files("inkstone.model").joinpath("presets.json").read_text(encoding="utf-8"))
ZHUZHI = Path(__file__).parents[2].parent / "shared" / "data" / "configs"

PARAMETERS = {
    "baichuan-7b": 7_000_559_616,
    "baichuan-13b": 13_264_901_120,
    "baichuan2-7b": 7_505_973_248,
    "baichuan2-13b": 13_896_668_160,
    "bloom-7b1": 7_069_016_064,
    "mixtral-8x7b": 46_702_792_704,
    "chinese-mixtral-8x7b": 46_702_792_704 + 2 * 25_000 * 4096,
    "chatglm2-6b": 6_243_584_000,
    "llama-7b": 6_738_415_616,
    "llama-3-8b": 8_030_261_248,
    "mistral-7b": 7_241_732_096,
}


def llama_names(layers: int, hidden: int, inner: int, vocabulary: int, kv: int) -> Shapes:
    names: Shapes = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocabulary, hidden),
    }
    for layer in range(layers):
        at = f"model.layers.{layer}"
        names |= {f"{at}.self_attn.{part}_proj.weight": (hidden, hidden) for part in "qo"}
        names |= {f"{at}.self_attn.{part}_proj.weight": (kv, hidden) for part in "kv"}
        names |= {f"{at}.mlp.{part}_proj.weight": (inner, hidden) for part in ("gate", "up")}
        names |= {f"{at}.mlp.down_proj.weight": (hidden, inner)}
        names |= {f"{at}.{part}_layernorm.weight": (hidden,) for part in ("input", "post_attention")}
    return names


def baichuan_names(layers: int, hidden: int, inner: int, vocabulary: int) -> Shapes:
    names = llama_names(layers, hidden, inner, vocabulary, hidden)
    for layer in range(layers):
        at = f"model.layers.{layer}.self_attn"
        for part in "qkv":
            del names[f"{at}.{part}_proj.weight"]
        names[f"{at}.W_pack.weight"] = (3 * hidden, hidden)
    return names


def mixtral_names(vocabulary: int) -> Shapes:
    names = llama_names(32, 4096, 14336, vocabulary, 1024)
    names = {name: shape for name, shape in names.items() if ".mlp." not in name}
    for layer in range(32):
        moe = f"model.layers.{layer}.block_sparse_moe"
        names[f"{moe}.gate.weight"] = (8, 4096)
        for expert in range(8):
            names |= {f"{moe}.experts.{expert}.w{n}.weight": (14336, 4096) for n in (1, 3)}
            names[f"{moe}.experts.{expert}.w2.weight"] = (4096, 14336)
    return names


def bloom_names() -> Shapes:
    modules: Shapes = {
        "word_embeddings_layernorm": (4096,),
        "ln_f": (4096,),
        **{f"h.{layer}.{norm}_layernorm": (4096,) for layer in range(30) for norm in ("input", "post_attention")},
        **{f"h.{layer}.self_attention.query_key_value": (12288, 4096) for layer in range(30)},
        **{f"h.{layer}.self_attention.dense": (4096, 4096) for layer in range(30)},
        **{f"h.{layer}.mlp.dense_h_to_4h": (16384, 4096) for layer in range(30)},
        **{f"h.{layer}.mlp.dense_4h_to_h": (4096, 16384) for layer in range(30)},
    }
    names = {f"{module}.weight": shape for module, shape in modules.items()}
    names |= {f"{module}.bias": shape[:1] for module, shape in modules.items()}
    return {"word_embeddings.weight": (250880, 4096), **names}


def chatglm_names() -> Shapes:
    names: Shapes = {
        "transformer.embedding.word_embeddings.weight": (65024, 4096),
        "transformer.encoder.final_layernorm.weight": (4096,),
        "transformer.output_layer.weight": (65024, 4096),
    }
    for layer in range(28):
        at = f"transformer.encoder.layers.{layer}"
        names |= {f"{at}.{norm}_layernorm.weight": (4096,) for norm in ("input", "post_attention")}
        names[f"{at}.self_attention.query_key_value.weight"] = (4096 + 2 * 2 * 128, 4096)
        names[f"{at}.self_attention.query_key_value.bias"] = (4096 + 2 * 2 * 128,)
        names[f"{at}.self_attention.dense.weight"] = (4096, 4096)
        names[f"{at}.mlp.dense_h_to_4h.weight"] = (2 * 13696, 4096)
        names[f"{at}.mlp.dense_4h_to_h.weight"] = (4096, 13696)
    return names


NAMES = {
    "baichuan-7b": baichuan_names(32, 4096, 11008, 64000),
    "baichuan-13b": baichuan_names(40, 5120, 13696, 64000),
    "baichuan2-7b": baichuan_names(32, 4096, 11008, 125696),
    "baichuan2-13b": baichuan_names(40, 5120, 13696, 125696),
    "bloom-7b1": bloom_names(),
    "mixtral-8x7b": mixtral_names(32000),
    "chinese-mixtral-8x7b": mixtral_names(57000),
    "chatglm2-6b": chatglm_names(),
    "llama-7b": llama_names(32, 4096, 11008, 32000, 4096),
    "llama-3-8b": llama_names(32, 4096, 14336, 128256, 1024),
    "mistral-7b": llama_names(32, 4096, 14336, 32000, 1024),
}


def decoder_shapes(config: DecoderConfig) -> Shapes:
    with torch.device("meta"):
        return {name: tuple(weight.shape) for name, weight in Decoder(config).named_parameters()}


@pytest.mark.parametrize("name", PARAMETERS)
def test_public_models_have_their_published_parameters_names_and_shapes(name: str) -> None:
    family = family_of(CONFIGS[name], name)
    config = family.read_config(CONFIGS[name], name)
    shapes = decoder_shapes(config)
    assert sum(map(math.prod, shapes.values())) == config.num_parameters() == PARAMETERS[name]
    pieces = family.layout(config, NAMES[name].keys())
    assert by_ours(pieces).keys() == shapes.keys()
    assert {theirs: their_shape(rows, shapes) for theirs, rows in by_theirs(pieces).items()} == NAMES[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_public_shape_is_written_in_a_config_that_reads_back_the_same(name: str) -> None:
    config = family_of(CONFIGS[name], name).read_config(CONFIGS[name], name)
    written = writing_family(config).write_config(config)
    assert family_of(written, name).read_config(written, name) == config
    # Only Baichuan-7B changes family: as llama it opens everywhere.
    expected = {"baichuan-7b": "llama"}.get(name, CONFIGS[name]["model_type"])
    assert written["model_type"] == expected


def test_about_13_of_mixtrals_47_billion_parameters_are_active() -> None:
    config = FAMILIES["mixtral"].read_config(CONFIGS["mixtral-8x7b"], "")
    assert config.num_active_parameters() == 12_879_925_248


@pytest.mark.skipif(not ZHUZHI.is_dir(), reason="the shared data with Zhuzhi-6B's config and index is not here")
def test_zhuzhis_own_index_is_the_table_plus_a_buffer_and_a_second_head() -> None:
    values = json.loads((ZHUZHI / "zhuzhi-6b.config.json").read_text())
    index = json.loads((ZHUZHI / "zhuzhi-6b.index.json").read_text())
    family = family_of(values, "zhuzhi")
    config = family.read_config(values, "zhuzhi")
    shapes = decoder_shapes(config)
    stored = {piece.theirs for piece in family.layout(config, index["weight_map"].keys())}
    assert index["weight_map"].keys() - stored == {"lm_head.weight", "transformer.rotary_pos_emb.inv_freq"}
    assert stored <= index["weight_map"].keys()
    # The index counts the head once and the buffer's 32 frequencies, at two bytes a number.
    assert index["metadata"]["total_size"] == 2 * (sum(map(math.prod, shapes.values())) + 32)


def changed(name: str, **changes: object) -> dict[str, object]:
    return {**CONFIGS[name], **changes}


LLAMA3 = {"rope_type": "llama3", "factor": 8.0}


@pytest.mark.parametrize(
    ("values", "sentences"),
    [
        ({"model_type": "gpt2"}, ['model_type "gpt2" is not supported; supported: llama, baichuan, bloom, mixtral']),
        ({}, ['model_type "None" is not supported']),
        (changed("llama-7b", hidden_act="gelu"), ["hidden_act = 'gelu' is not supported; expected 'silu'"]),
        (changed("llama-7b", rope_scaling={"type": "su"}), ['rope type "su" is not supported; expected default']),
        (
            changed("llama-7b", rope_parameters=LLAMA3, hidden_size=None, vocab_size="many"),
            [
                "rope_scaling: original_max_position_embeddings is missing",
                "rope_scaling: low_freq_factor is missing",
                "hidden_size is missing",
                "vocab_size = 'many' is not a positive whole number",
            ],
        ),
        (changed("llama-7b", rope_scaling="linear"), ["rope_scaling = 'linear' is not a table"]),
        (changed("llama-7b", attention_bias="yes"), ["attention_bias = 'yes' is neither true nor false"]),
        (changed("mistral-7b", num_key_value_heads=5), ["num_heads = 32 is not a multiple of num_kv_heads = 5"]),
        (changed("mixtral-8x7b", num_experts_per_tok=9), ["experts_per_token = 9 must be 1 to num_experts = 8"]),
        (changed("mixtral-8x7b", router_jitter_noise=0.1), ["router_jitter_noise = 0.1 is not supported"]),
        (
            changed("qwen3-8b", model_type="qwen3_moe", moe_intermediate_size=768, mlp_only_layers=[0]),
            ["mlp_only_layers"],
        ),
        (changed("qwen2.5-7b", use_sliding_window=True, max_window_layers=20), ["only some layers a window"]),
        (changed("bloom-7b1", apply_residual_connection_post_layernorm=True), ["apply_residual_connection"]),
        (changed("chatglm2-6b", rope_ratio=50), ["rope_ratio = 50 is not supported; expected 1"]),
        (changed("chatglm2-6b", rmsnorm=False), ["rmsnorm = False is not supported"]),
        (changed("chatglm2-6b", inner_hidden_size=16384), ["this is the first ChatGLM-6B"]),
        (changed("baichuan-13b", num_attention_heads=0), ["num_attention_heads = 0 is not a positive whole number"]),
    ],
)
def test_a_config_that_asks_for_other_arithmetic_is_refused_with_every_reason(
    values: dict[str, object], sentences: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        family_of(values, "DIR/config.json").read_config(values, "DIR/config.json")
    for sentence in sentences:
        assert sentence in str(caught.value)
    assert len(caught.value.problems) == len(sentences) + (values.get("rope_parameters") is LLAMA3)
    assert all(problem.startswith("DIR/config.json: ") for problem in caught.value.problems)


def test_baichuans_two_kinds_are_told_apart_by_what_their_configs_say() -> None:
    seven, thirteen = (FAMILIES["baichuan"].read_config(CONFIGS[f"baichuan-{n}b"], "") for n in (7, 13))
    assert (seven.position, thirteen.position) == ("rope", "alibi")
    # Some re-uploads add the key; 13B's width still says ALiBi.
    reuploaded = changed("baichuan-13b", max_position_embeddings=4096)
    assert FAMILIES["baichuan"].read_config(reuploaded, "").position == "alibi"
    extended = changed("baichuan2-7b", vocab_size=130_000, normalised_head=True)
    assert FAMILIES["baichuan"].read_config(extended, "").normalised_head


def test_a_shape_that_no_family_can_say_is_refused_with_the_fields_in_the_way() -> None:
    config = ModelSettings(num_heads=4).decoder_config(100)
    assert writing_family(config).name == "llama"
    with pytest.raises(InputError, match=r"no published baichuan model .* qkv_bias = True, gated = False"):
        writing_family(DecoderConfig(100, 64, 96, 2, 4, 4, 16, 128, position="alibi", qkv_bias=True, gated=False))


@pytest.mark.parametrize(
    ("values", "model_type", "sentence"),
    [
        ({"position": "alibi", "sliding_window": 8}, None, "sliding_window = 8"),
        ({"position": "alibi", "num_kv_heads": 2}, None, "num_kv_heads = 2"),
        ({"position": "alibi"}, "baichuan", None),
        ({"num_experts": 4, "experts_per_token": 5}, None, "experts_per_token = 5 must be 1 to num_experts = 4"),
        ({"num_experts": 4, "sliding_window": 8, "router_aux_loss": 0.02}, "mixtral", None),
        ({"sliding_window": 8}, "mistral", None),
    ],
)
def test_shapes_to_train_from_nothing_are_those_that_can_be_saved(
    values: dict[str, object], model_type: str | None, sentence: str | None
) -> None:
    if sentence:
        with pytest.raises(ValidationError, match=sentence):
            ModelSettings(**values)  # type: ignore[arg-type]
    else:
        config = ModelSettings(**values).decoder_config(100)  # type: ignore[arg-type]
        assert writing_family(config).write_config(config)["model_type"] == model_type
