"""Install PyTorch into the running environment: the CPU build where there is no NVIDIA GPU.

    .venv/bin/python tools/install_torch.py torch==2.13.0

On Linux the plain wheel brings gigabytes of CUDA libraries. A pip that already knows a source of CPU wheels serves
"torch==2.13.0+cpu"; otherwise uv, which knows PyTorch's own CPU builds, installs it. Used by the Makefile only.
"""

import platform
import shutil
import subprocess
import sys


def main(requirement: str) -> int:
    """Exit status of the installation."""
    if platform.system() != "Linux" or shutil.which("nvidia-smi"):
        return pip("install", requirement)
    if pip("install", f"{requirement}+cpu", quiet=True) == 0:
        return 0
    if pip("install", "uv") == 0:
        uv = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable, "--torch-backend", "cpu"]
        if subprocess.call([*uv, requirement]) == 0:
            return 0
    print("no CPU build of PyTorch could be had here; installing the plain one, which is several gigabytes")
    return pip("install", requirement)


def pip(*arguments: str, quiet: bool = False) -> int:
    """Run this environment's pip; `quiet` hides an expected failure."""
    sink = subprocess.DEVNULL if quiet else None
    return subprocess.call([sys.executable, "-m", "pip", *arguments, "--quiet"], stdout=sink, stderr=sink)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
