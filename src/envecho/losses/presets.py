"""The published policy losses as settings: which per-token loss, which advantage, which clip, which normaliser.

Dr. GRPO and DAPO differ from GRPO in these alone. Not here: the losses (`policy`, `cispo`, `gspo`), and what a user
overrides (`envecho.objective`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from envecho.losses.advantages import AdvantageName
from envecho.losses.batch import PolicyLossName
from envecho.losses.weights import NormalizerName

PolicyLossChoice = Literal["grpo", "dr_grpo", "dapo", "cispo", "gspo", "sft"]


@dataclass(frozen=True, kw_only=True)
class PolicyPreset:
    """What a paper's name stands for; `advantage` None: the loss has none (every action counts 1)."""

    spec_name: PolicyLossName
    advantage: AdvantageName | None
    clip_low: float
    clip_high: float
    normalizer: NormalizerName


_PRESETS: dict[str, PolicyPreset] = {
    # arXiv:2402.03300, with the clip and the normaliser of ECHO's reference code.
    "grpo": PolicyPreset(
        spec_name="grpo",
        advantage="group_std",
        clip_low=0.2,
        clip_high=0.2,
        normalizer="reference_sequence_mean",
    ),
    # arXiv:2503.20783: no division by the standard deviation, and none by the length.
    "dr_grpo": PolicyPreset(
        spec_name="grpo", advantage="group_mean", clip_low=0.2, clip_high=0.2, normalizer="constant_length"
    ),
    # arXiv:2503.14476: the upper clip is higher, and every token of the step weighs the same.
    "dapo": PolicyPreset(
        spec_name="grpo", advantage="group_std", clip_low=0.2, clip_high=0.28, normalizer="global_token_mean"
    ),
    # arXiv:2506.13585: no lower clip; the paper leaves the upper one to tuning and token mean as DAPO has it.
    "cispo": PolicyPreset(
        spec_name="cispo", advantage="group_std", clip_low=1.0, clip_high=4.0, normalizer="global_token_mean"
    ),
    # arXiv:2507.18071: clips of sequence ratios are three orders of magnitude narrower than those of tokens.
    "gspo": PolicyPreset(
        spec_name="gspo", advantage="group_std", clip_low=3e-4, clip_high=4e-4, normalizer="reference_sequence_mean"
    ),
    "sft": PolicyPreset(
        spec_name="sft", advantage=None, clip_low=0.0, clip_high=0.0, normalizer="reference_sequence_mean"
    ),
}


def policy_preset(name: PolicyLossChoice) -> PolicyPreset:
    """Return the settings that a policy loss is published with."""
    return _PRESETS[name]
