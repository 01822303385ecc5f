"""The blocks of a fathom model in PyTorch alone (no transformers), training and sampling; modeling_fathom.py wraps them.

Names and mathematics are those of fathom's docs/model.md. A layer is a list of stages; a stage computes its update on rows, [B, m] of
the stream [B, T, d]: all of them, or what its router chose, filled up to the longest sequence's number with rows that count for
nothing (valid is False). The routing is "topk" (as trained; looks ahead) or "causal" (as sampling does), one for the whole pass.
Routers, predictors, norms, softmaxes and losses are computed in float32 (float64 in a float64 model) whatever the parameters' type is."""
import ctypes
import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

UNSEEN = 1 << 40  # the column of a key that no query sees
RNG_ROUTE = 3  # the stream of random numbers that stochastic routing draws from
KINDS = {"mod": {"router": ("topk", "stochastic", "token-choice"), "gate": ("raw", "sigmoid", "one"),
                 "causal": ("predictor", "aux", "noise", "choice"), "unit": ("block", "attn", "mlp", "attn+mlp")},
         "experts": {"router": ("token-choice", "expert-choice"), "mode": ("staged", "integrated")}}


def wide(x):
    return x if x.dtype == torch.float64 else x.float()


def wide_linear(linear, x):
    return F.linear(wide(x), wide(linear.weight), None if linear.bias is None else wide(linear.bias))


def as_float32(x):
    """The number that the engine reads from config.json."""
    return ctypes.c_float(x).value


def rope_frequencies(rope, half):
    """Angles a position turns the pairs by, float64 [half]. rope: rope_theta and, where frequencies are scaled, rope_type and its fields:
    linear divides all by factor; llama3 (Llama 3.1's) those whose waves are long, with a passage between."""
    plain = as_float32(rope["rope_theta"]) ** (-torch.arange(half, dtype=torch.float64) / half)
    kind = rope.get("rope_type", rope.get("type")) or "default"
    if kind == "default":
        return plain
    if kind not in ("linear", "llama3"):
        raise NotImplementedError(f"rope_scaling.rope_type: {kind!r} is not one of default, linear, llama3")
    stretched = plain / as_float32(rope["factor"])
    if kind == "linear":
        return stretched
    low, high = as_float32(rope["low_freq_factor"]), as_float32(rope["high_freq_factor"])
    waves = rope["original_max_position_embeddings"] * plain / (2 * math.pi)  # that fit the original length
    share = ((waves - low) / (high - low)).clamp(0, 1)
    return (1 - share) * stretched + share * plain


def whole_tokens(tokens, most):
    """Rounded, half away from zero; at least 1, at most `most`."""
    return max(1, min(most, math.floor(tokens + 0.5)))


def places(valid, capacity, per_token=1, experts=1):
    """[B, 1]: how many of the n tokens of each sequence that are there a block takes, or one of its experts."""
    counts = valid.sum(1).tolist()
    return torch.tensor([[whole_tokens(capacity * per_token * n / experts, n) if n else 0] for n in counts], device=valid.device)


def largest(r, valid, k):
    """Where the k [B, 1] largest of r [B, T] are: ties go to the lower index, NaN is below every number."""
    order = torch.argsort(-r.masked_fill(r.isnan(), -math.inf), dim=1, stable=True)
    last = (r.isnan().long() + (~valid).long() * 2).gather(1, order)
    order = order.gather(1, torch.argsort(last, dim=1, stable=True))
    return torch.zeros_like(valid).scatter(1, order, torch.arange(r.shape[1], device=r.device) < k)


