// Streaming change of sample rate by a polyphase windowed sinc: flat to 7 kHz at 16 kHz out and some 70 dB down above
// 9 kHz, so that nothing folds back into speech. No dependency on a browser.

// Lobes of the sinc on each side, counted at the lower of the two rates.
const LOBES = 24;
// Shape of the Kaiser window: about 70 dB (J. F. Kaiser, 1974: beta = 0.1102 (A - 8.7)).
const BETA = 6.76;
// Centre of the transition, as a part of the lower Nyquist frequency; its upper edge reaches a little beyond, where no
// recogniser of speech looks.
const CUTOFF = 0.98;

function gcd(a, b) {
  return b === 0 ? a : gcd(b, a % b);
}

// Modified Bessel function of the first kind, order 0.
function bessel(x) {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > sum * 1e-12; k += 1) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

export class Resampler {
  constructor(from, to = 16000) {
    const divisor = gcd(Math.round(from), to);
    this.up = to / divisor;
    this.down = Math.round(from) / divisor;
    const scale = Math.min(1, to / from);
    this.half = Math.ceil(LOBES / scale);
    const cutoff = scale * CUTOFF;
    this.phases = [];
    for (let phase = 0; phase < this.up; phase += 1) {
      const taps = new Float32Array(2 * this.half);
      let sum = 0;
      for (let i = 0; i < taps.length; i += 1) {
        const x = i - this.half + 1 - phase / this.up;
        const edge = x / this.half;
        const window = edge * edge < 1 ? bessel(BETA * Math.sqrt(1 - edge * edge)) / bessel(BETA) : 0;
        const angle = Math.PI * cutoff * x;
        taps[i] = (angle === 0 ? 1 : Math.sin(angle) / angle) * window;
        sum += taps[i];
      }
      this.phases.push(taps.map((tap) => tap / sum));
    }
    this.phase = 0;
    // The first output looks back at silence.
    this.held = new Float32Array(this.half - 1);
  }

  /** Takes samples and gives those of the new rate that they complete. */
  push(samples) {
    if (this.up === 1 && this.down === 1) return samples.slice();
    const input = new Float32Array(this.held.length + samples.length);
    input.set(this.held);
    input.set(samples, this.held.length);
    const output = [];
    const width = 2 * this.half;
    let at = 0;
    while (at + width <= input.length) {
      const taps = this.phases[this.phase];
      let sum = 0;
      for (let i = 0; i < width; i += 1) sum += input[at + i] * taps[i];
      output.push(sum);
      this.phase += this.down;
      at += Math.floor(this.phase / this.up);
      this.phase %= this.up;
    }
    // A step is shorter than the filter, so the next output never lies beyond what is here.
    this.held = input.slice(at);
    return Float32Array.from(output);
  }
}

/** Samples in [-1, 1] as 16 bit integers; what is louder is cut off. */
export function toPcm(samples) {
  return Int16Array.from(samples, (sample) => Math.max(-32768, Math.min(32767, Math.round(sample * 32768))));
}
