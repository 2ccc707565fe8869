#!/bin/sh
# Training steps side by side, about twenty minutes on two cores; then the plots and the tables of them:
#     results/bench/step.sh
set -eu
step() {
    name=$1
    shift
    envecho bench step --out "results/bench/$name.json" "$@"
}
# What a step costs, in both precisions.
step step --dtype float32 --dtype bfloat16 --repetitions 4
step step-checkpointing --dtype bfloat16 --checkpointing on --repetitions 2
# By the share of the observations: 30 and 95 percent.
step step-shares --shares 60/10/30 --shares 3/2/95 --dtype bfloat16 --repetitions 2
# By the tokens of a step.
step step-tokens --tokens 256,2048 --dtype float32 --subject grpo --subject echo --subject trl --repetitions 2
# Rows that share a prompt, which the engine computes once; rows of different lengths, which it does not pad.
step step-group --tokens 2048 --group 4 --shares 60/10/30 --micro-batch-tokens 2048 --dtype float32 --subject grpo \
    --subject echo --subject trl --repetitions 2
step step-ragged --tokens 2048 --ragged --micro-batch-tokens 2048 --dtype float32 --subject grpo --subject echo \
    --subject trl --repetitions 2
# To 32k tokens in sequences of at most 2k, and one sequence of up to 8k.
step step-scaling --tokens 2048,8192,32768 --length 2048 --micro-batch-tokens 2048 --dtype bfloat16 --subject echo \
    --repetitions 1
step step-sequence --tokens 1024,2048,4096,8192 --length 8192 --dtype bfloat16 --checkpointing on --subject echo \
    --repetitions 1
# 4 x 2,048 tokens in one micro-batch: the peak of memory.
step step-memory --tokens 8192 --length 2048 --micro-batch-tokens 8192 --checkpointing on --dtype float32 \
    --dtype bfloat16 --subject echo --subject all-logits --repetitions 1
python results/bench/make_plots.py
python results/bench/make_table.py
