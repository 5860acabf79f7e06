#!/usr/bin/env python3
"""Renders the corpus: sentences to speech with espeak-ng, flite and festival, plus the Free Spoken Digit Dataset.

    python speech.py --data scratch/data --fsdd scratch/fsdd --clips 17000 --processes 2

Writes  audio.i16   every clip back to back, 16 kHz mono int16, silence cut off at both ends
        index.tsv   offset, samples, split, kind, voice, text (a line a clip)

Splits: train; valid (voices of the training, other sentences); test (voices that are in no training clip).
"""
import argparse
import multiprocessing
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
from scipy.signal import resample_poly

import grammar

RATE = 16_000
PEAK = 20_000  # of int16: all clips equally loud; the training draws its own gain
LONGEST_S = 9.5  # must fit the 10 s window with some room

# Listed as often as they are drawn.
ACCENTS = ["en-us"] * 5 + ["en-gb"] * 2 + [
    "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc",
]  # fmt: skip
VARIANTS = ["", ""] + """m1 m2 m3 m4 m5 m7 m8 f1 f2 f3 f5 Andy Annie Alex Alicia Michael Mike adam belinda benjamin david ed
john linda max paul rob steph travis victor shelby klatt2 klatt4 anika""".split()
# Held out: no training clip uses these voices (the espeak variants with no accent at all).
TEST_VOICES = [
    "flite:rms", "festival:ked_diphone", "espeak:en-us+f4", "espeak:en-gb+m6", "espeak:en-us+klatt3", "espeak:en-us+Andrea",
]
FSDD_TEST_SPEAKERS = ("theo", "lucas")
TEST_CLIPS, VALID_CLIPS = 640, 160
CHUNK = 64  # sentences a work item; each has its own seed, so the number of processes does not change the corpus


# ---- samples ----------------------------------------------------------------------------------------------------


