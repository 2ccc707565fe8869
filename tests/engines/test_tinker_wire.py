"""The wire of the tinker engine: the real package against a recorded exchange with a real SkyRL server."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from foundry_player import playing_foundry
from safetensors.numpy import load_file
from tinker_scenario import BASE_MODEL, CONTEXT, RANK, SEED, run_scenario
from tinker_wire import playing

from envecho.engines.tinker import open_foundry, open_tinker
from envecho.errors import EngineError

RECORDED = json.loads(Path(__file__).with_name("tinker_exchange.json").read_text(encoding="utf-8"))


def near(found, expected):
    """Whether two JSON documents agree to rounding."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(np.array(found[name]), np.array(value), rtol=1e-5, err_msg=name)


def test_what_goes_out_and_what_comes_back_is_what_was_recorded(tmp_path):
    """Catches another coefficient, id, clip or seed on the wire, answers read wrongly, and errors without help."""
    with playing(RECORDED["exchange"]) as player:
        command = [sys.executable, str(Path(__file__).with_name("tinker_scenario.py")), player.address, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert len(player.strangers) == 1  # the request that the scenario makes without a recording
    near(found["told"], RECORDED["told"])
    saved = load_file(tmp_path / "state" / "adapter_model.safetensors")
    assert any(value.any() for name, value in saved.items() if "lora_B" in name)
    address = json.loads((tmp_path / "state" / "tinker_checkpoint.json").read_text(encoding="utf-8"))["address"]
    assert address.startswith("tinker://model_")
    absent, refused = found["mistakes"]
    assert re.match(r"ConfigError: .*Did you mean 'tiny'", absent)
    assert re.match(r"EngineError: .*not recorded.*envecho train --resume", refused)


def test_foundrys_loop_sends_the_same_numbers_in_its_own_envelope(tmp_path):
    """Catches a loop of the same verbs that trains on other coefficients."""
    with playing_foundry(RECORDED["exchange"]) as player:
        engine = open_foundry(
            BASE_MODEL, endpoint=player.endpoint, token="secret", rank=RANK, seed=SEED, max_context_tokens=CONTEXT
        )
        told = run_scenario(engine, tmp_path, restores=False)
        assert not player.problems
        near(told, RECORDED["told"] | {"logprobs": RECORDED["told"]["logprobs"][:1]})
        engine.load_state(tmp_path / "state")
        assert not (tmp_path / "state" / "adapter_model.safetensors").exists()


def test_foundry_says_what_it_was_answered():
    """Catches a refused key that looks like a broken connection."""
    with playing_foundry(RECORDED["exchange"]) as player, pytest.raises(EngineError, match="with 401"):
        open_foundry(BASE_MODEL, endpoint=player.endpoint, token="wrong", max_context_tokens=CONTEXT)


def test_nobody_listening_is_said_at_once():
    """Catches minutes of retries for an address with a typing mistake."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(EngineError, match="nothing answers"):
        open_tinker(BASE_MODEL, server=address)
