"""The mixture room: what share of the training tokens each domain of a corpus gives.

    result = fit_mixture(settings, tokens_dir, budget_tokens, proxies_dir, output, progress)

The walk: `domains` (which documents are a domain) -> `proxies` (tiny runs on drawn mixtures) -> `law` (loss as a
function of the weights) -> `optimum` (the best weights under repetition caps) -> `stage` (mixture.json, which
training reads).
"""

from inkstone.mixture.settings import MixtureSettings, ProxySettings
from inkstone.mixture.stage import MIXTURE, comparison, fit_mixture

__all__ = ["MIXTURE", "MixtureSettings", "ProxySettings", "comparison", "fit_mixture"]
