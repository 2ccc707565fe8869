"""What lambda really is under the rule of each peer, on a user's own trajectories, and what it is under another rule.

The file is taken as one optimiser step. It holds trajectories, or, as JSON lines, what echo-rl's generator wrote: its
token ids and masks need no model. Not here: the peers and the arithmetic (`envecho.objective.peers`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from envecho.engines.pretrained import resolve_model
from envecho.errors import ConfigError, DataError
from envecho.objective.peers import PEERS, CarriedLambda, carry_lambda, effective_lambdas
from envecho.recipes.progress import counting
from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory
from envecho.tokens.trainers import echo_rl
from envecho.trajectory import Role
from envecho.trajectory.store import read_trajectories


@dataclass(frozen=True, kw_only=True)
class LambdaReport:
    """The table of a file: effective lambda by peer, at each peer's own coefficient or at the one that was asked for.

    `carried` is None where no other rule was named.
    """

    num_trajectories: int
    num_action_tokens: int
    num_env_output_tokens: int
    num_warning_tokens: int
    coeffs: dict[str, float]
    effective: dict[str, float | None]
    carried: CarriedLambda | None

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        carried = None if self.carried is None else asdict(self.carried) | {"difference": self.carried.sentence}
        counts = {
            "num_trajectories": self.num_trajectories,
            "num_action_tokens": self.num_action_tokens,
            "num_env_output_tokens": self.num_env_output_tokens,
            "num_warning_tokens": self.num_warning_tokens,
        }
        peers = {
            name: {"coeff": self.coeffs[name], "effective_lambda": found} for name, found in self.effective.items()
        }
        return {**counts, "peers": peers, "carried": carried}


def lambda_report(
    file: Path,
    model: str | None,
    *,
    coeff: float | None = None,
    source: str | None = None,
    to: str | None = None,
    num_micro_batches: int = 8,
    constant_length: int | None = None,
) -> LambdaReport:
    """Tokenise the trajectories of a file and measure every peer on them; carry `coeff` where `source` and `to` say so.

    Raises:
        ConfigError: the model or a name is unknown, or trajectories need a model and none is named.
        DataError: the file cannot be read, or holds no trajectory.
    """
    sequences = _token_rows(file) if file.suffix in (".json", ".jsonl") else _tokenized(file, model)
    if not sequences:
        raise DataError("there is no trajectory in it", file=file)
    carried = None
    if source is not None and to is not None:
        nominal = coeff if coeff is not None else PEERS[source].world_model_coeff if source in PEERS else 0.05
        carried = carry_lambda(
            sequences,
            nominal,
            source=source,
            to=to,
            num_micro_batches=num_micro_batches,
            constant_length=constant_length,
        )
    return LambdaReport(
        num_trajectories=len({sequence.trajectory_id for sequence in sequences}),
        num_action_tokens=_count(sequences, Role.ACTION),
        num_env_output_tokens=_count(sequences, Role.ENV_OUTPUT),
        num_warning_tokens=_count(sequences, Role.WARNING),
        coeffs={name: peer.world_model_coeff if coeff is None else coeff for name, peer in PEERS.items()},
        effective=effective_lambdas(sequences, coeff, num_micro_batches=num_micro_batches),
        carried=carried,
    )


def _tokenized(file: Path, model: str | None) -> list[TokenizedTrajectory]:
    if model is None:
        raise ConfigError("trajectories hold text: name the model whose tokenizer counts with --model")
    tokenizer = ChatTokenizer.from_pretrained(resolve_model(model))
    sequences: list[TokenizedTrajectory] = []
    with counting("reading trajectories") as advance:
        for trajectory in read_trajectories(file):
            sequences += tokenize_trajectory(trajectory, tokenizer)
            advance(1)
    return sequences


def _token_rows(file: Path) -> list[TokenizedTrajectory]:
    """What echo-rl's generator wrote: one JSON object, or one per line; a row without a name gets its line's number."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    lines = [text] if file.suffix == ".json" else text.splitlines()
    sequences: list[TokenizedTrajectory] = []
    for number, line in enumerate(lines, start=1):
        try:
            document = json.loads(line)
            if not echo_rl.is_generator_output(document):
                raise DataError("expected token ids with the masks of echo-rl (docs/peers.md)")
            found = echo_rl.sequences_of(document)
        except (json.JSONDecodeError, DataError) as error:
            raise DataError(str(error), file=file, line=number) from None
        sequences += [replace(s, trajectory_id=f"{number}/{s.trajectory_id}") for s in found]
    return sequences


def _count(sequences: list[TokenizedTrajectory], role: Role) -> int:
    return sum(int((sequence.role_mask(role) & sequence.owned_mask()).sum()) for sequence in sequences)
