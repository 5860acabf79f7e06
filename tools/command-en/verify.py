#!/usr/bin/env python3
"""Measures a model directory with transformers alone (none of model.py), the whole 10 s window each time.

    python verify.py                                        # the recordings of this repository; a minute
    python verify.py --data scratch/data --json scratch/measured.json   # everything the model card shows; needs the corpus
"""
import argparse
import json
import pathlib
import random
import wave

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from corpus import RATE, Clips, word_edits

ROOT = pathlib.Path(__file__).resolve().parents[2]
WINDOW = 10 * RATE


class Heard:
    def __init__(self, text, no_speech, ids):
        self.text, self.no_speech, self.ids = text, no_speech, ids


class Recogniser:
    def __init__(self, directory):
        self.model = WhisperForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
        self.extract = WhisperFeatureExtractor.from_pretrained(directory)
        self.tok = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.ids = self.tok.get_vocab()

    @torch.no_grad()
    def __call__(self, waves, stamps=False):
        """[Heard], greedy, sixteen windows at a time."""
        out = []
        for k in range(0, len(waves), 16):
            features = self.extract(waves[k : k + 16], sampling_rate=RATE, return_tensors="pt").input_features
            rows = self.model.generate(
                features, language="en", task="transcribe", return_timestamps=stamps, num_beams=1, do_sample=False
            )
            first = torch.full((len(features), 1), self.ids["<|startoftranscript|>"])
            probabilities = self.model(features, decoder_input_ids=first).logits[:, 0].softmax(-1)
            for row, p in zip(rows.tolist(), probabilities[:, self.ids["<|nospeech|>"]].tolist()):
                text = self.tok.decode([t for t in row if t < self.ids["<|endoftext|>"]]).strip()
                out.append(Heard(text, p, row))
        return out


def pad(samples, lead_s=0.2):
    return np.concatenate([np.zeros(int(RATE * lead_s), np.float32), samples, np.zeros(4800, np.float32)])


def read_wav(path):
    with wave.open(str(path)) as f:
        return np.frombuffer(f.readframes(f.getnframes()), "<i2").astype(np.float32) / 32768


def read_table(path):
    lines = path.read_text().splitlines()
    header = lines[0].split("\t")
    return [dict(zip(header, line.split("\t"))) for line in lines[1:]]


class Report:
    """The measurements, in the order they were made."""

    def __init__(self):
        self.values = {}

    def put(self, name, value):
        self.values[name] = value
        print(f"{name:64s}", value, flush=True)

    def rate(self, name, references, heard, **more):
        pairs = [(r.split(), h.text.split()) for r, h in zip(references, heard)]
        edits, words = sum(word_edits(*p) for p in pairs), sum(len(r) for r, _ in pairs)
        exact = sum(r == h for r, h in pairs)
        self.put(name, {"clips": len(pairs), "words": words, "wer": round(100 * edits / max(1, words), 2),
                        "exact": round(100 * exact / max(1, len(pairs)), 1), **more})  # fmt: skip


