#!/usr/bin/env python3
"""Makes tests/fixtures/tiny-whisper: a very small random Whisper and what the reference library computes with it.

    python3 -m venv /tmp/venv
    /tmp/venv/bin/pip install -r tools/tiny-whisper/requirements.txt
    /tmp/venv/bin/python tools/tiny-whisper/make.py            # writes the model and the goldens, about a minute
    /tmp/venv/bin/python tools/tiny-whisper/make.py --check    # recomputes the goldens of the model that is there
    /tmp/venv/bin/python tools/tiny-whisper/make.py --scan 200 # how SEED was chosen; writes nothing

The model has Whisper's architecture and file format, but a window of 6 s and 600-odd tokens, so that every test of
the engine runs in milliseconds. Its weights are random: what it "says" is noise, but it is the same noise for every
correct implementation. The reference is transformers in f32 on one thread.

The weights are drawn with numpy's PCG64 and not with torch, whose streams change more often.
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
MEDIAN_WIDTH = 7

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

SEED = 113

READABLE = "Ġabcdefghijklmnopqrstuvwxyz"

# Standard deviations relative to 1/sqrt(fan in). With gains near one a random decoder repeats its first token for
# ever: the tied embedding of the token just read is the largest part of the residual stream, and the mean of a window
# of audio hardly changes from step to step. So the layers speak loudly (value, out, fc), the attentions are sharp
# (query, key), and the position table is the loudest of all.
GAINS = {"q_proj": 1.8, "k_proj": 1.8, "v_proj": 1.6, "out_proj": 1.6, "fc1": 2.5, "fc2": 2.5, "conv1": 1.6, "conv2": 1.6}
CROSS_GAINS = {"q_proj": 3.0, "k_proj": 3.0, "v_proj": 1.6, "out_proj": 1.6}
TOKEN_STD = 0.3
TEXT_POSITION_STD = 1.5
# A random model says <|endoftext|> once in 600 tokens, a timestamp every other time, and bytes that are no text almost
# always. A longer row in the tied table wins more often, a shorter one less.
END_SCALE = 1.5
STAMP_SCALE = 0.5
BYTE_SCALE = 0.6
MERGE_SCALE = 1.3


def model_config(tok):
    """config.json as the published models have it."""
    end = tok.token_to_id("<|endoftext|>")
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "activation_function": "gelu",
        "num_mel_bins": 80,
        "d_model": WIDTH,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "num_hidden_layers": 2,
        "encoder_attention_heads": HEADS,
        "decoder_attention_heads": HEADS,
        "encoder_ffn_dim": 2 * WIDTH,
        "decoder_ffn_dim": 2 * WIDTH,
        "max_source_positions": POSITIONS,
        "max_target_positions": TEXT_POSITIONS,
        "max_length": TEXT_POSITIONS,
        "vocab_size": tok.get_vocab_size(),
        "is_encoder_decoder": True,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "init_std": 0.02,
        "scale_embedding": False,
        "median_filter_width": MEDIAN_WIDTH,
        "use_cache": True,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": tok.token_to_id("<|startoftranscript|>"),
        "suppress_tokens": [],
        "begin_suppress_tokens": [],
    }


def make_model(tok, seed):
    """The model in f32; every tensor but the encoder's sinusoids is redrawn, in the order of their sorted names."""
    model = WhisperForConditionalGeneration(WhisperConfig(**model_config(tok))).eval()
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
            value[:256] *= np.where([tok.id_to_token(i) in READABLE for i in range(256)], 1.0, BYTE_SCALE)[:, None]
            value[256:end] *= MERGE_SCALE
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


def write_model(out, tok, seed):
    out.mkdir(parents=True, exist_ok=True)
    model = make_model(tok, seed)
    # The output projection is the token table again; no published file holds it twice.
    tensors = {k: v.numpy() for k, v in sorted(model.state_dict().items()) if k != "proj_out.weight"}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    tok.save(str(out / "tokenizer.json"), pretty=False)
    write_json(out / "config.json", model_config(tok))
    write_json(out / "generation_config.json", generation_config(tok))
    write_json(out / "preprocessor_config.json", preprocessor_config())


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


