"""Random weighted batches for tests of engines."""

from __future__ import annotations

import torch

from envecho.losses import PolicyLossSpec, WeightedBatch

VOCAB_SIZE = 61
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}


def random_batch(
    lengths: list[int], *, seed: int = 0, vocab_size: int = VOCAB_SIZE, policy: bool = False
) -> WeightedBatch:
    """A batch with environment weights on half of its tokens and, if asked, policy weights on other tokens."""
    generator = torch.Generator().manual_seed(seed)
    num_tokens = sum(lengths)
    positions = torch.cat([torch.arange(length) for length in lengths])
    draw = torch.rand(num_tokens, generator=generator)
    env = (draw < 0.5) & (positions > 0)
    actions = (draw > 0.7) & (positions > 0) & torch.tensor(policy)
    return WeightedBatch(
        token_ids=torch.randint(1, vocab_size, (num_tokens,), generator=generator),
        positions=positions,
        sequence_index=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        policy_weights=actions / num_tokens,
        advantages=torch.randn(num_tokens, generator=generator),
        env_weights=env * torch.rand(num_tokens, generator=generator) / num_tokens,
        env_targets=env,
        kl_weights=torch.zeros(num_tokens),
        entropy_weights=torch.zeros(num_tokens),
        sampling_logprobs=torch.full((num_tokens,), -3.0),
        temperature=0.8,
        policy_loss=PolicyLossSpec(clip_low=5.0, clip_high=5.0) if policy else PolicyLossSpec(),
    )
