// The chart of one series: history by scrolling back, the newest bar live, and a bar picked by pointer or keys.

import { get } from "./api.js";
import { Bars, fromEvent } from "./bars.js";
import { showBar } from "./details.js";
import { byId, say } from "./dom.js";
import { digits } from "./format.js";
import { klineStream } from "./socket.js";

const FIRST_ROWS = 500;
const PAGE_ROWS = 1000;
const RIGHT_BARS = 4; // room to the right of the newest bar
const EDGE_BARS = 60; // more bars are loaded this near to the oldest one
const TAIL_BARS = 5; // requested again after a close: confirmations and amendments come later
const AMENDED_MAX = 20; // older bars that are requested one by one
const TAIL_AFTER_MS = 1500;
const TAIL_EVERY_MS = 20_000;

export class Chart {
  bars = new Bars();
  #library = null;
  #chart = null;
  #candles = null;
  #volumes = null;
  #socket;
  #stream = "";
  #symbol = "";
  #interval = "";
  #loading = null; // aborts the requests of the previous series
  #older = false;
  #ended = false;
  #picked = null;
  #tail = 0;
  #sureUntil = Infinity; // up to here the API has returned every bar
  #unsure = new Set(); // open times of closed bars that are only known from an event
  #heard;

  constructor(socket, heard) {
    this.#socket = socket;
    this.#heard = heard;
    socket.onMessage((stream, event) => { if (stream === this.#stream) this.#hear(event); });
    socket.onState((open) => open && this.refresh());
    addEventListener("klagg-theme", () => this.#paint());
    byId("chart").addEventListener("keydown", (event) => this.#key(event));
    byId("newest").addEventListener("click", () => this.#toNewest());
    setInterval(() => document.hidden || this.refresh(), TAIL_EVERY_MS);
  }

  get symbol() { return this.#symbol; }

  /** Bring the library; false if it is not installed, which the page says. */
  async start() {
    try {
      this.#library = await import("/page/vendor/lightweight-charts.js");
    } catch {
      this.#state("The chart library is not installed on this server. Run “make page” there (it needs Node 18 or newer and npm) and restart the gateway. Everything else works.", "missing");
      return false;
    }
    this.#build();
    return true;
  }

  /** Show another series. */
  async show(symbol, interval) {
    if (symbol === this.#symbol && interval === this.#interval) return;
    if (this.#stream) this.#socket.leave(this.#stream);
    this.#loading?.abort();
    const loading = this.#loading = new AbortController();
    [this.#symbol, this.#interval, this.#picked] = [symbol, interval, null];
    this.bars = new Bars();
    this.#unsure.clear();
    this.#sureUntil = Infinity;
    this.#ended = false;
    this.#older = true; // nothing older is requested before the newest bars are there
    byId("older").hidden = true;
    this.#draw();
    this.#state("Loading bars …", "busy");
    showBar(null);
    this.#stream = klineStream(symbol, interval);
    this.#socket.listen(this.#stream);
    try {
      const found = await get("klines", { symbol, interval, limit: FIRST_ROWS }, loading.signal);
      if (loading.signal.aborted) return;
      this.#sure(found.klines);
      this.bars.take(found.klines);
      this.#ended = found.klines.length < FIRST_ROWS;
      this.#draw();
      this.#showAll();
      this.#state(this.bars.size ? "" : "No bars of this interval yet. This chart updates by itself.", "");
    } catch (problem) {
      if (loading.signal.aborted) return;
      this.#draw();
      this.#state(this.bars.size ? "" : `${problem.message} Trying again.`, "bad");
    }
    this.#older = false;
    this.#showPicked();
  }

  /** Ask again for the newest bars, and for all that was missed since the newest one. */
  async refresh() {
    const { signal } = this.#loading ?? {};
    if (!this.#symbol || signal.aborted) return;
    const query = { symbol: this.#symbol, interval: this.#interval };
    const tail = this.bars.newest && this.bars.beside(this.bars.newest.open_time, -TAIL_BARS).open_time;
    const from = tail === undefined ? undefined : Math.min(tail, this.#sureUntil);
    try {
      const found = await get("klines", { ...query, start: from, limit: from === undefined ? FIRST_ROWS : PAGE_ROWS }, signal);
      if (signal.aborted || !found.klines.length) return;
      if (from !== undefined && found.klines.length === PAGE_ROWS) { // away for so long that it is shorter to begin anew
        [query.symbol, this.#symbol] = [this.#symbol, ""];
        return this.show(query.symbol, query.interval);
      }
      this.#sure(found.klines);
      this.bars.take(found.klines);
      this.bars.take(await this.#amended(query, signal));
      this.#draw();
      if (from === undefined) this.#showAll();
      this.#state("", "");
      this.#showPicked();
    } catch {
      // the status bar of the page says what is wrong
    }
  }

  #sure(rows) {
    this.#sureUntil = rows.at(-1)?.open_time ?? Infinity;
    for (const row of rows) this.#unsure.delete(row.open_time);
  }

  /** Rows of older bars that an event changed: it does not tell their provenance. */
  async #amended(query, signal) {
    const times = [...this.#unsure].slice(0, AMENDED_MAX);
    const found = await Promise.all(times.map((time) => get("klines", { ...query, start: time, end: time, limit: 1 }, signal)));
    for (const time of times) this.#unsure.delete(time);
    return signal.aborted ? [] : found.flatMap((each) => each.klines);
  }

  #hear(event) {
    const fresh = fromEvent(event.k);
    const changed = this.bars.take([fresh]);
    if (!changed.length) return;
    if (this.bars.newest.open_time === fresh.open_time) this.#heard(event.k);
    const last = this.#candles?.data().at(-1);
    const time = fresh.open_time / 1000;
    if (!last || (time > last.time && this.bars.size > 1 && this.bars.beside(fresh.open_time, -1).close_time + 1 !== fresh.open_time)) {
      this.#draw(); // bars are missing between, or this is the first
    } else {
      this.#candles?.update(this.#candle(changed[0]), time < last.time);
      this.#volumes?.update(this.#volume(changed[0]), time < last.time);
    }
    if (this.bars.size) this.#state("", "");
    this.#showPicked();
    if (fresh.closed) this.#unsure.add(fresh.open_time);
    if (fresh.closed && !this.#tail) {
      this.#tail = setTimeout(() => { this.#tail = 0; this.refresh(); }, TAIL_AFTER_MS);
    }
  }

  async #loadOlder() {
    if (this.#older || this.#ended || !this.bars.size) return;
    this.#older = true;
    byId("older").hidden = false;
    const { signal } = this.#loading;
    try {
      const end = this.bars.oldest.open_time - 1;
      const found = await get("klines", { symbol: this.#symbol, interval: this.#interval, end, limit: PAGE_ROWS }, signal);
      if (signal.aborted) return;
      this.#ended = found.klines.length < PAGE_ROWS;
      if (found.klines.length) {
        this.bars.take(found.klines);
        this.#draw();
      }
    } catch {
      // requested again with the next movement
    } finally {
      if (!signal.aborted) {
        this.#older = false;
        byId("older").hidden = true;
      }
    }
  }

  #build() {
    const { createChart, CandlestickSeries, HistogramSeries, CrosshairMode } = this.#library;
    const chart = this.#chart = createChart(byId("chart"), {
      autoSize: true,
      layout: { attributionLogo: false }, // the page names its maker in its foot; the logo would need inline styles
      crosshair: { mode: CrosshairMode.Normal },
      timeScale: { timeVisible: true, secondsVisible: false, rightOffset: RIGHT_BARS, minBarSpacing: 1 },
      localization: { locale: "en-GB" },
    });
    this.#candles = chart.addSeries(CandlestickSeries, { borderVisible: false });
    this.#candles.priceScale().applyOptions({ scaleMargins: { top: 0.06, bottom: 0.24 } });
    this.#volumes = chart.addSeries(HistogramSeries, {
      priceScaleId: "volume", priceFormat: { type: "volume" }, lastValueVisible: false, priceLineVisible: false,
    });
    this.#volumes.priceScale().applyOptions({ scaleMargins: { top: 0.82, bottom: 0 } });
    chart.subscribeCrosshairMove(({ time, sourceEvent }) => {
      if (!sourceEvent) return; // set by a key, not by the pointer
      this.#picked = time === undefined ? null : time * 1000;
      this.#showPicked();
    });
    chart.timeScale().subscribeVisibleLogicalRangeChange((range) => {
      if (!range) return;
      if (range.from < EDGE_BARS) this.#loadOlder();
      byId("newest").hidden = range.to > (this.#candles.data().length - 1);
    });
    this.#paint();
  }

  #color(name) { return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim(); }

  #colors = {};

  #paint() {
    for (const name of ["up", "down", "unproven", "official", "line", "ink-2", "up-soft", "down-soft"]) this.#colors[name] = this.#color(name);
    if (!this.#chart) return;
    const { up, down, line } = this.#colors;
    this.#chart.applyOptions({
      layout: { background: { color: "transparent" }, textColor: this.#colors["ink-2"], fontFamily: getComputedStyle(document.body).fontFamily, fontSize: 11 },
      grid: { vertLines: { color: line }, horzLines: { color: line } },
      timeScale: { borderColor: line },
      rightPriceScale: { borderColor: line },
    });
    this.#candles.applyOptions({ upColor: up, downColor: down, wickUpColor: up, wickDownColor: down });
    this.#draw();
  }

  #candle(bar) {
    const time = bar.open_time / 1000;
    if (bar.missing) return { time };
    const candle = { time, open: Number(bar.open), high: Number(bar.high), low: Number(bar.low), close: Number(bar.close) };
    if (bar.closed && bar.official) candle.color = candle.wickColor = this.#colors.official;
    else if (bar.closed && bar.complete === false) candle.color = candle.wickColor = this.#colors.unproven;
    return candle;
  }

  #volume(bar) {
    const time = bar.open_time / 1000;
    if (bar.missing) return { time };
    const rises = Number(bar.close) >= Number(bar.open);
    return { time, value: Number(bar.volume), color: this.#colors[rises ? "up-soft" : "down-soft"] };
  }

  #draw() {
    if (!this.#chart) return;
    const bars = [...this.bars.all()];
    const { newest } = this.bars;
    if (newest) {
      const precision = Math.max(digits(newest.open), digits(newest.high), digits(newest.low), digits(newest.close));
      this.#candles.applyOptions({ priceFormat: { type: "price", precision, minMove: 10 ** -precision } });
    }
    const seconds = /s$/.test(this.#interval);
    this.#chart.timeScale().applyOptions({ secondsVisible: seconds, timeVisible: !/[dwM]$/.test(this.#interval) });
    this.#candles.setData(bars.map((bar) => this.#candle(bar)));
    this.#volumes.setData(bars.map((bar) => this.#volume(bar)));
    byId("chart").dataset.bars = String(this.bars.size);
  }

  /** The newest bars at a width that reads well. */
  #showAll() {
    if (!this.#chart) return;
    const bars = this.#candles.data().length;
    const fitting = Math.max(30, Math.floor(byId("chart").clientWidth / 7));
    this.#candles.priceScale().applyOptions({ autoScale: true });
    this.#chart.timeScale().setVisibleLogicalRange({ from: Math.max(bars - fitting, Math.min(0, bars - 30)), to: bars + 3 });
  }

  /** The newest bars at the present zoom. */
  #toNewest() {
    const scale = this.#chart?.timeScale();
    const range = scale?.getVisibleLogicalRange();
    if (!range) return;
    const to = this.#candles.data().length - 1 + RIGHT_BARS;
    scale.setVisibleLogicalRange({ from: to - (range.to - range.from), to });
  }

  #showPicked() {
    const bar = (this.#picked !== null && this.bars.at(this.#picked)) || this.bars.newest;
    showBar(bar, this.#picked !== null && bar !== this.bars.newest);
  }

  #pick(bar) {
    this.#picked = bar === this.bars.newest ? null : bar.open_time;
    this.#chart?.setCrosshairPosition(Number(bar.close), bar.open_time / 1000, this.#candles);
    const scale = this.#chart?.timeScale();
    const range = scale?.getVisibleLogicalRange();
    const index = scale?.timeToIndex?.(bar.open_time / 1000, true);
    if (range && typeof index === "number" && (index < range.from + 2 || index > range.to - 2)) {
      const by = index < range.from + 2 ? index - range.from - 10 : index - range.to + 10;
      scale.setVisibleLogicalRange({ from: range.from + by, to: range.to + by });
    }
    this.#showPicked();
  }

  #key(event) {
    if (!this.bars.size || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20 }[event.key];
    if (steps) this.#pick(this.bars.beside(this.#picked ?? this.bars.newest.open_time, steps));
    else if (event.key === "End") { this.#pick(this.bars.newest); this.#toNewest(); }
    else if (event.key === "Home") this.#pick(this.bars.oldest);
    else if (event.key === "+" || event.key === "=") this.#zoom(0.75);
    else if (event.key === "-") this.#zoom(1.33);
    else if (event.key === "Escape") { this.#picked = null; this.#chart?.clearCrosshairPosition(); this.#showPicked(); }
    else return;
    event.preventDefault();
  }

  #zoom(factor) {
    const scale = this.#chart?.timeScale();
    const range = scale?.getVisibleLogicalRange();
    if (range) scale.setVisibleLogicalRange({ from: range.to - (range.to - range.from) * factor, to: range.to });
  }

  #state(text, kind) {
    const state = byId("chart-state");
    if (state.classList.contains("missing") && kind !== "missing") return;
    state.hidden = !text;
    state.className = `state ${kind}`;
    say(state, text);
  }
}
