#!/usr/bin/env python3
"""Trains the voice-command model on what tokenizer.py and speech.py made.

    python train.py --data scratch/data --run scratch/run --minutes 65

On a CPU that has other work too start one single-threaded process a core; a team of threads stalls whenever one of them
is preempted:

    for r in 0 1; do RANK=$r WORLD=2 OMP_NUM_THREADS=1 nice -n 5 python train.py ... & done; wait

Most batches hold clips of like length in a window cut to fit. In the last part of the time most are the real 10 s
window, padded with silence or filled with several clips. The learning rate follows the clock (warm-up, then a cosine),
so that a slow machine makes fewer steps and still finishes.
"""
import argparse
import json
import math
import os
import pathlib
import queue
import random
import threading
import time

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tokenizers import Tokenizer

import augment
import model
import tokenizer
from corpus import RATE, Corpus, word_edits
from muon import Muon

# Attention heads that are pulled towards the place where a word is spoken: (layer, head).
GUIDED_HEADS = [(0, 0), (1, 0), (1, 1)]
GUIDE_WIDTH_S = 0.3


# ---- evaluation -------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(net, corpus, whole_window, limit, examples=0):
    """{group: word error rate in percent}, greedy, on up to `limit` clips of each group."""
    net.eval()
    groups = {f"{split}/{kind}": corpus.of(split, kind) for split in ("valid", "test") for kind in ("command", "words")}
    groups["test/fsdd"] = [c for takes in corpus.digits("test").values() for c in takes[::25]]
    prompt = [corpus.tokens[s] for s in tokenizer.PROMPT]
    rates = {}
    for name, clips in groups.items():
        clips = sorted(clips[:limit], key=lambda c: c.samples)
        edits = words = 0
        said = []
        for k in range(0, len(clips), 24):
            part = clips[k : k + 24]
            n = augment.WINDOW if whole_window else max(c.samples for c in part) + RATE // 2
            n = min(n + (-n) % 3200, augment.WINDOW)
            audio = np.zeros((len(part), n), np.float32)
            for row, clip in zip(audio, part):
                x = corpus.audio(clip)[: n - 3200]
                row[3200 : 3200 + len(x)] = x
            mel = model.log_mel(torch.from_numpy(audio))
            for clip, ids in zip(part, net.greedy(mel, prompt, corpus.tokens["<|endoftext|>"])):
                text = corpus.tok.decode(ids).strip()
                edits += word_edits(clip.text.split(), text.split())
                words += len(clip.text.split())
                said.append((clip.voice, clip.text, text))
        if clips:
            rates[name] = round(100 * edits / words, 1)
        for example in random.sample(said, min(examples, len(said))):
            print("     ", *example, sep=" | ", flush=True)
    net.train()
    return rates


# ---- losses -----------------------------------------------------------------------------------------------------


def ctc_loss(net, encoded, phonemes):
    """The encoder alone must spell the phonemes."""
    lengths = torch.tensor([len(p) for p in phonemes])
    scores = net.ctc(encoded).log_softmax(-1).transpose(0, 1)
    targets = torch.tensor([p for row in phonemes for p in row], dtype=torch.long)
    frames = torch.full((len(phonemes),), scores.shape[0])
    loss = F.ctc_loss(scores, targets, frames, lengths, zero_infinity=True, reduction="sum")
    return loss / max(1, int(lengths.sum()))


def guide_loss(weights, times, positions):
    """Attention that falls far from where the next token is spoken."""
    known = times >= 0
    away = torch.arange(positions)[None, None] * 0.02 - times[:, :, None]
    cost = 1 - torch.exp(-(away**2) / (2 * GUIDE_WIDTH_S**2))
    attention = torch.stack([weights[layer][:, head] for layer, head in GUIDED_HEADS]).mean(0)
    return ((attention * cost).sum(-1) * known).sum() / known.sum().clamp(min=1)


# ---- training ---------------------------------------------------------------------------------------------------