# ---- reference --------------------------------------------------------------------------------------------------


def read_wav(path):
    with wave.open(str(path)) as f:
        assert (f.getframerate(), f.getnchannels(), f.getsampwidth()) == (RATE, 1, 2), path
        return np.frombuffer(f.readframes(f.getnframes()), "<i2").astype(np.float32) / 32768


def window(samples, seconds):
    """Cut or zero-padded to the window."""
    out = np.zeros(RATE * seconds, np.float32)
    n = min(len(out), len(samples))
    out[:n] = samples[:n]
    return out


def log_mel(samples, bins, seconds):
    extract = WhisperFeatureExtractor(feature_size=bins, chunk_length=seconds)
    return extract(window(samples, seconds), sampling_rate=RATE, return_tensors="np").input_features[0]


class Decoded(dict):
    """What one decoding gave; compared by its tokens."""

    def decision(self):
        return {k: v for k, v in self.items() if k in ("tokens", "token_timestamps")}


class Reference:
    """The library's answers for one model directory in one precision."""

    def __init__(self, directory, dtype=torch.float32):
        # Eager attention because only that returns the attention probabilities.
        self.model = WhisperForConditionalGeneration.from_pretrained(
            directory, dtype=dtype, attn_implementation="eager"
        ).eval()
        self.dtype = dtype
        self.config = self.model.generation_config
        self.tok = Tokenizer.from_file(str(directory / "tokenizer.json"))

    def ids(self, *names):
        return [self.tok.token_to_id(n) for n in names]

    def prompt(self, stamps=False):
        p = self.ids("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
        return p[:-1] if stamps else p

    def features(self, samples):
        return torch.from_numpy(log_mel(samples, 80, WINDOW_S))[None].to(self.dtype)

    @torch.no_grad()
    def encode(self, samples):
        return self.model.model.encoder(self.features(samples)).last_hidden_state

    @torch.no_grad()
    def logits(self, encoded, tokens):
        """Every position's logits, without a cache."""
        out = self.model(encoder_outputs=(encoded,), decoder_input_ids=torch.tensor([tokens]), use_cache=False)
        return out.logits[0]

    @torch.no_grad()
    def cached_steps(self, encoded, prompt, forced):
        """The prompt in one call, then one token a call with the key/value cache: (prompt logits, step logits)."""
        out = self.model(encoder_outputs=(encoded,), decoder_input_ids=torch.tensor([prompt]), use_cache=True)
        first, steps = out.logits[0], []
        for token in forced:
            out = self.model(
                encoder_outputs=(encoded,), decoder_input_ids=torch.tensor([[token]]),
                past_key_values=out.past_key_values, use_cache=True,
            )
            steps.append(out.logits[0, 0])
        return first, torch.stack(steps)

    def generate(self, samples, stamps=False, **more):
        """The library's own decoding of one window."""
        config = transformers.GenerationConfig(**self.config.to_dict())
        config.max_length = None
        return self.model.generate(
            self.features(samples), generation_config=config, language="en", task="transcribe", return_timestamps=stamps,
            # One window is one call. Without this a timestamp token in the output makes the library seek to it and
            # decode again from there.
            force_unique_generate_call=True, return_dict_in_generate=True, do_sample=False, **more,
        )

    def greedy(self, samples, stamps=False, previous=(), limit=30):
        """Greedy decoding, spelled out to measure how clear each decision was, and checked against generate()."""
        encoded = self.encode(samples)
        prompt = list(previous) + self.prompt(stamps)
        tokens, gaps, total, total_raw = list(prompt), [], 0.0, 0.0
        while len(tokens) - len(prompt) < limit:
            raw = self.logits(encoded, tokens)[-1].double()
            scores = raw.clone()
            scores[self.config.suppress_tokens] = -torch.inf
            if len(tokens) == len(prompt):
                scores[self.config.begin_suppress_tokens] = -torch.inf
            if stamps:
                scores, margin = self.stamp_rules(tokens, len(prompt), scores)
                gaps.append(margin)
            top = scores.topk(2)
            if top.values[1] > -torch.inf:
                gaps.append(float(top.values[0] - top.values[1]))
            token = int(top.indices[0])
            total += float(scores.log_softmax(-1)[token])
            total_raw += float(raw.log_softmax(-1)[token])
            tokens.append(token)
            if token == self.config.eos_token_id:
                break
        new = tokens[len(prompt) :]
        extra = {"first_without_cap": self.first_without_cap(encoded, prompt)} if stamps else {}
        more = {"prompt_ids": torch.tensor(previous)} if previous else {}
        theirs = self.generate(samples, stamps, max_new_tokens=limit, **more).sequences[0].tolist()
        assert theirs == tokens, ("generate() disagrees", theirs, tokens)
        return Decoded(
            prompt=prompt, tokens=new, text=self.tok.decode(new), sum_logprob=total, sum_logprob_unmasked=total_raw,
            min_gap=min(gaps), **extra,
        )

    def first_without_cap(self, encoded, prompt):
        """What the first timestamp would be without max_initial_timestamp_index."""
        raw = self.logits(encoded, prompt)[-1]
        return self.config.no_timestamps_token_id + 1 + int(raw[self.config.no_timestamps_token_id + 1 :].argmax())

    def stamp_rules(self, tokens, begin, scores):
        """Scores after the library's timestamp rules, and how clear its choice between text and timestamp was."""
        rules = WhisperTimeStampLogitsProcessor(self.config, begin_index=begin)
        choice_off = WhisperTimeStampLogitsProcessor(self.config, begin_index=begin, _detect_timestamp_from_logprob=False)
        ids = torch.tensor([tokens])
        first = self.config.no_timestamps_token_id + 1
        p = choice_off(ids, scores[None])[0].log_softmax(-1)
        margin = abs(float(p[first:].logsumexp(-1) - p[:first].max()))
        return rules(ids, scores[None])[0], margin

    def beams(self, samples, beams, penalty, limit=20):
        out = self.generate(
            samples, num_beams=beams, length_penalty=penalty, early_stopping=False, max_new_tokens=limit,
            num_return_sequences=1, output_scores=True,
        )
        tokens = out.sequences[0].tolist()[len(self.prompt()):]
        return Decoded(
            num_beams=beams, length_penalty=penalty, max_new_tokens=limit, prompt=self.prompt(), tokens=tokens,
            text=self.tok.decode(tokens), score=float(out.sequences_scores[0]),
        )

    def align(self, samples, limit=30):
        """(times of the greedy tokens, all rows of the alignment heads' attention [heads, rows, positions], frames)"""
        extract = WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_S)
        # Not padded by hand here: the library learns from the mask how many frames hold audio.
        got = extract(samples, sampling_rate=RATE, return_tensors="pt", return_attention_mask=True)
        out = self.generate(
            samples, max_new_tokens=limit, return_token_timestamps=True, attention_mask=got.attention_mask
        )
        prompt = len(self.prompt())
        rows = [torch.cat([step[layer] for step in out["cross_attentions"]], dim=2)[0] for layer in range(2)]
        attention = torch.stack([rows[layer][head] for layer, head in self.config.alignment_heads])
        return Decoded(
            prompt=self.prompt(), tokens=out["sequences"][0].tolist()[prompt:], frames=int(got.attention_mask.sum()),
            token_timestamps=[round(t, 2) for t in out["token_timestamps"][0].tolist()][prompt:],
        ), attention


