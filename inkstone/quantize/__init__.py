"""Making quantised models: GPTQ and round-to-nearest, written in the layouts that other programs open.

quantize_model(Path("runs/primer/sft"), Path("primer-int4"), Quantization(method="gptq"), calibration, progress)
"""

from inkstone.quantize.model import quantize_model
from inkstone.quantize.settings import Quantization
from inkstone.quantize.stage import QUANTIZE, QuantizeSettings

__all__ = ["QUANTIZE", "Quantization", "QuantizeSettings", "quantize_model"]
