"""`DistributedEngine` under torchrun: what 2 and 4 processes compute is what one process computes."""

from __future__ import annotations

import json
from pathlib import Path

import distributed_jobs as jobs
import numpy as np
import pytest
from distributed_jobs import ENGINES, batches, steps, torchrun
from safetensors.numpy import load_file

from envecho.engines.local import LocalEngine
from envecho.recipes.agreement.case import write_model

JOBS = Path(jobs.__file__)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model of the agreement table, whose embedding and head are tied."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return folder


@pytest.fixture(scope="module")
def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process measures and saves."""
    out = tmp_path_factory.mktemp("alone")
    jobs.run_all(model, out)
    return out


def run_jobs(processes: int, name: str, model: Path, out: Path) -> Path:
    done = torchrun(processes, JOBS, name, model, out)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def of_two(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes measure and save."""
    return run_jobs(2, "all", model, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def of_four(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four processes measure."""
    return run_jobs(4, "measure", model, tmp_path_factory.mktemp("four"))


def relative_difference(found: Path, expected: Path) -> float:
    """In the L2 norm over all parameters; absolute where the expected gradient is 0."""
    a, b = load_file(found), load_file(expected)
    assert a.keys() == b.keys()
    difference = sum(float(np.square(a[n].astype(np.float64) - b[n]).sum()) for n in b) ** 0.5
    return difference / (sum(float(np.square(value.astype(np.float64)).sum()) for value in b.values()) ** 0.5 or 1.0)


def same_figures(found: Path, expected: Path, tag: str, limit: float) -> None:
    """Loss, log-probs, norm and measured terms agree."""
    a, b = (json.loads((folder / f"{tag}.json").read_text()) for folder in (found, expected))
    assert a.keys() == b.keys()
    for name, figures in b.items():
        for key, value in figures.items():
            one, other = (np.array([v or 0.0 for v in np.atleast_1d(np.array(x, dtype=object))], dtype=np.float64)
                          for x in (a[name][key], value))  # fmt: skip
            np.testing.assert_allclose(one, other, rtol=limit, atol=limit, err_msg=f"{tag} {name} {key}")


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize(("tag", "limit"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("name", sorted(batches()))
def test_the_gradient_of_several_processes_is_that_of_one(
    processes: int, tag: str, limit: float, name: str, alone: Path, request: pytest.FixtureRequest
):
    """Catches a mean over ranks (FSDP's own rule), a denominator per rank, and a rank without anything to do."""
    found = request.getfixturevalue("of_two" if processes == 2 else "of_four")
    assert relative_difference(found / f"{tag}-{name}.safetensors", alone / f"{tag}-{name}.safetensors") <= limit


@pytest.mark.parametrize("processes", [2, 4])
def test_what_is_reported_is_of_the_whole_batch(processes: int, alone: Path, request: pytest.FixtureRequest):
    """Catches sums, norms or log-probs of rank 0's part alone, or at another rank's places."""
    found = request.getfixturevalue("of_two" if processes == 2 else "of_four")
    same_figures(found, alone, "float64", 1e-6)
    same_figures(found, alone, "float32", 2e-5)


@pytest.mark.parametrize("tag", ["checkpointed", "packed", "attention", "lora"])
def test_every_option_of_the_local_engine_has_its_gradient_on_two_processes(tag: str, alone: Path, of_two: Path):
    """Catches frozen weights that get a gradient, an adapter that is not shared out, recomputation that differs."""
    name = f"{tag}-global_token_mean.safetensors"
    assert relative_difference(of_two / name, alone / name) <= 1e-5
    same_figures(of_two, alone, tag, 2e-5)


def test_in_bfloat16_two_processes_add_up_float32_gradients_of_float32_masters(alone: Path, of_two: Path):
    """Catches masters or sums in bfloat16: the gradients would differ by its rounding, a hundred times as much."""
    name = "bfloat16-global_token_mean.safetensors"
    assert relative_difference(of_two / name, alone / name) <= 5e-3
    weights = load_file(of_two / "bfloat16_steps" / "model.safetensors")
    assert {str(value.dtype) for value in weights.values()} == {"float32"}
    assert json.loads((of_two / "bfloat16_steps" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("name", ["samples.json", "read.json"])
def test_draws_and_scores_do_not_depend_on_the_number_of_processes(name: str, alone: Path, of_two: Path):
    """Catches draws that are numbered per rank, and answers in another order than the questions."""
    a, b = (json.loads((folder / name).read_text()) for folder in (of_two, alone))
    assert a["sample"] == b["sample"]
    assert a["turns"] == b["turns"]
    for key in ("logprobs", "entropies"):
        for one, other in zip(a[key], b[key], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("name", ["three_steps", "lora_steps"])
def test_a_state_of_two_processes_has_the_files_and_the_numbers_of_one(name: str, alone: Path, of_two: Path):
    """Catches shards in files, a name that only one of the two knows, and a step that is not AdamW's."""
    found, expected = of_two / name, alone / name
    listed = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in (found, expected)]
    assert listed[0] == listed[1]
    for file in ("model.safetensors", "optimizer.safetensors"):
        a, b = load_file(found / file), load_file(expected / file)
        assert {n: (v.shape, v.dtype) for n, v in a.items()} == {n: (v.shape, v.dtype) for n, v in b.items()}
        for key in b:
            np.testing.assert_allclose(a[key], b[key], atol=2e-5, err_msg=key)
    for file in ("engine_state.json", "config.json"):
        assert json.loads((found / file).read_text()) == json.loads((expected / file).read_text())


def test_one_process_goes_on_where_two_stopped(model: Path, alone: Path, of_two: Path, tmp_path: Path):
    """Catches a state that only as many processes as wrote it can read."""
    engine = LocalEngine(model, device="cpu", **ENGINES["float32"])
    engine.load_state(of_two / "three_steps")
    steps(engine, 2, tmp_path / "on")
    a, b = (load_file(folder / "model.safetensors") for folder in (tmp_path / "on", alone / "three_and_two_steps"))
    for key in b:
        np.testing.assert_allclose(a[key], b[key], atol=2e-5, err_msg=key)


def test_the_same_number_of_processes_goes_on_bit_for_bit(of_two: Path):
    """Catches moments or step counts that are lost or rounded on the way through the files."""
    for file in ("model.safetensors", "optimizer.safetensors"):
        a, b = (load_file(of_two / name / file) for name in ("five_steps", "three_and_two_steps"))
        assert all(np.array_equal(a[key], b[key]) for key in b), file


def test_two_processes_fulfil_the_seam(model: Path, tmp_path: Path):
    """Catches an engine over several processes that breaks the contract of one."""
    run_jobs(2, "kit", model, tmp_path)
    lines = (tmp_path / "kit.txt").read_text().splitlines()
    assert {line.split()[0] for line in lines} == {"passed"}, "\n".join(lines)
