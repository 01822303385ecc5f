"""The model in PyTorch, double precision, from docs/model.md alone: training and causal, with every routing."""
import json
import math
import struct
from types import SimpleNamespace

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


def largest(values, k):
    """Where the k largest are, in ascending order; ties go to the lower index."""
    return torch.argsort(-values, stable=True)[:k].sort().values


def scatter(x, at, u):
    """The stream [B, T, d] with u added to its rows at."""
    return x.flatten(0, 1).index_add(0, at, u).view(x.shape)


class Model:
    def __init__(self, config, params):
        self.c, self.p = config, params
        self.mod, self.experts = config.get("mod") or {}, config.get("experts") or {}
        self.integrated = self.experts.get("mode") == "integrated"
        self.unit, self.route_kv = self.mod.get("unit", "block"), self.mod.get("route_kv", True)
        layers, caps = self.mod.get("layers", []), self.mod.get("capacity", 1.0)
        caps = caps if isinstance(caps, list) else [caps] * len(layers)
        self.capacity = {l: float(np.float32(c)) for l, c in zip(layers, caps)}
        parts = [".attn", ".mlp"] if self.unit == "attn+mlp" else [""]
        self.threshold = dict(zip([f"{l}{part}" for l in layers for part in parts], self.mod.get("threshold", [])))

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

    def project(self, l, name, y):
        bias = self.p.get(f"model.layers.{l}.self_attn.{name}.bias")
        return y @ self.layer(l, f"self_attn.{name}.weight").T + (0 if bias is None else bias)

    def attention(self, l, x, s):
        """a of the rows s of one sequence x [T, d]: among themselves, or over every token's keys and values."""
        h, kv, dh = self.c["num_attention_heads"], self.c["num_key_value_heads"], self.c["head_dim"]
        seen = s if self.route_kv else torch.arange(x.shape[0])
        y = self.norm(x, self.layer(l, "input_layernorm.weight"))
        q = self.rope(self.project(l, "q_proj", y[s]).view(-1, h, dh), s)
        k = self.rope(self.project(l, "k_proj", y[seen]).view(-1, kv, dh), seen)
        v = self.project(l, "v_proj", y[seen]).view(-1, kv, dh)
        k, v = k.repeat_interleave(h // kv, 1), v.repeat_interleave(h // kv, 1)
        scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(dh)
        scores = scores.masked_fill(seen[None, :] > s[:, None], -math.inf)
        a = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).reshape(len(s), h * dh)
        return a @ self.layer(l, "self_attn.o_proj.weight").T

    def ffn(self, l, y, gate, up, down):
        m = F.silu(y @ self.layer(l, gate + ".weight").T) * (y @ self.layer(l, up + ".weight").T)
        return m @ self.layer(l, down + ".weight").T

    def predict(self, l, name, x):
        hidden = F.silu(x.detach() @ self.layer(l, name + "fc1.weight").T + self.layer(l, name + "fc1.bias"))
        return hidden @ self.layer(l, name + "fc2.weight").T + self.layer(l, name + "fc2.bias")

    def gate(self, r):
        kind = self.mod["gate"]
        if self.mod["router"] == "stochastic" or kind == "one":
            return torch.ones_like(r)
        return torch.sigmoid(r) if kind == "sigmoid" else r

    def mlp(self, o, l, x, counts):
        """MLP(RMSNorm(x)) of packed rows [n, d], so many of each sequence."""
        y = self.norm(x, self.layer(l, "post_attention_layernorm.weight"))
        E, K, n = self.c.get("num_local_experts", 0), self.c.get("num_experts_per_tok", 0), len(y)
        if not E:
            return self.ffn(l, y, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
        limited = self.integrated and l in self.capacity
        c, no_ops = (self.capacity[l], self.experts["no_ops"]) if limited else (1.0, 0)
        w = self.layer(l, "block_sparse_moe.gate.weight")
        p = (y @ (torch.cat([w, self.layer(l, "mod.no_ops.weight")]) if no_ops else w).T).softmax(-1)
        sequences = [slice(sum(counts[:b]), sum(counts[:b + 1])) for b in range(len(counts))]
        places = [min(m, max(1, round_half_away(c * K * m / E))) for m in counts]
        member = torch.zeros(n, E, dtype=torch.bool)
        by_expert = self.experts["router"] == "expert-choice"
        if by_expert:
            logit = self.predict(l, "mod.experts.predictor.", y)
            if o.causal:
                member = logit > 0
            else:
                for rows, k in zip(sequences, places):
                    for e in range(E):
                        member[rows, e] = member[rows, e].index_fill(0, largest(p[rows, e], k), True)
        else:
            first = torch.argsort(-p, dim=1, stable=True)[:, :K]
            chosen = torch.zeros_like(p, dtype=torch.bool).scatter(1, first, True)
            member = chosen[:, :E].clone()
            if limited and not o.causal:
                for rows, k in zip(sequences, places):
                    member[rows] &= member[rows].cumsum(0) <= k
        if o.frozen:
            member = torch.zeros(n, E, dtype=torch.bool)
            for e, rows in enumerate(o.frozen["experts"][str(l)]):
                member[rows, e] = True
        taken = [member[:, e].nonzero().flatten() for e in range(E)]
        o.experts[str(l)] = [rows.tolist() for rows in taken]
        if n and not o.causal and by_expert:
            o.terms.append((F.binary_cross_entropy_with_logits(logit, member.double()), 1.0, True))
            o.agreed += ((logit > 0) == member).sum().item()
            o.decided += n * E
        elif n and not o.causal:
            f = self.share(o, f"{l}.experts", chosen.double().sum(0) / (n * K))
            q = torch.tensor([c / E] * E + [(1 - c) / max(no_ops, 1)] * no_ops, dtype=torch.float64)
            o.terms.append(((f * p.mean(0) / q).sum(), self.c["router_aux_loss_coef"], False))
            if limited:
                o.agreed += n * K - (chosen[:, :E].sum() - member.sum()).item()
                o.decided += n * K
        out = torch.zeros_like(y)
        for e, rows in enumerate(taken):
            name = f"block_sparse_moe.experts.{e}."
            out = out.index_add(0, rows, p[rows, e, None] * self.ffn(l, y[rows], name + "w1", name + "w3", name + "w2"))
        return out

    def share(self, o, label, f):
        """A balancing loss's f: a constant, when differencing too."""
        o.share[label] = o.frozen["share"][label] if o.frozen else f
        return o.share[label]

    def route(self, o, l, part, x):
        """The rows of each sequence that part of layer l is given, and their gates."""
        B, T = x.shape[:2]
        label, name = (f"{l}.{part}", f"mod.{part}.") if self.unit == "attn+mlp" else (str(l), "mod.")
        kind, causal, threshold = self.mod["router"], self.mod["causal"], self.threshold[label]
        k = min(T, max(1, round_half_away(self.capacity[l] * T)))
        if kind == "stochastic":
            r = torch.tensor(o.noise[label], dtype=torch.float64)
        else:
            r = (x @ self.layer(l, name + "router.weight").T).squeeze(-1)
        rule = self.predict(l, name + "predictor.", x).squeeze(-1) if causal == "predictor" else r
        rows, member = [], torch.zeros(B, T, dtype=torch.bool)
        for b in range(B):
            if o.causal:
                s = (rule[b] > threshold).nonzero().flatten()
            elif o.frozen:
                s = torch.tensor(o.frozen["selected"][label][b], dtype=torch.long)
            elif kind == "token-choice":
                s = (r[b] > threshold).nonzero().flatten()[:k]
            else:
                s = largest(r[b], k)
            rows.append(s)
            member[b, s] = True
        o.selected[label] = [s.tolist() for s in rows]
        if not o.causal and kind == "token-choice":
            c, p = self.capacity[l], torch.sigmoid(r).mean()
            f = self.share(o, label, (r > threshold).double().mean().item())
            o.terms.append((f * p / c + (1 - f) * (1 - p) / (1 - c), self.mod["aux_weight"], False))
        elif not o.causal and causal != "noise":
            weight = self.mod["aux_weight"] if causal == "aux" else 1.0
            o.terms.append((F.binary_cross_entropy_with_logits(rule, member.double()), weight, causal == "predictor"))
        if not o.causal and causal != "noise":
            o.agreed += ((rule > threshold) == member).sum().item()
            o.decided += B * T
        return rows, self.gate(r[member])[:, None]

    def block(self, o, l, x):
        B, T = x.shape[:2]
        every = [torch.arange(T)] * B, torch.ones(B * T, 1, dtype=torch.float64)
        unit = self.unit if l in self.capacity and not self.integrated else ""
        rows, gate = self.route(o, l, "attn", x) if unit in ("block", "attn", "attn+mlp") else every
        at = torch.cat([b * T + s for b, s in enumerate(rows)])
        a = torch.cat([self.attention(l, x[b], s) for b, s in enumerate(rows)])
        if unit == "block":
            return scatter(x, at, gate * (a + self.mlp(o, l, x.flatten(0, 1)[at] + a, [len(s) for s in rows])))
        x = scatter(x, at, gate * a)
        rows, gate = self.route(o, l, "mlp", x) if unit in ("mlp", "attn+mlp") else every
        at = torch.cat([b * T + s for b, s in enumerate(rows)])
        return scatter(x, at, gate * self.mlp(o, l, x.flatten(0, 1)[at], [len(s) for s in rows]))

    def run(self, batch, causal=False, frozen=None):
        """The losses; frozen: a run's output, whose choices to take instead of choosing (for differencing).
        "attached" is the total without the losses that read a constant."""
        o = SimpleNamespace(causal=causal, frozen=frozen, noise=batch.get("noise"), selected={}, experts={}, share={},
                            terms=[], agreed=0, decided=0)
        tokens, targets = torch.tensor(batch["inputs"]), torch.tensor(batch["targets"])
        x = self.p["model.embed_tokens.weight"][tokens]
        for l in range(self.c["num_hidden_layers"]):
            x = self.block(o, l, x)
        x = self.norm(x, self.p["model.norm.weight"])
        logits = x @ self.p.get("lm_head.weight", self.p["model.embed_tokens.weight"]).T
        loss = F.cross_entropy(logits.flatten(0, 1), targets.view(-1), ignore_index=-1)
        return {"logits": logits, "loss": loss, "aux_loss": sum(t for t, _, _ in o.terms),
                "total": loss + sum(t * w for t, w, _ in o.terms),
                "attached": loss + sum(t * w for t, w, detached in o.terms if not detached),
                "selected": o.selected, "experts": o.experts, "share": o.share,
                "router_accuracy": o.agreed / o.decided if o.decided else None}
