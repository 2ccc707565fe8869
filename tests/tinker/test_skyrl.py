"""The tinker engine against SkyRL's real server on loopback, its JAX backend on this CPU; `make test-tinker`.

What is measured is written to `ENVECHO_TINKER_RESULTS` where that is set.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("tinker.types", reason="the tinker package is not installed; `make test-tinker` installs it")
if not os.environ.get("ENVECHO_SKYRL"):
    pytest.skip("ENVECHO_SKYRL names no environment with SkyRL; `make test-tinker` makes one", allow_module_level=True)

from measure import conformance, measure_all

pytestmark = [pytest.mark.timeout(3600), pytest.mark.filterwarnings("default")]


def write(name: str, document: object) -> None:
    folder = os.environ.get("ENVECHO_TINKER_RESULTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    lines: list[str] = []
    document = measure_all(tmp_path_factory.mktemp("skyrl"), say=lines.append)
    write("skyrl.json", document)
    return document


def test_the_server_averages_and_the_probe_sees_it(found):
    """Catches a release of SkyRL that reduces in another way: coefficients would have to be other ones."""
    assert found["facts"]["reduction"] == "sequence_mean"
    assert found["facts"]["grad_norm_metric"] == "skyrl.ai/grad_norm"


def test_its_cross_entropy_forgets_how_large_weights_are(found):
    """Catches lambda sent as a weight, and cross-entropy asked of a ratio over placeholders."""
    norms = list(found["traps"].values())
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert norms[2] == pytest.approx(norms[0], rel=1e-4)
    assert norms[3] == pytest.approx(2 * norms[0], rel=1e-4)
    assert norms[4] < norms[0] / 10


def test_loss_log_probs_and_the_first_update_are_those_of_the_reference(found):
    """Catches any weight that does not arrive as it was sent."""
    for row in found["agreement"]:
        assert row["loss_difference"] < 1e-5, row
        assert row["largest_logprob_difference"] < 1e-4, row
        assert row["first_update_difference"] < 1e-5, row


def test_both_lora_factors_get_their_gradient(found):
    """Catches a factor that stays where it is, away from the start where only B moves."""
    assert max(found["lora"].values()) < 1e-3


def test_a_run_goes_on_from_its_state(found):
    """Catches an optimiser that starts afresh."""
    assert found["resume"] == {"same_bits": True, "something_changed": True}


def test_a_verifier_free_run_learns_what_a_run_of_the_local_engine_learns(found):
    """Catches steps that go astray over the wire: the environment CE must fall, and as it falls here."""
    remote = [row["env_ce"] for row in found["stored"] if "env_ce" in row]
    local = [row["env_ce"] for row in found["stored_local"]]
    assert remote[0] == pytest.approx(local[0], abs=1e-4)
    assert sum(remote[-4:]) / 4 < remote[0] - 0.05
    assert sum(remote[-4:]) / 4 == pytest.approx(sum(local[-4:]) / 4, abs=0.02)


def test_the_training_loop_runs_grpo_with_echo(found):
    """Catches a loop that needs what the server does not tell, or steps without a gradient."""
    rows = [row for row in found["grpo"] if "env_ce" in row]
    assert len(rows) == 6
    assert all(0 < row["env_ce"] < 2 and row["grad_norm"] > 0 for row in rows)


def test_the_engine_keeps_the_seams_contract_on_the_server(tmp_path):
    """Catches a verb that the server understands in another way than the fake."""
    lines = conformance(tmp_path / "conformance")
    write("conformance.json", lines)
    assert not [line for line in lines if line.startswith("failed")]