def frame_sample(frames):
    """Mel frames to record: the start one by one (its reflected padding is easy to get wrong), then every 23rd."""
    return sorted(set(range(25)) | set(range(0, frames, 23)))


# ---- goldens ----------------------------------------------------------------------------------------------------

DEMOS = ["demo1", "demo2"]
FORCED_SEED = 20

NOTES = {
    "audio": "assets/demo/<name>.wav, i16 / 32768, zero-padded or cut to the window; nothing else is done to it",
    "log_mel": "periodic Hann 400, hop 160, centred with 200 reflected samples at both ends, power spectrum, last frame dropped, "
    "Slaney filter bank 0..8000 Hz with area normalisation, max(x, 1e-10), log10, max(x, window's largest - 8), (x + 4) / 4",
    "greedy": "argmax after masking with minus infinity: suppress_tokens at every step; begin_suppress_tokens only at the first "
    "generated one (after the whole prompt, previous text included). Without timestamps the timestamp tokens are NOT masked. "
    "The <|endoftext|> that ends a sequence is listed; a sequence without it hit the limit. sum_logprob adds the log-softmax taken "
    "after masking; sum_logprob_unmasked the one before. min_gap is the smallest distance between best and second best, and in "
    "timestamp mode also between the two sides of the text-or-timestamp rule.",
    "text": "the tokenizer's decoding, special tokens skipped; timestamps are not special in this tokenizer, as in the published ones",
    "timestamps": "the prompt ends before <|notimestamps|>. After the masks above, looking at the generated tokens only: "
    "<|notimestamps|> never. If the last token is a timestamp and the one before is too (or there is none): no timestamp. If the last "
    "is a timestamp and the one before is text: nothing below <|endoftext|>. With T the last timestamp so far: timestamps below T never; "
    "T itself only when the last token is T and the one before is text (a segment may start where the last one ended). First generated "
    "token: nothing but timestamps (not even <|endoftext|>), and none above index max_initial_timestamp_index; that index itself is "
    "allowed. Last of all, on the log-softmax of what is left: if logsumexp over the timestamps is strictly larger than the largest "
    "entry below them, mask everything below them.",
    "beam": "per step and beam: log-softmax of the RAW logits in f32, then the masks (no renormalisation), plus the beam's sum. From all "
    "beams together the best 2*num_beams candidates. A candidate is finished when its token is <|endoftext|>, or when it is the last "
    "that max_new_tokens allows. Only a finished candidate among the best num_beams enters the finished list, with score = sum / "
    "(generated tokens, the <|endoftext|> included)^length_penalty; the list keeps its best num_beams. The best num_beams unfinished "
    "candidates go on. At the start only the first beam counts. Stop when all 2*num_beams candidates are finished, or when (the best "
    "running sum / (generated so far)^length_penalty) is not above the WORST of a full finished list (early_stopping False; a list "
    "with a free place never stops it). The result is the best of the finished list; score is its normalised score.",
    "alignment": "probabilities of cross-attention after softmax, one row for every token FED to the decoder: first the prompt's rows, "
    "then one for each generated token but the last; generation_config's alignment_heads [layer, head] in that order. Times: drop the "
    "prompt's rows; keep the first frames // 2 positions (frames = mel frames that hold audio = ceil(samples / 160)); per head and "
    "position subtract the mean and divide by the standard deviation over the rows (population, no epsilon); median filter of width 7 "
    "along the positions with reflection (edge not repeated); mean over the heads; dynamic time warping on the negative. The warp is "
    "with f32 costs, first row and column infinite; diagonal only if strictly below both others, else up (next token, same position) "
    "only if strictly below both others, else right (same token, next position). A row's time is the position where the path "
    "enters it * 0.02 s. token_timestamps lists one time a generated token: row i's time for token i, and the last token repeats the "
    "time before it. NOTE: row i is the attention while token i is READ (and token i + 1 predicted). shifted_times has "
    "the other choice.",
    "shifted_times": "the same procedure with one row more, the prompt's last: row i is then where token i is PREDICTED; one time a "
    "generated token, the <|endoftext|> included. openai's timing.py takes these rows, too, but is not the same otherwise: it crops "
    "before the softmax and takes mean and deviation over all rows, the prompt's included.",
    "language": "softmax over the language tokens alone of the logits after <|startoftranscript|>",
    "no_speech": "softmax over the whole vocabulary of the same logits, at <|nospeech|>",
    "batched": "each row computed alone; a batched, ragged step must give the same",
}


