"""Freshly made vision-language checkpoints with random weights: the mechanics of other families, in a megabyte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>", "<image>",
)  # fmt: skip
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}PICTURE{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_CHAT = CHAT.replace("PICTURE", "<|vision_start|><|image_pad|><|vision_end|>")
_CORPUS = (
    '[{"skill":"pick","object":"red cube","point_2d":[430,615]},{"skill":"place","relation":"in","object":"bowl"}]',
    "put the red cube in the blue bowl, then open the drawer and press the green button. The gripper is empty.",
)


def tiny_tokenizer(chat: str = QWEN_CHAT) -> Any:
    """A byte-level BPE of some 350 tokens with the Qwen family's control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(_CORPUS * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>", chat_template=chat,
        additional_special_tokens=list(SPECIAL[1:]),
    )  # fmt: skip


def _ids(tokenizer: Any) -> dict[str, int]:
    find = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": find("<|image_pad|>"),
        "video_token_id": find("<|video_pad|>"),
        "vision_start_token_id": find("<|vision_start|>"),
        "vision_end_token_id": find("<|vision_end|>"),
    }


def _text(rows: int, sections: list[int]) -> dict[str, Any]:
    return {
        "vocab_size": rows, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": sections},
        "bos_token_id": None, "pad_token_id": 0, "eos_token_id": 2,
    }  # fmt: skip


def tiny_qwen(folder: Path, family: str, *, seed: int = 0) -> Path:
    """A folder as the hub holds one: ``family`` is qwen2_vl, qwen2_5_vl or qwen3_vl."""
    import transformers

    tokenizer = tiny_tokenizer()
    # More rows than tokens, as in the real checkpoints.
    text = _text(len(tokenizer) + 24, [2, 2, 2])
    patch = 16 if family == "qwen3_vl" else 14
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": patch, "spatial_merge_size": 2}
    vision |= {"temporal_patch_size": 2, "in_channels": 3}
    if family == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 48, "mlp_ratio": 2}
        name = "Qwen2VL"
    elif family == "qwen2_5_vl":
        vision |= {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 48, "window_size": 112}
        vision |= {"fullatt_block_indexes": [1], "tokens_per_second": 2}
        name = "Qwen2_5_VL"
    else:
        vision |= {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 48}
        vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
        name = "Qwen3VL"
    config = getattr(transformers, f"{name}Config")(
        text_config=text, vision_config=vision, tie_word_embeddings=False, **_ids(tokenizer)
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images = {
        "image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": patch, "temporal_patch_size": 2,
        "merge_size": 2, "size": {"shortest_edge": 56 * 56, "longest_edge": 196 * 196},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    return folder


def tiny_llava(folder: Path, *, seed: int = 0) -> Path:
    """A family this project knows nothing about."""
    from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = tiny_tokenizer(CHAT.replace("PICTURE", "<image>"))
    text = {k: v for k, v in _text(len(tokenizer), [2, 2, 2]).items() if k != "rope_parameters"}
    config = LlavaConfig(
        text_config={"model_type": "llama", **text},
        vision_config={"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "image_size": 56,
                       "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "projection_dim": 32},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), vision_feature_layer=-1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=14, vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template, num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder
