"""The rendered clips on disk, and how far a transcript is from its reference."""
import json

import numpy as np

RATE = 16_000


def word_edits(reference, heard):
    """The fewest words to insert, delete or replace."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


class Clip:
    """A line of index.tsv."""

    __slots__ = ("offset", "samples", "split", "kind", "voice", "text")

    def __init__(self, line):
        offset, samples, self.split, self.kind, self.voice, self.text = line.rstrip("\n").split("\t")
        self.offset, self.samples = int(offset), int(samples)

    @property
    def seconds(self):
        return self.samples / RATE


class Clips:
    """index.tsv and audio.i16. reload() picks up what speech.py has added since."""

    def __init__(self, folder):
        self.folder = folder
        self.reload()

    def reload(self):
        self.memory = np.memmap(self.folder / "audio.i16", dtype=np.int16, mode="r")
        with open(self.folder / "index.tsv") as f:
            # The last line may be half written while speech.py runs.
            lines = [line for line in f if line.endswith("\n") and line.count("\t") == 5]
        self.rows = [c for c in map(Clip, lines) if c.offset + c.samples <= len(self.memory)]

    def audio(self, clip):
        return self.memory[clip.offset : clip.offset + clip.samples].astype(np.float32) / 32768

    def of(self, split, kind=None):
        """The synthetic clips of a split; kind None is all kinds."""
        return [c for c in self.rows if c.split == split and c.kind != "fsdd" and kind in (None, c.kind)]

    def digits(self, split):
        """{speaker: clips} of the digit dataset."""
        found = {}
        for c in self.rows:
            if c.kind == "fsdd" and c.split == split:
                found.setdefault(c.voice, []).append(c)
        return found


class Corpus(Clips):
    """The clips with their tokens and phonemes, as training needs them."""

    def __init__(self, folder, tok):
        self.tok = tok
        self.tokens = tok.get_vocab()
        self.lexicon = json.loads((folder / "lexicon.json").read_text())
        phonemes = sorted({p for word in self.lexicon.values() for p in word})
        self.phoneme_ids = {p: i + 1 for i, p in enumerate(phonemes)}  # 0 is CTC's blank
        self.cache = {}
        super().__init__(folder)

    @property
    def ctc_classes(self):
        return len(self.phoneme_ids) + 1

    def reload(self):
        super().reload()
        self.train = self.of("train")
        self.train_digits = self.digits("train")

    def ids(self, text):
        if text not in self.cache:
            self.cache[text] = self.tok.encode(" " + text, add_special_tokens=False).ids
        return self.cache[text]

    def phonemes(self, text):
        return [self.phoneme_ids[p] for word in text.split() for p in self.lexicon[word]]

    def token_times(self, text, start, end):
        """About when each token of `text` is spoken: the words share the time by their number of phonemes."""
        words = text.split()
        sizes = [len(self.lexicon[w]) for w in words]
        each = (end - start) / sum(sizes)
        times, before = [], 0.0
        for word, size in zip(words, sizes):
            count = len(self.ids(word))
            times += [start + each * (before + size * (i + 0.5) / count) for i in range(count)]
            before += size
        return times
