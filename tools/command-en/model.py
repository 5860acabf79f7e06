"""Whisper's front end and architecture in plain PyTorch, with Hugging Face's tensor names, plus what training needs.

Two things differ from transformers' own class: the encoder may take less than its window (it then uses a slice of the
position table), and there is a CTC head on the encoder (`ctc.*`), which export.py drops.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

RATE, HOP, FFT, BINS = 16_000, 160, 400, 80

# ---- front end --------------------------------------------------------------------------------------------------

# Slaney's mel scale: linear up to 1 kHz, then 27 steps for each factor of 6.4.
BREAK_HZ, BREAK_MEL, LOG_STEP = 1000.0, 15.0, math.log(6.4) / 27


def hz_to_mel(hz):
    hz = np.asarray(hz, dtype=np.float64)
    return np.where(hz >= BREAK_HZ, BREAK_MEL + np.log(np.maximum(hz, 1e-9) / BREAK_HZ) / LOG_STEP, 3 * hz / 200)


def mel_to_hz(mel):
    mel = np.asarray(mel, dtype=np.float64)
    return np.where(mel >= BREAK_MEL, BREAK_HZ * np.exp(LOG_STEP * (mel - BREAK_MEL)), 200 * mel / 3)


def mel_filters(bins=BINS, warp=1.0):
    """[bins, 201]. A warp other than 1 stretches the frequency axis: another length of the vocal tract."""
    frequencies = np.linspace(0, RATE / 2, FFT // 2 + 1) * warp
    corners = mel_to_hz(np.linspace(hz_to_mel(0), hz_to_mel(RATE / 2), bins + 2))
    width = np.diff(corners)
    distance = corners[:, None] - frequencies[None]
    rising, falling = -distance[:-2] / width[:-1, None], distance[2:] / width[1:, None]
    area = 2.0 / (corners[2:] - corners[:-2])
    return torch.tensor(np.maximum(0, np.minimum(rising, falling)) * area[:, None], dtype=torch.float32)


FILTERS = mel_filters()
WINDOW = torch.hann_window(FFT)


def log_mel(audio, filters=FILTERS, gain=None):
    """[batch, samples] -> [batch, 80, samples / 160]: Whisper's front end, if `filters` and `gain` are left alone.

    `filters` may be one bank for each row; `gain` multiplies the power spectrum, [batch, 201].
    """
    power = torch.stft(audio, FFT, HOP, window=WINDOW, return_complex=True)[..., :-1].abs() ** 2
    if gain is not None:
        power = power * gain[:, :, None]
    mel = torch.matmul(filters, power).clamp(min=1e-10).log10()
    mel = torch.maximum(mel, mel.amax(dim=(1, 2), keepdim=True) - 8.0)
    return (mel + 4.0) / 4.0


# ---- network ----------------------------------------------------------------------------------------------------


def sinusoids(length, channels, longest=10_000):
    step = math.log(longest) / (channels // 2 - 1)
    angle = torch.arange(length)[:, None] * torch.exp(-step * torch.arange(channels // 2))[None]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x, other=None, causal=False, want_weights=False):
        """Attends to `other`, or to x itself; with `want_weights` also gives the probabilities."""
        batch, length, width = x.shape
        source = x if other is None else other

        def split(y):
            return y.view(batch, -1, self.heads, width // self.heads).transpose(1, 2)

        q, k, v = split(self.q_proj(x)), split(self.k_proj(source)), split(self.v_proj(source))
        weights = None
        if want_weights:
            weights = (q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)).softmax(-1)
            y = weights @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out_proj(y.transpose(1, 2).reshape(batch, length, width)), weights


class Layer(nn.Module):
    """One layer of the encoder, or of the decoder if `cross`."""

    def __init__(self, width, heads, hidden, cross):
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        if cross:
            self.encoder_attn = Attention(width, heads)
            self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.cross = cross
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x, encoded=None, want_weights=False):
        x = x + self.self_attn(self.self_attn_layer_norm(x), causal=self.cross)[0]
        weights = None
        if self.cross:
            y, weights = self.encoder_attn(self.encoder_attn_layer_norm(x), encoded, want_weights=want_weights)
            x = x + y
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x)))), weights


class Encoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        width = c["d_model"]
        self.conv1 = nn.Conv1d(c["num_mel_bins"], width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(c["max_source_positions"], width)
        self.embed_positions.weight.data = sinusoids(c["max_source_positions"], width)
        self.embed_positions.weight.requires_grad_(False)
        self.layers = nn.ModuleList(
            Layer(width, c["encoder_attention_heads"], c["encoder_ffn_dim"], cross=False) for _ in range(c["encoder_layers"])
        )
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, mel, start=0):
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.embed_positions.weight[start : start + x.shape[1]]
        for layer in self.layers:
            x, _ = layer(x)
        return self.layer_norm(x)


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        width = c["d_model"]
        self.embed_tokens = nn.Embedding(c["vocab_size"], width)
        self.embed_positions = nn.Embedding(c["max_target_positions"], width)
        self.layers = nn.ModuleList(
            Layer(width, c["decoder_attention_heads"], c["decoder_ffn_dim"], cross=True) for _ in range(c["decoder_layers"])
        )
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, ids, encoded, want_weights=False):
        """(logits, [cross-attention of each layer])"""
        x = self.embed_tokens(ids) + self.embed_positions.weight[: ids.shape[1]]
        weights = []
        for layer in self.layers:
            x, w = layer(x, encoded, want_weights)
            weights.append(w)
        return self.layer_norm(x) @ self.embed_tokens.weight.T, weights


class Whisper(nn.Module):
    def __init__(self, config, ctc_classes):
        super().__init__()
        self.model = nn.ModuleDict({"encoder": Encoder(config), "decoder": Decoder(config)})
        self.ctc = nn.Linear(config["d_model"], ctc_classes)
        self.reset()

    def reset(self):
        for name, p in self.named_parameters():
            if p.requires_grad and p.dim() == 2 and "embed" not in name:
                nn.init.xavier_uniform_(p)
            elif "embed_tokens" in name:
                nn.init.normal_(p, std=0.05)
            elif "decoder.embed_positions" in name:
                nn.init.normal_(p, std=0.02)
            elif name.endswith("bias") and "norm" not in name:
                nn.init.zeros_(p)
        for part in self.model.values():
            for layer in part.layers:
                for last in (layer.self_attn.out_proj, layer.fc2):  # residual branches start small
                    last.weight.data *= 0.5

    def encode(self, mel, start=0):
        return self.model["encoder"](mel, start)

    def decode(self, ids, encoded, want_weights=False):
        return self.model["decoder"](ids, encoded, want_weights)

    @torch.no_grad()
    def greedy(self, mel, prompt, end, limit=60):
        """Token lists of a batch; no cache, the decoder is small enough."""
        encoded = self.encode(mel)
        ids = torch.tensor(prompt).repeat(len(mel), 1)
        done = torch.zeros(len(mel), dtype=torch.bool)
        for _ in range(limit):
            best = self.decode(ids, encoded)[0][:, -1].argmax(-1)
            best[done] = end
            ids = torch.cat([ids, best[:, None]], 1)
            done |= best == end
            if done.all():
                break
        rows = ids[:, len(prompt) :].tolist()
        return [row[: row.index(end)] if end in row else row for row in rows]


def config(vocabulary_size, ids):
    """config.json as Whisper loaders expect it; `ids` maps the special tokens."""
    end = ids["<|endoftext|>"]
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "activation_function": "gelu",
        "num_mel_bins": BINS,
        "d_model": 192,
        "encoder_layers": 4,
        "decoder_layers": 2,
        "encoder_attention_heads": 3,
        "decoder_attention_heads": 3,
        "encoder_ffn_dim": 768,
        "decoder_ffn_dim": 768,
        "max_source_positions": 500,
        "max_target_positions": 128,
        "vocab_size": vocabulary_size,
        "num_hidden_layers": 4,
        "is_encoder_decoder": True,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "init_std": 0.02,
        "scale_embedding": False,
        "use_cache": True,
        "tie_word_embeddings": True,
        "max_length": 128,
        "torch_dtype": "float16",
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        "suppress_tokens": [],
        "begin_suppress_tokens": [],
    }
