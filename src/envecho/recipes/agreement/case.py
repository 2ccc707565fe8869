"""The committed batch and the tiny model that every engine and plug-in is measured on.

`batch.json` holds eight rollouts of two groups: token ids, one source per token, true sampling log-probs, rewards.
Among them are a rollout without an observation, a group whose rewards are all equal, observations that hold the pad
id, and warnings. The model is a Qwen3 of 60 thousand weights, filled from a numpy generator, so that it is the same in
every environment. Not here: what is computed from them (`reference`, `subjects`).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from envecho.engines.quiet import quiet_transformers
from envecho.errors import DataError
from envecho.objective import EchoConfig, PolicyConfig
from envecho.tokens import TokenizedTrajectory
from envecho.trajectory import SOURCES, Source, StopReason

BATCH_FILE: Final = Path(__file__).with_name("batch.json")
VOCAB_SIZE: Final = 320
PAD_ID: Final = 0
EOS_ID: Final = 1
ROLLOUTS_PER_GROUP: Final = 4

_FORMAT: Final = "envecho.agreement-batch"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table: what is trained, under which rule; `name` is what the table calls it.

    `temperature` is that of the actions; other than 1, the ratio is over the current policy, as on policy.
    """

    name: str
    objective: EchoConfig
    temperature: float = 1.0

    def sequences(self) -> list[TokenizedTrajectory]:
        """The committed batch, its actions sampled at this temperature."""
        return [dataclasses.replace(s, sampling_temperature=self.temperature) for s in load_sequences()]


def settings() -> tuple[Setting, ...]:
    """Return the settings that are measured; a subject measures those that its trainer can do.

    All are on policy: the ratio is over the log-probs under which the model really sampled. Advantages are those of
    GRPO, as ECHO's reference code computes them.
    """

    def setting(name: str, **fields: Any) -> Setting:
        return Setting(name=name, objective=EchoConfig(world_model_coeff=0.05, **fields))

    return (
        setting("global_token_mean", normalizer="global_token_mean"),
        setting("sequence_mean_selected", normalizer="sequence_mean_selected"),
        setting("reference_sequence_mean", normalizer="reference_sequence_mean"),
        setting("constant_length", normalizer="constant_length", constant_length=32),
        setting("verl_token_mean", normalizer="verl_token_mean"),
        setting("env_only", normalizer="global_token_mean", use_rl=False),
        setting("warnings_too", normalizer="global_token_mean", world_loss_target="all"),
        Setting(name="observe_only", objective=EchoConfig(world_model_coeff=0.0, normalizer="global_token_mean")),
        Setting(
            name="temperature_0.8",
            objective=EchoConfig(normalizer="global_token_mean", policy=PolicyConfig(ratio_denominator="current")),
            temperature=0.8,
        ),
    )


def load_sequences(path: Path = BATCH_FILE) -> list[TokenizedTrajectory]:
    """Read the committed batch.

    Raises:
        DataError: the file is of another format.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    if document.get("format") != _FORMAT or document.get("version") != 1:
        raise DataError(f"expected format {_FORMAT} version 1, found {document.get('format')!r}", file=path)
    return [_sequence(row) for row in document["rollouts"]]


def write_batch(sequences: list[TokenizedTrajectory], path: Path = BATCH_FILE) -> None:
    """Write a batch as `load_sequences` reads it."""
    rows = [
        {
            "id": s.trajectory_id,
            "group": s.group_id,
            "reward": s.reward,
            "token_ids": s.token_ids.tolist(),
            "sources": [SOURCES[code].value for code in s.sources],
            "turns": s.turns.tolist(),
            "sampling_logprobs": [None if np.isnan(v) else float(v) for v in s.sampling_logprobs],
        }
        for s in sequences
    ]
    head = json.dumps({"format": _FORMAT, "version": 1})[:-1]
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f'{head}, "rollouts": [\n{lines}\n]}}\n', encoding="utf-8")


def write_model(folder: Path, *, seed: int = 0) -> None:
    """Write the tiny model as a plain Hugging Face folder, with a tokenizer of its own, float32.

    Weights are normal numbers of numpy's PCG64, so that no version of torch changes them.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            drawn = torch.from_numpy(rng.standard_normal(tuple(value.shape)))
            value.copy_(1 + 0.1 * drawn if "norm" in name else 0.15 * drawn)
    with quiet_transformers():
        model.save_pretrained(folder)
    vocab = {"<pad>": PAD_ID, "<eos>": EOS_ID} | {f"w{k}": k for k in range(2, VOCAB_SIZE)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<pad>")
    fast.save_pretrained(folder)


def _sequence(row: dict[str, Any]) -> TokenizedTrajectory:
    n = len(row["token_ids"])
    logprobs = [np.nan if value is None else value for value in row["sampling_logprobs"]]
    return TokenizedTrajectory(
        trajectory_id=row["id"],
        task_id=row["group"],
        group_id=row["group"],
        reward=row["reward"],
        branch=0,
        window=0,
        owned_from=0,
        context_truncated=False,
        token_ids=np.array(row["token_ids"], dtype=np.int32),
        sources=np.array([Source(name).code for name in row["sources"]], dtype=np.uint8),
        turns=np.array(row["turns"], dtype=np.int32),
        num_bytes=np.full(n, 3, dtype=np.uint16),
        sampling_logprobs=np.array(logprobs, dtype=np.float32),
        sampling_entropies=np.full(n, np.nan, dtype=np.float32),
        sampling_temperature=1.0,
        stop_reason=StopReason.COMPLETED,
    )
