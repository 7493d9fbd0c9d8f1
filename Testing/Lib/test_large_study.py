"""A CT of 800 slices with ViT-B/16 and 18 classes fits four gigabytes, on a CPU and on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from places import REPOSITORY

pytestmark = pytest.mark.slow


def measured(*arguments: str) -> dict[str, Any]:
    """What the benchmark says of its own process."""
    script = REPOSITORY / "Testing" / "Benchmarks" / "large_ct.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_a_large_ct_with_eighteen_classes_fits_four_gigabytes_of_ram() -> None:
    found = measured()
    assert found["peak_ram_mib"] <= 4096
    assert found["heatmap"] == [800, 512, 512]
    assert found["steps"] == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_large_ct_with_eighteen_classes_fits_four_gigabytes_of_gpu_memory() -> None:
    found = measured("--device", "cuda", "--gpu-gib", "4")
    assert found["peak_gpu_mib"] <= 4096
    assert found["heatmap"] == [800, 512, 512]
