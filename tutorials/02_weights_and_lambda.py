"""Tutorial 2: weights, and what lambda really is.

    python tutorials/02_weights_and_lambda.py

    L = L_GRPO(actions) + world_model_coeff * L_env(observations)

Roles are facts; weights are choices. The objective turns roles, rewards and `world_model_coeff` (lambda) into one
weight per token and term, once for the whole optimiser step. Engines then only sum weight times loss. No model is
needed to see all of it.
"""

import torch

from envecho import (
    ChatTokenizer,
    EchoConfig,
    Message,
    SampledTokens,
    Segment,
    Source,
    Trajectory,
    compile_batch,
    tokenize_trajectory,
)
from envecho.engines.pretrained import resolve_model

tokenizer = ChatTokenizer.from_pretrained(resolve_model("smollm2-135m"))

# --- 1. Four rollouts: two of a task that one of them solved, two of a task that nobody solved -----------------------


def rollout(task: str, number: int, command: str, answer: str, reward: float) -> Trajectory:
    """Return a rollout of one command; its ids and log-probs are those that a sampler would have recorded."""
    ids = (*tokenizer.encode_text(command)[0], tokenizer.end_of_turn_id)
    sampled = SampledTokens(token_ids=ids, logprobs=(-0.5,) * len(ids), temperature=1.0)
    return Trajectory(
        id=f"{task}/{number}",
        task_id=task,
        group_id=task,
        messages=(
            Message(role="user", segments=(Segment(source=Source.TASK, text=f"Solve {task}."),)),
            Message(role="assistant", segments=(Segment(source=Source.POLICY, text=command),), sampled=sampled),
            Message(
                role="user",
                segments=(
                    Segment(source=Source.STDOUT, text=answer),
                    Segment(source=Source.STATUS, text="[exit status 0]"),
                ),
            ),
        ),
        reward=reward,
    )


rollouts = [
    rollout("count", 0, "wc -l app.log", "120 app.log\n", 1.0),
    rollout("count", 1, "head -n 2 app.log", "10:01 start\n10:02 ready to serve\n", 0.0),
    rollout("owner", 0, "ls", "app.log  notes.txt  users.csv\n", 0.0),
    rollout("owner", 1, "cat notes.txt", "call Ida about the lease\n", 0.0),
]
sequences = [sequence for trajectory in rollouts for sequence in tokenize_trajectory(trajectory, tokenizer)]

# --- 2. One step, compiled -------------------------------------------------------------------------------------------

compiled = compile_batch(sequences, EchoConfig(world_model_coeff=0.05))
batch = compiled.batch


def sums(weights: torch.Tensor) -> list[float]:
    """Sum a weight over the tokens of each rollout."""
    return [float(weights[batch.sequence_index == number].sum()) for number in range(len(rollouts))]


print("rollout    reward  advantage  policy weight  env weight")
advantages = [float(batch.advantages[batch.sequence_index == number][0]) for number in range(len(rollouts))]
for trajectory, *row in zip(rollouts, advantages, sums(batch.policy_weights), sums(batch.env_weights), strict=True):
    print(f"{trajectory.id:10} {trajectory.reward:6.1f}  {row[0]:9.3f}  {row[1]:13.4f}  {row[2]:10.5f}")

# GRPO compares the rollouts of a group. In `owner` nobody was better than anybody, so the advantages are 0 and the
# policy learns nothing from it. Trainers often throw such groups away. For ECHO they are as good as any: the world
# answered there, too, and these answers keep their weight.

assert advantages[0] > 0 > advantages[1]
assert advantages[2] == advantages[3] == 0
assert min(sums(batch.env_weights)) > 0
print(f"\ngroups without an advantage: {compiled.counters['num_zero_variance_groups']}, and their env term stays")

# The harness's words (`[exit status 0]`) have no weight, and count in the denominator of this rule: it is the paper's.

warnings = torch.cat([torch.from_numpy(sequence.warning_mask) for sequence in sequences])
assert int(warnings.sum()) > 0
assert float(batch.env_weights[warnings].sum()) == 0

# --- 3. lambda = 0 is GRPO, bit for bit ------------------------------------------------------------------------------

plain = compile_batch(sequences, EchoConfig(world_model_coeff=0.0)).batch
assert torch.equal(plain.policy_weights, batch.policy_weights)
assert float(plain.env_weights.abs().sum()) == 0
print("with lambda 0 no policy weight changes, and no observation has any")

# --- 4. The same 0.05 under other rules ------------------------------------------------------------------------------
#
# Every project divides by something else, so a lambda that was tuned in one of them is another number in the next. What
# it really is can be printed: effective lambda = sum of env weights / sum of policy weights.

print("\nrule                       effective lambda at 0.05")
effective: dict[str, float] = {}
for rule in ("reference_sequence_mean", "sequence_mean_selected", "global_token_mean", "verl_token_mean"):
    found = compile_batch(sequences, EchoConfig(world_model_coeff=0.05, normalizer=rule))
    effective[rule] = float(found.effective_lambda or 0)
    print(f"{rule:25}  {effective[rule]:.4f}")
assert abs(effective["global_token_mean"] - 0.05) < 1e-6
num_targets, num_actions = compiled.counters["num_env_tokens"], compiled.counters["num_policy_tokens"]
assert abs(effective["verl_token_mean"] - 0.05 * num_targets / num_actions) < 1e-6
print(f"verl's token mean divides observations by ACTION tokens: 0.05 * {num_targets} / {num_actions}")

# --- 5. And one rule that depends on how the step was cut ------------------------------------------------------------
#
# A mean per micro-batch gives as many means as there are micro-batches. With four of them lambda is four times what it
# says. All other rules are counted over the whole step before anybody cuts it.

config = EchoConfig(world_model_coeff=0.05, normalizer="trl_token_mean")
cuts = {1: [0, 0, 0, 0], 2: [0, 0, 1, 1], 4: [0, 1, 2, 3]}
print()
for num_parts, micro_batch_index in cuts.items():
    found = compile_batch(sequences, config, micro_batch_index=micro_batch_index).effective_lambda
    print(f"a mean per micro-batch, {num_parts} of them: {found:.4f}")
    assert found is not None
    assert abs(found - 0.05 * num_parts) < 1e-6

# `envecho lambda FILE --model M --from PEER --coeff L --to PEER` carries a lambda from one stack to another, counted on
# your own trajectories.
