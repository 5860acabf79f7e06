// Shows captions above the page that they belong to. Its text is never markup, and a page cannot style it.
(() => {
  if (globalThis.godctlCaptions) {
    globalThis.godctlCaptions();
    return;
  }

  const host = document.createElement('godctl-captions');
  const root = host.attachShadow({ mode: 'open' });
  const style = new CSSStyleSheet();
  style.replaceSync(`
    :host { all: initial; }
    .box {
      position: fixed; z-index: 2147483647; left: 50%; bottom: 6vh; translate: -50% 0; width: max-content;
      max-width: min(820px, calc(100vw - 32px)); display: flex; gap: 14px; align-items: start; padding: 12px 14px 12px 18px;
      border-radius: 14px; background: rgb(12 14 19 / 88%); color: #f3f5f8; box-shadow: 0 10px 34px rgb(0 0 0 / 35%);
      font: 400 clamp(16px, 2vw, 22px)/1.4 system-ui, sans-serif; cursor: grab; touch-action: none;
    }
    .text { display: grid; gap: 2px; min-width: 8ch; overflow-wrap: anywhere; }
    .old { color: #a9b0bc; }
    .tail { color: #a9b0bc; font-style: italic; }
    .note { color: #f0b35a; font-size: 14px; }
    .note:empty { display: none; }
    button {
      all: unset; flex: none; width: 26px; height: 26px; text-align: center; border-radius: 8px; cursor: pointer;
      color: #a9b0bc; font: 600 16px/26px system-ui, sans-serif;
    }
    button:hover { background: rgb(255 255 255 / 12%); color: #fff; }
    button:focus-visible { outline: 2px solid #4fd1b5; }
  `);
  root.adoptedStyleSheets = [style];

  const box = document.createElement('div');
  box.className = 'box';
  box.setAttribute('role', 'log');
  box.setAttribute('aria-label', 'Captions');
  const text = document.createElement('div');
  text.className = 'text';
  const close = document.createElement('button');
  close.type = 'button';
  close.textContent = '×';
  close.setAttribute('aria-label', 'Stop the captions');
  box.append(text, close);
  root.append(box);

  const piece = (tag, name, content) => {
    const element = document.createElement(tag);
    element.className = name;
    element.textContent = content;
    return element;
  };

  function place() {
    // In full screen only what is inside of that element is seen.
    const inside = document.fullscreenElement ?? document.documentElement;
    if (host.parentNode !== inside) inside.append(host);
  }

  const NOTES = { connecting: 'connecting…', retrying: 'connecting again…', ended: 'ended', failed: 'failed' };

  function show(message) {
    const now = document.createElement('div');
    now.append(piece('span', 'running', message.running), piece('span', 'tail', message.tail));
    const lines = message.lines.map((line) => piece('div', 'old', line));
    const waits = lines.length === 0 && now.textContent === '' && message.status === 'live';
    const note = message.text || NOTES[message.status] || (waits ? 'listening…' : '');
    text.replaceChildren(...lines, now, piece('div', 'note', note));
    place();
  }

  function remove() {
    host.remove();
  }

  close.addEventListener('click', () => {
    chrome.runtime.sendMessage({ to: 'background', type: 'stop' });
    remove();
  });

  let grip = null;
  box.addEventListener('pointerdown', (event) => {
    if (event.composedPath()[0] === close) return;
    const { left, top } = box.getBoundingClientRect();
    grip = { x: event.clientX - left, y: event.clientY - top };
    box.setPointerCapture(event.pointerId);
  });
  box.addEventListener('pointermove', (event) => {
    if (!grip) return;
    const within = (value, room) => Math.max(8, Math.min(value, room - 8));
    box.style.translate = 'none';
    box.style.bottom = 'auto';
    box.style.left = `${within(event.clientX - grip.x, innerWidth - box.offsetWidth)}px`;
    box.style.top = `${within(event.clientY - grip.y, innerHeight - box.offsetHeight)}px`;
  });
  box.addEventListener('pointerup', () => { grip = null; });

  document.addEventListener('fullscreenchange', () => {
    if (host.isConnected) place();
  });
  chrome.runtime.onMessage.addListener((message) => {
    if (message.to === 'overlay') show(message);
  });

  globalThis.godctlCaptions = place;
  show({ status: 'connecting', text: '', lines: [], running: '', tail: '' });
})();
