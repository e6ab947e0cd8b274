"""How `inkstone inspect` looks on a terminal."""

from rich.console import Console
from rich.text import Text

from inkstone.cli.visible import visible
from inkstone.model.inspect import Facts


def show_facts(facts: Facts) -> None:
    """One line each; what is missing comes last, where the eye ends."""
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    missing = [("" if number else "missing", problem) for number, problem in enumerate(facts.missing)]
    for label, text in rows(facts) + missing:
        style = "bold yellow" if label == "missing" else "bold"
        console.print(Text.assemble((f"{label:<12}", style), visible(text)))


def rows(facts: Facts) -> list[tuple[str, str]]:
    """Label and text of every line."""
    shape = facts.shape
    heads = f"{shape['num_heads']} heads of {shape['head_dim']}"
    if shape["num_kv_heads"] != shape["num_heads"]:
        heads += f" ({shape['num_kv_heads']} key/value)"
    experts = f", {shape['num_experts']} experts, {shape['experts_per_token']} chosen" if shape["num_experts"] else ""
    memory = " · ".join(f"{kind} {_size(size)}" for kind, size in facts.memory_gib.items())
    active = f", {facts.active_parameters:,} active per token" if facts.active_parameters != facts.parameters else ""
    found = [
        ("model", facts.name),
        ("family", facts.family),
        ("shape", f"{shape['num_layers']} layers, hidden {shape['hidden_size']}, {heads}, "
                  f"MLP {shape['intermediate_size']}{experts}"),
        ("positions", _positions(shape)),
        ("vocabulary", f"{shape['vocab_size']}{', head tied to the embedding' if shape['tie_embeddings'] else ''}"),
        ("parameters", f"{facts.parameters:,}{active}"),
        ("dtype", facts.dtype),
        ("memory", f"{memory} (weights); {_size(facts.kv_cache_mib / 1024)} of keys and values per 1,024 tokens"),
        ("context", f"{facts.context_length} tokens"),
        ("weights", facts.weights),
        ("tokenizer", facts.tokenizer),
        ("template", facts.template),
    ]  # fmt: skip
    return found + [("remark", remark) for remark in facts.remarks]


def _size(gib: float) -> str:
    return f"{gib:.1f} GiB" if gib >= 1 else f"{gib * 1024:.3g} MiB"


def _positions(shape: dict[str, object]) -> str:
    if shape["position"] == "alibi":
        return "ALiBi"
    said = f"RoPE, theta {shape['rope_theta']:g}"
    if shape["rotary_dim"]:
        said += f", on {shape['rotary_dim']} of {shape['head_dim']} dimensions"
    if isinstance(shape["rope_scaling"], dict):
        said += f", {shape['rope_scaling']['kind']} scaling by {shape['rope_scaling']['factor']:g}"
    return said + (f", sliding window {shape['sliding_window']}" if shape["sliding_window"] else "")
