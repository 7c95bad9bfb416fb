#!/usr/bin/env python3
"""tokenizer.py: the demo model's byte-level BPE, in the form of Qwen2.5's.

    demo/tokenizer.py train TEXTS.jsonl MODEL        tokenizer.json and the files beside it
    demo/tokenizer.py encode MODEL TEXTS.jsonl SHARD conversations -> 16-bit ids for train.py
    demo/tokenizer.py ids MODEL < LINES              the ids of every line

The first 256 ids are the bytes, then come the merges in the order in which they were learned, then the
special tokens. Every digit is a token of its own, as in Qwen's.
"""
import array
import collections
import heapq
import json
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

VOCAB = 2560
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END, START_TURN, END_TURN = range(VOCAB - 3, VOCAB)
ANSWER = 0x8000  # set on every token of an answer: train.py gives those more weight

QWEN_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+")
# The same for Python's re, which knows no \p: right for ASCII, and the texts are ASCII.
PATTERN = re.compile(QWEN_PATTERN.replace(r"[^\r\n\p{L}\p{N}]", r"[^\r\nA-Za-z0-9]")
                     .replace(r"[^\s\p{L}\p{N}]", r"[^\sA-Za-z0-9]").replace(r"\p{L}", "[A-Za-z]").replace(r"\p{N}", "[0-9]"))


def alphabet():
    """GPT-2's printable character for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [b for b in range(256) if b not in plain]
    chars = {b: chr(b) for b in plain}
    chars.update({b: chr(256 + i) for i, b in enumerate(other)})
    return chars


def chatml(system):
    """Qwen2's chat template, with our default system message."""
    return ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
            "{{ '<|im_start|>system\\n" + system + "<|im_end|>\\n' }}{% endif %}"
            "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def learn(words):
    """Merge the most frequent pair, again and again: [(left, right)] as ids."""
    parts = [list(w.encode()) for w in words]
    counts = list(words.values())
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for i, p in enumerate(parts):
        for pair in zip(p, p[1:]):
            pairs[pair] += counts[i]
            where[pair].add(i)
    heap = [(-n, pair) for pair, n in pairs.items()]
    heapq.heapify(heap)
    merges = []
    while len(merges) < VOCAB - len(SPECIAL) - 256:
        n, pair = heapq.heappop(heap)
        if -n != pairs[pair]:  # the count has changed since
            if pairs[pair] > 0:
                heapq.heappush(heap, (-pairs[pair], pair))
            continue
        new = 256 + len(merges)
        merges.append(pair)
        for i in where.pop(pair):
            p, changed = parts[i], set()
            for old in zip(p, p[1:]):
                pairs[old] -= counts[i]
            parts[i] = p = merged(p, pair, new)
            for now in zip(p, p[1:]):
                pairs[now] += counts[i]
                where[now].add(i)
                changed.add(now)
            for now in changed:
                heapq.heappush(heap, (-pairs[now], now))
    return merges


def merged(parts, pair, new):
    out, i = [], 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return out


class Tokenizer:
    def __init__(self, folder):
        with open(os.path.join(folder, "tokenizer.json")) as f:
            data = json.load(f)
        byte_of = {c: b for b, c in alphabet().items()}
        ids = {bytes(byte_of[c] for c in text): i for text, i in data["model"]["vocab"].items()}
        self.rank, self.new = {}, {}
        for rank, m in enumerate(data["model"]["merges"]):
            left, right = (bytes(byte_of[c] for c in part) for part in m.split(" "))
            self.rank[ids[left], ids[right]] = rank
            self.new[ids[left], ids[right]] = ids[left + right]
        self.known = {}
        self.byte = [ids[bytes([b])] for b in range(256)]

    def word(self, word):
        parts = [self.byte[b] for b in word.encode()]
        while len(parts) > 1:
            pair = min(zip(parts, parts[1:]), key=lambda p: self.rank.get(p, 1 << 30))
            if pair not in self.rank:
                break
            parts = merged(parts, pair, self.new[pair])
        return parts

    def encode(self, text):
        out = []
        for w in PATTERN.findall(text):
            if w not in self.known:
                self.known[w] = self.word(w)
            out += self.known[w]
        return out

    def conversation(self, messages):
        """ChatML, as chat.c writes it, ended by <|endoftext|>; the answers' tokens are marked."""
        out = []
        for m in messages:
            out += [START_TURN] + self.encode(m["role"] + "\n")
            body = self.encode(m["content"]) + [END_TURN]
            out += [i | ANSWER for i in body] if m["role"] == "assistant" else body
            out += self.encode("\n")
        return out + [END]


def texts(path):
    with open(path) as f:
        for line in f:
            yield json.loads(line)["messages"]


def train(path, folder):
    from importlib.machinery import SourceFileLoader
    here = os.path.dirname(os.path.abspath(__file__))
    system = SourceFileLoader("generate", os.path.join(here, "generate")).load_module().SYSTEM
    words = collections.Counter()
    for messages in texts(path):
        for m in messages:
            words.update(PATTERN.findall(m["role"] + "\n"))
            words.update(PATTERN.findall(m["content"]))
    words = collections.Counter({w: n for w, n in sorted(words.items())})
    merges = learn(words)
    chars = alphabet()
    names = [chars[b] for b in range(256)]
    lines = []
    for left, right in merges:
        lines.append(names[left] + " " + names[right])
        names.append(names[left] + names[right])
    added = [{"id": END + i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i, s in enumerate(SPECIAL)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    write(folder, "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": QWEN_PATTERN}, "behavior": "Isolated", "invert": False},
            byte_level]},
        "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
                  "vocab": {n: i for i, n in enumerate(names)}, "merges": lines}})
    write(folder, "tokenizer_config.json", {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(a["id"]): {k: v for k, v in a.items() if k != "id"} for a in added},
        "additional_special_tokens": SPECIAL[1:], "bos_token": None, "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "unk_token": None, "model_max_length": 1024,
        "tokenizer_class": "Qwen2Tokenizer", "chat_template": chatml(system)})
    write(folder, "generation_config.json", {
        "do_sample": True, "temperature": 0.3, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.0,
        "bos_token_id": END, "eos_token_id": [END_TURN, END], "pad_token_id": END})


def write(folder, name, data):
    with open(os.path.join(folder, name), "w") as f:
        json.dump(data, f, indent=1, ensure_ascii=False)
        f.write("\n")


def encode(folder, path, shard):
    tokenizer, out = Tokenizer(folder), array.array("H")
    for messages in texts(path):
        out.extend(tokenizer.conversation(messages))
    with open(shard + ".new", "wb") as f:
        out.tofile(f)
    os.replace(shard + ".new", shard)
    print(f"{shard}: {len(out)} tokens")


def main(args):
    if len(args) == 3 and args[0] == "train":
        os.makedirs(args[2], exist_ok=True)
        return train(args[1], args[2])
    if len(args) == 4 and args[0] == "encode":
        return encode(*args[1:])
    if len(args) == 2 and args[0] == "ids":
        tokenizer = Tokenizer(args[1])
        for line in sys.stdin:
            print(" ".join(map(str, tokenizer.encode(line.rstrip("\n")))))
        return None
    sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
