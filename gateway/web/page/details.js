// The details of one bar: its values, and where they come from.

import { byId, make } from "./dom.js";
import { decimal, direction, percent, utc, whole } from "./format.js";

const revised = (bar) => (bar.revision > 1 ? ` · revision ${bar.revision}` : "");

/** How far a bar can be trusted, in a word, and why in a sentence. */
export function standing(bar) {
  if (!bar.closed) return { kind: "open", word: "in progress", why: "Its values change until it closes." };
  if (bar.complete === undefined) return { kind: "open", word: "just closed", why: "Its provenance is being requested." };
  if (bar.official) {
    return { kind: "official", word: `official${revised(bar)}`, why: "Nothing is missing, on the exchange's word: its own klines stand for the bar or for a part of it. No trade id proves it." };
  }
  if (!bar.complete) {
    return { kind: "unproven", word: "not proven complete", why: "It closed by the clock, or trades in it are missing." };
  }
  if (bar.revision > 1) {
    return { kind: "good", word: `complete${revised(bar)}`, why: "Late trades changed it after its first final." };
  }
  return { kind: "good", word: "complete", why: "The ids of its trades prove that none is missing." };
}

const SOURCES = { own: "own trades", exchange: "the exchange's klines", mixed: "own trades and the exchange's klines" };

const ids = (first, last) => (first === null || first === undefined ? "–" : `${whole(first)} … ${whole(last)}`);

function values(bar) {
  const share = Number(bar.volume) > 0 ? `${((100 * Number(bar.taker_buy_volume)) / Number(bar.volume)).toFixed(1)} %` : "–";
  return [
    ["Open", decimal(bar.open)], ["High", decimal(bar.high)], ["Low", decimal(bar.low)], ["Close", decimal(bar.close)],
    ["Volume", decimal(bar.volume)], ["Quote volume", decimal(bar.quote_volume)], ["Trades", whole(bar.trades)],
    ["Taker buys", share],
  ];
}

const answer = (bar, told) => (bar.closed ? (told === undefined ? "…" : told ? "yes" : "no") : "not yet");

function provenance(bar) {
  return [
    ["Complete", answer(bar, bar.complete)],
    ["Official", answer(bar, bar.official)],
    ["Revision", String(bar.revision)],
    ["Source", SOURCES[bar.source] ?? (bar.source || "live state")],
    ["Trade ids", ids(bar.first_trade_id, bar.last_trade_id)],
    ["AggTrade ids", ids(bar.first_agg_id, bar.last_agg_id)],
    ["Epoch", bar.epoch ? String(bar.epoch) : "–"],
    ...(bar.edge ? [["At the edge", bar.edge]] : []),
  ];
}

const rows = (pairs) => make("dl", {}, ...pairs.flatMap(([name, text]) => [make("dt", { text: name }), make("dd", { text })]));

/** Show a bar; `picked` says that the reader chose it, so that it is not simply the newest. */
export function showBar(bar, picked) {
  const box = byId("bar");
  if (!bar) {
    box.replaceChildren(make("p", { class: "quiet", text: "No bar yet." }));
    return;
  }
  const stand = standing(bar);
  const change = Number(bar.open) ? (Number(bar.close) / Number(bar.open) - 1) * 100 : null;
  box.dataset.openTime = bar.open_time;
  box.replaceChildren(
    make("h2", {}, make("span", { text: picked ? "Bar" : "Newest bar" }), make("span", { class: direction(change), text: percent(change) })),
    make("p", { class: "when" }, make("time", { text: utc(bar.open_time) }), make("span", { class: "quiet", text: `to ${utc(bar.close_time + 1)}` })),
    make("p", { class: `stand ${stand.kind}`, title: stand.why }, make("b", { text: stand.word }), make("span", { text: stand.why })),
    rows(values(bar)),
    make("h3", { text: "Provenance" }),
    rows(provenance(bar)),
  );
}
