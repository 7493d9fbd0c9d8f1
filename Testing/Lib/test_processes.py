"""Several processes that train together do what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from AnyMC3DLib.training.processes import Processes

HERE = Path(__file__).resolve().parent


def test_one_process_has_everything_for_itself() -> None:
    alone = Processes()
    assert (alone.rank, alone.count, alone.leads) == (0, 1, True)
    assert alone.share([1, 2, 3]) == [1, 2, 3]
    assert alone.sum(0.25) == 0.25 and alone.agree(True) and not alone.agree(False)
    (item,) = alone.whole([{"a": torch.ones(2)}])
    assert torch.equal(item["a"], torch.ones(2))


def trained(folder: Path, count: int) -> list[dict[str, Any]]:
    """What each process tells of a training by `count` of them."""
    folder.mkdir()
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])]),
        "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    command = [*(launcher if count > 1 else [sys.executable]), str(HERE / "shared_run.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"told-{rank}.json").read_text(encoding="utf-8")) for rank in range(count)]


@pytest.mark.skipif(os.name == "nt", reason="torch's launcher needs libuv there")
def test_two_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    (one,), two = trained(tmp_path / "one", 1), trained(tmp_path / "two", 2)
    assert [told["processes"] for told in two] == [2, 2]
    for told in two:
        assert len(told["history"]) == len(one["history"]) == 7
        for shared, alone in zip(told["history"], one["history"], strict=True):
            assert (shared["phase"], shared["epoch"]) == (alone["phase"], alone["epoch"])
            assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-3)
            assert shared["score"] == pytest.approx(alone["score"], abs=0.12)
        assert np.allclose(told["probabilities"], one["probabilities"], atol=5e-3)
    assert np.array_equal(two[0]["probabilities"], two[1]["probabilities"])
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "plugin.safetensors", "run", "told-0.json", "told-1.json",
    ]  # fmt: skip
