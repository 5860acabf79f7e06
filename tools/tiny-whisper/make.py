#!/usr/bin/env python3
"""Makes tests/fixtures/tiny-whisper: a very small random Whisper and what the reference library computes with it.

    python3 -m venv /tmp/venv
    /tmp/venv/bin/pip install -r tools/tiny-whisper/requirements.txt
    /tmp/venv/bin/python tools/tiny-whisper/make.py            # writes the model and the goldens, about a minute
    /tmp/venv/bin/python tools/tiny-whisper/make.py --check    # recomputes and compares with what is there
    /tmp/venv/bin/python tools/tiny-whisper/make.py --scan 200 # how SEED was chosen; writes nothing

The model has Whisper's architecture and file format, but a window of 6 s and 600-odd tokens, so that every test of
the engine runs in milliseconds. Its weights are random: what it "says" is noise, but it is the same noise for every
correct implementation. The reference is transformers in f32 on one thread.

The weights are drawn with numpy's PCG64, which is specified bit for bit, so a later torch makes the same file.
Each recorded decision of the reference must also come out of the same model in f64 (see `Reference.both`): an
implementation that is only differently rounded can then be compared token for token.
"""
import argparse
import json
import pathlib
import sys
import wave

import numpy as np
import tokenizers
import torch
import transformers
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

ROOT = pathlib.Path(__file__).resolve().parents[2]

RATE = 16_000
WINDOW_S = 6
POSITIONS = 300  # encoder positions: 100 mel frames a second, halved by the second convolution
HEADS = 3
WIDTH = 48
TEXT_POSITIONS = 64

# ---- tokenizer --------------------------------------------------------------------------------------------------

LANGUAGES = ["en", "fr", "de"]
SPECIALS = (
    ["<|endoftext|>", "<|startoftranscript|>"]
    + [f"<|{code}|>" for code in LANGUAGES]
    + ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
)
STAMPS = [f"<|{i * 0.02:.2f}|>" for i in range(POSITIONS + 1)]

# In the order of their rank; the pre-tokenizer writes a space as Ġ. The two accented letters make tokens that hold a
# whole two-byte character, and the plain byte tokens make broken ones: both happen with the real vocabulary.
MERGES = """Ġ t|Ġ s|h e|Ġt he|i n|r e|o n|Ġ a|Ġ w|e r|Ġ o|Ġ c|Ġ m|Ġs t|a n|e n|o u|Ġ p|Ġ d|a t|Ġa n|Ġan d|in g|Ġ f|o r|Ġ b|a r|Ġt o
Ġ l|o p|Ġo p|Ġop en|Ġst ar|Ġstar t|Ġ n|e s|Ġs e|Ġ r|à ©|à ¼|Ġ he|Ġc l|Ġ e|Ġd o""".replace("\n", "|").split("|")


def make_tokenizer():
    """Byte-level BPE, then Whisper's special tokens by name, then the timestamps."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: i for i, symbol in enumerate(alphabet)}
    merges = [tuple(merge.split(" ")) for merge in MERGES]
    for left, right in merges:
        assert left in vocab and right in vocab, (left, right)
        vocab[left + right] = len(vocab)
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    # Not special, as in the published tokenizers: skipping special tokens must not hide the timestamps.
    tok.add_tokens([AddedToken(s, special=False, normalized=False) for s in STAMPS])
    assert [tok.token_to_id(s) for s in SPECIALS + STAMPS] == list(range(len(vocab), len(vocab) + len(SPECIALS + STAMPS)))
    return tok


# ---- model ------------------------------------------------------------------------------------------------------

SEED = 1

# Standard deviations relative to 1/sqrt(fan in). With gains near one a random decoder repeats its first token for
# ever: the tied embedding of the token just read is the largest part of the residual stream. So the layers speak
# loudly (value, fc), the attentions are sharp (query, key), and the tables are of a size to be heard among them.
GAINS = {"q_proj": 1.8, "k_proj": 1.8, "v_proj": 1.6, "out_proj": 1.6, "fc1": 1.8, "fc2": 1.8, "conv1": 1.6, "conv2": 1.6}
CROSS_GAINS = {"q_proj": 2.2, "k_proj": 2.2, "v_proj": 2.2, "out_proj": 2.2}
TOKEN_STD = 0.3
TEXT_POSITION_STD = 0.4
# A random model says <|endoftext|> once in 600 tokens, and a timestamp every other time. A longer row in the tied
# table wins more often, a shorter one less.
END_SCALE = 1.7
STAMP_SCALE = 0.8


def model_config(tok):
    end = tok.token_to_id("<|endoftext|>")
    return WhisperConfig(
        vocab_size=tok.get_vocab_size(), num_mel_bins=80, d_model=WIDTH, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=2 * WIDTH, decoder_ffn_dim=2 * WIDTH,
        max_source_positions=POSITIONS, max_target_positions=TEXT_POSITIONS, pad_token_id=end, bos_token_id=end,
        eos_token_id=end, decoder_start_token_id=tok.token_to_id("<|startoftranscript|>"),
        suppress_tokens=None, begin_suppress_tokens=None, median_filter_width=7,
    )


def make_model(tok, seed):
    """The model in f32; every tensor but the encoder's sinusoids is redrawn, in the order of their sorted names."""
    model = WhisperForConditionalGeneration(model_config(tok)).eval()
    rng = np.random.Generator(np.random.PCG64(seed))
    end, first_stamp = tok.token_to_id("<|endoftext|>"), tok.token_to_id(STAMPS[0])
    for name, tensor in sorted(model.named_parameters()):
        if name == "model.encoder.embed_positions.weight":
            continue
        noise = rng.standard_normal(tuple(tensor.shape))
        part = name.split(".")[-2]
        if "layer_norm" in part:
            value = 0.05 * noise + (1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("bias"):
            value = 0.02 * noise
        elif part == "embed_tokens":
            value = TOKEN_STD * noise
            value[end] *= END_SCALE
            value[first_stamp:] *= STAMP_SCALE
        elif part == "embed_positions":
            value = TEXT_POSITION_STD * noise
        else:
            gain = (CROSS_GAINS if "encoder_attn" in name else GAINS)[part]
            value = noise * gain / np.sqrt(noise[0].size)
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(value.astype(np.float32)))
    return model


def generation_config(tok):
    """generation_config.json as the published models have it."""
    ident = tok.token_to_id
    return {
        # [layer, head]: not the first heads and not in order, so that mixing the two up is noticed
        "alignment_heads": [[1, 2], [0, 1]],
        "bos_token_id": ident("<|endoftext|>"),
        "eos_token_id": ident("<|endoftext|>"),
        "pad_token_id": ident("<|endoftext|>"),
        "decoder_start_token_id": ident("<|startoftranscript|>"),
        "prev_sot_token_id": ident("<|startofprev|>"),
        "no_timestamps_token_id": ident("<|notimestamps|>"),
        "suppress_tokens": [ident(s) for s in SPECIALS[1:]],
        "begin_suppress_tokens": [ident("Ġ"), ident("<|endoftext|>")],
        "max_initial_timestamp_index": 50,
        "max_length": TEXT_POSITIONS,
        "is_multilingual": True,
        "lang_to_id": {f"<|{code}|>": ident(f"<|{code}|>") for code in LANGUAGES},
        "task_to_id": {"transcribe": ident("<|transcribe|>"), "translate": ident("<|translate|>")},
        "return_timestamps": False,
    }


def preprocessor_config():
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": 80,
        "sampling_rate": RATE,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": WINDOW_S,
        "n_samples": RATE * WINDOW_S,
        "nb_max_frames": 2 * POSITIONS,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }
