#!/usr/bin/env python3
"""Makes the tokenizer and the phoneme lexicon; the first step of a training.

    python tokenizer.py --data scratch/data

tokenizer.json: byte-level BPE over our own sentences, then Whisper's special tokens by name, then the timestamps.
lexicon.json:   word -> phonemes by espeak-ng; the targets of the CTC head, used in training only.
"""
import argparse
import json
import pathlib
import random
import subprocess

import grammar

SPECIALS = [
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>",
    "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
]
PROMPT = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
WINDOW_S = 10
STAMPS = [f"<|{i * 0.02:.2f}|>" for i in range(50 * WINDOW_S + 1)]
MERGES = 640


def build_tokenizer(merges=MERGES):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    r = random.Random(5)
    # Each word also forty times alone, so that the words the grammar seldom says get merges too.
    text = [" " + grammar.sentence(r)[1] for _ in range(30_000)] + [" " + w for w in grammar.VOCABULARY for _ in range(40)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256 + merges, initial_alphabet=alphabet, show_progress=False)
    tok.train_from_iterator(text, trainer)
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    # Not special, as in the published tokenizers: skipping special tokens must not hide the timestamps.
    tok.add_tokens([AddedToken(s, special=False, normalized=False) for s in STAMPS])
    ids = tok.get_vocab()
    tok.post_processor = processors.TemplateProcessing(
        single=" ".join(PROMPT) + " $A <|endoftext|>", special_tokens=[(s, ids[s]) for s in SPECIALS]
    )
    return tok


def phonemes(word):
    """espeak-ng's American phonemes without stress marks."""
    command = ["espeak-ng", "-q", "-v", "en-us", "--ipa", "--sep=_", grammar.spoken(word)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = said.strip().replace(" ", "_").replace("\n", "_").split("_")
    return [p.replace("ˈ", "").replace("ˌ", "") for p in found if p.strip("ˈˌ")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=pathlib.Path, default="scratch/data", help="folder to write to")
    parser.add_argument("--merges", type=int, default=MERGES)
    parser.add_argument("--no-lexicon", action="store_true", help="the tokenizer alone; needs no espeak-ng")
    args = parser.parse_args()
    args.data.mkdir(parents=True, exist_ok=True)
    tok = build_tokenizer(args.merges)
    tok.save(str(args.data / "tokenizer.json"))
    lengths = [len(tok.encode(" " + w, add_special_tokens=False).ids) for w in grammar.VOCABULARY]
    print(f"{tok.get_vocab_size()} tokens, {sum(lengths) / len(lengths):.2f} a word, {max(lengths)} at most")
    if args.no_lexicon:
        return
    lexicon = {word: phonemes(word) for word in grammar.VOCABULARY}
    (args.data / "lexicon.json").write_text(json.dumps(lexicon, ensure_ascii=False))
    print(len({p for v in lexicon.values() for p in v}), "phonemes")


if __name__ == "__main__":
    main()
