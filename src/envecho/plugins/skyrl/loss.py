"""The loss that SkyRL's workers call: its own policy loss, plus the environment term as a sum of products.

SkyRL's losses are sums whose normaliser its trainer has multiplied into the advantages; the environment's weights come
the same way, so micro-batches, packing and ranks only add up. Not here: the weights (`weights`), and log-probs.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from torch import Tensor

from envecho.errors import EngineError
from envecho.extras import require_extra
from envecho.plugins.skyrl.channel import split_weights

PREFIX: Final = "echo_"
BASES: Final = ("regular", "dual_clip", "gspo", "cispo")
"""The policy losses of SkyRL that divide by the trainer's own log-probs; each has a twin with the prefix `echo_`."""

PolicyLoss = Callable[..., tuple[Tensor, dict[str, float]]]


def register_echo_losses() -> None:
    """Register `echo_regular`, `echo_dual_clip`, `echo_gspo` and `echo_cispo` with SkyRL's registry, once.

    Raises:
        ConfigError: SkyRL is absent, or of a version that this was never tested with.
    """
    require_extra("skyrl")
    registry = importlib.import_module("skyrl.backends.skyrl_train.utils.ppo_utils").PolicyLossRegistry
    known = registry.list_available()
    for name in BASES:
        if PREFIX + name not in known:
            registry.register(PREFIX + name, partial(echo_policy_loss, base=registry.get(name), base_name=name))


def echo_policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    config: Any,
    loss_mask: Tensor | None = None,
    rollout_logprobs: Tensor | None = None,
    *,
    base: PolicyLoss,
    base_name: str,
) -> tuple[Tensor, dict[str, float]]:
    """Return `base + sum(weight * -log p)` and the metrics of both; the arguments are SkyRL's, `[row token]`.

    Without a weight above 0 the first is what `base` returned, the same tensor. `env_loss` is summed by SkyRL over
    micro-batches and ranks, and is the term's value over the whole step.

    Raises:
        EngineError: the tensors that carry the weights did not arrive.
    """
    if loss_mask is None or rollout_logprobs is None:
        raise EngineError(
            f"{PREFIX}{base_name} needs loss_mask and rollout_logprobs, and SkyRL handed over none: set"
            f" generator.sampling_params.logprobs=1, and train through envecho.plugins.skyrl.trainer_class()"
        )
    sampling_logprobs, weights = split_weights(rollout_logprobs, loss_mask)
    loss, metrics = base(
        log_probs,
        old_log_probs,
        advantages,
        config=dataclasses.replace(config, policy_loss_type=base_name),
        loss_mask=loss_mask,
        rollout_logprobs=sampling_logprobs,
    )
    env_loss = 0.0
    if bool((weights > 0).any()):
        term = -(log_probs * weights).sum()
        loss, env_loss = loss + term, float(term.detach())
    return loss, {**metrics, "env_loss": env_loss}
