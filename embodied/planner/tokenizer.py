"""The shipped model's vocabulary: byte-level BPE over instructions, JSON pieces, and the numbers 0, 5, … 1000.

A number is one token, so a point is two tokens, and nearby numbers can be taught to be near (soft labels).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from embodied.planner.jobs import JOB_FRAGMENTS
from embodied.planner.plan_text import FRAGMENTS, NUMBERS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
SPECIAL = (PAD, START, END, VISION_START, VISION_END, IMAGE, VIDEO)

#: One user turn with one picture, then the answer. ``<|im_start|>`` alone opens the answer: roles cost tokens.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{%- if message.role == 'assistant' -%}"
    "<|im_start|>{{ message.content if message.content is string else message.content[0].text }}<|im_end|>"
    "{%- elif message.content is string -%}{{ message.content }}"
    "{%- else -%}{%- for part in message.content if part.type in ('image', 'image_url') -%}"
    "<|vision_start|><|image_pad|><|vision_end|>{%- endfor -%}"
    "{%- for part in message.content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>{%- endif -%}"
)


def train_tokenizer(corpus: Iterable[str], *, size: int = 900) -> PreTrainedTokenizerFast:
    """Learn ``size`` byte-level BPE tokens from ``corpus`` and add the plan language's own tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # Capitals say nothing about a plan, and a sentence all in capitals would be cut into tokens hardly ever met.
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=3,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (*FRAGMENTS, *NUMBERS, *JOB_FRAGMENTS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(SPECIAL[1:]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def add_job_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    """Give a tokenizer made before the jobs existed their pieces, at the end of its vocabulary."""
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in JOB_FRAGMENTS])


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerFast:
    """The tokenizer saved beside a model."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


def number_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Token ids of 0, 5, … 1000 in order. Not contiguous: "0" and "5" are bytes of their own already."""
    return [int(tokenizer.convert_tokens_to_ids(text)) for text in NUMBERS]
