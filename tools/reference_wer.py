#!/usr/bin/env python3
"""Word error rate of a Whisper model directory with the reference library, on the recordings of this repository.

    pip install -r tools/tiny-whisper/requirements.txt
    python tools/reference_wer.py                                  # a line a recording, then the totals
    python tools/reference_wer.py --json tests/fixtures/reference_wer.json

f32, greedy, one utterance a window, zero-padded to the whole window, prompt without timestamps, the model's own
suppress lists. The engine's test compares its transcripts with the ones in the JSON file, word for word: an engine
that computes the same must also make the same mistakes.
"""
import argparse
import csv
import json
import pathlib
import sys
import wave

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

ROOT = pathlib.Path(__file__).resolve().parents[1]
RATE = 16_000


def read_wav(path):
    with wave.open(str(path)) as f:
        assert (f.getframerate(), f.getnchannels(), f.getsampwidth()) == (RATE, 1, 2), path
        return np.frombuffer(f.readframes(f.getnframes()), "<i2").astype(np.float32) / 32768


def read_table(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f, delimiter="\t"))


def utterances(tables, margin):
    """(group, name, samples, reference text) of every row: a file of its own, or a stretch of <table name>.wav."""
    for table in tables:
        for row in read_table(table):
            if "file" in row:
                yield table.stem, row["file"], read_wav(table.parent / row["file"]), row["text"]
                continue
            whole = read_wav(table.with_suffix(".wav"))
            start, end = (float(row[k]) for k in ("start", "end"))
            first, last = max(0, round((start - margin) * RATE)), round((end + margin) * RATE)
            yield table.stem, f"{table.stem}.wav@{start:.2f}-{end:.2f}", whole[first:last], row["text"]


def word_edits(reference, heard):
    """The fewest words to insert, delete or replace."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


class Recogniser:
    def __init__(self, directory):
        self.model = WhisperForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
        self.extract = WhisperFeatureExtractor.from_pretrained(directory)
        self.tok = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.prompt = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]

    @torch.no_grad()
    def __call__(self, samples):
        """(text, token ids, smallest distance between best and second best logit, no-speech probability)"""
        features = self.extract(samples, sampling_rate=RATE, return_tensors="pt").input_features
        end = self.tok.token_to_id("<|endoftext|>")
        # One call a window: without force_unique_generate_call the library follows timestamps it was not asked for.
        out = self.model.generate(
            features, language="en", task="transcribe", return_timestamps=False, num_beams=1, do_sample=False,
            force_unique_generate_call=True, return_dict_in_generate=True, output_scores=True,
        )
        best = torch.stack(out.scores)[:, 0].topk(2).values
        tokens = out.sequences[0].tolist()[len(self.prompt) :]
        first = torch.tensor([[self.tok.token_to_id(self.prompt[0])]])
        silent = self.model(features, decoder_input_ids=first).logits[0, 0].softmax(-1)[self.tok.token_to_id("<|nospeech|>")]
        text = self.tok.decode([t for t in tokens if t < end]).strip()
        return text, tokens, float((best[:, 0] - best[:, 1]).min()), float(silent)


def totals(rows):
    words, edits = (sum(r[k] for r in rows) for k in ("words", "edits"))
    exact = sum(r["edits"] == 0 for r in rows)
    return {"recordings": len(rows), "words": words, "edits": edits, "exact": exact, "wer_percent": round(100 * edits / words, 2)}


def main():
    fixtures = ROOT / "tests/fixtures/audio/command-en"
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "assets/models/command-en", help="model directory")
    parser.add_argument("--margin", type=float, default=0.2, help="seconds kept on both sides of a stretch of a long recording")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=pathlib.Path, help="write everything here too")
    parser.add_argument(
        "tables", type=pathlib.Path, nargs="*", metavar="TSV", help="reference texts beside their recordings: with a column "
        "`file`, or `start` and `end` for stretches of the recording of the table's name",
        default=[ROOT / "assets/demo/demo.tsv", fixtures / "digits.tsv", fixtures / "long.tsv"],
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    recognise = Recogniser(args.model)
    rows = []
    for group, name, samples, reference in utterances(args.tables, args.margin):
        text, tokens, gap, silent = recognise(samples)
        edits = word_edits(reference.split(), text.split())
        rows.append({"group": group, "name": name, "reference": reference, "text": text, "edits": edits,
                     "words": len(reference.split()), "no_speech": round(silent, 6), "min_gap": round(gap, 4),
                     "tokens": tokens})
        print(f"{edits}/{len(reference.split())}  {name}  {text}" + (f"   [{reference}]" if edits else ""), flush=True)
    groups = {g: totals([r for r in rows if r["group"] == g]) for g in dict.fromkeys(r["group"] for r in rows)}
    groups["all"] = totals(rows)
    for group, figures in groups.items():
        print(f"{group:8}", figures)
    if args.json:
        how = {
            "decoding": "f32, greedy, suppress_tokens of generation_config.json, no timestamps, one zero-padded window each",
            "margin_s": args.margin,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }
        args.json.write_text(json.dumps({"how": how, "totals": groups, "recordings": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
