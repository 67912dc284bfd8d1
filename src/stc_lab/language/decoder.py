"""Our own loop over the layers of a Hugging Face Qwen2, Qwen2-VL or Qwen2.5-VL text model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stc_lab.language.attention import rotary_of
from stc_lab.language.caches.base import DecoderShape, KVStore, Placed, Step
from stc_lab.measure.flops import TextSizes


class TextDecoder:
    """Runs a ``Qwen2Model``, ``Qwen2VLTextModel`` or ``Qwen2_5_VLTextModel`` and its ``lm_head`` on a pluggable store.

    Only leaf modules are called (projections, norms, MLP); attention, positions and memory are the store's.
    With a growing store the logits equal those of the Hugging Face model. Weights stay in the modules that are
    passed in, so moving those moves the decoder.
    """

    def __init__(self, model: nn.Module, lm_head: nn.Module) -> None:
        config = model.config
        if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
            raise ValueError("text_config.use_sliding_window=true is not supported: the store defines the window")
        self.sizes = TextSizes.of(config)
        self._model = model
        self._lm_head = lm_head
        attention = model.layers[0].self_attn
        self.shape = DecoderShape(
            num_layers=len(model.layers),
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=attention.head_dim,
            scale=attention.scaling,
            rotary=rotary_of(model.rotary_emb),
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._model.embed_tokens.weight.device

    def embed(self, token_ids: Sequence[int] | Tensor) -> Tensor:
        """Token ids [T] -> embeddings [T, H]."""
        return self._model.embed_tokens(torch.as_tensor(token_ids, dtype=torch.long, device=self.device))

    def __call__(
        self,
        embeds: Tensor,
        store: KVStore,
        positions: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        places: Sequence[Placed] | None = None,
        per_layer: Tensor | None = None,
        visual: Tensor | None = None,
    ) -> Tensor:
        """Embeddings [T, H] -> final-norm hidden states [T, H]; ``store`` remembers the tokens.

        ``lengths``: sizes of the pieces (frames) in this pass, one piece by default; ``positions``: explicit
        positions, [T] or what the store takes; ``places``: see :class:`Step`. ``per_layer`` [E, V, H] is added to the
        states of the tokens at the indices ``visual`` [V] after each of the first E layers (deepstack). Raises
        ``ValueError`` when the lengths do not add up to T or the store refuses the positions.
        """
        lengths = (embeds.shape[0],) if lengths is None else tuple(lengths)
        if sum(lengths) != embeds.shape[0] or min(lengths) < 1:
            raise ValueError(f"lengths={lengths} do not split {embeds.shape[0]} tokens")
        store.begin(Step(lengths, positions, None if places is None else tuple(places)))
        hidden = embeds
        num_extras = 0 if per_layer is None else len(per_layer)
        for index, layer in enumerate(self._model.layers):
            hidden = hidden + self._attention(index, layer, hidden, store)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
            if index < num_extras:
                hidden = hidden.index_add(0, visual.to(hidden.device), per_layer[index].to(hidden.dtype))
        return self._model.norm(hidden)

    def queries(self, layer: int, states: Tensor) -> Tensor:
        """Un-rotated queries [T, Hq, d] of a layer for ``states`` [T, H] that enter it: of tokens of no pass, too."""
        block = self._model.layers[layer]
        return block.self_attn.q_proj(block.input_layernorm(states)).view(len(states), -1, self.shape.head_dim)

    def logits(self, hidden: Tensor) -> Tensor:
        """Final-norm hidden states [..., H] -> logits [..., vocabulary]."""
        return self._lm_head(hidden)

    def _attention(self, index: int, layer: nn.Module, hidden: Tensor, store: KVStore) -> Tensor:
        block, normed = layer.self_attn, layer.input_layernorm(hidden)
        heads = (hidden.shape[0], -1, self.shape.head_dim)
        queries, keys = block.q_proj(normed).view(heads), block.k_proj(normed).view(heads)
        return block.o_proj(store.attend(index, queries, keys, block.v_proj(normed).view(heads)))
