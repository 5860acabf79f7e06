"""Turns clips into training windows: places them in time, spoils them, and writes down what should be heard."""
import random

import numpy as np
import torch
from scipy.signal import fftconvolve

import model

RATE = 16_000
WINDOW_S = 10
WINDOW = RATE * WINDOW_S
POSITIONS = 50 * WINDOW_S
LONGEST_TEXT = 127  # one less than the decoder's positions
IGNORED = -100  # cross_entropy's ignore_index
FREQUENCY_WARPS = (0.84, 0.88, 0.92, 0.96, 1.04, 1.08, 1.12, 1.17)


def db(x):
    return 10 ** (x / 20)


def noise_bank(rng, seconds=60):
    """White, pink-ish noises of three slopes, and mains hum with a fan; unit power."""
    n = RATE * seconds
    bank = [rng.standard_normal(n)]
    frequencies = np.maximum(np.fft.rfftfreq(n, 1 / RATE), 30)
    for slope in (0.5, 1.0, 0.75):
        bank.append(np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) / frequencies**slope, n))
    t = np.arange(n) / RATE
    bank.append(sum(np.sin(2 * np.pi * 50 * k * t + k) / k for k in range(1, 9)) + 0.3 * rng.standard_normal(n))
    return [(x / x.std()).astype(np.float32) for x in bank]


def change_speed(x, factor):
    """Also moves the pitch, as a tape does."""
    n = int(len(x) / factor)
    return np.interp(np.arange(n) * factor, np.arange(len(x)), x).astype(np.float32)


