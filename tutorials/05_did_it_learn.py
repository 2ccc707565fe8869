"""Tutorial 5: did it learn the world, or only the harness's phrases?

    python tutorials/05_did_it_learn.py

The cross-entropy of what the world says falls in every run. That can mean three things: the model knows the phrases
around the answers, it knows how answers look, or it knows what follows from a command. Here are two models of which we
know what they learnt, because we made them so: one read the shop's real answers, the other the same answers behind the
wrong questions. Then the evaluation has to tell them apart.
"""

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

from small_model import write_small_model

from envecho import ChatTokenizer, EchoConfig, LocalEngine, Message, Segment, Source, Trajectory, compile_batch
from envecho.evaluation import PoolSums, attribute, evaluate_stream, summarize_sums, tokenize_pool
from envecho.evaluation.controls import run_controls
from envecho.evaluation.results import Stat
from envecho.seam import AdamParams

# --- 1. A shop: eight items, each with its price. The harness puts a phrase before and behind every answer ------------

ITEMS = ("tea", "rice", "soap", "oil", "salt", "milk", "corn", "wool")
PRICES = dict(zip(ITEMS, (3, 5, 2, 9, 1, 4, 7, 8), strict=True))


def episode(number: int, *, is_true: bool = True) -> Trajectory:
    """Return an episode of four questions; where it is not true, each is answered by the price of any item."""
    draw = random.Random(number)
    messages = [Message(role="user", segments=(Segment(source=Source.TASK, text="Ask for prices."),))]
    for _ in range(4):
        item = draw.choice(ITEMS)
        price = PRICES[item if is_true else draw.choice(ITEMS)]
        answer = (
            Segment(source=Source.WRAPPER, text="[the shop answers]\n"),
            Segment(source=Source.STDOUT, text=f"{price} coins\n"),
            Segment(source=Source.STATUS, text="[exit status 0]"),
        )
        messages.append(Message(role="assistant", segments=(Segment(source=Source.POLICY, text=f"price {item}"),)))
        messages.append(Message(role="user", segments=answer))
    return Trajectory(id=f"episode-{number}", task_id=f"task-{number}", messages=tuple(messages))


held_out = [episode(number) for number in range(1000, 1024)]

# --- 2. Two models from one start. `all` trains the phrases, too, as some implementations do --------------------------

objective = EchoConfig(use_rl=False, world_model_coeff=1.0, world_loss_target="all", normalizer="global_token_mean")
with tempfile.TemporaryDirectory() as folder:
    start = write_small_model(Path(folder), held_out, hidden_size=96)
    tokenizer = ChatTokenizer.from_pretrained(start)
    engines = {
        name: LocalEngine(start, device="cpu", compute_dtype="float32", tokens_per_micro_batch=8192)
        for name in ("untrained", "phrases", "world")
    }


def teach(engine: LocalEngine, episodes: Sequence[Trajectory], *, steps: int = 130) -> None:
    """Train on what the harness and the world say in these episodes."""
    sequences, rng = tokenize_pool(episodes, tokenizer), random.Random(0)
    for _ in range(steps):
        engine.forward_backward(compile_batch(rng.sample(sequences, 16), objective).batch)
        engine.optim_step(AdamParams(learning_rate=5e-3))


teach(engines["world"], [episode(number) for number in range(200)])
teach(engines["phrases"], [episode(number, is_true=False) for number in range(200)])

# --- 3. The cross-entropy falls for both ------------------------------------------------------------------------------

sums: dict[str, PoolSums] = {name: evaluate_stream(engine, held_out, tokenizer) for name, engine in engines.items()}


def shown(stat: Stat | None) -> str:
    """Return a figure with its interval over tasks."""
    assert stat is not None
    return f"{stat.value:5.2f} [{stat.low:.2f}, {stat.high:.2f}]"


print("held-out cross-entropy, nats per token at T = 1 [95 % interval over tasks]")
print("            what the world said   the harness's phrases")
for name, found in sums.items():
    result = summarize_sums(found)
    print(f"{name:10}  {shown(result.ce_per_token):20}  {shown(result.ce_boilerplate)}")

# --- 4. Where the lower cost comes from -------------------------------------------------------------------------------
#
# Every token of an answer belongs to one class: copied from the context, predictable, novel, volatile; and the phrases
# are a class of their own. What a model saves against the untrained one is the sum over the classes. Here four fifths
# of it are phrases: a run that trains them reports a fall that has little to do with the shop.

print("\nsaved against the untrained model, nats per token of everything that was observed")
for name in ("phrases", "world"):
    attribution = attribute("held_out", sums[name], sums["untrained"])
    assert attribution is not None
    parts = ", ".join(f"{kind} {part.saved.value:.2f}" for kind, part in attribution.parts.items() if part.tokens)
    print(f"{name:10}  {attribution.saved.value:.2f} = {parts}")

# --- 5. Controls: the same true answer, behind another command --------------------------------------------------------
#
# Who knows only how answers look does not mind another command, or none. Who reads the command does. The gap is what
# the change costs, in nats per token of the true answer; a model is believed from here on, and not from a falling loss.

print("\nwhat it costs to change the command     swapped              blanked")
gaps: dict[str, Stat] = {}
for name, engine in engines.items():
    controls = run_controls(engine, held_out, tokenizer, seed=0)
    swap, blank = controls["action_swap"].gap, controls["action_blank"].gap
    assert swap is not None
    gaps[name] = swap
    print(f"{name:38}  {shown(swap):20} {shown(blank)}")

assert gaps["phrases"].high is not None
assert gaps["world"].low is not None
assert abs(gaps["phrases"].value) < 0.1, "it has learnt no price: another command costs it nothing"
assert gaps["world"].low > 0.5, "it reads the command"
print("\nOne of the two knows the shop. Its cross-entropy alone would not have said so for certain; the swap does.")

# `envecho eval --model M --base M0 --data FILE` does all of this, with copiers, probes and slices, and says where it is
# wise to stop believing: docs/evaluation.md, docs/controls.md, docs/slices.md, docs/probes.md.
