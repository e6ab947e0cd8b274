"""What llama.cpp says about a published checkpoint: written as GGUF by hand, run through llama-cpp-python.

    python tests/model/llama_cpp_oracle.py        # makes tests/model/golden/*.json again; needs the extra `oracle`

Conversion follows llama.cpp's own naming, from the published tensors, without the package's tables. The golden files
hold llama.cpp's logits at a few positions, so that the comparison runs where llama.cpp is not installed.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from published_checkpoints import DEEP, Published

GOLDEN = Path(__file__).parent / "golden"
TOKENS = [(7 * n * n + 3 * n + 5) % 93 + 3 for n in range(48)]
KEPT_POSITIONS = (0, 1, 17, 47)
_F32 = 0


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """llama.cpp with this file, one thread and a 32-bit cache.

    Its repacked quantised weights crash on CPUs with AMX (0.3.36), so they stay as they are stored.
    """
    import llama_cpp

    default = llama_cpp.llama_cpp.llama_model_default_params

    def plain() -> Any:
        how = default()
        how.use_extra_bufts = False
        return how

    with mock.patch.object(llama_cpp.llama_cpp, "llama_model_default_params", plain):
        llm = llama_cpp.Llama(
            str(path), n_ctx=256, logits_all=True, verbose=False, n_threads=1, type_k=_F32, type_v=_F32
        )
    yield llm
    llm.close()


def logits(model: Published, tokens: list[int]) -> NDArray[np.float32]:
    """[T, V], computed by llama.cpp in float32 with a float32 cache."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.gguf"
        write_gguf(model, path)
        with opened(path) as llm:
            llm.eval(tokens)
            return np.array(llm.scores[: len(tokens)], dtype=np.float32)


def write_gguf(model: Published, path: Path) -> None:
    """A vocabulary-less GGUF in the architecture that llama.cpp's converter gives the model."""
    import gguf

    chatglm = model.config["model_type"] == "chatglm"
    writer = gguf.GGUFWriter(path, "chatglm" if chatglm else "baichuan")
    config = model.config
    heads, width = config["num_attention_heads"], config["hidden_size"]
    size = config.get("kv_channels", width // heads)
    writer.add_context_length(4096)
    writer.add_embedding_length(width)
    writer.add_block_count(config["num_layers" if chatglm else "num_hidden_layers"])
    writer.add_feed_forward_length(config["ffn_hidden_size" if chatglm else "intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("multi_query_group_num", heads))
    writer.add_layer_norm_rms_eps(config["layernorm_epsilon" if chatglm else "rms_norm_eps"])
    writer.add_rope_dimension_count(size // 2 if chatglm else size)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    tensors = _chatglm(model) if chatglm else _baichuan(model)
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _neighbours(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """llama.cpp turns neighbouring pairs: dimension i + d/2 of a head moves next to dimension i."""
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def _baichuan(model: Published) -> dict[str, NDArray[np.float32]]:
    config, tensors = model.config, model.tensors
    heads, width = config["num_attention_heads"], config["hidden_size"]
    head = tensors["lm_head.weight"]
    if "z_loss_weight" in config:
        head = head / np.linalg.norm(head.astype(np.float64), axis=1, keepdims=True)
    out = {
        "token_embd.weight": tensors["model.embed_tokens.weight"],
        "output_norm.weight": tensors["model.norm.weight"],
        "output.weight": head,
    }
    names = {
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for layer in range(config["num_hidden_layers"]):
        theirs, ours = f"model.layers.{layer}", f"blk.{layer}"
        q, k, v = np.split(tensors[f"{theirs}.self_attn.W_pack.weight"], [width, 2 * width])
        out[f"{ours}.attn_q.weight"], out[f"{ours}.attn_k.weight"] = _neighbours(q, heads), _neighbours(k, heads)
        out[f"{ours}.attn_v.weight"] = v
        out |= {f"{ours}.{new}.weight": tensors[f"{theirs}.{old}.weight"] for old, new in names.items()}
    return out


def _chatglm(model: Published) -> dict[str, NDArray[np.float32]]:
    tensors = model.tensors
    out = {
        "token_embd.weight": tensors["transformer.embedding.word_embeddings.weight"],
        "output_norm.weight": tensors["transformer.encoder.final_layernorm.weight"],
        "output.weight": tensors["transformer.output_layer.weight"],
    }
    names = {
        "self_attention.query_key_value.weight": "attn_qkv.weight",
        "self_attention.query_key_value.bias": "attn_qkv.bias",
        "self_attention.dense.weight": "attn_output.weight",
        "mlp.dense_h_to_4h.weight": "ffn_up.weight",
        "mlp.dense_4h_to_h.weight": "ffn_down.weight",
        "input_layernorm.weight": "attn_norm.weight",
        "post_attention_layernorm.weight": "ffn_norm.weight",
    }
    for layer in range(model.config["num_layers"]):
        theirs = f"transformer.encoder.layers.{layer}"
        out |= {f"blk.{layer}.{new}": tensors[f"{theirs}.{old}"] for old, new in names.items()}
    return out


def main() -> None:
    import gguf  # noqa: F401 - said early, with a name
    import llama_cpp

    GOLDEN.mkdir(exist_ok=True)
    for name, make in DEEP.items():
        found = logits(make(), TOKENS)
        rows = {str(t): [round(float(x), 5) for x in found[t]] for t in KEPT_POSITIONS}
        about = f"llama-cpp-python {llama_cpp.__version__}, numpy {np.__version__}, float32 on a CPU"
        command = "python tests/model/llama_cpp_oracle.py"
        text = json.dumps({"made_by": about, "command": command, "tokens": TOKENS, "logits": rows})
        (GOLDEN / f"{name.lower()}.json").write_text(text + "\n", encoding="utf-8")
        print(name, "largest logit", float(np.abs(found).max()), file=sys.stderr)


if __name__ == "__main__":
    main()
