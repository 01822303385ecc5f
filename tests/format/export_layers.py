"""Holds the layers of an exported model against the engine, in double precision: export_layers.py DIR CASE...
DIR has fathom_layers.py; a CASE is what tests/reference/tool_case.c writes."""
import json
import os
import sys
from types import SimpleNamespace

import torch
import torch.nn.functional as F

sys.path[:0] = [sys.argv[1], os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference")]
from fathom_layers import FathomModel, LayerCache, largest, places  # noqa: E402
from model import read_safetensors  # noqa: E402


def load(path):
    with open(path) as f:
        return json.load(f)


def check(good, what, figures=""):
    print(f"{'ok' if good else 'not ok'} - {what}{' (' + figures + ')' if figures else ''}")


def make(folder):
    c = SimpleNamespace(**load(f"{folder}/config.json"))
    return c, FathomModel(c, {"rope_theta": c.rope_theta})


def compare(folder):
    name = os.path.basename(folder)
    c, model = make(folder)
    router = getattr(c, "mod", {}).get("router")
    params, wanted = read_safetensors(f"{folder}/model.safetensors"), read_safetensors(f"{folder}/gradients.safetensors")
    state = {k[len("model."):]: v for k, v in params.items() if k != "lm_head.weight"}
    model.double().load_state_dict(state)
    head = params["lm_head.weight"].requires_grad_() if "lm_head.weight" in params else model.embed_tokens.weight
    batch, mine = load(f"{folder}/batch.json"), load(f"{folder}/losses.json")
    tokens, targets = torch.tensor(batch["inputs"]), torch.tensor(batch["targets"])

    def run(routing, rows=slice(None), **keywords):
        x, terms = model(model.embed_tokens(tokens[rows]), routing, **keywords)
        return x @ head.T, terms

    def close(what, a, b, most=1e-5):
        error = abs(a - float(b)) / max(abs(a), 1e-8)
        check(error <= most, f"{name}: {what}", f"relative error {error:.1e}")

    logits, terms = run("topk")
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
    close("loss", mine["loss"], loss)
    if terms:
        close("routers' losses", mine["aux_loss"], sum(value for value, _ in terms))
    (loss + sum(value * weight for value, weight in terms)).backward()
    gradients = {"model." + k: p.grad for k, p in model.named_parameters()}
    gradients["lm_head.weight"] = head.grad
    worst = (0.0, "")
    for k, g in wanted.items():
        mine_here = torch.zeros_like(g) if gradients[k] is None else gradients[k]
        worst = max(worst, ((mine_here - g).abs().max().item() / max(g.abs().max().item(), 1e-8), k))
    check(worst[0] <= 1e-4, f"{name}: {len(wanted)} gradients", f"worst {worst[0]:.1e} {worst[1]}")
    with torch.no_grad():
        causal = run("causal")[0]
        if router != "stochastic":  # the engine's noise of an evaluated batch is that of its rows, not of positions
            close("causal loss", mine["loss_causal"], F.cross_entropy(causal.flatten(0, 1), targets.flatten(), ignore_index=-1))
        T, parts = tokens.shape[1], []
        cache = [LayerCache() for _ in range(c.num_hidden_layers)]
        for begin, end in [(0, 7)] + [(i, i + 1) for i in range(7, T)]:
            parts.append(run("causal", (slice(None), slice(begin, end)), past=begin, cache=cache)[0])
        error = (torch.cat(parts, 1) - causal).abs().max().item()
        check(error < 1e-9, f"{name}: prefill and steps are one pass", f"{error:.1e}")
        # two sequences of different lengths, padded on either side, give what each gives alone
        for routing in ("causal", "topk") if router != "stochastic" else ("causal",):
            for padded in (slice(5, None), slice(None, T - 5)):
                mask = torch.ones_like(tokens)
                mask[1, slice(0, 5) if padded.start else slice(T - 5, T)] = 0
                together, alone = run(routing, attention_mask=mask)[0][1:2, padded], run(routing, (slice(1, 2), padded))[0]
                error = (together - alone).abs().max().item()
                check(error < 1e-9, f"{name}: {routing} with padding {'before' if padded.start else 'after'}", f"{error:.1e}")


def ties():
    """Equal logits go to the lower index, NaN comes last."""
    everyone = torch.ones(1, 7, dtype=torch.bool)
    r = torch.tensor([[1.0, float("nan"), 1.0, -2.0, 1.0, 0.0, 5.0]])
    member = largest(r, everyone, places(everyone, 0.5))  # k = 4: half away from zero of 3.5
    check(member[0].nonzero().flatten().tolist() == [0, 2, 4, 6], "ties go to the lower index")
    r[0, 4:] = r[0, 3] = float("nan")
    member = largest(r, everyone, places(everyone, 0.5))
    check(member[0].nonzero().flatten().tolist() == [0, 1, 2, 3], "NaN is below every number")


def main():
    ties()
    try:
        FathomModel(SimpleNamespace(mod={"router": "hash"}), {"rope_theta": 1e4})
        check(False, "an unknown router is refused")
    except NotImplementedError as e:
        check("mod.router" in str(e) and "hash" in str(e), "an unknown router is refused", str(e))
    for folder in sys.argv[2:]:
        compare(folder)


main()
