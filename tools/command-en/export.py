#!/usr/bin/env python3
"""Turns a checkpoint into a model directory that any Whisper loader reads.

    python export.py --checkpoint scratch/run/ckpt.pt --data scratch/data --out scratch/command-en
"""
import argparse
import json
import pathlib
import shutil

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

import augment
import grammar
import model
import tokenizer
from corpus import RATE, Corpus

END = "<|endoftext|>"


@torch.no_grad()
def rank_heads(net, corpus, clips=60):
    """[(error, [layer, head])], best first: how far, in seconds, a cross-attention head's expected time is from a straight
    line through the known start and end of a clip."""
    prompt = [corpus.tokens[s] for s in tokenizer.PROMPT]
    lead_s, errors = 0.5, {}
    for clip in corpus.of("valid")[:clips]:
        audio = np.zeros(augment.WINDOW, np.float32)
        x = corpus.audio(clip)[: augment.WINDOW - 20_000]
        audio[int(lead_s * RATE) :][: len(x)] = x
        ids = prompt + corpus.ids(clip.text)
        encoded = net.encode(model.log_mel(torch.from_numpy(audio)[None]))
        _, weights = net.decode(torch.tensor([ids]), encoded, want_weights=True)
        count = len(ids) - len(prompt)
        line = lead_s + (np.arange(count) + 0.5) / count * len(x) / RATE
        for layer, w in enumerate(weights):
            # Position k predicts token k + 1, so the text's rows start at the prompt's last token.
            times = (w[0, :, len(prompt) - 1 : -1] * torch.arange(augment.POSITIONS) * 0.02).sum(-1).numpy()
            for head, t in enumerate(times):
                errors.setdefault((layer, head), []).append(np.abs(t - line).mean())
    return sorted((round(float(np.mean(e)), 3), list(at)) for at, e in errors.items())


def generation_config(ids, suppressed, heads):
    return {
        "alignment_heads": heads,
        "bos_token_id": ids[END],
        "eos_token_id": ids[END],
        "pad_token_id": ids[END],
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "suppress_tokens": suppressed,
        "begin_suppress_tokens": [],
        "max_initial_timestamp_index": augment.POSITIONS,
        "max_length": 128,
        "is_multilingual": True,
        "lang_to_id": {"<|en|>": ids["<|en|>"]},
        "language": "en",
        "task": "transcribe",
        "task_to_id": {"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        "return_timestamps": False,
    }


def preprocessor_config():
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": model.BINS,
        "sampling_rate": RATE,
        "hop_length": model.HOP,
        "n_fft": model.FFT,
        "chunk_length": augment.WINDOW_S,
        "n_samples": augment.WINDOW,
        "nb_max_frames": 2 * augment.POSITIONS,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def write_directory(out, weights, config, ids, heads, tokenizer_file):
    """Writes every file of the model directory but the card."""
    out.mkdir(parents=True, exist_ok=True)
    # <|notimestamps|> stays allowed: as in the published models the decoder's rules take care of it.
    suppressed = [ids[s] for s in tokenizer.SPECIALS[1:-1]]
    tokens = {"bos_token": END, "eos_token": END, "unk_token": END, "pad_token": END,
              "additional_special_tokens": tokenizer.SPECIALS[1:]}  # fmt: skip
    tokenizer_config = {"tokenizer_class": "WhisperTokenizerFast", **tokens, "clean_up_tokenization_spaces": False,
                        "add_prefix_space": False, "model_max_length": 128}  # fmt: skip
    for name, value in {
        "config": dict(config, suppress_tokens=suppressed),
        "generation_config": generation_config(ids, suppressed, heads),
        "preprocessor_config": preprocessor_config(),
        "tokenizer_config": tokenizer_config,
        "special_tokens_map": tokens,
    }.items():
        (out / f"{name}.json").write_text(json.dumps(value, indent=1))
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "vocabulary.txt").write_text("\n".join(grammar.VOCABULARY) + "\n")
    if tokenizer_file.resolve() != (out / "tokenizer.json").resolve():
        shutil.copy(tokenizer_file, out / "tokenizer.json")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--checkpoint", type=pathlib.Path, default="scratch/run/ckpt.pt")
    parser.add_argument("--data", type=pathlib.Path, default="scratch/data")
    parser.add_argument("--out", type=pathlib.Path, default="scratch/command-en", help="model directory to write")
    parser.add_argument("--heads", type=int, default=2, help="how many alignment heads to name")
    args = parser.parse_args()
    checkpoint = torch.load(args.checkpoint)
    tokenizer_file = args.data / "tokenizer.json"
    corpus = Corpus(args.data, Tokenizer.from_file(str(tokenizer_file)))
    net = model.Whisper(checkpoint["cfg"], corpus.ctc_classes).eval()
    net.load_state_dict(checkpoint["net"])
    ranked = rank_heads(net, corpus)
    print("cross-attention heads by their distance from a straight line (s):", ranked)
    weights = {k: v.half().contiguous() for k, v in checkpoint["net"].items() if not k.startswith("ctc.")}
    heads = [head for _, head in ranked[: args.heads]]
    write_directory(args.out, weights, checkpoint["cfg"], corpus.tokens, heads, tokenizer_file)
    print(sum(v.numel() for v in weights.values()), "parameters,", (args.out / "model.safetensors").stat().st_size,
          "bytes, after", checkpoint["step"], "steps and", round(checkpoint["minutes"], 1), "minutes")  # fmt: skip


if __name__ == "__main__":
    main()
