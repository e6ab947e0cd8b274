"""One block of the decoder quantised for the inputs that reach it.

Maps that read the same input share its Hessian: q, k and v; gate and up. Experts have one each, of the tokens that the
router sent them; an expert with too few is rounded to nearest, and said so.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from inkstone.model.decoder.decoder import Block, Linear
from inkstone.model.decoder.experts import Experts, matmul_runs
from inkstone.model.packed.grouped import Grouped, round_to_nearest
from inkstone.quantize.awq import Folded, clipped, scale_block
from inkstone.quantize.gptq import Hessian, gptq
from inkstone.quantize.settings import Quantization

Packed = dict[str, list[Grouped]]
"""By the block's parameter names: one weight, or one for each expert."""
_SHARED = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}


def quantise_block(
    block: Block, run: Callable[[], object], how: Quantization, note: Callable[[str], None]
) -> tuple[Packed, Folded]:
    """Every linear map of the block, packed, and what else changed; `run` sends the calibration through it."""
    hessians = _gather(block, run) if how.calibrated else {}
    folded = scale_block(block.float(), hessians, how) if how.method == "awq" else {}
    packed: Packed = {}
    for name, weights in _weights(block).items():
        module, _, last = name.removesuffix(".weight").rpartition(".")
        first = f"{module}.{_SHARED.get(last, last)}"
        mine = hessians.get(first) or hessians.get(f"{module}.{last}")
        packed[name] = []
        for number, weight in enumerate(weights):
            group = how.group_of(weight.shape[1], name)
            hessian = mine[number] if mine else None
            # Fewer tokens than a sixteenth of the columns say too little about which columns matter.
            if hessian is None or hessian.tokens * 16 < weight.shape[1]:
                if how.calibrated:
                    seen = hessian.tokens if hessian else 0
                    note(f"{name}: expert {number} saw only {seen} tokens of the calibration: rounded to nearest")
                packed[name].append(round_to_nearest(weight, how.bits, group, how.symmetric))
            elif how.method == "gptq":
                packed[name].append(gptq(weight, hessian, how.bits, group, how.symmetric, how.act_order, how.damp))
            elif last in ("q_proj", "k_proj"):  # their product is what counts, and it is not what clipping looks at
                packed[name].append(round_to_nearest(weight, how.bits, group, how.symmetric))
            else:
                packed[name].append(clipped(weight, hessian, how, group))
    return packed, folded


def put_weights(block: Block, packed: Packed, folded: Folded) -> None:
    """The rounded weights in the block's own parameters, so that what follows is calibrated for them."""
    parameters = dict(block.named_parameters())
    for name, changed in folded.items():
        parameters[name].data = changed
    for name, weights in packed.items():
        target = parameters[name]
        plain = [weight.dequantise(target.dtype) for weight in weights]
        parameters[name].data = torch.stack(plain) if target.dim() == 3 else plain[0]


def _weights(block: Block) -> dict[str, list[Tensor]]:
    found = {}
    for name, module in block.named_modules():
        if isinstance(module, Linear):
            found[f"{name}.weight"] = [module.weight.detach()]
        elif isinstance(module, Experts):
            for part in ("gate_up_proj", "down_proj"):
                found[f"{name}.{part}"] = list(getattr(module, part).detach())
    return found


def _gather(block: Block, run: Callable[[], object]) -> dict[str, list[Hessian]]:
    hessians: dict[str, list[Hessian]] = {}
    handles = []
    mixtures = [(name, module) for name, module in block.named_modules() if isinstance(module, Experts)]
    modules = dict(block.named_modules())
    for name, module in modules.items():
        owner, _, last = name.rpartition(".")
        shared = f"{owner}.{_SHARED.get(last, last)}"
        if isinstance(module, Linear) and (shared == name or shared not in modules):
            hessians[name] = [Hessian(module.in_features)]
            handles.append(module.register_forward_pre_hook(_listener(hessians[name][0])))
    for name, experts in mixtures:
        experts.product = _listening_product(name, experts, hessians)
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
        for _, experts in mixtures:
            experts.product = matmul_runs
    return hessians


def _listener(hessian: Hessian) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def listen(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        hessian.add(inputs[0])

    return listen


def _listening_product(
    name: str, experts: Experts, hessians: dict[str, list[Hessian]]
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    for part in ("gate_up_proj", "down_proj"):
        stored = getattr(experts, part)
        hessians[f"{name}.{part}"] = [Hessian(stored.shape[2]) for _ in stored]

    def product(x_MD: Tensor, weights_EOD: Tensor, ends_E: Tensor) -> Tensor:
        part = "gate_up_proj" if weights_EOD is experts.gate_up_proj else "down_proj"
        start = 0
        for hessian, end in zip(hessians[f"{name}.{part}"], ends_E.tolist(), strict=True):
            hessian.add(x_MD[start:end])
            start = end
        return matmul_runs(x_MD, weights_EOD, ends_E)

    return product
