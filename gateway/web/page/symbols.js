// The list of symbols: filled from the API, kept live by the WebSocket for the rows that can be seen.

import { get } from "./api.js";
import { byId, make, say } from "./dom.js";
import { decimal, direction, percent, short } from "./format.js";
import { klineStream } from "./socket.js";

const REFRESH_MS = 15_000;
const RETRY_MS = 1000; // while the gateway starts
const DAY = "1d";
const FLASH_MS = 250;

const ORDERS = {
  symbol: (a, b) => a.symbol.localeCompare(b.symbol),
  price: (a, b) => Number(b.price ?? -1) - Number(a.price ?? -1),
  change: (a, b) => Number(b.change_percent ?? -1e9) - Number(a.change_percent ?? -1e9),
  volume: (a, b) => Number(b.quote_volume ?? -1) - Number(a.quote_volume ?? -1),
};

/** The status of a symbol that is live and does not simply trade, as the exchange lists it; "" if it trades. */
export const unusual = (data) => (data?.live && data.status && data.status !== "TRADING" ? data.status : "");

export class Symbols {
  #rows = new Map(); // symbol → { data, element, … }
  #shown = [];
  #order = "volume";
  #reversed = false;
  #chosen = "";
  #cursor = "";
  #socket;
  #choose;
  #seen;
  #list = byId("list");

