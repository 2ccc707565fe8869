"""Every key of echo-rl's configuration: what it is here, or why it has no counterpart.

echo-rl (github.com/microsoft/echo-rl) extends SkyRL's configuration; the defaults are those of its dataclasses and of
SkyRL 0.3.0's, which hold wherever a file leaves a key out. Not here: how a file is read (`echo_rl`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key; `to` is the place of its value in our document, None: no counterpart, or one of several that decide.

    `only` are the values that ours can do; any other is an error with `why` as the reason. `convert` turns the value.
    """

    default: Any = None
    to: str | None = None
    only: tuple[Any, ...] | None = None
    convert: Callable[[Any], Any] | None = None
    why: str = ""


def _copied(to: str, default: Any, why: str = "", convert: Callable[[Any], Any] | None = None) -> Key:
    return Key(to=to, default=default, why=why, convert=convert)


def _must(*values: Any, why: str) -> Key:
    return Key(only=values, default=values[0], why=why)


def _decides(default: Any, why: str) -> Key:
    return Key(default=default, why=why)


def _none(why: str, default: Any = None) -> Key:
    return Key(default=default, why=why)


def _interval(value: Any) -> int:
    """SkyRL's -1 for never is our 0."""
    return max(0, int(value))


_A, _T, _G = "trainer.algorithm", "trainer", "generator"
_HARNESS = "the world's own: our worlds cut, time and word their answers themselves"
_CLUSTER = "the engine's: `[model]`, or the trainer that envecho plugs into"
_MEASURE = "decided by `--track` and the run folder"
_ONE_STEP = "ours takes one optimiser step per batch of rollouts"