def normal_noise(stage, counter, device):
    """The engine's standard normal numbers of int64 counters, float32: Philox 4x32-10 (Salmon et al., 2011) with seed 0, then
    Box-Muller. The 64-bit products wrap around in int64 with the right bits."""
    low = (1 << 32) - 1
    n = counter.to("cpu")
    stream = RNG_ROUTE + (stage << 8)
    a, b, c, d = n & low, (n >> 32) & low, torch.full_like(n, stream), torch.zeros_like(n)
    key, other = 0, 0
    for _ in range(10):
        p, q = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = ((q >> 32) & low) ^ b ^ key, q & low, ((p >> 32) & low) ^ d ^ other, p & low
        key, other = (key + 0x9E3779B9) & low, (other + 0xBB67AE85) & low

    def unit(high, rest):
        return ((high << 21) ^ (rest >> 11)).double() * 2.0**-53

    noise = torch.sqrt(-2 * torch.log(1 - unit(a, b))) * torch.cos(2 * math.pi * unit(c, d))
    return noise.float().to(device)


class Rows:
    """Rows of the stream: index [B, m] (None = all of them, m = T), and of each its column in its sequence, the rotation of its
    position (cos, sin: [B, m, d_h/2]) and whether it is there at all."""

    def __init__(self, index, column, cos, sin, valid):
        self.index, self.column, self.cos, self.sin, self.valid = index, column, cos, sin, valid

    def gather(self, x):
        return x if self.index is None else x.gather(1, self.index[..., None].expand(-1, -1, x.shape[-1]))

    def add(self, x, u):
        """x [B, T, d] with u [B, m, d] added at the rows."""
        if self.index is None:
            return x + u
        u = u.masked_fill(~self.valid[..., None], 0)
        return x.scatter_add(1, self.index[..., None].expand_as(u), u)

    def choose(self, member):
        """Those of all rows where member [B, T] is True, in order."""
        count = member.sum(1)
        index = torch.argsort((~member).long(), dim=1, stable=True)[:, : int(count.max())]
        valid = torch.arange(index.shape[1], device=index.device) < count[:, None]
        part = Rows(index, self.column.gather(1, index), None, None, valid)
        part.cos, part.sin = part.gather(self.cos), part.gather(self.sin)
        return part


class LayerCache:
    """Keys (rotated) and values of one layer [B, h_kv, n, d_h] with their columns [B, n]: of one sequence exactly what was computed
    there, which for a routed layer is what was routed; of several up to the largest number, the rest in column UNSEEN."""

    def __init__(self):
        self.k = self.v = self.column = None

    def append(self, k, v, column):
        if self.k is not None:
            k, v, column = torch.cat([self.k, k], 2), torch.cat([self.v, v], 2), torch.cat([self.column, column], 1)
        self.k, self.v, self.column = k, v, column
        return k, v, column

    def reorder(self, sequences):
        if self.k is not None:
            self.k, self.v, self.column = self.k[sequences], self.v[sequences], self.column[sequences]


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = as_float32(eps)

    def forward(self, x):
        y = wide(x)
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps) * wide(self.weight)).to(x.dtype)


class Attention(nn.Module):
    """a: the queries of rows `at` over the keys of rows `seen` and of the cache, each up to its own column."""

    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        biased = getattr(c, "base_model_type", None) == "qwen2"
        self.q_proj = nn.Linear(c.hidden_size, self.heads * self.head_dim, bias=biased)
        self.k_proj = nn.Linear(c.hidden_size, self.kv_heads * self.head_dim, bias=biased)
        self.v_proj = nn.Linear(c.hidden_size, self.kv_heads * self.head_dim, bias=biased)
        self.o_proj = nn.Linear(self.heads * self.head_dim, c.hidden_size, bias=False)

    def split(self, x, heads):
        return x.view(x.shape[0], x.shape[1], heads, self.head_dim).transpose(1, 2)

    @staticmethod
    def rotate(x, rows):  # [B, heads, n, d_h]: the pair (i, i + d_h/2) by p theta^(-2i/d_h)
        a, b = wide(x).chunk(2, -1)
        cos, sin = rows.cos[:, None], rows.sin[:, None]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)

    def forward(self, y, at, y_seen, seen, cache):
        k = self.rotate(self.split(self.k_proj(y_seen), self.kv_heads), seen)
        v = self.split(self.v_proj(y_seen), self.kv_heads)
        column = seen.column.masked_fill(~seen.valid, UNSEEN)
        if cache is not None:
            k, v, column = cache.append(k, v, column)
        q = self.rotate(self.split(self.q_proj(y), self.heads), at)
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, v))
        scores = wide(q) @ wide(k).transpose(2, 3) * self.head_dim**-0.5
        hidden = column[:, None, None, :] > at.column[:, None, :, None]
        p = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1)
        a = (p @ wide(v)).to(y.dtype).transpose(1, 2).flatten(2)
        return self.o_proj(a)


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, y):
        return self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))


