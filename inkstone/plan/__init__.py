"""What fits, how fast and how long: for a training run and a machine, before anything starts.

    made = estimate(config, settings, find_device("h100"), count=8, tokens=1.2e12)

`hardware` knows machines, `memory` adds up bytes by part, `estimate` turns both into a plan with an honest range.
"""

from inkstone.plan.estimate import Estimate, estimate, nearest_fit
from inkstone.plan.hardware import Device, find_device, known_devices
from inkstone.plan.memory import Memory, training_memory

__all__ = [
    "Device",
    "Estimate",
    "Memory",
    "estimate",
    "find_device",
    "known_devices",
    "nearest_fit",
    "training_memory",
]
