"""Holds the engine's losses, selections and gradients against PyTorch's autograd and against central differences, both in
double precision, from the same files. check.py CASE_DIR... | --selftest CASE_DIR: prints TAP."""
import json
import os
import sys

try:
    import torch
except ImportError:
    print("1..0 # SKIP no torch")
    sys.exit(77)
from model import Model, read_safetensors

GRADIENT, DIFFERENCE, LOSS = 1e-4, 1e-3, 1e-5


def load(path):
    with open(path) as f:
        return json.load(f)


def relative(a, b):
    return (a - b).abs().max().item() / max(b.abs().max().item(), 1e-8)


def differences(config, params, batch, frozen, gradients, generator):
    """Along one random direction for each tensor: (L(p + e v) - L(p - e v)) / 2e against <gradient, v>. Choices are
    frozen to those of a run, and a predictor's input is a constant, which differencing cannot see: all other parameters
    are differenced without the predictors' losses."""
    worst = (0.0, "")
    for name, value in params.items():
        v = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        key = "total" if "predictor" in name else "attached"
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                moved = dict(params)
                moved[name] = value + sign * 1e-5 * v
                ends.append(Model(config, moved).run(batch, frozen=frozen)[key].item())
        slope = (ends[0] - ends[1]) / 2e-5
        scale = (gradients[name].norm() * v.norm() / v.numel() ** 0.5).item()
        worst = max(worst, (abs((gradients[name] * v).sum().item() - slope) / max(abs(slope), scale, 1e-8), name))
    return worst


def check_case(folder, change=1.0):
    """[(passed, what, figures)]; change scales the engine's first gradient, to see the check fail."""
    config, batch = load(f"{folder}/config.json"), load(f"{folder}/batch.json")
    mine = load(f"{folder}/losses.json")
    params = {k: v.requires_grad_() for k, v in read_safetensors(f"{folder}/model.safetensors").items()}
    theirs = read_safetensors(f"{folder}/gradients.safetensors")
    first = next(iter(theirs))
    theirs[first] = theirs[first] * change
    model = Model(config, params)
    out = model.run(batch)
    out["total"].backward()
    with torch.no_grad():
        causal = model.run(batch, causal=True)
    results = []

    def close(what, a, b):
        b = float(b)
        error = abs(a - b) / max(abs(b), 1e-8) if b or a else 0.0
        results.append((error <= LOSS, what, f"{a:.8f} here {b:.8f} relative error {error:.1e}"))

    close("loss", mine["loss"], out["loss"])
    close("causal loss", mine["loss_causal"], causal["loss"])
    close("causal rule's loss", mine["aux_loss"], out["aux_loss"])
    results.append((mine["selected"] == out["selected"], "selected tokens", ""))
    experts = mine.get("experts", {})
    if experts or out["experts"]:
        results.append((experts == out["experts"], "experts' tokens", ""))
    results.append((mine["router_accuracy"] is out["router_accuracy"] is None or
                    abs(mine["router_accuracy"] - out["router_accuracy"]) < 1e-9, "router accuracy", ""))
    results.append((set(params) == set(theirs), "names of parameters", ""))
    grads = {k: v.grad if v.grad is not None else torch.zeros_like(v) for k, v in params.items()}
    worst = max((relative(theirs[k], grads[k]), k) for k in params)
    results.append((worst[0] <= GRADIENT, f"{len(params)} gradients against autograd", f"worst {worst[0]:.1e} {worst[1]}"))
    plain = {k: v.detach() for k, v in params.items()}
    frozen = dict(out, selected=mine["selected"], experts={**out["experts"], **experts})
    worst = differences(config, plain, batch, frozen, theirs, torch.Generator().manual_seed(1))
    results.append((worst[0] <= DIFFERENCE, "gradients against central differences", f"worst {worst[0]:.1e} {worst[1]}"))
    return results


def main():
    selftest = sys.argv[1] == "--selftest"
    failed = number = 0
    for folder in sys.argv[2 if selftest else 1:]:
        name = os.path.basename(folder)
        if selftest:
            caught = [r for r in check_case(folder, change=1.001) if not r[0]]
            rows = [(len(caught) >= 1, "a gradient that is off by 0.1 % is caught", "")]
        else:
            rows = check_case(folder)
        for good, what, figures in rows:
            number += 1
            failed += not good
            print(f"{'ok' if good else 'not ok'} {number} - {name}: {what}{' (' + figures + ')' if figures else ''}")
    print(f"1..{number}")
    sys.exit(1 if failed else 0)


main()
