// The truth page: the scoreboard of completeness and of the comparison with the exchange's own klines.

import { get } from "./api.js";
import { quiet, section, tableOf, tileList, verdict } from "./blocks.js";
import { byId, make } from "./dom.js";
import { part, span, utc, whole } from "./format.js";
import { boardVerdict, levelOf, totalOf } from "./trust.js";

const ASK_EVERY_MS = 60_000;
const ASK_AGAIN_MS = 10_000;
const ALL = "all";

/** Audited bars that differ from the exchange's own for a known reason, which lies with the exchange. */
const explained = (row) => row.edge_shift + row.exchange_gap;

const COLUMNS = [
  ["Expected", (row) => whole(row.expected)], ["Complete", (row) => part(row.complete, row.expected)],
  ["Official", (row) => part(row.official, row.expected)],
  ["Missing", (row) => whole(row.missing)], ["Audited", (row) => part(row.audited, row.expected)],
  ["Exact", (row) => part(row.exact, row.audited)], ["Explained", (row) => part(explained(row), row.audited)],
  ["Unexplained", (row) => whole(row.unexplained)],
  ["Open", (row) => whole(row.open_findings)], ["Local gap", (row) => whole(row.local_gap)],
  ["Edge shift", (row) => whole(row.edge_shift)], ["Exchange gap", (row) => whole(row.exchange_gap)],
  ["Late", (row) => whole(row.late)], ["Amended", (row) => whole(row.amended)],
];

const address = (interval, symbol) => `#/truth/${interval || ALL}${symbol ? `/${encodeURIComponent(symbol)}` : ""}`;

export class Truth {
  #intervals = [];
  #interval = "";
  #symbol = "";
  #board = null;
  #open = null;
  #why = "";
  #toldAt = 0;
  #timer = 0;
  #asking = null;
  #shown = false;
  #visit;

  constructor(visit) {
    this.#visit = visit;
  }