class Predictor(nn.Module):
    """The causal rule's logits; it reads its input as a constant."""

    def __init__(self, dim, hidden, outputs):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x):
        return wide_linear(self.fc2, F.silu(wide_linear(self.fc1, x.detach())))


class Router(nn.Module):
    """Which rows go through a stage, and with which gate."""

    def __init__(self, c, stage, capacity, threshold):
        super().__init__()
        mod = c.mod
        self.kind, self.causal = mod["router"], mod.get("causal", "predictor")
        self.gate = "one" if self.kind == "stochastic" else mod.get("gate", "raw")
        self.aux_weight = as_float32(mod.get("aux_weight", 0.01))
        self.stage, self.capacity, self.threshold = stage, capacity, as_float32(threshold)
        if self.kind != "stochastic":
            self.router = nn.Linear(c.hidden_size, 1, bias=False)
        if self.causal == "predictor":
            self.predictor = Predictor(c.hidden_size, mod["predictor_hidden"], 1)

    def forward(self, x, p):
        everyone, valid = p.rows, p.rows.valid
        if self.kind == "stochastic":
            r = normal_noise(self.stage, p.noise_counter, x.device)
        else:
            r = wide_linear(self.router, x).squeeze(-1)
        rule = self.predictor(x).squeeze(-1) if self.causal == "predictor" else r
        if p.routing == "causal":
            member = (rule > self.threshold) & valid
        elif self.kind == "token-choice":
            chosen = (r > self.threshold) & valid
            member = chosen & (chosen.cumsum(1) <= places(valid, self.capacity))
            f, c, mean = chosen.sum().to(r.dtype) / valid.sum(), self.capacity, torch.sigmoid(r)[valid].mean()
            p.terms.append((f * mean / c + (1 - f) * (1 - mean) / (1 - c), self.aux_weight))
        else:
            member = largest(r.detach(), valid, places(valid, self.capacity))
            if self.causal != "noise":
                loss = F.binary_cross_entropy_with_logits(rule[valid], member[valid].to(rule.dtype))
                p.terms.append((loss, self.aux_weight if self.causal == "aux" else 1.0))
        rows = everyone.choose(member)
        if self.gate == "one":
            return rows, None
        r = r.gather(1, rows.index)
        return rows, (torch.sigmoid(r) if self.gate == "sigmoid" else r)[..., None]


class Expert(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.w1 = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)  # gate
        self.w2 = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)  # down
        self.w3 = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)  # up

    def forward(self, y):
        return self.w2(F.silu(self.w1(y)) * self.w3(y))


