"""A Mixture-of-Depths model trained by fathom, in transformers: AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True).

A forward pass has one of two routings:

    "topk"    as trained; a token's route depends on later tokens, so it cannot sample. The loss is the training loss.
    "causal"  as sampling does: each token by its own causal rule. Needed for a cache; `generate` always takes it.

The argument `routing` says which; where it is None, config.routing; where that is None, topk in training mode and causal in eval mode."""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, LlamaConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .fathom_layers import FathomModel, LayerCache


class FathomConfig(LlamaConfig):
    """Llama's fields and those of fathom's docs/formats.md."""

    model_type = "fathom"
    base_model_type: str | None = None  # "qwen2": with its biases
    mod: dict | None = None
    num_local_experts: int | None = None
    num_experts_per_tok: int | None = None
    router_aux_loss_coef: float | None = None
    experts: dict | None = None
    routing: str | None = None


@dataclass
class FathomOutput(CausalLMOutputWithPast):
    """loss: with top-k routing the training loss, lm_loss + the weighted losses of the routers; with causal routing lm_loss, the mean
    cross-entropy of the targets. aux_loss: the sum of the routers' losses without weights; None with causal routing."""

    lm_loss: torch.Tensor | None = None
    aux_loss: torch.Tensor | None = None


class FathomCache:
    """The keys and values of a model's layers, of sequences of `length` tokens so far; generate makes none of its own for this model."""

    is_compileable = is_croppable = False
    is_linear = (False,)

    def __init__(self, layers):
        self.layers = [LayerCache() for _ in range(layers)]
        self.length = 0

    def get_seq_length(self, layer_idx=0):
        return self.length

    def reorder_cache(self, beam_idx):
        for layer in self.layers:
            layer.reorder(beam_idx)


class FathomForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = FathomConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.model = FathomModel(config, config.rope_parameters)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls):
        return False

    def prepare_inputs_for_generation(self, *args, **kwargs):  # generate looks for that last name
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        if inputs.get("routing") not in (None, "causal"):
            raise ValueError(f"routing: {inputs['routing']!r}: generate samples, which needs causal routing")
        return {**inputs, "routing": "causal"}

    def _routing(self, routing):
        routing = routing or self.config.routing or ("topk" if self.training else "causal")
        if routing not in ("topk", "causal"):
            raise ValueError(f"routing: {routing!r}: must be 'topk' or 'causal'")
        return routing

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, cache=None, inputs_embeds=None, labels=None,
                shift_labels=None, use_cache=None, logits_to_keep=0, routing=None, return_dict=None):
        """labels [B, T]: as everywhere in transformers the token that stands there, -100 for one that does not count; shift_labels
        instead: the token that comes next. With them no logits are left out by logits_to_keep."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(f"attention_mask: {attention_mask.dim()} dimensions: must be [batch, tokens]")
        routing = self._routing(routing)
        if routing == "topk" and (use_cache or cache is not None):
            raise ValueError("routing: 'topk' looks ahead and has no cache: routing='causal', model.eval() or use_cache=False")
        if routing == "causal" and cache is None and (self.config.use_cache if use_cache is None else use_cache):
            cache = FathomCache(len(self.model.layers))
        x = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        past = cache.length if cache is not None else 0
        if attention_mask is not None and attention_mask.shape[1] != past + x.shape[1]:
            raise ValueError(f"attention_mask: {attention_mask.shape[1]} tokens, {past} in the cache and {x.shape[1]} new ones")
        x, terms = self.model(x, routing, past, attention_mask, position_ids, None if cache is None else cache.layers)
        if cache is not None:
            cache.length += x.shape[1]
        if labels is not None and shift_labels is None:
            shift_labels = F.pad(labels[:, 1:], (0, 1), value=-100)
        if shift_labels is None:
            x = x[:, slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep]
        logits = self.lm_head(x)
        loss = lm_loss = aux_loss = None
        if routing == "topk":
            aux_loss = sum((value for value, _ in terms), torch.zeros((), device=x.device))
        if shift_labels is not None:
            lm_loss = F.cross_entropy(logits.float().flatten(0, 1), shift_labels.to(logits.device).flatten())
            loss = lm_loss + sum(value * weight for value, weight in terms)
        out = FathomOutput(loss=loss, logits=logits, cache=cache, lm_loss=lm_loss, aux_loss=aux_loss)
        return out if return_dict is None or return_dict else out.to_tuple()


FathomConfig.register_for_auto_class()
FathomForCausalLM.register_for_auto_class("AutoModelForCausalLM")
