#!/usr/bin/env python3
"""Makes the demo and test recordings: short commands, one long recording, digit strings of real people, no speech.

    python demo.py --out scratch/recordings --fsdd scratch/fsdd

Writes demo1..8.wav with demo.tsv; long.wav with long.tsv; digits01..20.wav with digits.tsv; silence.wav, noise.wav.
All voices and speakers are held out from training.
"""
import argparse
import pathlib
import random
import wave

import numpy as np

import grammar
import speech

RATE = speech.RATE
PEAK = 0.35
LONG_S = 45
NOISE_FLOOR_DB = -70  # as a microphone has; digital silence is a case of its own

DEMO = [
    ("flite:rms", "hey tonny start a new claude session"),
    ("espeak:en-us+f4", "god control show me the last error in the event log"),
    ("flite:rms", "computer run the test and commit the changes"),
    ("festival:ked_diphone", "open the dashboard in a new tab"),
    ("espeak:en-gb+m6", "mute the microphone and pause the recording"),
    ("espeak:en-us+Andrea", "summarize the meeting and save the report"),
    ("flite:rms", "how many agents are running on the remote server"),
    ("espeak:en-us+f4", "approve pull request forty two and merge it into main"),
]
LONG = [
    ("flite:rms", "hey tonny open the project dashboard"),
    ("flite:rms", "list all active agents in the session"),
    ("espeak:en-us+f4", "show the last three errors"),
    ("espeak:en-us+f4", "explain this error and fix the parser bug"),
    ("flite:rms", "run the test again"),
    ("flite:rms", "commit the changes and push the branch to main"),
    ("espeak:en-us+Andrea", "review pull request seventeen"),
    ("espeak:en-us+Andrea", "merge the branch into release"),
    ("flite:rms", "start a timer for twenty minutes"),
    ("festival:ked_diphone", "stop the recording and save the transcript"),
    ("flite:rms", "summarize the meeting please"),
    ("espeak:en-us+f4", "leave the meeting now"),
]


def silence(seconds):
    return np.zeros(int(RATE * seconds))


def levelled(samples):
    return samples * (PEAK / np.abs(samples).max())


def render(voice, text, seed):
    return levelled(speech.trim(speech.to_16k(*speech.synthesise(voice, text, random.Random(seed)))))


class Folder:
    def __init__(self, path):
        self.path = path
        self.rng = np.random.default_rng(3)

    def wav(self, name, samples):
        samples = samples + self.rng.standard_normal(len(samples)) * 10 ** (NOISE_FLOOR_DB / 20)
        with wave.open(str(self.path / name), "wb") as f:
            f.setnchannels(1)
            f.setsampwidth(2)
            f.setframerate(RATE)
            f.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())

    def table(self, name, header, rows):
        lines = ["\t".join(row) + "\n" for row in [header, *rows]]
        (self.path / name).write_text("".join(lines))


def make_demo(folder):
    rows = []
    for i, (voice, text) in enumerate(DEMO, 1):
        samples = np.concatenate([silence(0.3), render(voice, text, i), silence(0.4)])
        folder.wav(f"demo{i}.wav", samples)
        rows.append((f"demo{i}.wav", f"{len(samples) / RATE:.2f}", voice, text))
    folder.table("demo.tsv", ("file", "seconds", "voice", "text"), rows)


def make_long(folder, r):
    """All commands with pauses of about the same length, 45 s in all."""
    clips = [(voice, text, render(voice, text, 100 + i)) for i, (voice, text) in enumerate(LONG)]
    pause = (LONG_S - 1 - sum(len(x) for _, _, x in clips) / RATE) / (len(LONG) - 1)
    at, parts, rows = 0.5, [silence(0.5)], []
    for i, (voice, text, samples) in enumerate(clips):
        if i:
            gap = max(0.5, pause + r.uniform(-0.35, 0.35))
            parts.append(silence(gap))
            at += gap
        end = at + len(samples) / RATE
        rows.append((f"{at:.2f}", f"{end:.2f}", voice, text))
        parts.append(samples)
        at = end
    folder.wav("long.wav", np.concatenate(parts + [silence(max(0.3, LONG_S - at))]))
    folder.table("long.tsv", ("start", "end", "voice", "text"), rows)


def make_digits(folder, r, fsdd):
    rows = []
    for n in range(1, 21):
        speaker = speech.FSDD_TEST_SPEAKERS[(n - 1) % 2]
        takes = [(r.randint(0, 9), r.randint(0, 49)) for _ in range(4)]
        names = [f"{digit}_{speaker}_{take}" for digit, take in takes]
        parts = [silence(0.3)]
        for name in names:
            wav = (fsdd / "recordings" / f"{name}.wav").read_bytes()
            parts += [levelled(speech.trim(speech.to_16k(*speech.parse_wav(wav)), 0.02)), silence(r.uniform(0.1, 0.3))]
        folder.wav(f"digits{n:02d}.wav", np.concatenate(parts + [silence(0.2)]))
        rows.append((f"digits{n:02d}.wav", speaker, " ".join(names), " ".join(grammar.DIGITS[d] for d, _ in takes)))
    folder.table("digits.tsv", ("file", "speaker", "recordings", "text"), rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default="scratch/recordings")
    parser.add_argument("--fsdd", type=pathlib.Path, default="scratch/fsdd", help="a checkout of free-spoken-digit-dataset")
    parser.add_argument("--no-fsdd", action="store_true", help="leave the digit strings out (the noises then come out otherwise)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    folder, r = Folder(args.out), random.Random(3)
    make_demo(folder)
    make_long(folder, r)
    if not args.no_fsdd:
        make_digits(folder, r, args.fsdd)
    folder.wav("silence.wav", silence(3))
    folder.wav("noise.wav", folder.rng.standard_normal(RATE * 4) * 0.03)


if __name__ == "__main__":
    main()