class Experts(nn.Module):
    """The MLP as a mixture of experts. capacity: of a layer with no-op experts (integrated mode), else None."""

    def __init__(self, c, capacity):
        super().__init__()
        self.count, self.per_token, self.capacity = c.num_local_experts, c.num_experts_per_tok, capacity
        self.by_expert, self.weight = c.experts["router"] == "expert-choice", as_float32(c.router_aux_loss_coef)
        self.gate = nn.Linear(c.hidden_size, self.count, bias=False)
        self.experts = nn.ModuleList(Expert(c) for _ in range(self.count))

    def choose_tokens(self, prob, logit, valid, p):
        if p.routing == "causal":
            return (logit > 0) & valid[..., None]
        k = places(valid, 1 if self.capacity is None else self.capacity, self.per_token, self.count)
        member = torch.stack([largest(prob[..., e].detach(), valid, k) for e in range(self.count)], -1)
        if valid.any():
            p.terms.append((F.binary_cross_entropy_with_logits(logit[valid], member[valid].to(logit.dtype)), 1.0))
        return member

    def choose_experts(self, prob, valid, p):
        first = torch.argsort(-prob.detach(), dim=-1, stable=True)[..., : self.per_token]
        chosen = torch.zeros_like(prob, dtype=torch.bool).scatter(2, first, True) & valid[..., None]
        member = chosen[..., : self.count]
        if p.routing == "causal" or not valid.any():
            return member
        c, no_ops = (1.0, 0) if self.capacity is None else (self.capacity, prob.shape[-1] - self.count)
        q = torch.tensor([c / self.count] * self.count + [(1 - c) / max(no_ops, 1)] * no_ops, dtype=prob.dtype, device=prob.device)
        f = chosen.sum((0, 1)).to(prob.dtype) / (valid.sum() * self.per_token)
        p.terms.append(((f * prob[valid].mean(0) / q).sum(), self.weight))
        if self.capacity is None:
            return member
        return member & (member.cumsum(1) <= places(valid, c, self.per_token, self.count)[..., None])

    def forward(self, y, valid, p, mod):
        """y [B, m, d], the norm's output; mod has the layer's predictor and no-op experts, where it has them."""
        weight = self.gate.weight if self.capacity is None else torch.cat([self.gate.weight, mod.no_ops.weight])
        prob = F.linear(wide(y), wide(weight)).softmax(-1)
        if self.by_expert:
            member = self.choose_tokens(prob, mod.experts.predictor(y), valid, p)
        else:
            member = self.choose_experts(prob, valid, p)
        out = torch.zeros_like(y)
        for e, expert in enumerate(self.experts):
            at = member[..., e].nonzero(as_tuple=True)
            out = out.index_put(at, (prob[..., e][at][:, None] * wide(expert(y[at]))).to(y.dtype), accumulate=True)
        return out


class Block(nn.Module):
    """A layer's stages: (router or None, attention runs, MLP runs)."""

    def __init__(self, c, layer):
        super().__init__()
        self.layer = layer
        self.self_attn = Attention(c)
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.route_kv = True
        self.stages = [(None, True, True)]
        self.mod = nn.Module()
        mod, experts = getattr(c, "mod", None), getattr(c, "experts", None)
        skips, integrated = bool(mod) and layer in mod["layers"], bool(experts) and experts["mode"] == "integrated"
        if skips:
            at, capacity = mod["layers"].index(layer), mod["capacity"]
            capacity = as_float32(capacity[at] if isinstance(capacity, list) else capacity)
            if not integrated:
                self.add_routers(c, at, capacity)
        if not experts:
            self.mlp = MLP(c)
            return
        self.block_sparse_moe = Experts(c, capacity if skips and integrated else None)
        if skips and integrated:
            self.mod.no_ops = nn.Linear(c.hidden_size, experts["no_ops"], bias=False)
        if experts["router"] == "expert-choice":
            self.mod.experts = nn.Module()
            self.mod.experts.predictor = Predictor(c.hidden_size, experts["predictor_hidden"], c.num_local_experts)

    def add_routers(self, c, at, capacity):
        mod, unit = c.mod, c.mod.get("unit", "block")
        self.route_kv = mod.get("route_kv", True)
        routers = 2 if unit == "attn+mlp" else 1
        thresholds = mod.get("threshold", [0.0] * (routers * len(mod["layers"])))

        def router(part=0):
            stage = self.layer if unit == "block" else 2 * self.layer + (unit == "mlp" or part == 1)
            return Router(c, stage, capacity, thresholds[routers * at + part] if isinstance(thresholds, list) else thresholds)

        if unit == "attn+mlp":
            self.mod.attn, self.mod.mlp = router(0), router(1)
            self.stages = [(self.mod.attn, True, False), (self.mod.mlp, False, True)]
        else:
            self.mod = router()
            self.stages = {"block": [(self.mod, True, True)], "attn": [(self.mod, True, False), (None, False, True)],
                           "mlp": [(None, True, False), (self.mod, False, True)]}[unit]

    def attention(self, x, packed, at, routed, p):
        cache = p.cache[self.layer] if p.cache is not None else None
        if routed and not self.route_kv:
            y = self.input_layernorm(x)
            return self.self_attn(at.gather(y), at, y, p.rows, cache)
        y = self.input_layernorm(packed)
        return self.self_attn(y, at, y, at, cache)

    def forward(self, x, p):
        for router, attends, has_mlp in self.stages:
            at, gate = router(x, p) if router is not None else (p.rows, None)
            packed = at.gather(x)
            u = self.attention(x, packed, at, router is not None, p) if attends else 0
            if has_mlp:
                y = self.post_attention_layernorm(packed + u)
                u = u + (self.block_sparse_moe(y, at.valid, p, self.mod) if hasattr(self, "block_sparse_moe") else self.mlp(y))
            x = at.add(x, u if gate is None else (gate * wide(u)).to(x.dtype))
        return x


