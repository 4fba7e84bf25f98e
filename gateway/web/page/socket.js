// One WebSocket for everything live on the page. Subscriptions are counted, sent in bundles within the gateway's limit of
// messages, and made again after a reconnect.

import { tokenQuery } from "./api.js";

const BUNDLE_MS = 250; // 4 messages a second each way at most
const PAUSE_MS_MAX = 15_000;
const BUNDLE_NAMES = 200;

export class Socket {
  #wanted = new Map(); // stream → number of subscribers
  #told = new Set();
  #listeners = new Set();
  #states = new Set();
  #socket = null;
  #timer = 0;
  #tries = 0;
  #id = 0;
  open = false;

  /** Call `listener(stream, data)` for each message. */
  onMessage(listener) { this.#listeners.add(listener); }

  /** Call `listener(isOpen, isFirst)` when the connection comes or goes. */
  onState(listener) { this.#states.add(listener); }

  connect() {
    const query = tokenQuery();
    const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/stream${query ? `?${query}` : ""}`;
    const socket = this.#socket = new WebSocket(url);
    socket.addEventListener("open", () => {
      this.#tries = 0;
      this.open = true;
      this.#told.clear();
      this.#bundle(0);
      for (const each of this.#states) each(true);
    });
    socket.addEventListener("message", (event) => this.#take(event.data));
    socket.addEventListener("close", () => {
      if (this.#socket !== socket) return;
      this.#socket = null;
      const was = this.open;
      this.open = false;
      if (was) for (const each of this.#states) each(false);
      const pause = Math.min(PAUSE_MS_MAX, 500 * 2 ** this.#tries++);
      setTimeout(() => this.connect(), pause * (0.5 + Math.random() / 2));
    });
  }

  listen(stream) {
    this.#wanted.set(stream, (this.#wanted.get(stream) ?? 0) + 1);
    this.#bundle(BUNDLE_MS);
  }

  leave(stream) {
    const count = (this.#wanted.get(stream) ?? 0) - 1;
    if (count > 0) this.#wanted.set(stream, count);
    else this.#wanted.delete(stream);
    this.#bundle(BUNDLE_MS);
  }

  #bundle(pause) {
    if (this.#timer) return;
    this.#timer = setTimeout(() => { this.#timer = 0; this.#send(); }, pause);
  }

  #send() {
    if (!this.open || this.#socket?.readyState !== WebSocket.OPEN) return;
    const gone = [...this.#told].filter((name) => !this.#wanted.has(name)).slice(0, BUNDLE_NAMES);
    const fresh = [...this.#wanted.keys()].filter((name) => !this.#told.has(name)).slice(0, BUNDLE_NAMES);
    for (const [method, params] of [["UNSUBSCRIBE", gone], ["SUBSCRIBE", fresh]]) {
      if (params.length) this.#socket.send(JSON.stringify({ method, params, id: ++this.#id }));
    }
    for (const name of gone) this.#told.delete(name);
    for (const name of fresh) this.#told.add(name);
    if (gone.length === BUNDLE_NAMES || fresh.length === BUNDLE_NAMES) this.#bundle(BUNDLE_MS);
  }

  #take(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return; // not ours
    }
    if (message?.stream && message.data?.e === "kline") {
      for (const each of this.#listeners) each(message.stream, message.data);
    }
  }
}

/** The name of a symbol's klines. */
export const klineStream = (symbol, interval) => `${symbol.toLowerCase()}@kline_${interval}`;
