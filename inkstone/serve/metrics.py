"""Figures for Prometheus: what engines hold now, and how requests went."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from inkstone.serve.models import Loaded

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_HELD = {
    "running": "requests that are decoded",
    "waiting": "requests that wait for room",
    "blocks": "blocks of keys and values",
    "held": "blocks that requests hold",
    "prompt_tokens": "prompt tokens since the engine began",
    "shared_tokens": "of them, found in the cache",
    "new_tokens": "tokens generated since the engine began",
    "cancelled": "requests given up since the engine began",
    "guessed_tokens": "tokens guessed, from what texts had said before or by a draft",
    "guessed_right": "of them, taken",
    "pushed_out": "times that a request lost its blocks to older ones",
}


class Metrics:
    """The figures of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["model"]
        self.first_token = Histogram(
            "inkstone_first_token_seconds",
            "from request to first token",
            labels,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.next_token = Histogram(
            "inkstone_next_token_seconds",
            "between pieces of a stream",
            labels,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.requests = Counter(
            "inkstone_requests", "requests by how they ended", ["model", "ended"], registry=self.registry
        )
        self.held = {
            name: Gauge(f"inkstone_engine_{name}", what, labels, registry=self.registry) for name, what in _HELD.items()
        }
        self.failures = Gauge("inkstone_engine_failures", "engines that failed", labels, registry=self.registry)

    def page(self, models: Iterable[Loaded]) -> bytes:
        """The text that Prometheus reads."""
        for loaded in models:
            engine = loaded.runner.engine
            self.failures.labels(loaded.name).set(loaded.runner.failures)
            for name, value in (engine.figures() if engine else {}).items():
                self.held[name].labels(loaded.name).set(value)
        return generate_latest(self.registry)
