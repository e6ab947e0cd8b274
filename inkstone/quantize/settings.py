"""What to make: method, bits, groups and layout; and what config.json then says about it."""

from dataclasses import dataclass
from typing import Any, Literal

from inkstone.errors import InputError

Method = Literal["gptq", "awq", "rtn", "nf4"]
LayoutName = Literal["gptq", "awq", "compressed-tensors", "bitsandbytes"]


@dataclass(frozen=True)
class Quantization:
    """Weights in `bits` by groups of `group_size` columns (-1: whole rows)."""

    method: Method = "gptq"
    bits: int = 4
    group_size: int = 128
    layout: LayoutName = "compressed-tensors"
    act_order: bool = False
    """Columns that matter most are rounded first; GPTQ only."""
    damp: float = 0.05
    """Share of the mean of the Hessian's diagonal that is added to it."""
    samples: int = 128
    length: int = 512
    """Calibration: so many rows of so many tokens."""

    @property
    def calibrated(self) -> bool:
        """Whether text must be read."""
        return self.method in ("gptq", "awq")

    @property
    def symmetric(self) -> bool:
        """AWQ's layout is the one whose readers want zeros."""
        return self.layout != "awq"

    @property
    def eight_by_eight(self) -> bool:
        """Whether compressed-tensors calls it W8A8: one scale per row, inputs rounded per token by who runs it."""
        return self.layout == "compressed-tensors" and self.bits == 8 and self.group_size < 0

    def problems(self) -> list[str]:
        """What cannot be, one sentence each."""
        found = []
        if self.method == "nf4" and (self.bits, self.layout, self.group_size) != (4, "bitsandbytes", 64):
            found.append("--method nf4 is bitsandbytes' form: 4 bits by blocks of 64, in --layout bitsandbytes")
        if self.layout == "bitsandbytes" and self.method != "nf4":
            found.append("--layout bitsandbytes is for --method nf4 alone")
        if self.bits not in (4, 8):
            found.append(f"--bits {self.bits} is not written: choose 4 or 8")
        if self.group_size == 0 or self.group_size < -1:
            found.append(f"--group-size {self.group_size} is no size: give a number of columns, or -1 for whole rows")
        if self.layout == "awq" and self.bits != 4:
            found.append("--layout awq has 4 bits only: choose --bits 4 or another layout")
        if self.act_order and (self.method != "gptq" or self.layout == "awq"):
            found.append("--act-order belongs to --method gptq in the layouts gptq and compressed-tensors")
        return found

    def config(self, ignore: list[str]) -> dict[str, Any]:
        """quantization_config of config.json; `ignore`: linear modules that stay in 16 bits."""
        if self.layout == "compressed-tensors":
            return self._compressed(ignore)
        shared = {"quant_method": self.layout, "bits": self.bits, "group_size": self.group_size}
        if self.layout == "awq":
            return {**shared, "version": "gemm", "zero_point": True, "modules_to_not_convert": ignore}
        gptq = {"desc_act": self.act_order, "sym": True, "lm_head": False, "checkpoint_format": "gptq"}
        return {**shared, **gptq, "damp_percent": self.damp, "true_sequential": False, "pack_dtype": "int32"}

    def _compressed(self, ignore: list[str]) -> dict[str, Any]:
        grouped = self.group_size > 0
        weights = {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": True,
            "strategy": "group" if grouped else "channel",
            "group_size": self.group_size if grouped else None,
            "actorder": "group" if self.act_order else None,
            "dynamic": False,
        }
        inputs = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
        group = {
            "targets": ["Linear"],
            "weights": weights,
            "input_activations": inputs if self.eight_by_eight else None,
            "output_activations": None,
        }
        return {
            "quant_method": "compressed-tensors",
            "format": "int-quantized" if self.eight_by_eight else "pack-quantized",
            "quantization_status": "compressed",
            "ignore": ignore,
            "config_groups": {"group_0": group},
        }

    def group_of(self, columns: int, name: str) -> int:
        """The group size in a row of `columns`. Raises InputError where it does not divide them."""
        if self.group_size < 0:
            return columns
        if columns % self.group_size:
            good = [size for size in (256, 128, 64, 32, 16) if columns % size == 0]
            hint = f"choose --group-size {good[0]}" if good else "choose --group-size -1"
            raise InputError(f"{name} has {columns} columns, which groups of {self.group_size} do not divide: {hint}")
        return self.group_size