KEYS: Final[dict[str, Key]] = {
    # The model and its optimiser
    "trainer.policy.model.path": _copied("model.name", None),
    "trainer.policy.optimizer_config.lr": _copied("optimizer.learning_rate", 1e-6),
    "trainer.policy.optimizer_config.adam_betas": _decides([0.9, 0.999], "optimizer.beta1 and optimizer.beta2"),
    "trainer.policy.optimizer_config.weight_decay": _copied("optimizer.weight_decay", 0.01),
    "trainer.policy.optimizer_config.max_grad_norm": _copied("optimizer.grad_clip_norm", 1.0),
    "trainer.policy.optimizer_config.num_warmup_steps": _copied("optimizer.warmup_steps", 0),
    "trainer.policy.optimizer_config.scheduler": Key(
        to="optimizer.schedule",
        default="constant_with_warmup",
        only=("constant_with_warmup", "constant", "linear"),
        convert=lambda name: "linear" if name == "linear" else "constant",
        why="our learning rates are constant or linear, after a warm-up",
    ),
    "trainer.gradient_checkpointing": _copied("model.gradient_checkpointing", True),
    "trainer.seed": _copied("run.seed", 42),
    # The environment term
    f"{_A}.world_model_coeff": _copied("objective.world_model_coeff", 0.0),
    f"{_A}.world_loss_normalization": _decides("full_observation_tokens", "with loss_reduction: objective.normalizer"),
    f"{_A}.loss_reduction": _decides("token_mean", "with world_loss_normalization: objective.normalizer"),
    f"{_A}.max_seq_len": _decides(None, "objective.constant_length under seq_mean_token_sum_norm; else unused"),
    f"{_A}.world_model_coeff_schedule": _decides("constant", "objective.schedule.kind"),
    f"{_A}.world_model_coeff_end": _decides(0.0, "objective.schedule.end_coeff"),
    f"{_A}.world_model_coeff_transition_step": _decides(0, "objective.schedule.steps; theirs counts from 0"),
    f"{_A}.world_model_coeff_steps": _must(None, why="our step schedule has one step"),
    f"{_A}.world_model_coeff_values": _must(None, why="our step schedule has one step"),
    f"{_A}.wm_filter_min_valid_tool_call_pct": _copied("objective.filters.min_valid_call_fraction", None),
    f"{_A}.wm_filter_min_parse_clean_pct": _copied("objective.filters.min_parse_clean_fraction", None),
    f"{_A}.wm_filter_min_correct_pct": _copied(
        "objective.filters.correct_fraction",
        None,
        "theirs keeps the first incorrect rollouts of each prompt, ours draws from all of the step",
    ),
    f"{_G}.correct_threshold": _copied(
        "objective.filters.correct_reward", 0.5, "theirs compares the verifier's reward, ours the rollout's"
    ),
    f"{_G}.world_loss_target": _decides(
        None, "env_only is our `reference`: all text of an observation but its WARNINGS prefix"
    ),
    f"{_G}.world_loss_on_format_warn": _decides(True, "stands in for world_loss_target where that is absent"),
    f"{_G}.max_world_model_tokens": _must(None, why="our targets are whole observations"),
    f"{_G}.world_model_only_paths": _must(
        None, [], why="a run is verifier-free as a whole: --set objective.use_rl=false"
    ),
    # The policy term
    f"{_A}.advantage_estimator": _decides("grpo", "objective.policy.advantage"),
    f"{_A}.grpo_norm_by_std": _decides(True, "objective.policy.advantage"),
    f"{_A}.advantage_batch_normalize": _must(False, why="our advantages are those of a group"),
    f"{_A}.policy_loss_type": Key(
        to="objective.policy.loss",
        default="regular",
        only=("regular",),
        convert=lambda _: "grpo",
        why="the clips of the other losses are set elsewhere in SkyRL; see objective.policy.loss",
    ),
    f"{_A}.eps_clip_low": _copied("objective.policy.clip_low", 0.2),
    f"{_A}.eps_clip_high": _copied("objective.policy.clip_high", 0.2),
    f"{_A}.use_kl_loss": _decides(True, "objective.policy.kl_coeff"),
    f"{_A}.kl_loss_coef": _decides(0.001, "objective.policy.kl_coeff"),
    f"{_A}.kl_estimator_type": _must("k3", why="our KL term is k3"),
    f"{_A}.use_kl_in_reward": _must(False, why="our KL is a term of the loss, never of the reward"),
    f"{_A}.use_entropy_loss": _decides(False, "objective.policy.entropy_coeff"),
    f"{_A}.entropy_loss_coef": _decides(0.01, "objective.policy.entropy_coeff"),
    f"{_A}.zero_variance_filter": _none("equal rewards have advantage 0 and keep their environment term"),
    f"{_A}.zero_variance_filter_tol": _none("equal rewards have advantage 0 and keep their environment term"),
    f"{_A}.temperature": _decides(None, "the actions' is rollout.temperature; the environment's cross-entropy is at 1"),
    f"{_A}.use_tis": _must(False, why="see objective.policy.importance_cap"),
    f"{_A}.tis_imp_ratio_cap": _none("see objective.policy.importance_cap"),
    f"{_A}.off_policy_correction.tis_ratio_type": _must(None, why="see objective.policy.importance_cap"),
    f"{_A}.off_policy_correction.sequence_mask_metric": _must(None, why="ours leaves no rollout out by its ratio"),
    f"{_A}.dynamic_sampling.type": _must(None, why="groups of equal rewards keep their environment term here"),
    **{f"{_A}.{name}": _none("there is no critic") for name in ("lambd", "gamma", "value_clip", "value_head_prefix")},
    f"{_A}.clip_ratio_c": _none("belongs to a policy_loss_type other than regular"),
    # Rollouts
    f"{_T}.train_batch_size": _copied("rollout.tasks_per_step", 1024),
    f"{_T}.policy_mini_batch_size": _decides(256, _ONE_STEP),
    f"{_T}.update_epochs_per_batch": _must(1, why=_ONE_STEP),
    f"{_G}.n_samples_per_prompt": _copied("rollout.rollouts_per_task", 5),
    f"{_G}.max_turns": _copied("rollout.max_turns", 16),
    f"{_G}.max_tokens_per_generation": _decides(2048, "rollout.max_tokens_per_turn"),
    f"{_G}.sampling_params.max_generate_length": _none("theirs is bounded by max_tokens_per_generation"),
    f"{_G}.sampling_params.temperature": _copied("rollout.temperature", 1.0),
    f"{_G}.sampling_params.top_p": _must(1.0, 1, why="training samples come from the whole distribution"),
    f"{_G}.sampling_params.min_p": _must(0.0, 0, why="training samples come from the whole distribution"),
    f"{_G}.sampling_params.top_k": _must(-1, 0, why="training samples come from the whole distribution"),
    f"{_G}.sampling_params.repetition_penalty": _must(1.0, 1, why="training samples come from the whole distribution"),
    f"{_G}.sampling_params.logprobs": _none("sampling log-probs are always kept"),
    f"{_G}.sampling_params.stop": _none("a turn ends with the template's end of turn"),
    f"{_G}.agent_timeout": _copied("world.episode_seconds", 1800.0, "ours keeps what was said until then"),
    f"{_G}.step_wise_trajectories": _must(False, why="our sequences are whole episodes"),
    f"{_G}.thinking_handling": _must(
        "keep_all", why="ours trains what was sampled, in the context that it was sampled in"
    ),
    f"{_G}.zero_reward_on_non_stop": _must(False, why="our rewards are the world's"),
    f"{_G}.apply_overlong_filtering": _must(False, why="ours trains every action that was sampled"),
    f"{_G}.merge_stepwise_output": _must(False, why="our sequences are whole episodes"),
    f"{_G}.vision_language_generator": _must(False, why="our observations are text"),
    f"{_G}.length_penalty_coef": _must(0.0, 0, why="our rewards are the world's"),
    f"{_G}.length_penalty_threshold": _none("belongs to length_penalty_coef"),
    f"{_G}.max_context_tokens": _none("an episode of ours ends at the model's context or at max_turns"),
    f"{_G}.max_total_tokens": _none("an episode of ours ends at the model's context or at max_turns"),
    f"{_G}.parser_name": _none("how calls are written is `[world] tool_protocol`, or the world's own"),
    f"{_G}.command_selection": _none("one command per turn"),
    f"{_G}.max_commands_per_turn": _none("one command per turn"),
    f"{_G}.add_format_warn": _none("our worlds put no WARNINGS before an answer"),
    f"{_G}.max_terminal_output_chars": _none(_HARNESS),
    f"{_G}.terminal_output_truncation": _none(_HARNESS),
    f"{_G}.verifier_timeout": _none(_HARNESS),
    f"{_G}.agent_max_concurrency": _none("speed alone: `[world] max_live_episodes`"),
    # How long, and what is looked at on the way
    f"{_T}.max_training_steps": _copied("run.steps", None),
    f"{_T}.epochs": _none("counts passes over their parquet; ours counts optimiser steps: run.steps"),
    f"{_T}.ckpt_interval": _copied("run.checkpoint_every", 10, convert=_interval),
    f"{_T}.eval_interval": _copied("evaluation.every", 5, convert=_interval),
    f"{_T}.eval_before_train": _none("ours always looks before the first step, unless evaluation.every is 0"),
    f"{_G}.eval_n_samples_per_prompt": _copied("evaluation.rollouts_per_task", 1),
    f"{_G}.eval_sampling_params.temperature": _copied("evaluation.temperature", 1.0),
    "data.train_data": _decides(None, "their tasks; ours are those of --set rollout.world=WORLD"),
    "data.val_data": _decides(None, "their tasks; ours are those of --set rollout.world=WORLD"),
    "tokenizer_path": _none("the tokenizer is the model's"),
    "chat_template_path": _none("the chat template is the tokenizer's"),
    **{
        f"{_T}.{name}": _none(_CLUSTER)
        for name in (
            "strategy", "bf16", "flash_attn", "sequence_parallel_backend", "use_expandable_segments",
            "gradient_checkpointing_use_reentrant", "remove_microbatch_padding", "max_tokens_per_microbatch",
            "micro_train_batch_size_per_gpu", "micro_forward_batch_size_per_gpu", "logprobs_chunk_size",
            "recompute_old_logprobs_per_minibatch", "disable_fast_tokenizer", "max_prompt_length", "eval_batch_size",
            "critic_mini_batch_size", "update_ref_every_epoch", "use_sample_packing", "fused_lm_head_logprob",
            "fused_lm_head_logprob_backend", "policy.sequence_parallel_size", "policy.use_torch_compile",
            "policy.record_memory", "policy.optimizer_config.offload_after_step",
        )
    },
    **{
        f"{_T}.{name}": _none(_MEASURE)
        for name in (
            "logger", "project_name", "run_name", "tags", "log_path", "ckpt_path", "export_path", "hf_save_interval",
            "max_ckpts_to_keep", "resume_mode", "resume_path", "dump_data_batch", "dump_eval_results",
            "log_example_interval", "print_example_interval", "num_logger_eval_samples", "num_logger_train_samples",
            "enable_ray_gpu_monitor",
        )
    },
    **{
        f"{_G}.{name}": _none(_HARNESS)
        for name in (
            "base_temp_dir", "docker_memory_mb", "docker_cpus", "max_concurrent_builds", "max_build_retries",
            "prompt_key", "path_key", "task_binary_key", "dataset_num_workers", "dataset_max_rows",
            "eval_dataset_max_rows_per_source", "transcript_log_path", "log_transcripts_to_console",
            "transcript_log_max_chars", "batched", "max_input_length", "use_conversation_multi_turn", "use_cache_salt",
            "append_eos_token_after_stop_str_in_multi_turn",
        )
    },
}  # fmt: skip
"""The leaves of a file by their dotted name."""

