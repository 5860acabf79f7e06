// A live session with Deepgram's own client: what it understood, as one line of JSON.
//
// Arguments: the server's address (127.0.0.1:8000), a WAV file of 16 kHz mono s16le with a header of 44 bytes.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const { DeepgramClient } = createRequire(import.meta.url)("@deepgram/sdk");

const [address, path] = process.argv.slice(2);
const audio = readFileSync(path).subarray(44);
const [base, production] = [`http://${address}`, `ws://${address}`];
const environment = { base, production, agent: production, agentRest: base };
const client = new DeepgramClient({ apiKey: "not-a-secret", environment });

const socket = await client.listen.v1.connect({
  model: "nova-3",
  language: "en-US",
  encoding: "linear16",
  sample_rate: 16000,
  interim_results: true,
  vad_events: true,
  utterance_end_ms: 1000,
  endpointing: 300,
  keyterm: ["godctl", "event bus"],
  reconnectAttempts: 0,
});

const [kinds, words, errors, requestIds] = [[], [], [], new Set()];
let finalized = 0;
socket.on("message", (message) => {
  kinds.push(message.type);
  if (message.type === "Results") {
    requestIds.add(message.metadata.request_id);
    const best = message.channel.alternatives[0];
    if (message.is_final) words.push(...best.words.map((word) => word.word));
    if (message.from_finalize) finalized += 1;
  } else if (message.type === "Metadata") {
    requestIds.add(message.request_id);
  } else if (message.type === "Error") {
    errors.push(message.description);
  }
});
socket.on("error", (error) => errors.push(String(error.message)));
const closed = new Promise((resolve) => socket.on("close", (event) => resolve(event.code)));
socket.connect();
await socket.waitForOpen();

socket.sendKeepAlive({ type: "KeepAlive" });
for (let start = 0; start < audio.length; start += 3200) {
  socket.sendMedia(audio.subarray(start, start + 3200));
}
socket.sendFinalize({ type: "Finalize" });
socket.sendCloseStream({ type: "CloseStream" });
const code = await closed;
socket.close();

console.log(
  JSON.stringify({ kinds, words: words.join(" "), finalized, request_ids: requestIds.size, errors, closed: code }),
);
process.exit(0);