def warp_times(attention, frames):
    """Start of each row in seconds, by the library's own filter and warp."""
    from transformers.models.whisper.generation_whisper import _dynamic_time_warping, _median_filter

    w = attention[..., : frames // 2]
    w = (w - w.mean(-2, keepdim=True)) / w.std(-2, keepdim=True, unbiased=False)
    matrix = _median_filter(w, MEDIAN_WIDTH).mean(0)
    rows, positions = _dynamic_time_warping(-matrix.double().numpy())
    starts = np.pad(np.diff(rows), (1, 0), constant_values=1).astype(bool)
    return [round(float(t) * 0.02, 2) for t in positions[starts]], matrix


class Goldens:
    def __init__(self, directory, demo_dir):
        self.f32, self.f64 = Reference(directory), Reference(directory, torch.float64)
        self.audio = {name: read_wav(demo_dir / f"{name}.wav") for name in DEMOS}
        self.tensors, self.described, self.json = {}, {}, {}

    def put(self, name, value, meaning):
        value = np.ascontiguousarray(value)
        value = value.astype(np.int32 if value.dtype.kind in "iu" else np.float32)
        self.tensors[name] = value
        self.described[name] = {"shape": list(value.shape), "meaning": meaning}

    def both(self, what, *args, **kwargs):
        """A decoding in f32, after making sure that f64 decides the same everywhere."""
        a, b = (getattr(r, what)(*args, **kwargs) for r in (self.f32, self.f64))
        assert a.decision() == b.decision(), (what, kwargs, a, b)
        assert a.get("min_gap", 1.0) > 1e-3, (what, kwargs, a)
        return a

    def make(self):
        rng = np.random.Generator(np.random.PCG64(FORCED_SEED))
        text_token = lambda n: [int(t) for t in rng.integers(0, 256 + len(MERGES), n)]
        self.mels()
        self.encoder()
        self.decoder(text_token(12))
        self.batched(text_token(7), text_token(3))
        self.first_token()
        self.decodings(text_token(8))
        self.alignment()
        self.json["notes"] = NOTES
        self.json["tensors"] = self.described
        self.json["versions"] = {
            "python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__, "numpy": np.__version__,
        }
        return self.tensors, self.json

    def mels(self):
        for bins in (80, 128):
            bank = WhisperFeatureExtractor(feature_size=bins).mel_filters
            self.put(f"filters{bins}/row_sums", np.abs(bank).sum(0), f"[{bins}] sum of each mel filter over the 201 FFT bins")
            picked = frame_sample(2 * POSITIONS)
            self.put(f"mel{bins}/frames", np.array(picked), "the frames recorded, of 600")
            for name in DEMOS:
                mel = log_mel(self.audio[name], bins, WINDOW_S)
                self.put(f"mel{bins}/{name}", mel[:, picked], f"[{bins}, frames] log-mel of {name} in a 6 s window")
        picked = frame_sample(3000)
        self.put("mel80_30s/frames", np.array(picked), "the frames recorded, of 3000")
        mel = log_mel(self.audio["demo1"], 80, 30)
        self.put("mel80_30s/demo1", mel[:, picked], "[80, frames] log-mel of demo1 (3.34 s) in Whisper's own 30 s window")

    def encoder(self):
        a, b = (self.f32.encode(self.audio[n])[0].numpy() for n in DEMOS)
        self.put("encoder/demo1", a, "[300, 48] encoder output")
        picked = np.arange(0, POSITIONS, 7)
        self.put("encoder/demo2_rows", picked, "the positions recorded")
        self.put("encoder/demo2", b[picked], "[rows, 48] encoder output at these positions")

    def decoder(self, forced):
        encoded = self.f32.encode(self.audio["demo1"])
        prompt = self.f32.prompt()
        first, steps = self.f32.cached_steps(encoded, prompt, forced)
        whole = self.f32.logits(encoded, prompt + forced)
        assert (torch.cat([first, steps]) - whole).abs().max() < 1e-4
        self.put("logits/prefill", first.numpy(), "[4, vocabulary] demo1, the prompt in one call")
        self.put("logits/steps", steps.numpy(), "[12, vocabulary] then forced tokens one by one with the cache; row i is what follows forced[i]")
        self.json["forced"] = {"audio": "demo1", "prompt": prompt, "tokens": forced}

    def batched(self, a, b):
        rows = []
        for key, name, forced in (("a", "demo1", a), ("b", "demo2", b)):
            tokens = self.f32.prompt() + forced
            logits = self.f32.logits(self.f32.encode(self.audio[name]), tokens)[-1]
            self.put(f"batched/{key}", logits.numpy(), f"[vocabulary] {name}: the next token's logits after prompt + {len(forced)} forced tokens")
            rows.append({"audio": name, "tokens": tokens})
        self.json["batched"] = rows

    def first_token(self):
        config = self.f32.config
        self.json["language"] = {}
        for name in DEMOS:
            logits = self.f32.logits(self.f32.encode(self.audio[name]), self.f32.ids("<|startoftranscript|>"))[0].double()
            ids = list(config.lang_to_id.values())
            p = logits[ids].softmax(-1).tolist()
            self.json["language"][name] = {
                "probabilities": dict(zip(config.lang_to_id, p)),
                "no_speech": float(logits.softmax(-1)[config.no_timestamps_token_id - 1]),
            }

    def decodings(self, words):
        previous = self.f32.ids("<|startofprev|>") + words
        kinds = {
            "greedy": ("greedy", {}),
            "greedy_timestamps": ("greedy", {"stamps": True}),
            "greedy_previous": ("greedy", {"previous": previous}),
            "beam5": ("beams", {"beams": 5, "penalty": 1.0}),
            "beam3": ("beams", {"beams": 3, "penalty": 0.6}),
            # stopped by the limit: what is still running is finished as it stands
            "beam5_limit": ("beams", {"beams": 5, "penalty": 1.0, "limit": 6}),
            "greedy_limit": ("greedy", {"limit": 6}),
        }
        for key, (what, kwargs) in kinds.items():
            self.json[key] = {n: self.both(what, self.audio[n], **kwargs) for n in DEMOS}
        first, second = (self.json["greedy"][n]["tokens"] for n in DEMOS)
        assert first != second, "the audio must matter"

    def alignment(self):
        self.json["alignment"] = {}
        for name in DEMOS:
            (got, attention), (exact, exact_attention) = (r.align(self.audio[name]) for r in (self.f32, self.f64))
            assert got.decision() == exact.decision(), (got, exact)
            assert got["tokens"] == self.json["greedy"][name]["tokens"]
            start = len(got["prompt"])
            times, matrix = warp_times(attention[:, start:], got["frames"])
            assert times + times[-1:] == got["token_timestamps"], (times, got)
            got["shifted_times"] = warp_times(attention[:, start - 1 :], got["frames"])[0]
            assert got["shifted_times"] == warp_times(exact_attention[:, start - 1 :], got["frames"])[0]
            self.json["alignment"][name] = got
            if name == "demo1":
                self.put("alignment/attention", attention.numpy(), "[heads, rows, 300] demo1's greedy result: see notes.alignment; all rows, the prompt's too")
                self.put("alignment/matrix", matrix.numpy(), "[rows, frames / 2] what the warp gets (its negative): prompt rows dropped, cropped, normalised, filtered, averaged")


# ---- command line -----------------------------------------------------------------------------------------------


def differences(old, new, path=""):
    """Where two JSON values differ; numbers may differ by 1e-4."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [d for k in old.keys() | new.keys() for d in differences(old.get(k), new.get(k), f"{path}/{k}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [d for i, (a, b) in enumerate(zip(old, new)) for d in differences(a, b, f"{path}/{i}")]
    if isinstance(old, float) and isinstance(new, float):
        return [] if abs(old - new) < 1e-4 else [f"{path}: {old} {new}"]
    return [] if old == new else [f"{path}: {old} {new}"]


def check(out, tensors, values):
    old = load_file(out / "golden.safetensors")
    bad = differences(json.loads((out / "golden.json").read_text()), json.loads(json.dumps(values)))
    bad = [d for d in bad if not d.startswith("/versions")]
    for name in sorted(old.keys() | tensors.keys()):
        if name not in old or name not in tensors or old[name].shape != tensors[name].shape:
            bad.append(f"{name}: missing or of another shape")
        elif (worst := np.abs(old[name].astype(np.float64) - tensors[name]).max()) > 2e-5:
            bad.append(f"{name}: differs by {worst}")
    print("\n".join(bad) or "the same")
    return bool(bad)


def scan(tok, demo_dir, directory, count):
    """Prints the seeds whose model says something varied: not one token for ever, ended at least once by
    <|endoftext|>, another thing for other audio, text without timestamps, and clear decisions."""
    audio = [read_wav(demo_dir / f"{n}.wav") for n in DEMOS]
    for seed in range(count):
        write_model(directory, tok, seed)
        ref = Reference(directory)
        end, stamp = ref.config.eos_token_id, ref.config.no_timestamps_token_id + 1
        plain = [ref.greedy(a) for a in audio]
        said = [p["tokens"] for p in plain]
        if min(len(set(t)) / len(t) for t in said) < 0.5 or min(map(len, said)) < 8 or not any(end in t for t in said):
            continue
        if max(map(max, said)) >= stamp or sum(a == b for a, b in zip(*said)) > 0.4 * min(map(len, said)):
            continue
        timed = [ref.greedy(a, stamps=True) for a in audio]
        gap = min(p["min_gap"] for p in plain + timed)
        if gap < 4e-3:
            continue
        beams = [ref.beams(a, n, p)["tokens"] for a in audio for n, p in ((5, 1.0), (3, 0.6))]
        stamps = [sum(t >= stamp for t in p["tokens"]) for p in timed]
        print(seed, "gap", round(gap, 4), "beam lengths", [len(b) for b in beams], "ended", sum(end in b for b in beams),
              "stamps", stamps, [p["text"] for p in plain + timed], flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/fixtures/tiny-whisper", help="model and goldens")
    parser.add_argument("--demo", type=pathlib.Path, default=ROOT / "assets/demo", help="folder of demo1.wav and demo2.wav")
    parser.add_argument("--seed", type=int, default=SEED, help="of the weights")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the goldens come out otherwise")
    parser.add_argument("--scan", type=int, metavar="N", help="try seeds 0..N, print the usable ones; writes to a scratch folder")
    args = parser.parse_args()
    # One thread: the order of summation, and so the last bits, must not depend on the machine's core count.
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tok = make_tokenizer()
    if args.scan:
        import tempfile

        with tempfile.TemporaryDirectory() as scratch:
            scan(tok, args.demo, pathlib.Path(scratch), args.scan)
        return 0
    if not args.check:
        write_model(args.out, tok, args.seed)
    tensors, values = Goldens(args.out, args.demo).make()
    if args.check:
        return int(check(args.out, tensors, values))
    save_file(tensors, args.out / "golden.safetensors")
    write_json(args.out / "golden.json", values)
    for path in sorted(args.out.iterdir()):
        path.chmod(0o644)
        print(f"{path.stat().st_size:8}  {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
