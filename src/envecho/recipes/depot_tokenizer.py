"""A small tokenizer for the depot: byte-level BPE over the world's own words, and a chat template of four tokens.

Not here: the model that reads it (`depot_start`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from envecho.worlds.depot.plan import DOORS, ROOMS

_CONTROL = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_VOCABULARY = 400


def train_depot_tokenizer() -> Any:
    """Return a transformers tokenizer in which every word of the depot is one token; the same one every time."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_CONTROL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_text(), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def _text() -> Iterator[str]:
    """What is said in a depot, each word often enough to become one token."""
    for start, goal in itertools.permutations(ROOMS, 2):
        yield f"You are in the {start}. Go to the {goal}."
    for colour, room in itertools.product(DOORS, ROOMS):
        yield f"go {colour}"
        yield f"> go {colour}\nroom {room}\n[1 move left]"
        yield f"> go {colour}\nroom {room}\n[0 moves left]"
        yield "[expected one line: go COLOUR]\nno such door\n"
