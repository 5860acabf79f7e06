// The level as a row of bars that moves to the left, one for each block of sound.

const BAR = 3;
const GAP = 2;
// Quieter than this is drawn as nothing, in dB below full scale.
const FLOOR = -60;
const TOO_LOUD = 0.985;

const decibels = (value) => 20 * Math.log10(Math.max(value, 1e-6));

export class Level {
  constructor(canvas) {
    this.canvas = canvas;
    this.blocks = [];
    this.spoken = 0;
    this.drawing = false;
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  push({ peak, rms }) {
    this.blocks.push({ level: Math.max(0, 1 - decibels(rms) / FLOOR), loud: peak > TOO_LOUD });
    if (this.blocks.length > 1000) this.blocks.splice(0, 500);
    // Twice a second is enough for whoever listens to the value.
    const now = performance.now();
    if (now - this.spoken > 500) {
      this.spoken = now;
      const value = Math.max(FLOOR, Math.round(decibels(rms)));
      this.canvas.setAttribute('aria-valuenow', String(value));
      this.canvas.setAttribute('aria-valuetext', value <= FLOOR ? 'silent' : `${value} decibels`);
    }
    if (!this.drawing) {
      this.drawing = true;
      requestAnimationFrame(() => this.draw());
    }
  }

  clear() {
    this.blocks = [];
    this.draw();
  }

  draw() {
    this.drawing = false;
    const { canvas } = this;
    const scale = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== width * scale || canvas.height !== height * scale) {
      canvas.width = width * scale;
      canvas.height = height * scale;
    }
    const context = canvas.getContext('2d');
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas);
    const [colour, loud, idle] = [style.color, style.getPropertyValue('--live'), style.getPropertyValue('--line')];
    const count = Math.floor(width / (BAR + GAP));
    for (let i = 0; i < count; i += 1) {
      const block = this.blocks[this.blocks.length - count + i];
      const tall = block ? Math.max(3, block.level * (height - 4)) : 3;
      context.fillStyle = block ? (block.loud ? loud : colour) : idle;
      context.globalAlpha = block ? 0.35 + 0.65 * (i / count) : 1;
      context.beginPath();
      context.roundRect(i * (BAR + GAP), (height - tall) / 2, BAR, tall, BAR / 2);
      context.fill();
    }
    context.globalAlpha = 1;
  }
}

/** How long it takes from a word's end until it is final, and what waits to be heard: an even mean of both, shown. */
export class Delay {
  constructor({ box, text, fill }) {
    Object.assign(this, { box, text, fill });
    this.clear();
  }

  clear() {
    this.words = null;
    this.text.textContent = '–';
    this.fill.style.width = '0';
    this.box.classList.remove('late');
    this.box.title = '';
    this.box.removeAttribute('aria-valuetext');
  }

  /** Seconds from the end of a word to its being final. */
  word(seconds) {
    this.words = this.words === null ? seconds : this.words * 0.7 + seconds * 0.3;
  }

  show(behind) {
    const seconds = Math.max(this.words ?? 0, behind);
    if (this.words === null && behind < 0.1) return;
    this.text.textContent = `${seconds.toFixed(1)} s`;
    this.fill.style.width = `${Math.min(100, seconds * 10)}%`;
    this.box.classList.toggle('late', behind > 3);
    const words = this.words === null ? '' : `words are final ${this.words.toFixed(1)} s after they were said; `;
    const explained = `${words}${behind.toFixed(1)} s of sound wait for the server`;
    this.box.title = explained;
    this.box.setAttribute('aria-valuenow', Math.min(10, seconds).toFixed(1));
    this.box.setAttribute('aria-valuetext', explained);
  }
}
