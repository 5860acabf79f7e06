// The transcript on the page. Text goes in as text and never as markup.

// The server is less than half sure of a word.
const UNSURE = 0.5;
// This near to the end the view follows what comes, in pixels.
const NEAR = 80;

export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (value) => String(value).padStart(2, '0');
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** The text of a line as nodes, with the words that the server is not sure of marked. */
function* pieces(line) {
  let at = 0;
  for (const { word, probability } of line.words) {
    const found = probability < UNSURE && word !== '' ? line.text.indexOf(word, at) : -1;
    if (found >= 0) {
      yield line.text.slice(at, found);
      const mark = document.createElement('span');
      mark.className = 'unsure';
      mark.title = `${Math.round(probability * 100)} % sure`;
      mark.textContent = word;
      yield mark;
      at = found + word.length;
    } else {
      const next = line.text.indexOf(word, at);
      if (next >= 0) {
        yield line.text.slice(at, next + word.length);
        at = next + word.length;
      }
    }
  }
  yield line.text.slice(at);
}

export class View {
  constructor({ paper, lines, live, running, tail, empty, latest }) {
    Object.assign(this, { paper, lines, live, running, tail, empty, latest });
    this.speaker = null;
    this.following = true;
    paper.addEventListener('scroll', () => {
      this.following = paper.scrollHeight - paper.scrollTop - paper.clientHeight < NEAR;
      if (this.following) latest.hidden = true;
    });
    new ResizeObserver(() => this.follow()).observe(paper);
    latest.addEventListener('click', () => {
      this.following = true;
      this.follow();
    });
  }

  clear() {
    this.lines.replaceChildren();
    this.speaker = null;
    this.show(null, '');
    this.latest.hidden = true;
  }

  add(line) {
    const item = document.createElement('li');
    if (line.speaker < 0) {
      item.className = 'silence';
      item.textContent = `${Math.round(line.end - line.start)} s of silence`;
    } else {
      item.className = 'said';
      const time = document.createElement('time');
      time.textContent = clock(line.start);
      item.append(time);
      if (line.speaker !== this.speaker) {
        const who = document.createElement('span');
        who.className = 'who';
        who.textContent = `Speaker ${line.speaker}`;
        who.dataset.hue = String((line.speaker - 1) % 4);
        item.append(who);
      }
      this.speaker = line.speaker;
      const text = document.createElement('p');
      text.dir = 'auto';
      if (line.language) text.lang = line.language;
      text.append(...pieces(line));
      item.append(text);
    }
    this.lines.append(item);
    this.empty.hidden = true;
    this.follow();
  }

  /** What is not a final line yet: the committed words of the line that grows, and what may still change. */
  show(running, tail, listening = false) {
    this.running.replaceChildren(...(running ? pieces(running) : []));
    this.tail.textContent = running || this.lines.childElementCount === 0 ? tail : tail.trimStart();
    this.live.hidden = !running && tail === '' && !listening;
    if (!this.live.hidden) this.empty.hidden = true;
    this.follow();
  }

  follow() {
    if (this.following) {
      this.paper.scrollTop = this.paper.scrollHeight;
      this.latest.hidden = true;
    } else {
      this.latest.hidden = false;
    }
  }
}