class Verifier:
    def __init__(self, args):
        self.args, self.report = args, Report()
        self.listen = Recogniser(args.model)
        self.r, self.rng = random.Random(11), np.random.default_rng(11)
        self.clips = Clips(args.data) if args.data else None

    def first(self, clips):
        return clips[: self.args.limit] if self.args.limit else clips

    def audio(self, clips):
        return [self.clips.audio(c) for c in clips]

    # ---- with the corpus

    def held_out_voices(self, kind):
        clips = self.first(self.clips.of("test", kind))
        heard = self.listen([pad(x) for x in self.audio(clips)])
        self.report.rate(f"held-out voices, {kind}", [c.text for c in clips], heard)
        for voice in sorted({c.voice for c in clips}):
            some = [(c, h) for c, h in zip(clips, heard) if c.voice == voice]
            self.report.rate(f"  {kind}, {voice}", [c.text for c, _ in some], [h for _, h in some])

    def in_noise(self, kind):
        clips = self.first(self.clips.of("test", kind))
        clips = clips[: len(clips) // 2]
        noisy = []
        for x in self.audio(clips):
            x = pad(x)
            level = np.sqrt((x**2).mean()) * 10 ** (-10 / 20)
            noisy.append(x + self.rng.standard_normal(len(x)).astype(np.float32) * level)
        self.report.rate(f"held-out voices, {kind}, white noise 10 dB", [c.text for c in clips], self.listen(noisy))

    def anywhere(self):
        clips = self.first(self.clips.of("test", "command"))
        clips = clips[: len(clips) // 2]
        late = [pad(x, self.r.uniform(0, max(0, 9.5 - len(x) / RATE))) for x in self.audio(clips)]
        self.report.rate("held-out voices, command, anywhere in 10 s", [c.text for c in clips], self.listen(late))

    def timestamps(self):
        clips = self.first(self.clips.of("test", "command"))
        clips = clips[: len(clips) // 2]
        heard = self.listen([pad(x, 1.0) for x in self.audio(clips)], stamps=True)
        starts, ends, zero = [], [], self.listen.ids["<|0.00|>"]
        for clip, h in zip(clips, heard):
            times = [(i - zero) * 0.02 for i in h.ids if i >= zero]
            if len(times) >= 2:
                starts.append(abs(times[0] - 1.0))
                ends.append(abs(times[-1] - 1.0 - clip.seconds))
        self.report.rate("held-out voices, command, timestamp mode", [c.text for c in clips], heard, with_times=len(starts),
                         start_err_s=round(float(np.mean(starts)), 3), end_err_s=round(float(np.mean(ends)), 3))  # fmt: skip

    def seen_voices(self):
        clips = self.first(self.clips.of("valid"))
        heard = self.listen([pad(x) for x in self.audio(clips)])
        self.report.rate("seen voices, unseen sentences (valid)", [c.text for c in clips], heard)

    def real_digits(self):
        speakers = self.clips.digits("test")
        if not speakers:
            return
        clips = [c for takes in speakers.values() for c in self.first(takes)]
        heard = self.listen([pad(x) for x in self.audio(clips)])
        self.report.rate("real held-out speakers, single digits", [c.text for c in clips], heard)
        for speaker in speakers:
            some = [(c, h) for c, h in zip(clips, heard) if c.voice == speaker]
            self.report.rate(f"  {speaker}", [c.text for c, _ in some], [h for _, h in some])
        texts, waves = [], []
        for takes in speakers.values():
            for _ in range(min(100, self.args.limit or 100)):
                four = [self.r.choice(takes) for _ in range(4)]
                parts = []
                for x in self.audio(four):
                    parts += [x, np.zeros(int(RATE * self.r.uniform(0.08, 0.3)), np.float32)]
                waves.append(pad(np.concatenate(parts)))
                texts.append(" ".join(c.text for c in four))
        self.report.rate("real held-out speakers, strings of 4 digits", texts, self.listen(waves))

    def no_speech_on_speech(self):
        clips = self.clips.of("test", "command")[: self.args.limit or 96]
        p = [h.no_speech for h in self.listen([pad(x) for x in self.audio(clips)])]
        share = round(float(np.mean(np.array(p) > 0.6)), 3)
        self.report.put("no-speech prob on speech", {"clips": len(p), "max": round(max(p), 3), "share above 0.6": share})

    # ---- without

    def silence_and_noise(self):
        waves = [np.zeros(int(RATE * s), np.float32) for s in (0.5, 1, 3, 10)]
        for _ in range(min(96, self.args.limit or 96)):
            n = int(RATE * self.r.uniform(1, 9.9))
            frequencies = np.maximum(np.fft.rfftfreq(n, 1 / RATE), 30)
            spectrum = np.fft.rfft(self.rng.standard_normal(n)) / frequencies ** self.r.choice([0, 0.5, 1.0])
            x = np.fft.irfft(spectrum, n)
            waves.append((x / np.abs(x).max() * 10 ** (self.r.uniform(-60, -3) / 20)).astype(np.float32))
        heard = self.listen(waves)
        p = [h.no_speech for h in heard]
        self.report.put("silence and noise", {"clips": len(waves), "empty": sum(h.text == "" for h in heard),
                        "median no-speech prob": round(float(np.median(p)), 3), "min": round(min(p), 3)})  # fmt: skip

    def recordings(self):
        for table in (self.args.demo / "demo.tsv", self.args.recordings / "digits.tsv"):
            rows = read_table(table)
            heard = self.listen([read_wav(table.parent / row["file"]) for row in rows])
            self.report.rate(f"{self.shown(table.parent)}/{table.stem}*.wav", [row["text"] for row in rows], heard)
            for row, h in zip(rows, heard):
                if row["text"] != h.text:
                    print("   ", row["file"], "|", row["text"], "|", h.text)
        long, rows = read_wav(self.args.recordings / "long.wav"), read_table(self.args.recordings / "long.tsv")
        margin, name = 0.3, f"{self.shown(self.args.recordings)}/long.wav"
        cuts = [long[max(0, int((float(row["start"]) - margin) * RATE)) : int((float(row["end"]) + margin) * RATE)] for row in rows]
        self.report.rate(f"{name} cut at the pauses", [row["text"] for row in rows], self.listen(cuts))
        joined = Heard(" ".join(h.text for h in self.listen(quiet_cuts(long))), 0.0, [])
        self.report.rate(f"{name} in windows of up to 10 s", [" ".join(row["text"] for row in rows)], [joined])
        print("   ", joined.text)
        for name in ("silence.wav", "noise.wav"):
            (h,) = self.listen([read_wav(self.args.recordings / name)])
            print(f"{name}: {h.text!r}, no-speech probability {h.no_speech:.3f}")

    @staticmethod
    def shown(folder):
        folder = folder.resolve()
        return folder.relative_to(ROOT).as_posix() if folder.is_relative_to(ROOT) else folder.name

    def all(self):
        if self.clips:
            self.held_out_voices("command")
            self.in_noise("command")
            self.anywhere()
            self.timestamps()
            self.seen_voices()
            self.held_out_voices("words")
            self.in_noise("words")
            self.real_digits()
            self.no_speech_on_speech()
        self.silence_and_noise()
        self.recordings()
        return self.report.values


def quiet_cuts(samples):
    """Windows of at most 10 s, each ending in the last quiet place."""
    frame = 320
    loud = np.array([np.sqrt((samples[i : i + frame] ** 2).mean()) for i in range(0, len(samples) - frame, frame)]) > 0.003
    windows, start = [], 0
    while start < len(samples):
        end = min(len(samples), start + WINDOW)
        if end < len(samples):
            k = end // frame - 1
            while k * frame > start + 2 * RATE and loud[max(0, k - 10) : k + 5].any():
                k -= 1
            end = k * frame
        windows.append(samples[start:end])
        start = end
    return windows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--model", type=pathlib.Path, default=ROOT / "assets/models/command-en", help="model directory")
    add("--demo", type=pathlib.Path, default=ROOT / "assets/demo", help="folder of demo.tsv")
    add("--recordings", type=pathlib.Path, default=ROOT / "tests/fixtures/audio/command-en", help="folder of digits.tsv and long.tsv")
    add("--data", type=pathlib.Path, help="the corpus; without it only silence, noise and the recordings are measured")
    add("--limit", type=int, default=0, help="clips of each group, 0 for all")
    add("--json", type=pathlib.Path, help="write the figures here, for card.py")
    add("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    values = Verifier(args).all()
    if args.json:
        args.json.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