  constructor(socket, choose) {
    this.#socket = socket;
    this.#choose = choose;
    this.#seen = new IntersectionObserver((entries) => this.#watch(entries), { root: this.#list, rootMargin: "80px" });
    socket.onMessage((stream, event) => this.#hear(stream, event));
    byId("search").addEventListener("input", () => this.#arrange());
    byId("search").addEventListener("keydown", (event) => this.#key(event));
    this.#list.addEventListener("keydown", (event) => this.#key(event));
    this.#list.addEventListener("click", (event) => {
      const row = event.target.closest("[data-symbol]");
      if (row) this.#choose(row.dataset.symbol);
    });
    for (const button of document.querySelectorAll("[data-sort]")) {
      button.addEventListener("click", () => this.#sort(button.dataset.sort));
    }
    this.#showOrder();
  }

  get first() { return this.#sorted()[0]?.symbol ?? ""; }

  has(symbol) { return this.#rows.has(symbol); }

  data(symbol) { return this.#rows.get(symbol)?.data; }

  /** Load the list, and again now and then: symbols come and go, and rows out of sight are not live. */
  async start() {
    await this.refresh();
    setInterval(() => document.hidden || this.refresh(), REFRESH_MS);
  }

  async refresh() {
    let found;
    try {
      found = await get("symbols");
    } catch (problem) {
      if (!this.#rows.size) this.#tell(`${problem.message} Trying again.`, "bad");
      if (problem.error === "not_ready") setTimeout(() => this.refresh(), RETRY_MS);
      return;
    }
    const names = new Set(found.symbols.map((each) => each.symbol));
    for (const [name, row] of this.#rows) {
      if (!names.has(name)) {
        this.#seen.unobserve(row.element);
        this.#unwatch(row);
        this.#rows.delete(name);
      }
    }
    for (const data of found.symbols) this.#put(data);
    this.#arrange();
  }

  mark(symbol) {
    this.#rows.get(this.#chosen)?.element.setAttribute("aria-selected", "false");
    this.#chosen = symbol;
    this.#rows.get(symbol)?.element.setAttribute("aria-selected", "true");
  }

  #put(data) {
    let row = this.#rows.get(data.symbol);
    if (!row) {
      const cells = ["name", "price", "change", "volume"].map((name) => make("span", { class: name }));
      const element = make(
        "div",
        { class: "row", role: "option", id: `row-${data.symbol}`, "data-symbol": data.symbol, "aria-selected": String(data.symbol === this.#chosen) },
        ...cells,
      );
      row = { data, element, cells, watched: "" };
      this.#rows.set(data.symbol, row);
      this.#seen.observe(element);
    }
    row.data = data;
    this.#draw(row);
  }

  #draw({ data, element, cells: [name, price, change, volume] }) {
    say(name, data.symbol);
    const halted = unusual(data);
    name.dataset.status = halted;
    say(price, data.price === null ? "–" : decimal(data.price));
    say(change, percent(data.change_percent));
    change.className = `change ${direction(data.change_percent)}`;
    say(volume, data.quote_volume === null ? "" : short(data.quote_volume));
    element.classList.toggle("gone", !data.live);
    element.title = !data.live ? `No trades of ${data.symbol} come now; its history is shown where there is some.`
      : halted ? `The exchange lists ${data.symbol} as ${halted}; its bars go on.` : data.symbol;
  }

  #hear(stream, event) {
    const row = this.#rows.get(event.s);
    if (!row || stream !== row.watched) return;
    const { data } = row;
    const before = data.price;
    data.live = true;
    data.price = event.k.c;
    data.open = event.k.o;
    data.quote_volume = event.k.q;
    data.change_percent = Number(event.k.o) ? (Number(event.k.c) / Number(event.k.o) - 1) * 100 : null;
    this.#draw(row);
    const moved = Math.sign(Number(data.price) - Number(before));
    if (moved) {
      const name = moved > 0 ? "flash-up" : "flash-down";
      row.element.classList.add(name);
      setTimeout(() => row.element.classList.remove(name), FLASH_MS);
    }
  }

  #watch(entries) {
    for (const { target, isIntersecting } of entries) {
      const row = this.#rows.get(target.dataset.symbol);
      if (!row) continue;
      if (!isIntersecting) this.#unwatch(row);
      else if (!row.watched) {
        row.watched = klineStream(row.data.symbol, DAY);
        this.#socket.listen(row.watched);
      }
    }
  }

  #unwatch(row) {
    if (row.watched) this.#socket.leave(row.watched);
    row.watched = "";
  }

  #sort(order) {
    this.#reversed = order === this.#order && !this.#reversed;
    this.#order = order;
    this.#showOrder();
    this.#arrange();
    this.#list.scrollTop = 0;
  }

  #showOrder() {
    for (const button of document.querySelectorAll("[data-sort]")) {
      const active = button.dataset.sort === this.#order;
      button.setAttribute("aria-pressed", String(active));
      button.dataset.way = active ? (this.#reversed ? "↑" : "↓") : "";
    }
  }

  #sorted() {
    const order = ORDERS[this.#order];
    const found = [...this.#rows.values()].map((row) => row.data);
    found.sort((a, b) => b.live - a.live || (this.#reversed ? -1 : 1) * order(a, b) || ORDERS.symbol(a, b));
    return found;
  }

  #arrange() {
    const wanted = byId("search").value.trim().toUpperCase();
    const names = this.#sorted().map((data) => data.symbol).filter((name) => name.toUpperCase().includes(wanted));
    if (names.length !== this.#shown.length || names.some((name, index) => name !== this.#shown[index])) {
      this.#shown = names;
      this.#list.replaceChildren(...names.map((name) => this.#rows.get(name).element));
    }
    if (!this.#rows.size) this.#tell("No symbols yet: klagg has not received a trade. This list updates by itself.", "");
    else if (!names.length) this.#tell(`No symbol has “${byId("search").value.trim()}” in its name.`, "");
    else this.#tell("", "");
    if (wanted && !names.includes(this.#cursor)) this.#point(names[0] ?? "");
  }

  #tell(text, kind) {
    const state = byId("list-state");
    state.hidden = !text;
    state.className = `state ${kind}`;
    say(state, text);
  }

  #point(symbol) {
    this.#rows.get(this.#cursor)?.element.classList.remove("cursor");
    this.#cursor = symbol;
    const row = this.#rows.get(symbol);
    row?.element.classList.add("cursor");
    row?.element.scrollIntoView({ block: "nearest" });
    for (const box of [this.#list, byId("search")]) {
      if (row) box.setAttribute("aria-activedescendant", row.element.id);
      else box.removeAttribute("aria-activedescendant");
    }
  }

  #key(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    const inSearch = event.target === byId("search");
    if (steps) {
      const index = this.#shown.indexOf(this.#cursor || this.#chosen);
      this.#point(this.#shown[Math.max(0, Math.min(this.#shown.length - 1, index + steps))] ?? "");
    } else if (!inSearch && event.key === "Home") this.#point(this.#shown[0] ?? "");
    else if (!inSearch && event.key === "End") this.#point(this.#shown.at(-1) ?? "");
    else if (event.key === "Enter" && this.#cursor) this.#choose(this.#cursor);
    else if (event.key === "Escape" && inSearch) {
      event.target.value = "";
      this.#arrange();
      event.target.blur();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
