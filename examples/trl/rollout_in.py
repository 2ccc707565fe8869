"""ECHO inside TRL in a world of envecho: one process, or several.

Type `python examples/trl/rollout_in.py --model smollm2-135m --steps 2`, or for two processes on a CPU
`torchrun --nproc-per-node 2 examples/trl/rollout_in.py --model smollm2-135m --steps 2`. On GPUs `accelerate launch`
starts the processes.
"""

from __future__ import annotations

import argparse
import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig

from envecho.engines.pretrained import resolve_model
from envecho.objective import EchoConfig
from envecho.plugins.trl import EchoGRPOTrainer, rollout_in


def main() -> None:
    """Train and print one line per optimiser step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m", help="a name, a folder or a hub name")
    parser.add_argument("--world", default="depot", help="what `envecho collect --world` takes")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--out", default="runs/trl")
    options = parser.parse_args()

    folder = resolve_model(options.model)
    rollouts = rollout_in(options.world, max_turns=3, max_tokens_per_turn=16)
    trainer = EchoGRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype="float32"),
        reward_funcs=rollouts.reward,
        args=GRPOConfig(
            output_dir=options.out,
            max_steps=options.steps,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=options.accumulation,
            num_generations=2,
            use_cpu=not torch.cuda.is_available(),
            bf16=torch.cuda.is_available(),
            disable_tqdm=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=rollouts.dataset(8),
        processing_class=AutoTokenizer.from_pretrained(folder, padding_side="left"),
        rollout_func=rollouts,
        echo=EchoConfig(world_model_coeff=0.05, world_loss_target="all"),
    )
    trainer.train()
    names = ("step", "loss", "grad_norm", "env_ce", "effective_lambda", "num_env_tokens", "reward")
    if trainer.accelerator.is_main_process:
        for line in trainer.state.log_history[:-1]:
            print(json.dumps({name: line[name] for name in names if name in line}))


if __name__ == "__main__":
    main()
