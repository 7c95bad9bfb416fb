#!/usr/bin/python3
"""train.py: train the demo model and write it as a Hugging Face folder.

    demo/train.py DATA RUN --steps N [--resume]     DATA: shards written by demo/tokenizer.py encode
    demo/train.py --export RUN MODEL                RUN's last checkpoint -> MODEL/model.safetensors

README.md has the commands that made the shipped model.

The model is Qwen2ForCausalLM, written out here with nothing but tensors: what a line of model.h says
about a layer can be found in `Model.forward`. On a CPU every worker is a process with one thread (two
threads in one process wait for each other at every small operation), gradients are averaged over the
workers; on a GPU there is one worker.

Matrices are trained with Muon: the momentum's singular values are all made 1, so that every
direction learns at the same pace; there are only a few thousand steps, and rare things must be learned
as well. Embedding, biases and norms are trained with AdamW.
"""
import argparse
import ctypes
import json
import math
import os
import random
import signal
import struct
import sys
import time

import torch
import torch.distributed as dist

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 1024,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 2560,
    "torch_dtype": "bfloat16",
    "bos_token_id": 2557,
    "eos_token_id": 2559,
}
ANSWER = 0x8000  # set in a shard on every token of an assistant's answer
END = 2557  # <|endoftext|>: ends every document
TOKENS = 2048  # of a worker in a step
D, F, L = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["num_hidden_layers"]
H, KV = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
HEAD = D // H
LOW = torch.bfloat16


# ---- operations that keep few intermediate results ------------------------------------------------


class RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        r = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + CONFIG["rms_norm_eps"])
        n = x * r
        ctx.save_for_backward(n, r, w)
        return (n * w).to(LOW)

    @staticmethod
    def backward(ctx, g):
        n, r, w = ctx.saved_tensors
        g = g.float()
        dw = (g * n).sum(0)
        g = g * w
        g = g - n * (g * n).mean(-1, keepdim=True)
        return g.mul_(r), dw


class Rotate(torch.autograd.Function):
    """RoPE on (B, T, heads, HEAD): pairs are (i, i + HEAD/2)."""

    @staticmethod
    def turn(x, cos, sin):
        a, b = x.float().chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(LOW)

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return Rotate.turn(x, cos, sin)

    @staticmethod
    def backward(ctx, g):
        cos, sin = ctx.saved_tensors
        return Rotate.turn(g, cos, -sin), None, None


class SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        gate, up = x.chunk(2, -1)
        return torch.nn.functional.silu(gate) * up

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        gate, up = x.chunk(2, -1)
        s = torch.sigmoid(gate)
        out = torch.empty_like(x)
        y = gate * s
        out[:, F:] = g * y
        out[:, :F] = g * up * (s + y * (1 - s))
        return out


class Loss(torch.autograd.Function):
    """Weighted cross entropy of x @ e.T; the gradients are made right here, a piece at a time."""

    @staticmethod
    def forward(ctx, x, e, targets, weights):
        low = e.to(LOW)
        dx, de = torch.empty_like(x), torch.zeros_like(e)
        losses = torch.empty_like(weights)
        for i in range(0, len(x), 1024):
            rows = slice(i, i + 1024)
            logits = (x[rows] @ low.t()).float()
            logits = torch.log_softmax(logits, -1)
            t = targets[rows, None]
            losses[rows] = -logits.gather(1, t)[:, 0]
            logits.exp_()
            logits.scatter_add_(1, t, torch.full_like(t, -1, dtype=logits.dtype))
            logits.mul_(weights[rows, None])
            g = logits.to(LOW)
            dx[rows] = g @ low
            de += g.t() @ x[rows]
        ctx.save_for_backward(dx, de)
        ctx.mark_non_differentiable(losses)
        return (losses * weights).sum(), losses

    @staticmethod
    def backward(ctx, g, _):
        dx, de = ctx.saved_tensors
        return dx, de, None, None


# ---- the model ------------------------------------------------------------------------------------


def linear(x, w, b=None):
    y = x @ w.to(LOW).t()
    return y if b is None else y + b.to(LOW)


