// From a MediaStream to blocks of 16 kHz mono PCM.

const WORKLET = new URL('./capture-worklet.js', import.meta.url);

/**
 * Hands blocks ({ pcm: Int16Array, peak, rms }) of a stream to `onblock` until `stop` is called; `onend` is told when
 * the stream ends by itself. With `audible` the sound is played as well: a captured tab is silent otherwise.
 */
export async function capture(stream, onblock, { audible = false, onend = () => {} } = {}) {
  const context = new AudioContext({ latencyHint: 'interactive' });
  try {
    await context.audioWorklet.addModule(WORKLET);
    const source = context.createMediaStreamSource(stream);
    const node = new AudioWorkletNode(context, 'capture', { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => onblock(data);
    source.connect(node);
    if (audible) source.connect(context.destination);
    await context.resume();
  } catch (error) {
    for (const track of stream.getTracks()) track.stop();
    await context.close();
    throw error;
  }
  let running = true;
  const stop = async () => {
    if (!running) return;
    running = false;
    for (const track of stream.getTracks()) track.stop();
    await context.close();
  };
  for (const track of stream.getAudioTracks()) {
    track.addEventListener('ended', () => {
      if (running) onend();
    });
  }
  return { stop };
}
