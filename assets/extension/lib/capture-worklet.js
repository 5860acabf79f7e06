// Runs on the audio thread: sound of any rate and number of channels in, blocks of 16 kHz mono PCM and their level out.
import { Resampler, toPcm } from './resample.js';

const BLOCK = 800; // 50 ms

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate);
    this.block = new Float32Array(BLOCK);
    this.filled = 0;
  }

  process([channels]) {
    // Nothing is connected yet, or no more.
    if (channels.length === 0) return true;
    const mono = new Float32Array(channels[0].length);
    for (const channel of channels) {
      for (let i = 0; i < mono.length; i += 1) mono[i] += channel[i] / channels.length;
    }
    for (const sample of this.resampler.push(mono)) {
      this.block[this.filled] = sample;
      this.filled += 1;
      if (this.filled === BLOCK) this.send();
    }
    return true;
  }

  send() {
    let peak = 0;
    let energy = 0;
    for (const sample of this.block) {
      peak = Math.max(peak, Math.abs(sample));
      energy += sample * sample;
    }
    const pcm = toPcm(this.block);
    this.port.postMessage({ pcm, peak, rms: Math.sqrt(energy / BLOCK) }, [pcm.buffer]);
    this.filled = 0;
  }
}

registerProcessor('capture', Capture);
