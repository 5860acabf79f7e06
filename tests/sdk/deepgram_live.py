"""A live session with Deepgram's own client: what it understood, as one line of JSON.

Arguments: the server's address (127.0.0.1:8000), a WAV file of 16 kHz mono s16le.
"""

import json
import sys
import threading
import wave

from deepgram import DeepgramClient
from deepgram.core.events import EventType
from deepgram.environment import DeepgramClientEnvironment

address, path = sys.argv[1:]
with wave.open(path, "rb") as recording:
    rate, audio = recording.getframerate(), recording.readframes(recording.getnframes())

http, ws = f"http://{address}", f"ws://{address}"
environment = DeepgramClientEnvironment(base=http, production=ws, agent=ws, agent_rest=http)
client = DeepgramClient(api_key="not-a-secret", environment=environment)

kinds, words, finalized, request_ids, errors = [], [], [], set(), []


def on_message(message):
    kind = type(message).__name__
    kinds.append(kind)
    if kind == "ListenV1Results":
        request_ids.add(message.metadata.request_id)
        best = message.channel.alternatives[0]
        assert all(0 < word.confidence <= 1 and word.end >= word.start for word in best.words), best
        if message.is_final:
            words.extend(word.word for word in best.words)
        if message.from_finalize:
            finalized.append(best.transcript)
    elif kind == "ListenV1Metadata":
        request_ids.add(message.request_id)
    elif kind == "ListenV1Error":
        errors.append(message.description)


with client.listen.v1.connect(
    model="nova-3",
    language="en-US",
    encoding="linear16",
    sample_rate=rate,
    interim_results=True,
    vad_events=True,
    utterance_end_ms=1000,
    endpointing=300,
    smart_format=True,
) as connection:
    connection.on(EventType.MESSAGE, on_message)
    connection.on(EventType.ERROR, lambda error: errors.append(repr(error)))
    listener = threading.Thread(target=connection.start_listening)
    listener.start()
    connection.send_keep_alive()
    for start in range(0, len(audio), 3200):
        connection.send_media(audio[start : start + 3200])
    connection.send_finalize()
    connection.send_close_stream()
    listener.join(timeout=30)
    assert not listener.is_alive(), "the server did not close"
    closed = connection._websocket.close_code

print(
    json.dumps(
        {
            "kinds": kinds,
            "words": " ".join(words),
            "finalized": len(finalized),
            "request_ids": len(request_ids),
            "errors": errors,
            "closed": closed,
        }
    )
)
