"""The model in PyTorch, double precision, from docs/model.md alone: plain and Mixture-of-Depths, training and causal."""
import json
import math
import struct

import numpy as np
import torch
import torch.nn.functional as F


def read_safetensors(path):
    with open(path, "rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(length))
        data = f.read()
    out = {}
    for name, t in header.items():
        if name != "__metadata__":
            begin, end = t["data_offsets"]
            assert t["dtype"] == "F32"
            out[name] = torch.from_numpy(np.frombuffer(data[begin:end], "<f4").reshape(t["shape"]).astype(np.float64))
    return out


def round_half_away(x):
    return int(math.floor(x + 0.5))


class Model:
    def __init__(self, config, params):
        self.c, self.p = config, params
        mod = config.get("mod")
        self.mod = mod
        self.capacity = {}
        if mod:
            caps = mod["capacity"]
            caps = caps if isinstance(caps, list) else [caps] * len(mod["layers"])
            self.capacity = {l: float(np.float32(c)) for l, c in zip(mod["layers"], caps)}
            self.threshold = dict(zip(mod["layers"], mod["threshold"]))

    def layer(self, l, name):
        return self.p[f"model.layers.{l}.{name}"]

    def norm(self, x, w):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.c["rms_norm_eps"]) * w

    def rope(self, x, position):  # [n, heads, d_h]
        half = x.shape[-1] // 2
        inverse = self.c["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = position.double()[:, None, None] * inverse
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    def update(self, l, x, position):
        """u(x) of rows [n, d] of one sequence at their positions."""
        h, kv, dh = self.c["num_attention_heads"], self.c["num_key_value_heads"], self.c["head_dim"]
        n = x.shape[0]
        y = self.norm(x, self.layer(l, "input_layernorm.weight"))
        q = self.rope((y @ self.layer(l, "self_attn.q_proj.weight").T).view(n, h, dh), position)
        k = self.rope((y @ self.layer(l, "self_attn.k_proj.weight").T).view(n, kv, dh), position)
        v = (y @ self.layer(l, "self_attn.v_proj.weight").T).view(n, kv, dh)
        k, v = k.repeat_interleave(h // kv, 1), v.repeat_interleave(h // kv, 1)
        scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(dh)
        scores = scores.masked_fill(~torch.ones(n, n).tril().bool(), -math.inf)
        a = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).reshape(n, h * dh)
        a = a @ self.layer(l, "self_attn.o_proj.weight").T
        y = self.norm(x + a, self.layer(l, "post_attention_layernorm.weight"))
        m = F.silu(y @ self.layer(l, "mlp.gate_proj.weight").T) * (y @ self.layer(l, "mlp.up_proj.weight").T)
        return a + m @ self.layer(l, "mlp.down_proj.weight").T

    def gate(self, r):
        kind = self.mod["gate"]
        if self.mod["router"] == "stochastic" or kind == "one":
            return torch.ones_like(r)
        return torch.sigmoid(r) if kind == "sigmoid" else r

    def rule(self, l, x, r):
        if self.mod["causal"] != "predictor":
            return r
        name = "mod.predictor."
        hidden = F.silu(x.detach() @ self.layer(l, name + "fc1.weight").T + self.layer(l, name + "fc1.bias"))
        return (hidden @ self.layer(l, name + "fc2.weight").T + self.layer(l, name + "fc2.bias")).squeeze(-1)

    def run(self, batch, causal=False, frozen=None):
        """The losses; frozen: selections to use instead of choosing (for differencing)."""
        tokens, targets = torch.tensor(batch["inputs"]), torch.tensor(batch["targets"])
        B, T = tokens.shape
        position = torch.arange(T)
        x = self.p["model.embed_tokens.weight"][tokens]
        selected, rule_loss, weighted, agreed, pairs = {}, 0.0, 0.0, 0, 0
        for l in range(self.c["num_hidden_layers"]):
            if l not in self.capacity:
                x = torch.stack([x[b] + self.update(l, x[b], position) for b in range(B)])
                continue
            if self.mod["router"] == "stochastic":
                r = torch.tensor(batch["noise"][str(l)], dtype=torch.float64)
            else:
                r = (x @ self.layer(l, "mod.router.weight").T).squeeze(-1)
            rule = self.rule(l, x, r)
            rows, member = [], torch.zeros(B, T)
            for b in range(B):
                if causal:
                    s = (rule[b] > self.threshold[l]).nonzero().flatten()
                elif frozen:
                    s = torch.tensor(frozen[str(l)][b], dtype=torch.long)
                elif self.mod["router"] == "token-choice":
                    k = min(T, max(1, round_half_away(self.capacity[l] * T)))
                    s = (r[b] > self.threshold[l]).nonzero().flatten()[:k]
                else:
                    k = min(T, max(1, round_half_away(self.capacity[l] * T)))
                    s = torch.tensor(sorted(sorted(range(T), key=lambda i: (-r[b, i].item(), i))[:k]))
                rows.append(s)
                member[b, s] = 1
            selected[str(l)] = [s.tolist() for s in rows]
            if not causal and self.mod["router"] == "token-choice":
                c, f, p = self.capacity[l], (r > self.threshold[l]).double().mean().item(), torch.sigmoid(r).mean()
                balance = f * p / c + (1 - f) * (1 - p) / (1 - c)
                rule_loss = rule_loss + balance
                weighted = weighted + balance * self.mod["aux_weight"]
                agreed += ((r > self.threshold[l]) == (member > 0)).sum().item()
                pairs += B * T
            elif not causal and self.mod["causal"] != "noise":
                bce = F.binary_cross_entropy_with_logits(rule, member.double())
                rule_loss = rule_loss + bce
                weighted = weighted + bce * (self.mod["aux_weight"] if self.mod["causal"] == "aux" else 1.0)
                agreed += ((rule > self.threshold[l]) == (member > 0)).sum().item()
                pairs += B * T
            new = []
            for b, s in enumerate(rows):
                if len(s) == 0:
                    new.append(x[b])
                    continue
                u = self.update(l, x[b][s], s)
                new.append(x[b].index_add(0, s, self.gate(r[b][s])[:, None] * u))
            x = torch.stack(new)
        x = self.norm(x, self.p["model.norm.weight"])
        logits = x @ self.p.get("lm_head.weight", self.p["model.embed_tokens.weight"]).T
        loss = F.cross_entropy(logits.view(B * T, -1), targets.view(-1), ignore_index=-1)
        return {"loss": loss, "aux_loss": rule_loss, "total": loss + weighted, "selected": selected,
                "router_accuracy": agreed / pairs if pairs else None}
