"""ECHO in SkyRL's training framework (skyrl 0.3 and 0.4), by its public hooks alone.

    loss        registered policy losses `echo_regular`, `echo_dual_clip`, `echo_gspo`, `echo_cispo`: SkyRL's own of
                that name plus a sum of weights times -log p
    channel     how masks and weights travel to it: in `rollout_logprobs`, at places that SkyRL's loss mask leaves out
    generator   `EchoGenerator`: any generator of SkyRL, with the observations of its rollouts marked
    trainer     `trainer_class()`: SkyRL's trainer, which turns marks into weights once per optimiser step
    entrypoint  what SkyRL's own command runs with `trainer.override_entrypoint=envecho.plugins.skyrl.entrypoint`

SkyRL owns data, sampling, devices and the policy term; with `world_model_coeff = 0` its gradient is its own, bit for
bit. Importing this loads nothing of SkyRL. docs/skyrl.md says which version does what.
"""

from envecho.plugins.skyrl.channel import with_env_masks
from envecho.plugins.skyrl.generator import EchoGenerator
from envecho.plugins.skyrl.loss import register_echo_losses
from envecho.plugins.skyrl.trainer import trainer_class

__all__ = ["EchoGenerator", "register_echo_losses", "trainer_class", "with_env_masks"]
