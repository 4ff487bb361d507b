"""A small Qwen3-VL: the configuration, and a batched forward pass for training on pictures of one size.

The weights live in transformers' own ``Qwen3VLForConditionalGeneration``, so a saved folder loads with
``AutoModelForImageTextToText.from_pretrained``. The forward pass there handles any mixture of picture sizes one by one;
training on the CPU needs it batched and compiled, which is what the functions here are: the same mathematics over the
same modules (a test compares the two).

Picture 256 x 192, patches of 16 px, no spatial merging: one visual token is one patch of 16 x 12 = 192.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.planner.picture import COLS, PATCH, ROWS, VISUAL_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def new_model(tokenizer: PreTrainedTokenizerFast, *, hidden: int = 192, layers: int = 6, vision_layers: int = 6) -> Any:
    """A randomly initialised model whose configuration is small and whose class is transformers' own."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    from embodied.planner.tokenizer import END, IMAGE, PAD, VIDEO, VISION_END, VISION_START, number_ids

    ids = {
        text: int(tokenizer.convert_tokens_to_ids(text)) for text in (PAD, END, IMAGE, VIDEO, VISION_END, VISION_START)
    }
    head = 48
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": hidden * 8 // 3 // 32 * 32,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // head,
            "num_key_value_heads": hidden // head,
            "head_dim": head,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [8, 8, 8],
                "mrope_interleaved": True,
            },
            "pad_token_id": ids[PAD],
            "eos_token_id": ids[END],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": vision_layers,
            "hidden_size": 192,
            "intermediate_size": 576,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": 1,
            "temporal_patch_size": 1,
            "out_hidden_size": hidden,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [2],
        },
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=True,
        pad_token_id=ids[PAD],
        eos_token_id=ids[END],
    )
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids[END]
    model.generation_config.pad_token_id = ids[PAD]
    model.generation_config.do_sample = False
    with torch.no_grad():  # near numbers start near: sinusoids of the value
        rows = number_ids(tokenizer)
        values = torch.arange(len(rows)) / (len(rows) - 1)
        frequencies = 2.0 ** torch.linspace(0.0, 6.0, hidden // 2)
        angles = values[:, None] * frequencies[None] * np.pi
        model.get_input_embeddings().weight[rows] = torch.cat([angles.sin(), angles.cos()], 1) * 0.03
        positions = model.model.visual.pos_embed.weight
        positions.copy_(grid_sinusoids(int(positions.shape[0] ** 0.5), positions.shape[1]) * 0.25)
    return model


def grid_sinusoids(side: int, width: int) -> Tensor:
    """Sinusoids of row and column (side * side, width): with small random positions a training finds no point for long."""
    along = torch.linspace(0.0, 1.0, side)
    angles = along[:, None] * (2.0 ** torch.linspace(0.0, 4.0, width // 4))[None] * np.pi
    waves = torch.cat([angles.sin(), angles.cos()], 1)  # (side, width / 2)
    return torch.cat([waves.repeat_interleave(side, 0), waves.repeat(side, 1)], 1)


def patches_of(images: Tensor) -> Tensor:
    """uint8 (B, 192, 256, 3) to normalised patch vectors (B, 192, 768), ordered as the image processor orders them."""
    x = images.float() / 127.5 - 1.0
    b = x.shape[0]
    x = x.view(b, ROWS, PATCH, COLS, PATCH, 3).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(b, VISUAL_TOKENS, 3 * PATCH * PATCH)


class Tables(nn.Module):
    """What depends only on the picture's size: interpolation of the position grid, rotary angles, M-RoPE positions."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        from transformers.models.qwen3_vl import modeling_qwen3_vl as reference

        visual = model.model.visual
        grid = torch.tensor([[1, ROWS, COLS]])
        indices, weights = reference.get_vision_interpolation_indices_and_weights(
            grid,
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=1,
        )
        positions = reference.get_vision_position_ids(grid, 1)
        cos, sin = visual.rotary_pos_emb(torch.zeros(1), positions)
        self.register_buffer("grid_indices", indices)
        self.register_buffer("grid_weights", weights)
        self.register_buffer("vision_cos", cos)  # (192, head)
        self.register_buffer("vision_sin", sin)
        prefix = torch.zeros(3, 1 + VISUAL_TOKENS + 1, dtype=torch.long)
        rows = torch.arange(ROWS).repeat_interleave(COLS)
        prefix[0, 1:-1] = 1
        prefix[1, 1:-1] = 1 + rows
        prefix[2, 1:-1] = 1 + torch.arange(COLS).repeat(ROWS)
        prefix[:, -1] = 1 + max(ROWS, COLS)
        self.register_buffer("prefix_positions", prefix)

    @property
    def first_text_position(self) -> int:
        """Position of the first token after the picture."""
        return 2 + max(ROWS, COLS)


def _rotate_half(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Attention (B, H, L, D) written out. The fused one is slower here: its backward pass on the CPU took half of a step."""
    scores = (q @ k.transpose(-1, -2)).float() * scaling
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).to(v.dtype) @ v


def see(visual: Any, tables: Tables, patches: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Patch vectors (B, 192, 768) to visual tokens (B, 192, hidden) and one deep-stack feature of the same shape."""
    b = patches.shape[0]
    proj = visual.patch_embed.proj
    x = F.linear(patches, proj.weight.flatten(1), proj.bias)
    x = x + (visual.pos_embed(tables.grid_indices) * tables.grid_weights[:, :, None]).sum(1)
    cos, sin = tables.vision_cos[None, None].to(x.dtype), tables.vision_sin[None, None].to(x.dtype)
    deep = []
    for index, block in enumerate(visual.blocks):
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).view(b, VISUAL_TOKENS, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = q * cos + _rotate_half(q) * sin, k * cos + _rotate_half(k) * sin
        y = attend(q, k, v, None, attention.scaling).transpose(1, 2).reshape(b, VISUAL_TOKENS, -1)
        x = x + attention.proj(y)
        x = x + block.mlp(block.norm2(x))
        if index in visual.deepstack_visual_indexes:
            merger = visual.deepstack_merger_list[visual.deepstack_visual_indexes.index(index)]
            deep.append(merger(x).view(b, VISUAL_TOKENS, -1))
    return visual.merger(x).view(b, VISUAL_TOKENS, -1), deep


def think(
    language: Any,
    embeddings: Tensor,
    deep: list[Tensor],
    cos: Tensor,
    sin: Tensor,
    mask: Tensor,
    watch: tuple[int, ...],
) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
    """Token embeddings (B, L, hidden), visual ones at 1..192, to last hidden states (B, L, hidden).

    ``mask`` (B, 1, L, L) is True where a token may look. For the layers in ``watch`` the first head's queries and its
    keys of the token before the picture and of the visual tokens are returned too, (B, L, head) and (B, 193, head):
    training points them at objects, or at that first token for what is not there.
    """
    x, watched = embeddings, {}
    cos, sin = cos[:, None], sin[:, None]
    for index, layer in enumerate(language.layers):
        attention = layer.self_attn
        h = layer.input_layernorm(x)
        shape = (*h.shape[:-1], -1, attention.head_dim)
        q = attention.q_norm(attention.q_proj(h).view(shape)).transpose(1, 2)
        k = attention.k_norm(attention.k_proj(h).view(shape)).transpose(1, 2)
        v = attention.v_proj(h).view(shape).transpose(1, 2)
        q, k = q * cos + _rotate_half(q) * sin, k * cos + _rotate_half(k) * sin
        if index in watch:
            watched[index] = (q[:, 0] * attention.scaling, k[:, 0, : 1 + VISUAL_TOKENS])
        y = attend(q, k, v, mask, attention.scaling).transpose(1, 2).reshape(*h.shape[:-1], -1)
        x = x + attention.o_proj(y)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        if index < len(deep):
            x = torch.cat([x[:, :1], x[:, 1 : 1 + VISUAL_TOKENS] + deep[index], x[:, 1 + VISUAL_TOKENS :]], 1)
    return language.norm(x), watched