SUBTREES: Final[dict[str, str]] = {
    "trainer.placement": _CLUSTER,
    "trainer.policy.fsdp_config": _CLUSTER,
    "trainer.policy.megatron_config": _CLUSTER,
    "trainer.policy.model.lora": "say it in `[model]`",
    "trainer.policy.model_config_kwargs": _CLUSTER,
    "trainer.policy.torch_profiler_config": _MEASURE,
    "trainer.mtp": "there is no draft head",
    "trainer.algorithm.off_policy_correction": "nothing is corrected: see objective.policy.importance_cap",
    "trainer.algorithm.dynamic_sampling": "nothing is sampled again",
    "trainer.algorithm.kl_ctrl": "our kl_coeff is constant",
    **{
        f"trainer.algorithm.{name}": "belongs to a policy_loss_type other than regular"
        for name in ("sapo", "clip_cov", "kl_cov", "cispo", "dppo")
    },
    "trainer.ref": _CLUSTER,
    "trainer.critic": "there is no critic",
    "trainer.fully_async": "a step of ours trains on rollouts of the policy that it updates",
    "generator.inference_engine": _CLUSTER,
    "generator.eval_sampling_params": "held-out tasks are sampled at evaluation.temperature alone",
    "generator.chat_template_kwargs": "the chat template is the tokenizer's",
    "generator.chat_template": "the chat template is the tokenizer's",
    "environment": "the world is that of `[rollout]`",
}
"""Tables whose keys have no counterpart, whatever they are; leaves in `KEYS` come first."""