def parse_wav(data):
    """(rate, int16 samples). Not the wave module: espeak-ng streams a header whose length is wrong."""
    start = data.find(b"data") + 8
    rate = int.from_bytes(data[24:28], "little")
    return rate, np.frombuffer(data[start : start + (len(data) - start) // 2 * 2], dtype="<i2")


def to_16k(rate, samples):
    samples = samples.astype(np.float32)
    if rate == RATE:
        return samples
    common = np.gcd(rate, RATE)
    return resample_poly(samples, RATE // common, rate // common).astype(np.float32)


def trim(samples, keep_s=0.03):
    """Cuts the ends that are 40 dB below the loudest 10 ms, but for `keep_s`."""
    frames = len(samples) // 160
    if frames < 5:
        return samples
    level = np.sqrt((samples[: frames * 160].reshape(frames, 160) ** 2).mean(1) + 1e-9)
    loud = np.nonzero(level > level.max() * 0.01)[0]
    keep = int(keep_s * 100)
    return samples[max(0, loud[0] - keep) * 160 : (loud[-1] + 1 + keep) * 160]


def normalised(samples):
    return samples * (PEAK / max(1, np.abs(samples).max()))


# ---- synthesisers -----------------------------------------------------------------------------------------------


def synthesise(voice, text, r):
    """(rate, samples) of one sentence; the voice is named engine:voice."""
    if voice.startswith("festival"):
        return synthesise_festival([(voice, text)], r)[0]
    said = grammar.spoken(text, r)
    engine, name = voice.split(":")
    if engine == "espeak":
        speed, pitch, gap = r.randint(120, 210), r.randint(20, 80), r.choice([0, 0, 0, 1, 2, 4])
        command = ["espeak-ng", "--stdout", "-v", name, "-s", str(speed), "-p", str(pitch), "-g", str(gap), said]
        return parse_wav(subprocess.run(command, capture_output=True).stdout)
    if engine == "flite":
        options = ["--setf", f"duration_stretch={r.uniform(0.78, 1.25):.2f}"]
        if name in ("kal", "kal16"):  # the other voices carry their own melody
            melody = [f"int_f0_target_mean={r.randint(80, 150)}", f"int_f0_target_stddev={r.randint(8, 22)}"]
            options = ["--setf", melody[0], "--setf", melody[1]] + options
        with tempfile.NamedTemporaryFile(suffix=".wav") as out:
            subprocess.run(["flite", "-voice", name, *options, "-t", said, "-o", out.name], capture_output=True)
            return parse_wav(out.read())
    raise ValueError(f"unknown voice: {voice}")


def synthesise_festival(jobs, r):
    """[(voice, text)] -> [(rate, samples) or None]: one process for all, because it is slow to start."""
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        script = []
        for i, (voice, text) in enumerate(jobs):
            stretch = r.uniform(0.85, 1.2)
            said = grammar.spoken(text, r)
            script += [
                f"(voice_{voice.split(':')[1]})",
                f"(Parameter.set 'Duration_Stretch {stretch:.2f})",
                f'(utt.save.wave (utt.synth (Utterance Text "{said}")) "{scratch}/{i}.wav" \'riff)',
            ]
        (scratch / "all.scm").write_text("\n".join(script))
        subprocess.run(["festival", "-b", str(scratch / "all.scm")], capture_output=True)
        files = [scratch / f"{i}.wav" for i in range(len(jobs))]
        return [parse_wav(f.read_bytes()) if f.exists() else None for f in files]


def pick_voice(r):
    share = r.random()
    if share < 0.54:
        variant = r.choice(VARIANTS)
        return "espeak:" + r.choice(ACCENTS) + ("+" + variant if variant else "")
    for limit, voice in ((0.68, "flite:slt"), (0.82, "flite:awb"), (0.87, "flite:kal16"), (0.89, "flite:kal"),
                         (0.95, "festival:cmu_us_slt_arctic_hts")):  # fmt: skip
        if share < limit:
            return voice
    return "festival:kal_diphone"


# ---- corpus -----------------------------------------------------------------------------------------------------


def plan(clips, seed):
    """[(split, kind, voice, text)]: the test and validation clips, then the training clips in random order."""
    r, held_out = random.Random(seed), random.Random(seed + 999)
    jobs, used = [], set()
    # These first, so that no training clip repeats one of their sentences.
    for split, count in (("test", TEST_CLIPS), ("valid", VALID_CLIPS)):
        for i in range(count):
            kind, make = ("command", grammar.command) if i % 2 == 0 else ("words", grammar.words)
            text = make(held_out)
            while text in used:
                text = make(held_out)
            used.add(text)
            voice = TEST_VOICES[(i // 2) % len(TEST_VOICES)] if split == "test" else pick_voice(held_out)
            jobs.append((split, kind, voice, text))
    training = [("train", "words", pick_voice(r), word) for word in grammar.VOCABULARY for _ in range(3)]
    while len(training) < clips:
        kind, text = grammar.sentence(r)
        if text in used and len(text.split()) > 2:  # one and two words cannot be kept apart
            continue
        training.append(("train", kind, pick_voice(r), text))
    r.shuffle(training)
    return jobs + training


def render(work):
    """(seed, jobs) -> [(split, kind, voice, text, int16 bytes)]; drops what failed or does not fit."""
    seed, jobs = work
    r = random.Random(seed)
    slow = [i for i, job in enumerate(jobs) if job[2].startswith("festival")]
    ready = dict(zip(slow, synthesise_festival([jobs[i][2:4] for i in slow], r))) if slow else {}
    out = []
    for i, (split, kind, voice, text) in enumerate(jobs):
        try:
            got = ready[i] if i in ready else synthesise(voice, text, r)
            if got is None:
                continue
            samples = trim(to_16k(*got))
            if not RATE // 10 <= len(samples) <= RATE * LONGEST_S or np.abs(samples).max() < 200:
                continue
            out.append((split, kind, voice, text, normalised(samples).astype(np.int16).tobytes()))
        except (OSError, ValueError) as error:
            print("failed:", voice, text, error, file=sys.stderr)
    return out


def spoken_digits(folder):
    """The digit dataset as clips; file names are digit_speaker_take.wav."""
    for path in sorted((folder / "recordings").glob("*.wav")):
        digit, speaker, _ = path.stem.split("_")
        samples = normalised(trim(to_16k(*parse_wav(path.read_bytes())), 0.02))
        split = "test" if speaker in FSDD_TEST_SPEAKERS else "train"
        yield split, "fsdd", "fsdd:" + speaker, grammar.DIGITS[int(digit)], samples.astype(np.int16).tobytes()


class Writer:
    def __init__(self, folder):
        self.audio, self.index = open(folder / "audio.i16", "wb"), open(folder / "index.tsv", "w")
        self.offset = 0

    def put(self, split, kind, voice, text, data):
        self.audio.write(data)
        self.index.write(f"{self.offset}\t{len(data) // 2}\t{split}\t{kind}\t{voice}\t{text}\n")
        self.offset += len(data) // 2

    def flush(self):
        # Audio first: a training that reads along must not find a clip in the index before its samples.
        self.audio.flush()
        self.index.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=pathlib.Path, default="scratch/data", help="folder to write to")
    parser.add_argument("--fsdd", type=pathlib.Path, default="scratch/fsdd", help="a checkout of free-spoken-digit-dataset")
    parser.add_argument("--no-fsdd", action="store_true", help="synthetic speech alone")
    parser.add_argument("--clips", type=int, default=17_000, help="training clips to render")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="render every Nth sentence only, to try things out")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for program in ("espeak-ng", "flite", "festival"):
        if not shutil.which(program):
            parser.error(f"{program} is not installed; README.md lists the packages")
    args.data.mkdir(parents=True, exist_ok=True)
    jobs = plan(args.clips, args.seed)[:: args.every]
    work = [(args.seed * 100_000 + i, jobs[i : i + CHUNK]) for i in range(0, len(jobs), CHUNK)]
    out, began, done = Writer(args.data), time.time(), 0
    if not args.no_fsdd:
        for clip in spoken_digits(args.fsdd):
            out.put(*clip)
    with multiprocessing.Pool(args.processes) as pool:
        for i, clips in enumerate(pool.imap(render, work)):
            for clip in clips:
                out.put(*clip)
            done += len(clips)
            if i % 20 == 0:
                out.flush()
                print(f"{done} clips, {out.offset / RATE / 3600:.2f} h, {time.time() - began:.0f} s", flush=True)
    out.flush()
    print(f"done: {done} clips, {out.offset / RATE / 3600:.2f} h, {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
