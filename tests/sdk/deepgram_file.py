"""A recording through Deepgram's own client: what it understood, as one line of JSON.

Arguments: the server's address (127.0.0.1:8000), a recording.
"""

import json
import sys

from deepgram import DeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.environment import DeepgramClientEnvironment

address, path = sys.argv[1:]
http, ws = f"http://{address}", f"ws://{address}"
environment = DeepgramClientEnvironment(base=http, production=ws, agent=ws, agent_rest=http)
client = DeepgramClient(api_key="not-a-secret", environment=environment)

with open(path, "rb") as recording:
    audio = recording.read()
answer = client.listen.v1.media.transcribe_file(
    request=audio, model="nova-3", language="en-US", utterances=True, paragraphs=True
)
channel = answer.results.channels[0].alternatives[0]
assert all(0 < word.confidence <= 1 and word.end >= word.start for word in channel.words)

try:
    client.listen.v1.media.transcribe_url(url="https://example.org/a.wav", model="nova-3")
    refused = None
except ApiError as error:
    refused = {"status": error.status_code, "body": str(error.body)}

print(
    json.dumps(
        {
            "words": " ".join(word.word for word in channel.words),
            "utterances": " ".join(utterance.transcript for utterance in answer.results.utterances),
            "paragraphs": channel.paragraphs.transcript,
            "duration": answer.metadata.duration,
            "model": [model["name"] for model in answer.metadata.model_info.values()],
            "refused": refused,
        }
    )
)