def refuse_unknown(c):
    """What these layers do not compute is refused here, by name; the rest is fathom's to check."""
    stored = getattr(c, "quantization_config", None)
    if isinstance(stored, dict) and stored.get("quant_method") == "fathom-q8":
        raise NotImplementedError("quantization_config.quant_method: 'fathom-q8' is read by fathom alone; take the model it was made from")
    for group, kinds in KINDS.items():
        fields = getattr(c, group, None) or {}
        for name, known in kinds.items():
            if fields.get(name, known[0]) not in known:
                raise NotImplementedError(f"{group}.{name}: {fields[name]!r} is not one of {', '.join(known)}")


class FathomModel(nn.Module):
    """Token ids to the normalised stream that the head reads. c: the fields of config.json as attributes; rope: rope_frequencies has it."""

    def __init__(self, c, rope):
        super().__init__()
        refuse_unknown(c)
        self.config, self.rope = c, dict(rope)
        rope_frequencies(rope, 1)  # refuses what it does not know
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Block(c, layer) for layer in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.rotations = None  # made when first needed; no buffer, as it is no part of the state
        self.noise_counter = 0  # stochastic routing: where training's next step draws from

    def rotation(self, like):
        """cos and sin [max_position_embeddings, d_h/2] of every position, in double and then rounded, as positions are large."""
        kind = wide(like)
        if self.rotations is None or self.rotations[0].device != kind.device or self.rotations[0].dtype != kind.dtype:
            angle = torch.arange(self.config.max_position_embeddings)[:, None] * rope_frequencies(self.rope, self.config.head_dim // 2)
            self.rotations = angle.cos().to(kind), angle.sin().to(kind)
        return self.rotations

    def noise_counters(self, routing, position):
        """A token's noise when sampling is that of its position; in training each row of each step has its own, as the engine's."""
        if routing == "causal":
            return position
        begin = self.noise_counter if self.training else 0
        self.noise_counter += position.numel() if self.training else 0
        return begin + torch.arange(position.numel(), device=position.device).view_as(position)

    def forward(self, x, routing, past=0, attention_mask=None, position_ids=None, cache=None):
        """x: the embeddings [B, T, d] of T tokens after `past` ones, attention_mask [B, past + T]: False for padding, cache: a
        LayerCache for each layer. Returns the stream [B, T, d] and, for top-k routing, each router's (loss, weight)."""
        B, T = x.shape[:2]
        if past + T > self.config.max_position_embeddings:
            raise ValueError(f"{past + T} tokens: the model was made for at most {self.config.max_position_embeddings}")
        column = torch.arange(past, past + T, device=x.device).expand(B, T)
        valid = torch.ones_like(column, dtype=torch.bool)
        if attention_mask is not None:
            valid = attention_mask[:, past:].bool()
            if position_ids is None:
                position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, past:]
        cos, sin = self.rotation(x)
        position = column if position_ids is None else position_ids.expand(B, T)
        p = SimpleNamespace(routing=routing, rows=Rows(None, column, cos[position], sin[position], valid), cache=cache, terms=[],
                            noise_counter=self.noise_counters(routing, position))
        for layer in self.layers:
            x = layer(x, p)
        return self.norm(x), p.terms
