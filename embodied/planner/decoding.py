"""Greedy decoding under a grammar, over a prompt whose beginning is read once and kept.

transformers' ``generate`` spends more time around a small model than in it. Here a *reader* holds what the model has
read (its keys and values) and can be set back; the loop asks the grammar first, so that tokens which are forced cost
no pass of their own:

    prefix (picture, fixed prompt) | words | answer ...
    read once per picture          | set back to here for the next words about the same picture

``SmallReader`` runs the shipped model with few, fused operations; ``TransformersReader`` runs any other through
transformers' own forward pass. Neither can be used by two threads at once: ``LocalPlanner`` holds a lock.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from embodied.planner.grammar import Follower
from embodied.planner.model import Tables, see
from embodied.planner.picture import VISUAL_TOKENS
from hardware.errors import PlanError

#: What transformers calls the picture's part of a prompt; ``input_ids`` are kept apart.
Inputs = dict[str, Tensor]


class Reader(Protocol):
    """A model with a memory of the tokens it has read."""

    def start(self, ids: Sequence[int], inputs: Inputs) -> None:
        """Forget everything and read a prefix: token ids and what goes with them (pixel values, grid, token types)."""
        ...

    def set_back(self) -> bool:
        """Forget all that was read after the prefix; False when this model cannot, and must ``start`` again."""
        ...

    def read(self, ids: Sequence[int]) -> Tensor:
        """Read further tokens; the logits (vocabulary,) of what follows the last one."""
        ...


def decode(reader: Reader, words: Sequence[int], follower: Follower, *, most: int) -> list[int]:
    """The most likely answer, token by token, that the grammar allows.

    Raises ``PlanError`` when it has no end after ``most`` tokens, and when the model's numbers overflow.
    """
    answer: list[int] = []
    unread = list(words)
    while not follower.done:
        if len(answer) >= most:
            raise PlanError(f"the planner's answer has no end after {most} tokens; try other words or another model")
        sure = follower.forced()
        if not sure:
            logits = reader.read(unread)
            if bool(logits.isnan().any()):
                # Under a grammar even nonsense comes out as a plan, so it has to be caught here.
                raise PlanError("the planner's model computes no numbers any more; load it with dtype float32")
            sure, unread = [follower.best(logits)], []
        for token in sure:
            follower.take(token)
        answer += sure
        unread += sure
    return answer


class SmallReader:
    """The shipped model: one picture of 256 x 192 at the beginning, keys and values in fixed buffers."""

    def __init__(self, model: Any) -> None:
        config = model.config.text_config
        language = model.model.language_model
        self._visual, self._tables = model.model.visual, Tables(model)
        self._heads, self._head = config.num_attention_heads, config.head_dim
        self._eps = config.rms_norm_eps
        self._embed, self._norm = language.embed_tokens.weight, language.norm.weight
        self._out = model.lm_head.weight
        self._layers = [_Layer(layer) for layer in language.layers]
        room = config.max_position_embeddings
        shape = (len(self._layers), self._heads, room, self._head)
        self._keys, self._values = self._embed.new_zeros(shape), self._embed.new_zeros(shape)
        self._prefix, self._length = 2 + VISUAL_TOKENS, 0
        later = torch.arange(room - self._prefix) + self._tables.first_text_position
        positions = torch.cat([self._tables.prefix_positions, later.expand(3, -1)], 1)[:, None]
        cos, sin = language.rotary_emb(self._embed[None, :1], positions)
        self._cos = cos[0, :, None]  # (room, 1, head)
        # The sign of the rotated half goes into the sine: one operation less for each layer and token.
        sign = torch.cat([-torch.ones(self._head // 2), torch.ones(self._head // 2)])
        self._sin = sin[0, :, None] * sign

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether this reader can run the model: float32 on the CPU, as many key as query heads."""
        text = model.config.text_config
        whole = text.num_attention_heads == text.num_key_value_heads and not text.attention_bias
        return bool(whole and model.device.type == "cpu" and model.dtype == torch.float32)

    def start(self, ids: Sequence[int], inputs: Inputs) -> None:
        visual, deep = see(self._visual, self._tables, inputs["pixel_values"][None])
        x = F.embedding(torch.tensor(ids), self._embed)
        x[1 : 1 + VISUAL_TOKENS] = visual[0]
        self._length = 0
        self._think(x, deep)

    def set_back(self) -> bool:
        self._length = self._prefix
        return True

    def read(self, ids: Sequence[int]) -> Tensor:
        if self._length + len(ids) > self._keys.shape[2]:
            raise PlanError("the instruction is too long for this model; say it in fewer words or in several steps")
        x = self._think(F.embedding(torch.tensor(ids), self._embed), [])
        last = F.rms_norm(x[-1], (x.shape[-1],), self._norm, self._eps)
        return F.linear(last, self._out)

    def _think(self, x: Tensor, deep: list[Tensor]) -> Tensor:
        """Hidden states (n, hidden) through the layers, after what is in the buffers; ``deep`` only for the prefix."""
        n, begin = x.shape[0], self._length
        end = begin + n
        cos, sin = self._cos[begin:end], self._sin[begin:end]
        mask = None if n == 1 else torch.ones(n, end, dtype=torch.bool).tril(begin)
        heads, size = self._heads, self._head
        for index, layer in enumerate(self._layers):
            h = F.rms_norm(x, (x.shape[-1],), layer.norm_1, self._eps)
            qkv = F.linear(h, layer.qkv).view(n, 3 * heads, size)
            both = F.rms_norm(qkv[:, : 2 * heads], (size,), None, self._eps) * layer.norm_qk
            both = both * cos + both.roll(size // 2, -1) * sin
            keys, values = self._keys[index], self._values[index]
            keys[:, begin:end] = both[:, heads:].transpose(0, 1)
            values[:, begin:end] = qkv[:, 2 * heads :].transpose(0, 1)
            q = both[:, :heads].transpose(0, 1)
            y = F.scaled_dot_product_attention(q[None], keys[None, :, :end], values[None, :, :end], attn_mask=mask)[0]
            x = x + F.linear(y.transpose(0, 1).reshape(n, heads * size), layer.out)
            gate, up = F.linear(F.rms_norm(x, (x.shape[-1],), layer.norm_2, self._eps), layer.gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
            if index < len(deep):
                x[1 : 1 + VISUAL_TOKENS] += deep[index][0]
        self._length = end
        return x


class _Layer:
    """Weights of one layer, those that see the same input side by side."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        heads = attention.q_proj.weight.shape[0] // attention.head_dim
        self.norm_1, self.norm_2 = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        self.qkv = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
        norms = [attention.q_norm.weight.expand(heads, -1), attention.k_norm.weight.expand(heads, -1)]
        self.norm_qk = torch.cat(norms)  # (2 heads, head)
        self.out = attention.o_proj.weight
        self.gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        self.down = mlp.down_proj.weight


class TransformersReader:
    """Any image-text-to-text model, through its own forward pass and a ``DynamicCache``."""

    def __init__(self, model: Any) -> None:
        self._model = model
        # Renamed in transformers 5; the old name still works there but warns.
        names = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in names else "past_key_values"
        self._wants_token_kinds = "mm_token_type_ids" in names
        self._cache: Any = None
        self._prefix = 0
        self._rope_deltas: Tensor | None = None

    def start(self, ids: Sequence[int], inputs: Inputs) -> None:
        from transformers import DynamicCache

        self._cache = DynamicCache(config=self._model.config)
        known = {
            name: value for name, value in inputs.items() if name != "mm_token_type_ids" or self._wants_token_kinds
        }
        self._call(ids, {name: self._moved(value) for name, value in known.items()})
        self._prefix = len(ids)
        # The Qwen models keep on themselves how far positions run behind the token count.
        self._rope_deltas = getattr(self._model.model, "rope_deltas", None)

    def set_back(self) -> bool:
        from transformers.cache_utils import DynamicLayer

        if self._cache is None or not all(type(layer) is DynamicLayer for layer in self._cache.layers):
            return False  # a sliding window or a recurrent state has forgotten what it would go back to
        further = self._cache.get_seq_length() - self._prefix
        if further:
            self._cache.crop(-further)
        if self._rope_deltas is not None:
            self._model.model.rope_deltas = self._rope_deltas
        return True

    def read(self, ids: Sequence[int]) -> Tensor:
        return self._call(ids, {})

    def _moved(self, value: Tensor) -> Tensor:
        return value.to(self._model.device, self._model.dtype if value.is_floating_point() else None)

    def _call(self, ids: Sequence[int], inputs: Inputs) -> Tensor:
        tokens = torch.tensor([ids], device=self._model.device)
        out = self._model(
            input_ids=tokens, **inputs, **{self._cache_name: self._cache}, use_cache=True, logits_to_keep=1
        )
        return out.logits[0, -1].float().cpu()
