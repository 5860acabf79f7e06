"""Drives a server with OpenAI's own client. Usage: openai_client.py BASE_URL CALL WAV SILENCE RECORDING...

Prints one JSON object: what each call gave, by name.
"""

import json
import sys

import openai

base, call, speech, silence, *recordings = sys.argv[1:]
client = openai.OpenAI(base_url=base, api_key="sk-not-needed", max_retries=0, timeout=60)
transcribe = client.audio.transcriptions.create
out = {}


def error(make):
    try:
        make()
    except openai.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        return [type(error).__name__, error.status_code, body.get("code"), body.get("param")]
    return "no error"


def opened(path):
    return open(path, "rb")


out["models"] = [model.id for model in client.models.list()]
out["model"] = client.models.retrieve("whisper-1").id
out["json"] = transcribe(model="whisper-1", file=opened(speech)).to_dict()
out["logprobs"] = transcribe(model="gpt-4o-transcribe", file=opened(speech), include=["logprobs"]).to_dict()
for form in ["text", "srt", "vtt"]:
    out[form] = transcribe(model="whisper-1", file=opened(speech), response_format=form)
verbose = transcribe(
    model="whisper-1",
    file=opened(speech),
    response_format="verbose_json",
    timestamp_granularities=["word", "segment"],
    language="en",
    temperature=0,
)
out["verbose"] = {
    "type": type(verbose).__name__,
    "language": verbose.language,
    "duration": verbose.duration,
    "text": verbose.text,
    "words": [[word.word, word.start, word.end] for word in verbose.words],
    "segments": [segment.to_dict() for segment in verbose.segments],
    "usage": verbose.usage.to_dict(),
}
diarized = transcribe(
    model="gpt-4o-transcribe-diarize",
    file=opened(call),
    response_format="diarized_json",
    chunking_strategy="auto",
)
out["diarized"] = {
    "type": type(diarized).__name__,
    "text": diarized.text,
    "speakers": [segment.speaker for segment in diarized.segments],
}
events = transcribe(model="gpt-4o-mini-transcribe", file=opened(speech), stream=True)
out["stream"] = [[type(event).__name__, event.to_dict()] for event in events]
out["prompt"] = transcribe(model="whisper-1", file=opened(speech), prompt="Umm, like, hmm.").to_dict()
out["bytes"] = transcribe(model="whisper-1", file=("speech.wav", opened(speech).read(), "audio/wav")).text
out["silence"] = transcribe(model="whisper-1", file=opened(silence)).text
out["errors"] = {
    "translation": error(lambda: client.audio.translations.create(model="whisper-1", file=opened(speech))),
    "format": error(lambda: transcribe(model="whisper-1", file=opened(speech), response_format="xml")),
    "language": error(lambda: transcribe(model="whisper-1", file=opened(speech), language="tlh")),
    "audio": error(lambda: transcribe(model="whisper-1", file=("a.wav", b"no audio at all, but words"))),
    "model": error(lambda: client.models.retrieve("gpt-9")),
}
out["recordings"] = [transcribe(model="whisper-1", file=opened(path)).text for path in recordings]
json.dump(out, sys.stdout)
