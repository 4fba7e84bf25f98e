// The page: what the address shows, how live the data are, and the keys.

import { get, onToken } from "./api.js";
import { Chart } from "./chart.js";
import { byId, make, say } from "./dom.js";
import { decimal, direction, percent, span } from "./format.js";
import { Pipeline } from "./pipeline.js";
import { Socket } from "./socket.js";
import { Symbols, unusual } from "./symbols.js";
import { Truth } from "./truth.js";

const STATUS_EVERY_MS = 1000;
const STATUS_EVERY_MS_HIDDEN = 15_000;
const CUT_AFTER_MS = 3000; // a reconnect within this time needs no alarm
const EXCHANGE = "fstream.binance.com";
const FAVOURED = ["1m", "5m", "1h"];
const PAGES = ["pipeline", "truth"];

let intervals = [];
let shown = { symbol: "", interval: "" };
let status = null;
let failure = null;
let cutAt = Date.now();
let wasLive = true;

onToken(() => new Promise((resolve) => {
  const dialog = byId("ask-token");
  if (!dialog.open) dialog.showModal();
  byId("token-form").addEventListener("submit", () => {
    resolve(byId("token").value.trim());
    byId("token").value = "";
  }, { once: true });
}));

const socket = new Socket();
const symbols = new Symbols(socket, (symbol) => go(symbol, shown.interval));
const pipeline = new Pipeline();
const truth = new Truth(visit);
const chart = new Chart(socket, (kline) => headline(kline.c), (symbol) => symbols.data(symbol)?.tick_size ?? null);

// ---- where the reader is: #/SYMBOL/INTERVAL, #/pipeline or #/truth/INTERVAL/SYMBOL

const address = (symbol, interval) => `#/${encodeURIComponent(symbol)}/${interval}`;

/** Goes to an address at once: the next key already starts from there (`hashchange` comes only later). */
function visit(hash) {
  if (location.hash === hash) return;
  history.pushState(null, "", hash);
  follow();
}

function go(symbol, interval) {
  visit(address(symbol, interval));
  openList(false);
}

function follow() {
  let [first, second, third] = ["", "", ""];
  try {
    [first, second = "", third = ""] = location.hash.slice(2).split("/").map(decodeURIComponent);
  } catch {
    // an address that was cut in the middle of a character
  }
  const page = PAGES.includes(first) ? first : "chart";
  byId("view-chart").hidden = page !== "chart";
  document.body.classList.toggle("no-list", page !== "chart");
  pipeline.show(page === "pipeline");
  truth.show(page === "truth", second, third);
  for (const name of ["chart", ...PAGES]) byId(`nav-${name}`).toggleAttribute("aria-current", name === page);
  if (page !== "chart") {
    document.title = `${page === "truth" ? "Truth" : "Pipeline"} – klagg`;
    return;
  }
  const symbol = first || shown.symbol || symbols.first;
  const interval = intervals.includes(second) ? second : shown.interval || FAVOURED.find((each) => intervals.includes(each)) || intervals[0];
  if (!symbol || !interval) return;
  shown = { symbol, interval };
  byId("nav-chart").href = address(symbol, interval);
  say(byId("symbol"), symbol);
  symbols.mark(symbol);
  headline(symbols.data(symbol)?.price ?? null);
  for (const button of byId("intervals").children) button.setAttribute("aria-pressed", String(button.dataset.interval === interval));
  chart.show(symbol, interval);
}

function headline(price) {
  const opening = Number(symbols.data(shown.symbol)?.open);
  const change = price !== null && opening ? (Number(price) / opening - 1) * 100 : null;
  say(byId("price"), price === null ? "" : decimal(price));
  say(byId("change"), change === null ? "" : `${percent(change)} today`);
  byId("change").className = `change ${direction(change)}`;
  document.title = `${price === null ? "" : `${decimal(price)} `}${shown.symbol} – klagg`;
}