  /** The page comes (with the words of its address: an interval, a symbol) or goes. */
  show(shown, interval, symbol) {
    const wanted = interval === ALL ? "" : interval;
    const same = wanted === this.#interval && symbol === this.#symbol;
    if (shown && this.#shown && same) return;
    this.#shown = shown;
    byId("view-truth").hidden = !shown;
    clearTimeout(this.#timer);
    if (!shown) return;
    if (!same) [this.#board, this.#open, this.#why] = [null, null, ""];
    [this.#interval, this.#symbol] = [wanted, symbol];
    this.#draw();
    this.#ask();
  }

  /** The intervals that there are. */
  take(intervals) {
    this.#intervals = intervals;
    this.#draw();
  }

  /** The next shorter (-1) or longer (+1) interval; before the shortest there are all. */
  step(by) {
    const choices = ["", ...this.#intervals];
    const at = choices.indexOf(this.#interval) + by;
    if (at >= 0 && at < choices.length) this.#visit(address(choices[at], this.#symbol));
  }

  async #ask() {
    this.#asking?.abort();
    const asking = this.#asking = new AbortController();
    try {
      const of = { symbol: this.#symbol || undefined };
      const [board, found] = await Promise.all([
        get("scoreboard", { ...of, interval: this.#interval || undefined, limit: 100 }, asking.signal),
        get("findings", { ...of, open: true, limit: 100 }, asking.signal),
      ]);
      if (asking.signal.aborted) return;
      [this.#board, this.#open, this.#why, this.#toldAt] = [board, found.findings, "", Date.now()];
    } catch (problem) {
      if (asking.signal.aborted) return;
      this.#why = problem.message;
    }
    clearTimeout(this.#timer);
    if (!this.#shown) return;
    this.#timer = setTimeout(() => this.#ask(), this.#why ? ASK_AGAIN_MS : ASK_EVERY_MS);
    this.#draw();
  }

  #draw() {
    if (!this.#shown) return;
    const box = byId("view-truth");
    const kept = [...box.querySelectorAll(".scroll")].map((each) => [each.scrollLeft, each.scrollTop]);
    const focused = box.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    box.replaceChildren(...this.#content());
    [...box.querySelectorAll(".scroll")].forEach((each, at) => {
      if (kept[at]) [each.scrollLeft, each.scrollTop] = kept[at];
    });
    if (focused) [...box.querySelectorAll("a")].find((each) => each.getAttribute("href") === focused)?.focus();
  }

  #content() {
    const head = [this.#choice()];
    if (this.#why) {
      const old = this.#board ? ` What you see was known ${span(Date.now() - this.#toldAt)} ago.` : "";
      head.push(make("p", { class: "state bad", role: "alert", text: `${sentence(this.#why)}${old} Trying again.` }));
    }
    if (!this.#board) {
      return this.#why ? head : [...head, make("p", { class: "state" }, make("span", { class: "spin" }), "Loading the scoreboard …")];
    }
    const { days } = this.#board;
    if (!days.length) return [...head, make("p", { class: "state", text: this.#nothing() })];
    const total = totalOf(days);
    total.open_findings += (this.#open ?? []).filter((each) => !each.symbol).length; // the scoreboard has those of symbols
    const when = (ms) => (ms ? `${utc(ms).slice(0, 19)} UTC` : "never");
    return [
      ...head, verdict("board-verdict", ...boardVerdict(total, this.#age(total))), tiles(total), ...this.#tables(),
      make("p", { class: "quiet end", text: `Counted ${when(total.counted_at)}, audited ${when(total.audited_at)}.` }),
    ];
  }

  /** How long ago all was counted. A part of it may rightly not change for long: a symbol that has ended, days. */
  #age(total) {
    return this.#interval || this.#symbol || !total.counted_at ? 0 : Date.now() - total.counted_at;
  }

  #tables() {
    const { days, symbols } = this.#board;
    const names = COLUMNS.map(([name]) => name);
    const byDay = days.map((row) => line(row, utc(row.day).slice(0, 10), whole(row.symbols)));
    const bySymbol = symbols.map((row) => line(row, link(row.symbol, address(this.#interval, row.symbol)), whole(row.days)));
    const tables = [section("By day", tableOf(["Day (UTC)", "Symbols", ...names], byDay, "", "numbers"))];
    if (!this.#symbol) tables.push(section("By symbol, the worst first", tableOf(["Symbol", "Days", ...names], bySymbol, "", "numbers")));
    return [...tables, section("Open findings", openTable(this.#open ?? []))];
  }

  #nothing() {
    const of = [this.#interval && `${this.#interval} bars`, this.#symbol].filter(Boolean).join(" of ");
    return `No day ${of ? `of ${of} ` : ""}was counted or audited yet. This page fills by itself.`;
  }

  #choice() {
    const choices = ["", ...this.#intervals].map((name) => {
      const chosen = link(name || "all", address(name, this.#symbol));
      if (name === this.#interval) chosen.setAttribute("aria-current", "true");
      return chosen;
    });
    return make(
      "div", { class: "board-head" },
      this.#symbol ? make("h2", {}, this.#symbol, link("all symbols", address(this.#interval, ""))) : null,
      make("div", { class: "intervals", role: "group", "aria-label": "Interval" }, ...choices),
    );
  }
}

const link = (text, href) => make("a", { href, text });

/** What the API says, as a sentence; klagg's name stays as it is written. */
const sentence = (text) => `${text.replace(/^(?!klagg)./u, (letter) => letter.toUpperCase())}${/[.!?]$/.test(text) ? "" : "."}`;

const line = (row, ...first) => ({
  kind: { bad: "bad", warn: "warn" }[levelOf(row)] ?? "", cells: [...first, ...COLUMNS.map(([, of]) => of(row))],
});

const tiles = (total) => tileList([
  ["Bars expected", whole(total.expected)], ["Complete", part(total.complete, total.expected)],
  ["Official", part(total.official, total.expected)], ["Missing", whole(total.missing)],
  ["Audited", part(total.audited, total.expected)], ["Exact", part(total.exact, total.audited)],
  ["Explained", part(explained(total), total.audited)], ["Unexplained", whole(total.unexplained)],
  ["Open findings", whole(total.open_findings)],
]);

function openTable(found) {
  const rows = found.map((each) => ({
    kind: { error: "bad", warning: "warn" }[each.severity] ?? "",
    cells: [
      each.symbol ? link(each.symbol, address("", each.symbol)) : "–", each.kind, each.interval ?? "",
      each.open_time ? utc(each.open_time) : "", each.said_at ? utc(each.said_at) : "–", each.evidence ?? "",
    ],
  }));
  return tableOf(["Symbol", "Kind", "Interval", "Open time", "Said", "Evidence"], rows, "No finding stands.");
}