def reverb(x, rng):
    """A synthetic room: a decaying noise tail after a short gap."""
    t60 = rng.uniform(0.1, 0.5)
    n = int(RATE * t60 * 0.7)
    response = rng.standard_normal(n) * np.exp(-6.9 * np.arange(n) / RATE / t60)
    response[: int(RATE * rng.uniform(0.001, 0.006))] = 0
    response *= rng.uniform(0.2, 0.9) / np.sqrt((response**2).sum())
    response[0] = 1
    return fftconvolve(x, response.astype(np.float32))[: len(x) + RATE // 10].astype(np.float32)


class Window:
    """Samples and what is said in them: segments of (start s, end s, text)."""

    def __init__(self, samples, segments, digital_silence=False):
        self.samples, self.segments, self.digital_silence = samples, segments, digital_silence


class Sampler:
    """Draws training windows for ever. `strength` is the share of windows that get the full augmentation."""

    def __init__(self, corpus, seed):
        self.corpus, self.r, self.rng = corpus, random.Random(seed), np.random.default_rng(seed)
        self.noise = noise_bank(self.rng)
        self.filters = [model.mel_filters(warp=w) for w in FREQUENCY_WARPS] + [model.FILTERS] * 5
        self.deck = []
        self.strength = 1.0

    # ---- content

    def clip(self):
        """(samples, text) of one training clip, or of a string of one real speaker's digits."""
        r, corpus = self.r, self.corpus
        if corpus.train_digits and r.random() < 0.07:
            takes = corpus.train_digits[r.choice(list(corpus.train_digits))]
            pieces, words = [], []
            for i in range(r.choice([1, 1, 2, 3, 4, 5, 6])):
                take = r.choice(takes)
                if i:
                    pieces.append(np.zeros(int(RATE * r.uniform(0.03, 0.35)), np.float32))
                pieces.append(corpus.audio(take) * r.uniform(0.6, 1))
                words.append(take.text)
            x, text = np.concatenate(pieces), " ".join(words)
        else:
            if not self.deck:
                self.deck = list(corpus.train)
                r.shuffle(self.deck)
            clip = self.deck.pop()
            x, text = corpus.audio(clip), clip.text
        if r.random() < 0.7:
            x = change_speed(x, r.uniform(0.88, 1.14))
        if r.random() < 0.25:
            x = reverb(x, self.rng)
        return x, text

    def utterances(self, limit_s):
        """([(gap before, samples, text)], seconds in all): one clip, sometimes more, of at most `limit_s`."""
        out, used = [], 0.0
        for i in range(4):
            x, text = self.clip()
            gap = self.r.uniform(0.25, 1.2) if i else 0.0
            if i and used + gap + len(x) / RATE > limit_s:
                break
            out.append((gap, x, text))
            used += gap + len(x) / RATE
            if self.r.random() > (0.15 if limit_s < 7 else 0.45):
                break
        return out, used

    def window(self, seconds=None):
        """One window of `seconds`, or just long enough for its content."""
        r = self.r
        if r.random() < 0.05:
            n = seconds or r.uniform(1, 3.5)
            return Window(np.zeros(int(n * RATE), np.float32), [], digital_silence=r.random() < 0.3)
        utterances, used = self.utterances(5.0 if seconds is None else r.choice([3.0, 9.4]))
        if seconds is None:
            lead = r.uniform(0, 0.45)
        else:
            room = max(0.0, seconds - used - 0.05)
            lead = min(room, r.uniform(0, 0.5)) if r.random() < 0.55 else r.uniform(0, room)
        tail = r.uniform(0.02, 0.4)
        n = int((lead + used + tail) * RATE) if seconds is None else int(seconds * RATE)
        samples, segments, at = np.zeros(n, np.float32), [], lead
        for gap, x, text in utterances:
            at += gap
            first = int(at * RATE)
            x = x[: n - first]
            samples[first : first + len(x)] += x
            segments.append((at, min(at + len(x) / RATE, n / RATE), text))
            at += len(x) / RATE
        return Window(samples, segments)

    # ---- spoiling

    def spoil(self, samples, segments, digital_silence):
        """Gain, and noise over the whole window or around the speech only (beyond it then is the padding's silence)."""
        r, rng = self.r, self.rng
        samples = samples * db(r.uniform(-26, 0))
        if segments and r.random() > self.strength:
            return samples
        first, last = 0, len(samples)
        if segments:
            first = max(0, int((segments[0][0] - r.uniform(0, 0.6)) * RATE))
            last = min(len(samples), int((segments[-1][1] + r.uniform(0, 0.6)) * RATE))
        if r.random() < 0.4:
            first, last = 0, len(samples)
        if digital_silence:
            return samples
        if segments:
            speech = samples[int(segments[0][0] * RATE) : int(segments[-1][1] * RATE)]
            level = np.sqrt((speech**2).mean()) + 1e-6
        else:
            level = db(r.uniform(-60, -15)) + 1e-6
        kind = r.random()
        ratio = 1.0
        if segments:
            ratio = db(-(r.uniform(5, 30) if kind < 0.75 else r.uniform(35, 60)))
        if kind < 0.62 or kind >= 0.75 or not segments:
            noise = self.noise[int(rng.integers(len(self.noise)))]
            start = int(rng.integers(len(noise) - (last - first)))
            samples[first:last] += noise[start : start + last - first] * (level * ratio)
        else:  # three other people talking, 8 dB below the speech or quieter
            babble = np.zeros(last - first, np.float32)
            for _ in range(3):
                voice = self.corpus.audio(r.choice(self.corpus.train))
                voice = np.tile(voice, 1 + (last - first) // len(voice))[: last - first]
                babble += np.roll(voice, int(rng.integers(1, last - first)))
            samples[first:last] += babble * (level * min(ratio, 0.4) / (babble.std() + 1e-6))
        return samples

    def channel(self, count):
        """Power gains [count, 201] of bad microphones: a spectral tilt, sometimes a low-pass, sometimes a high-pass."""
        rng = self.rng
        khz = np.linspace(0, 8, 201)[None]
        tilt = 10 ** (rng.uniform(-1.2, 1.2, (count, 1)) * (khz - 2) / 8)
        high = np.where(rng.random((count, 1)) < 0.25 * self.strength, rng.uniform(3.2, 7, (count, 1)), 99.0)
        low = np.where(rng.random((count, 1)) < 0.2 * self.strength, rng.uniform(0.1, 0.35, (count, 1)), -1.0)
        gain = tilt * np.where(khz > high, 1e-4, 1.0) * np.where(khz < low, 0.02, 1.0)
        return torch.from_numpy(gain.astype(np.float32))

    def mask(self, mel, segments, fill):
        """SpecAugment in place: two bands of frequency, and two stretches of time inside the speech."""
        r = self.r
        for _ in range(2):
            if r.random() < 0.7:
                width = r.randint(1, 11)
                k = r.randint(0, 80 - width)
                mel[k : k + width] = fill
        if segments:
            first, last = int(segments[0][0] * 100), int(segments[-1][1] * 100)
            for _ in range(2):
                width = r.randint(2, 12)
                k = r.randint(first, max(first, last - width))
                mel[:, k : k + width] = fill

    # ---- batches

    def targets(self, segments, start):
        """(tokens in, tokens out, when each is spoken or -1) of one window whose first position is `start`."""
        corpus, t = self.corpus, self.corpus.tokens
        prompt = [t["<|startoftranscript|>"], t["<|en|>"], t["<|transcribe|>"]]
        # After the first token: the language, or that nobody speaks.
        out = [t["<|en|>"] if segments else t["<|nospeech|>"], t["<|transcribe|>"]]
        if self.r.random() < 0.3:
            body, when = [], [-1.0, -1.0]
            for s, e, text in segments:
                stamps = [t["<|0.00|>"] + min(POSITIONS, int(round(v * 50)) + start) for v in (s, e)]
                body += [stamps[0], *corpus.ids(text), stamps[1]]
                when += [s, *corpus.token_times(text, s, e), e]
            return prompt + body, out + body + [t["<|endoftext|>"]], when
        body = [i for _, _, text in segments for i in corpus.ids(text)]
        when = [-1.0] * 3 + [w for s, e, text in segments for w in corpus.token_times(text, s, e)]
        # The token that chooses the mode is given, not predicted.
        return prompt + [t["<|notimestamps|>"]] + body, out + [IGNORED] + body + [t["<|endoftext|>"]], when

    def batch(self, windows, seconds=None):
        """dict of tensors for one training step."""
        r = self.r
        n = max(len(w.samples) for w in windows) if seconds is None else int(seconds * RATE)
        n = min(n + (-n) % 3200, WINDOW)
        audio = np.zeros((len(windows), n), np.float32)
        for row, w in zip(audio, windows):
            samples = self.spoil(w.samples[:n], w.segments, w.digital_silence)
            row[: len(samples)] = samples
        gain = self.channel(len(windows))
        filters = torch.stack([self.filters[int(self.rng.integers(len(self.filters)))] for _ in windows])
        mel = model.log_mel(torch.from_numpy(audio), filters, gain)
        fill = mel.mean(dim=(1, 2))
        for i, w in enumerate(windows):
            if r.random() <= self.strength:
                self.mask(mel[i], w.segments, fill[i])
        frames = mel.shape[-1]
        # A short window sits anywhere in the position table, so that every position is trained.
        start = 0 if frames >= 2 * POSITIONS or r.random() < 0.35 else r.randint(0, POSITIONS - frames // 2)
        rows = [[part[:LONGEST_TEXT] for part in self.targets(w.segments, start)] for w in windows]
        length = max(len(row[0]) for row in rows)
        end = self.corpus.tokens["<|endoftext|>"]

        def padded(column, value):
            return torch.tensor([row[column] + [value] * (length - len(row[column])) for row in rows])

        return {
            "mel": mel,
            "start": start,
            "inputs": padded(0, end),
            "targets": padded(1, IGNORED),
            "times": padded(2, -1.0),
            "phonemes": [[p for _, _, text in w.segments for p in self.corpus.phonemes(text)] for w in windows],
        }

    def stream(self, positions, full_share):
        """Batches of about `positions` encoder positions; full_share() of them are whole windows, the others are
        cut to fit and hold clips of like length."""
        while True:
            if self.r.random() < full_share():
                yield self.batch([self.window(WINDOW_S) for _ in range(max(4, positions // POSITIONS))], WINDOW_S)
                continue
            pool = sorted((self.window() for _ in range(320)), key=lambda w: len(w.samples))
            groups, group = [], []
            for w in pool:
                if group and (len(group) + 1) * len(w.samples) / 320 > positions:
                    groups.append(group)
                    group = []
                group.append(w)
            groups.append(group)
            self.r.shuffle(groups)
            for group in groups:
                yield self.batch(group)