function showIntervals(found) {
  if (found.join() === intervals.join()) return;
  intervals = found;
  truth.take(intervals);
  byId("intervals").replaceChildren(...intervals.map((name) => {
    const button = make("button", { type: "button", "data-interval": name, "aria-pressed": "false", text: name });
    button.addEventListener("click", () => go(shown.symbol, name));
    return button;
  }));
}

// ---- where the trades come from, and how live they are

function showSource(exchange) {
  const pill = byId("source");
  pill.hidden = exchange === EXCHANGE;
  say(pill, "not Binance");
  pill.title = `These trades come from ${exchange}: they are invented, or a recording.`;
}

async function look() {
  try {
    status = await get("status");
    failure = null;
    showIntervals(status.intervals);
    showSource(status.exchange);
    if (!shown.symbol) follow();
  } catch (problem) {
    [status, failure] = [null, problem];
  }
  pipeline.take(status);
  showLive();
  setTimeout(look, document.hidden ? STATUS_EVERY_MS_HIDDEN : STATUS_EVERY_MS);
}

function liveness() {
  if (failure) return ["bad", "offline", `${failure.message} What you see may be out of date. Trying again.`];
  if (!status) return ["wait", "connecting", ""];
  if (!status.time) return ["wait", "waiting", "The gateway runs, but the aggregator has published nothing yet. This page updates by itself."];
  if (status.stale) {
    return ["warn", `stale ${span(status.stale_for_ms)}`, `Live data stopped ${span(status.stale_for_ms)} ago. What you see is the last good state; it updates by itself as soon as the pipeline continues.`];
  }
  if (status.market) return ["bad", "no market data", `${status.market.charAt(0).toUpperCase()}${status.market.slice(1)}.`];
  if (!socket.open && Date.now() - cutAt > CUT_AFTER_MS) return ["warn", "no live feed", "The live connection is lost; prices are only requested from time to time. Trying again."];
  return ["good", "live", ""];
}

function showLive() {
  const [kind, word, sentence] = liveness();
  const pill = byId("live");
  say(byId("symbol-status"), unusual(symbols.data(shown.symbol)));
  pill.className = `pill ${kind}`;
  say(pill, word);
  const banner = byId("banner");
  banner.hidden = !sentence;
  banner.className = `banner ${kind}`;
  say(banner, sentence);
  document.body.classList.toggle("not-live", kind !== "good");
  const live = kind === "good";
  if (live && !wasLive) {
    symbols.refresh().then(() => shown.symbol || follow());
    chart.refresh();
  }
  wasLive = live;
}

socket.onState((open) => {
  if (!open) cutAt = Date.now();
  showLive();
});

// ---- keys, theme and token

function openList(open) {
  document.body.classList.toggle("list-open", open);
  byId("open-list").setAttribute("aria-expanded", String(open));
}

function stepInterval(by) {
  if (!byId("view-truth").hidden) {
    truth.step(by);
    return;
  }
  const index = intervals.indexOf(shown.interval) + by;
  if (intervals[index]) go(shown.symbol, intervals[index]);
}

const KEYS = {
  "/": () => { openList(true); byId("search").focus(); },
  "[": () => stepInterval(-1),
  "]": () => stepInterval(1),
  p: () => visit("#/pipeline"),
  a: () => visit("#/truth"),
  c: () => visit(address(shown.symbol, shown.interval)),
  t: () => window.klaggTheme(),
  "?": () => byId("keys").showModal(),
  Escape: () => openList(false),
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, dialog[open]")) return;
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
byId("theme").addEventListener("click", () => window.klaggTheme());
byId("help").addEventListener("click", () => byId("keys").showModal());
byId("open-list").addEventListener("click", () => openList(!document.body.classList.contains("list-open")));
addEventListener("hashchange", follow);
document.addEventListener("visibilitychange", () => document.hidden || chart.refresh());

await Promise.all([chart.start(), symbols.start()]);
socket.connect();
await look();
follow();