class Model:
    def __init__(self, device):
        g = torch.Generator().manual_seed(1)
        self.device = device
        self.p = {}

        def add(name, *shape, std=0.02):
            t = torch.randn(*shape, generator=g) * std if std else torch.zeros(*shape)
            self.p[name] = t.to(device).requires_grad_()

        add("model.embed_tokens.weight", CONFIG["vocab_size"], D)
        for i in range(L):
            at = f"model.layers.{i}."
            add(at + "self_attn.qkv.weight", (H + 2 * KV) * HEAD, D, std=D**-0.5)
            add(at + "self_attn.qkv.bias", (H + 2 * KV) * HEAD, std=0)
            add(at + "self_attn.o_proj.weight", D, H * HEAD, std=0.02 / math.sqrt(2 * L))
            add(at + "mlp.gate_up.weight", 2 * F, D, std=D**-0.5)
            add(at + "mlp.down_proj.weight", D, F, std=0.02 / math.sqrt(2 * L))
            add(at + "input_layernorm.weight", D, std=0)
            add(at + "post_attention_layernorm.weight", D, std=0)
        add("model.norm.weight", D, std=0)
        with torch.no_grad():
            for name, p in self.p.items():
                if "norm" in name:
                    p.fill_(1)
        frequency = CONFIG["rope_theta"] ** (-torch.arange(0, HEAD, 2) / HEAD)
        angle = torch.arange(CONFIG["max_position_embeddings"])[:, None] * frequency
        self.cos, self.sin = angle.cos()[:, None].to(device), angle.sin()[:, None].to(device)
        n = CONFIG["max_position_embeddings"]
        self.mask = torch.full((n, n), float("-inf")).triu(1).to(LOW).to(device)

    def attention(self, h, at, B, T):
        p = self.p
        qkv = linear(h, p[at + "qkv.weight"], p[at + "qkv.bias"]).view(B, T, H + 2 * KV, HEAD)
        qk = Rotate.apply(qkv[:, :, : H + KV], self.cos[:T], self.sin[:T]).transpose(1, 2)
        # the query heads that share a key head stand below each other: one product for all
        q = qk[:, :H].reshape(B * KV, H // KV * T, HEAD) * HEAD**-0.5
        k = qk[:, H:].reshape(B * KV, T, HEAD)
        v = qkv[:, :, H + KV :].transpose(1, 2).reshape(B * KV, T, HEAD)
        s = torch.bmm(q, k.transpose(1, 2))
        s = s + self.mask[:T, :T].repeat(H // KV, 1)
        o = torch.bmm(torch.softmax(s, -1), v)
        o = o.view(B, H, T, HEAD).transpose(1, 2).reshape(B * T, H * HEAD)
        return linear(o, p[at + "o_proj.weight"])

    def forward(self, ids):
        B, T = ids.shape
        p = self.p
        x = p["model.embed_tokens.weight"][ids.reshape(-1)]
        for i in range(L):
            at = f"model.layers.{i}."
            h = RMSNorm.apply(x, p[at + "input_layernorm.weight"])
            x = x + self.attention(h, at + "self_attn.", B, T)
            h = RMSNorm.apply(x, p[at + "post_attention_layernorm.weight"])
            h = SwiGLU.apply(linear(h, p[at + "mlp.gate_up.weight"]))
            x = x + linear(h, p[at + "mlp.down_proj.weight"])
        return RMSNorm.apply(x, p["model.norm.weight"])

    def loss(self, ids, targets, weights):
        x = self.forward(ids)
        e = self.p["model.embed_tokens.weight"]
        return Loss.apply(x, e, targets.reshape(-1), weights.reshape(-1))


# ---- the optimizer --------------------------------------------------------------------------------


def orthogonal(m):
    """Newton-Schulz: the nearest matrix to m, about, whose singular values are all 1."""
    x = m.to(LOW)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.t()
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.t()
        b = -4.7750 * a + 2.0315 * (a @ a)
        x = 3.4445 * x + b @ x
    return (x.t() if tall else x).float()


class Optimizer:
    """Muon for matrices (parts of a joined matrix apart), AdamW for the rest. Each worker makes the
    orthogonal updates of its share of the matrices."""

    def __init__(self, params, rank=0, world=1):
        self.params, self.rank, self.world = params, rank, world
        self.m = {k: torch.zeros_like(p) for k, p in params.items()}
        self.v = {k: torch.zeros_like(p) for k, p in params.items() if not self.is_matrix(k)}
        self.t = 0

    @staticmethod
    def is_matrix(name):
        return name.endswith("weight") and "layers" in name and "norm" not in name

    @staticmethod
    def parts(name, t):
        if "qkv" in name:
            return t.split([H * HEAD, KV * HEAD, KV * HEAD])
        if "gate_up" in name:
            return t.split([F, F])
        return (t,)

    @torch.no_grad()
    def step(self, lr, decay):
        self.t += 1
        updates = []
        for name, p in self.params.items():
            g, m = p.grad, self.m[name]
            if self.is_matrix(name):
                m.mul_(0.95).add_(g)
                u = g.add_(m, alpha=0.95)
                updates += [(w, part) for w, part in zip(self.parts(name, p), self.parts(name, u))]
                continue
            v = self.v[name]
            m.mul_(0.9).add_(g, alpha=0.1)
            v.mul_(0.98).addcmul_(g, g, value=0.02)
            u = m / (1 - 0.9**self.t) / ((v / (1 - 0.98**self.t)).sqrt() + 1e-9)
            if p.dim() == 2:
                p.mul_(1 - lr * decay)
            p.add_(u, alpha=-lr)
        for i, (_, u) in enumerate(updates):
            if i % self.world == self.rank:
                # 0.2 sqrt(size): the size of an AdamW update
                u.copy_(orthogonal(u) * (0.2 * math.sqrt(max(u.shape))))
            else:
                u.zero_()
        flat = torch.cat([u.reshape(-1) for _, u in updates])
        if self.world > 1:
            dist.all_reduce(flat)
        at = 0
        for w, u in updates:
            w.mul_(1 - lr * decay).add_(flat[at : at + u.numel()].view_as(u), alpha=-lr)
            at += u.numel()


def planned(step, args, started):
    """The learning rate: warm-up, constant, then a straight line down to zero; with --minutes the line
    alone, by the clock."""
    if args.minutes:
        rate = args.lr * max(0.0, 1 - (time.time() - started) / 60 / args.minutes)
    else:
        rate = args.lr * min((step + 1) / 100, (args.steps - step) / (args.steps * args.cooldown), 1.0)
    return rate


# ---- data -----------------------------------------------------------------------------------------


def read_shard(path):
    """The documents of a shard, each a list of 16-bit words."""
    with open(path, "rb") as f:
        data = torch.frombuffer(bytearray(f.read()), dtype=torch.int16).to(torch.int32) & 0xFFFF
    ends = ((data & ~ANSWER) == END).nonzero()[:, 0].tolist()
    docs, start = [], 0
    for end in ends:
        docs.append(data[start : end + 1])
        start = end + 1
    return docs


def fact_tokens(model):
    """Which tokens begin or continue what an article draws at random: names, numbers, places, things."""
    from articles import (ACTS, ANIMALS, BUILDINGS, CARGO, DANGERS, DIETS, DISASTERS, FESTIVALS, FOODS, GROUPS, HABITS,
                          HOBBIES, INVENTIONS, MEMORIES, MEN, MONTHS, NUMBERS, PARTS, PLACES, PRIZES, PRODUCTS,
                          RESCUERS, SECRETS, SHIPS, SURNAMES, TRADES, TROUBLES, USES, VILLAGES, WOMEN)
    from tokenizer import Tokenizer

    lists = (ACTS, ANIMALS, BUILDINGS, CARGO, DANGERS, DIETS, DISASTERS, FESTIVALS, FOODS, GROUPS, HABITS, HOBBIES,
             INVENTIONS, MEMORIES, MEN, MONTHS, NUMBERS, PARTS, PLACES, PRIZES, PRODUCTS, RESCUERS, SECRETS, SHIPS,
             SURNAMES, TRADES, TROUBLES, USES, VILLAGES, WOMEN, "0123456789")
    words = {w for values in lists for value in values for w in value.split()} - set("the of a in that it and with".split())
    marks, tokenizer = torch.zeros(CONFIG["vocab_size"], dtype=torch.bool), Tokenizer(model)
    for w in words:
        for text in (w, " " + w, w.capitalize()):
            marks[tokenizer.encode(text)] = True
    marks[tokenizer.encode(" ")] = False
    return marks


def batches(folder, rank, world, skip, prompt_weight, facts, fact_weight):
    """Endless batches (ids, targets, weights) of documents of like length; `skip` of them are left out."""
    used, longest = 0, CONFIG["max_position_embeddings"]
    while True:
        shards = sorted(n for n in os.listdir(folder) if n.endswith(".bin"))
        docs = read_shard(os.path.join(folder, shards[used % len(shards)]))
        rng = random.Random(used)
        rng.shuffle(docs)
        docs = [d[: longest + 1] for d in docs]
        docs.sort(key=lambda d: (len(d) + 15) // 16)  # stable: like lengths stay shuffled
        groups, group = [], []
        for d in docs:
            padded = (len(d) - 1 + 15) // 16 * 16
            if group and padded * (len(group) + 1) > TOKENS:
                groups.append(group)
                group = []
            group.append(d)
        rng.shuffle(groups)
        used += 1
        for group in groups[rank : len(groups) // world * world : world]:
            if skip > 0:
                skip -= 1
                continue
            T = (max(len(d) for d in group) - 1 + 15) // 16 * 16
            ids = torch.full((len(group), T), END, dtype=torch.int64)
            targets, weights = torch.full_like(ids, END), torch.zeros(len(group), T)
            for row, d in enumerate(group):
                n = len(d) - 1
                ids[row, :n] = d[:-1] & ~ANSWER
                targets[row, :n] = d[1:] & ~ANSWER
                weight = torch.where(facts[targets[row, :n]], fact_weight, 1.0)
                weights[row, :n] = torch.where(d[1:] & ANSWER > 0, weight, torch.tensor(prompt_weight))
            yield ids, targets, weights


# ---- the run --------------------------------------------------------------------------------------


def save(path, model, optimizer, step, history, seconds):
    torch.save({"params": model.p, "m": optimizer.m, "v": optimizer.v, "step": step,
                "history": history, "seconds": seconds, "config": CONFIG}, path + ".new")
    os.replace(path + ".new", path)


def show(step, last, loss, answer, lr, tokens_per_s, seconds):
    done = 30 * step // last
    line = f"[{'#' * done}{'-' * (30 - done)}] {step}/{last}  loss {loss:.3f}  answers {answer:.3f}  lr {lr:.5f}" \
           f"  {tokens_per_s:.0f} tokens/s  {seconds / 60:.0f} min"
    print(("\r" if sys.stdout.isatty() else "") + line,
          end="" if sys.stdout.isatty() else "\n", flush=True)


def worker(rank, world, args):
    if sys.platform == "linux":  # keep large blocks: fresh pages would be zeroed again and again
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    torch.set_num_threads(1)
    torch.manual_seed(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{os.path.abspath(args.run)}/meet",
                                rank=rank, world_size=world)
    model = Model(device)
    optimizer = Optimizer(model.p, rank, world)
    path = os.path.join(args.run, "checkpoint.pt")
    first, history, seconds = 0, [], 0.0
    if args.resume:
        c = torch.load(path, map_location=device)
        with torch.no_grad():
            for k, p in model.p.items():
                p.copy_(c["params"][k])
        optimizer.m, optimizer.v, optimizer.t = c["m"], c["v"], c["step"]
        first, history, seconds = c["step"], c["history"], c["seconds"]
    params = list(model.p.values())
    facts = fact_tokens(args.tokenizer)
    data = batches(args.data, rank, world, first, args.prompt_weight, facts, args.fact_weight)
    started, recent = time.time(), [0.0, 0.0, 0.0, 0.0, time.time()]
    for step in range(first, 1 << 30 if args.minutes else args.steps):
        ids, targets, weights = (t.to(device) for t in next(data))
        scale = 1 / (0.6 * TOKENS)  # about the sum of the weights; the same for every batch
        loss, losses = model.loss(ids, targets, weights * scale)
        for p in params:
            p.grad = None
        loss.backward()
        is_answer = weights.view(-1) >= 1
        flat = torch.cat([p.grad.view(-1) for p in params] +
                         [torch.stack([(losses * (weights.view(-1) > 0)).sum(),
                                       (weights > 0).sum(), (losses * is_answer).sum(),
                                       is_answer.sum()]).float(),
                          torch.full((1,), planned(step, args, started), device=device)])
        if world > 1:
            dist.all_reduce(flat)
            flat[:-5] /= world
            flat[-1] /= world
        norm = flat[:-5].norm()
        flat[:-5] *= torch.clamp(1.0 / (norm + 1e-6), max=1.0)
        at = 0
        for p in params:
            p.grad = flat[at : at + p.numel()].view_as(p)
            at += p.numel()
        lr = flat[-1].item()  # the workers' clocks differ, their mean does not
        optimizer.step(lr, 0.1)
        for i, value in enumerate(flat[-5:-1].tolist()):
            recent[i] += value
        if rank == 0 and (step + 1) % 20 == 0:
            now = time.time()
            spent = seconds + now - started
            mean, answer = recent[0] / recent[1], recent[2] / max(recent[3], 1)
            history.append([step + 1, mean, answer])
            share = max(1e-3, (now - started) / 60 / args.minutes) if args.minutes else 1
            last = args.steps if not args.minutes else first + int((step + 1 - first) / min(1, share))
            show(step + 1, last, mean, answer, lr, recent[1] / (now - recent[4]), spent)
            recent = [0.0, 0.0, 0.0, 0.0, now]
            if (step + 1) % 200 == 0:
                save(path, model, optimizer, step + 1, history, spent)
        if lr == 0:
            break
    if rank == 0:
        save(path, model, optimizer, step + 1, history, seconds + time.time() - started)
        plot(history, os.path.join(args.run, "loss.svg"))
        print()


# ---- what comes out -------------------------------------------------------------------------------


def plot(history, path):
    """Loss over steps as SVG: all tokens, and those of the answers."""
    w, h, left, low = 720, 360, 50, 40
    last, top = history[-1][0], 4.0
    x = lambda step: left + step / last * (w - left - 20)
    y = lambda loss: 20 + (1 - min(loss, top) / top) * (h - low - 20)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" font-family="sans-serif"'
           ' font-size="12">', f'<rect width="{w}" height="{h}" fill="white"/>']
    for i in range(5):
        out.append(f'<path d="M{left} {y(i):.1f}H{w - 20}" stroke="#ddd"/>'
                   f'<text x="{left - 8}" y="{y(i) + 4:.1f}" text-anchor="end">{i}</text>')
        step = last * i // 4
        out.append(f'<text x="{x(step):.1f}" y="{h - 22}" text-anchor="middle">{step}</text>')
    out.append(f'<text x="{w / 2}" y="{h - 5}" text-anchor="middle">step</text>')
    for column, colour, name in ((1, "#888", "all tokens"), (2, "#06c", "answers")):
        line = " ".join(f"{x(p[0]):.1f},{y(p[column]):.1f}" for p in history)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        out.append(f'<text x="{w - 120}" y="{20 + 18 * column}" fill="{colour}">{name}</text>')
    with open(path, "w") as f:
        f.write("\n".join(out) + "\n</svg>\n")


def separate(params):
    """Joined matrices -> the tensors as Hugging Face names them."""
    for name, p in params.items():
        if "qkv" in name:
            for part, t in zip("qkv", p.split([H * HEAD, KV * HEAD, KV * HEAD])):
                yield name.replace("qkv", part + "_proj"), t
        elif "gate_up" in name:
            for part, t in zip(("gate", "up"), p.split([F, F])):
                yield name.replace("gate_up", part + "_proj"), t
        else:
            yield name, p


def export(run, folder):
    """Safetensors: the header's length in 8 bytes, the header (JSON), the data."""
    c = torch.load(os.path.join(run, "checkpoint.pt"), map_location="cpu")
    header, data, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, t in sorted(separate(c["params"])):
        raw = t.detach().to(LOW).contiguous().view(torch.int16).numpy().tobytes()
        header[name] = {"dtype": "BF16", "shape": list(t.shape), "data_offsets": [at, at + len(raw)]}
        data.append(raw)
        at += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(data))
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(CONFIG, f, indent=2)
        f.write("\n")
    plot(c["history"], os.path.join(run, "loss.svg"))
    print(f"step {c['step']}, {c['seconds'] / 60:.0f} minutes, {at // 2} parameters, "
          f"loss {c['history'][-1][1]:.3f}, of answers {c['history'][-1][2]:.3f}")


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    a.add_argument("data")
    a.add_argument("run")
    a.add_argument("--steps", type=int, default=3000)
    a.add_argument("--lr", type=float, default=3e-3)
    a.add_argument("--cooldown", type=float, default=0.4, help="share of the steps that lower it")
    a.add_argument("--prompt-weight", type=float, default=0.2, help="loss of a token that is no answer")
    a.add_argument("--fact-weight", type=float, default=1.0, help="loss of an answer's token that is a fact")
    a.add_argument("--tokenizer", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "model"))
    a.add_argument("--minutes", type=float, help="with --resume: end after so long, whatever --steps says")
    a.add_argument("--workers", type=int, default=2)
    a.add_argument("--resume", action="store_true")
    a.add_argument("--export", action="store_true")
    args = a.parse_args()
    if args.export:
        return export(args.data, args.run)
    os.makedirs(args.run, exist_ok=True)
    meet = os.path.join(args.run, "meet")
    if os.path.exists(meet):
        os.remove(meet)
    world = 1 if torch.cuda.is_available() else args.workers
    if world == 1:
        return worker(0, 1, args)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and the workers with it
    torch.multiprocessing.spawn(worker, (world, args), nprocs=world, daemon=True)


if __name__ == "__main__":
    main()
