// A recording through Deepgram's own client: what it understood, as one line of JSON.
//
// Arguments: the server's address (127.0.0.1:8000), a recording.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const { DeepgramClient } = createRequire(import.meta.url)("@deepgram/sdk");

const [address, path] = process.argv.slice(2);
const [base, production] = [`http://${address}`, `ws://${address}`];
const environment = { base, production, agent: production, agentRest: base };
const client = new DeepgramClient({ apiKey: "not-a-secret", environment });

const answer = await client.listen.v1.media.transcribeFile(readFileSync(path), {
  model: "nova-3",
  language: "en-US",
  utterances: true,
  paragraphs: true,
});
const channel = answer.results.channels[0].alternatives[0];

let refused = null;
try {
  await client.listen.v1.media.transcribeUrl({ url: "https://example.org/a.wav", model: "nova-3" });
} catch (error) {
  refused = { status: error.statusCode, body: JSON.stringify(error.body) };
}

console.log(
  JSON.stringify({
    words: channel.words.map((word) => word.word).join(" "),
    utterances: answer.results.utterances.map((utterance) => utterance.transcript).join(" "),
    paragraphs: channel.paragraphs.transcript,
    duration: answer.metadata.duration,
    model: Object.values(answer.metadata.model_info).map((model) => model.name),
    refused,
  }),
);