class Trainer:
    def __init__(self, args):
        self.args = args
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD", 1))
        if self.world > 1:
            meeting = (args.run / f"rendezvous-{os.environ.get('RUN', '0')}").resolve()
            dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=self.rank, world_size=self.world)
        self.corpus = Corpus(args.data, Tokenizer.from_file(str(args.data / "tokenizer.json")))
        self.config = model.config(self.corpus.tok.get_vocab_size(), self.corpus.tokens)
        self.net = model.Whisper(self.config, self.corpus.ctc_classes)
        if args.init:
            self.net.load_state_dict(torch.load(args.init)["net"])
        matrices, decayed, rest = self.split_parameters()
        self.adam = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
            lr=args.rate, betas=(0.9, 0.98), fused=True,
        )
        self.muon = Muon(matrices, self.rank, self.world)
        self.trained = decayed + rest + matrices
        self.step, self.done, self.began = 0, 0.0, time.time()
        self.say(sum(p.numel() for n, p in self.net.named_parameters() if not n.startswith("ctc")), "parameters,",
                 len(self.corpus.train), "training clips")  # fmt: skip

    def split_parameters(self):
        """(matrices of the layers, other matrices and tables, vectors)"""
        matrices, decayed, rest = [], [], []
        for name, p in self.net.named_parameters():
            if p.requires_grad:
                group = rest if p.dim() <= 1 else matrices if ".layers." in name else decayed
                group.append(p)
        return matrices, decayed, rest

    def say(self, *what):
        if self.rank == 0:
            print(*what, flush=True)
            with open(self.args.run / "log.txt", "a") as f:
                print(*what, file=f)

    def save(self):
        path = self.args.run / "ckpt.pt"
        minutes = (time.time() - self.began) / 60
        torch.save({"net": self.net.state_dict(), "cfg": self.config, "step": self.step, "minutes": minutes}, f"{path}.tmp")
        os.replace(f"{path}.tmp", path)

    def batches(self):
        """A queue that a thread keeps filled; the augmentation grows with the share of time used."""
        args, sampler = self.args, augment.Sampler(self.corpus, self.args.seed + 1000 * self.rank)
        sampler.strength = args.strength
        ready = queue.Queue(6)

        def full_share():
            return args.full_window_early if self.done < args.full_window_from else 0.6

        def work():
            for batch in sampler.stream(args.positions, full_share):
                ready.put(batch)
                sampler.strength = min(args.strength_cap, args.strength + 2 * self.done)

        threading.Thread(target=work, daemon=True).start()
        return ready

    def average_gradients(self):
        """Over all processes; the first one's clock travels along, so that they all stop at the same step."""
        if self.world == 1:
            return
        clock = torch.tensor([self.done * self.world if self.rank == 0 else 0.0])
        flat = torch.cat([p.grad.flatten() for p in self.trained] + [clock])
        dist.all_reduce(flat)
        flat /= self.world
        sizes = [p.numel() for p in self.trained]
        for p, part in zip(self.trained, flat[:-1].split(sizes)):
            p.grad.copy_(part.view_as(p))
        self.done = flat[-1].item()

    def train_step(self, batch):
        args = self.args
        rate = args.rate * min(1, (self.step + 1) / args.warm_up) * (0.02 + 0.49 * (1 + math.cos(math.pi * min(1, self.done))))
        for group in self.adam.param_groups:
            group["lr"] = rate
        encoded = self.net.encode(batch["mel"], batch["start"])
        logits, weights = self.net.decode(batch["inputs"], encoded, want_weights=True)
        text = F.cross_entropy(
            logits.flatten(0, 1), batch["targets"].flatten(), label_smoothing=0.05, ignore_index=augment.IGNORED
        )
        ctc = ctc_loss(self.net, encoded, batch["phonemes"])
        guide = guide_loss(weights, batch["times"], encoded.shape[1])
        loss = text + args.ctc * ctc + args.guide * max(0.1, 1 - 1.5 * self.done) * guide
        # Only AdamW's. The matrices' gradients go on adding up, scaled down by the clipping below, which gives Muon more
        # momentum. The shipped weights were trained like this; zeroing all of them is the usual way, but not measured.
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        self.done = (time.time() - self.began) / 60 / args.minutes
        self.average_gradients()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.adam.step()
        self.muon.step(args.muon_rate * rate / args.rate)
        self.step += 1
        return {"text": text.item(), "ctc": ctc.item(), "guide": guide.item()}, rate

    def run(self):
        args, ready = self.args, self.batches()
        last_log = last_save = last_eval = time.time()
        sums, steps, windows, seen = {}, 0, 0, 0
        while self.done < 1:
            batch = ready.get()
            losses, rate = self.train_step(batch)
            sums = {k: sums.get(k, 0.0) + v for k, v in losses.items()}
            steps, windows, seen = steps + 1, windows + len(batch["mel"]), seen + len(batch["mel"])
            now = time.time()
            if now - last_log > 30:
                shown = " ".join(f"{k} {v / steps:.3f}" for k, v in sums.items())
                self.say(f"{(now - self.began) / 60:6.1f} min step {self.step} {shown} rate {rate:.5f} "
                         f"{windows / (now - last_log):.1f} windows/s seen {seen}")  # fmt: skip
                sums, steps, windows, last_log = {}, 0, 0, now
            if now - last_save > 300:
                if self.rank == 0:
                    self.save()
                self.corpus.reload()
                last_save = time.time()
            if self.rank == 0 and now - last_eval > args.evaluate_every * 60:
                whole = self.done > args.full_window_from
                rates = evaluate(self.net, self.corpus, whole, 48, 2)
                self.say("  word error rates,", "whole window:" if whole else "short window:", json.dumps(rates))
                last_eval = time.time()
        if self.rank == 0:
            self.save()
            rates = evaluate(self.net, self.corpus, True, args.evaluate_clips, 3)
            self.say("  word error rates at the end, whole window:", json.dumps(rates))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--data", type=pathlib.Path, default="scratch/data", help="what tokenizer.py and speech.py wrote")
    add("--run", type=pathlib.Path, default="scratch/run", help="folder for ckpt.pt and log.txt")
    add("--init", type=pathlib.Path, help="checkpoint to start from")
    add("--minutes", type=float, default=65, help="wall clock of the training")
    add("--threads", type=int, default=1)
    add("--seed", type=int, default=7)
    add("--rate", type=float, default=1.5e-3, help="highest learning rate of AdamW")
    add("--muon-rate", type=float, default=0.012, help="highest learning rate of Muon")
    add("--warm-up", type=int, default=300, metavar="STEPS")
    add("--positions", type=int, default=2600, help="encoder positions a batch")
    add("--full-window-from", type=float, default=0.72, help="share of the time after which most batches are whole windows")
    add("--full-window-early", type=float, default=0.1, help="share of whole windows before that")
    add("--strength", type=float, default=0.2, help="share of windows with full augmentation at the start")
    add("--strength-cap", type=float, default=1.0, help="and at most")
    add("--ctc", type=float, default=0.5, help="weight of the CTC loss")
    add("--guide", type=float, default=1.0, help="weight of the guided attention")
    add("--evaluate-every", type=float, default=10, metavar="MINUTES")
    add("--evaluate-clips", type=int, default=96, help="of each group, at the end")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.run.mkdir(parents=True, exist_ok=True)
    Trainer(args).run()


if __name__ == "__main__":
    main()
