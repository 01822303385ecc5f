"""Training steps of fathom beside PyTorch's, same shapes, in turn within one run: torch_speed.py FATHOM [--eager] [--rounds N].

Both train the same architecture: RMSNorm, rotary embedding, causal attention, SwiGLU, tied embedding, AdamW, clipping at 1, fp32. The
routed PyTorch model gathers the tokens of the top 1/8 logits of every other block, computes the block on them and scatters its gated
update back. Its predictor is left out, which is to PyTorch's advantage. Prints the median of the rounds' ratios of step times.
"""
import argparse, json, os, statistics, subprocess, time

import torch
import torch.nn.functional as F

SHAPES = {  # width: layers, heads, ffn, vocabulary, T, batch, steps a round
    64: (8, 4, 192, 256, 256, 8, 12),
    288: (6, 6, 768, 4096, 256, 8, 4),
    768: (4, 12, 2048, 32000, 512, 4, 1),
}


def rotate(x, cosine, sine):
    low, high = x.chunk(2, -1)
    return torch.cat((low * cosine - high * sine, high * cosine + low * sine), -1)


class Block(torch.nn.Module):
    def __init__(self, d, heads, f):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = torch.nn.RMSNorm(d), torch.nn.RMSNorm(d)
        self.qkv, self.out = torch.nn.Linear(d, 3 * d, bias=False), torch.nn.Linear(d, d, bias=False)
        self.gate_up, self.down = torch.nn.Linear(d, 2 * f, bias=False), torch.nn.Linear(f, d, bias=False)

    def forward(self, x, cosine, sine):
        B, T, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, d)
        x = x + self.out(y)
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Model(torch.nn.Module):
    def __init__(self, d, layers, heads, f, vocab, T, routed):
        super().__init__()
        self.embed = torch.nn.Embedding(vocab, d)
        self.blocks = torch.nn.ModuleList(Block(d, heads, f) for _ in range(layers))
        self.norm = torch.nn.RMSNorm(d)
        self.routers = torch.nn.ParameterList(torch.randn(d) / d for _ in range(layers)) if routed else None
        dh = d // heads
        angle = torch.arange(T)[:, None] * 10000.0 ** (-torch.arange(0, dh, 2) / dh)
        self.register_buffer("cosine", angle.cos())
        self.register_buffer("sine", angle.sin())

    def forward(self, tokens, targets):
        x = self.embed(tokens)
        B, T, d = x.shape
        for i, block in enumerate(self.blocks):
            if self.routers is None or i % 2 == 0:
                x = block(x, self.cosine, self.sine)
                continue
            logit = x @ self.routers[i]
            index = logit.topk(T // 8, dim=1).indices.sort(dim=1).values
            rows = index[..., None].expand(-1, -1, d)
            chosen = x.gather(1, rows)
            update = block(chosen, self.cosine[index][:, None], self.sine[index][:, None]) - chosen
            x = x.scatter_add(1, rows, update * logit.gather(1, index)[..., None])
        logits = self.norm(x) @ self.embed.weight.T
        return F.cross_entropy(logits.view(B * T, -1), targets.reshape(-1))


class Torch:
    def __init__(self, d, routed, compiled):
        layers, heads, f, vocab, T, batch, self.steps = SHAPES[d]
        self.model = Model(d, layers, heads, f, vocab, T, routed)
        self.run = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.tokens = torch.randint(vocab, (batch, T + 1))
        self.step()
        self.step()

    def step(self):
        self.optimizer.zero_grad()
        self.run(self.tokens[:, :-1], self.tokens[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def seconds(self):
        taken = []
        for _ in range(self.steps):
            began = time.perf_counter()
            self.step()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)


def fathom_seconds(binary, d, routed):
    layers, heads, f, vocab, T, batch, steps = SHAPES[d]
    command = [binary, "bench", "train", "--dim", d, "--layers", layers, "--heads", heads, "--ffn", f, "--vocab", vocab, "--seq-len", T,
               "--batch", batch, "--steps", steps, "--json", "--threads", torch.get_num_threads()]
    if routed:
        command += ["--mod", "topk", "--mod-capacity", "0.125", "--mod-every", "2"]
    said = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(said.stdout)["ms_per_step"] * 1e-3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fathom")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="+", default=list(SHAPES))
    options = parser.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, {'eager' if options.eager else 'torch.compile'}")
    for d in options.widths:
        for routed in False, True:
            other, ratios, times = Torch(d, routed, not options.eager), [], []
            for _ in range(options.rounds):
                ours, theirs = fathom_seconds(options.fathom, d, routed), other.seconds()
                ratios.append(theirs / ours)
                times.append((ours, theirs))
            ours, theirs = (statistics.median(t[i] for t in times) for i in range(2))
            print(f"width {d:4d} {'MoD  ' if routed else 'plain'}  fathom {ours * 1e3:8.1f} ms  PyTorch {theirs * 1e3:8.1f} ms  "
                  f"PyTorch / fathom {statistics.median(ratios):.2f}", flush=True)


if __name__ == "__main__":
    main()
