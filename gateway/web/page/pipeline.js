// The pipeline page: whether the data can be trusted, and the evidence for it.

import { get } from "./api.js";
import { MARKS, quiet, section, tableOf, tileList, verdict } from "./blocks.js";
import { byId, make } from "./dom.js";
import { clock, count, part, short, span, utc, whole } from "./format.js";
import { checks, openGaps, verdictOf, worst } from "./trust.js";

const STORED_EVERY_MS = 10_000;
const RATES_SHOWN = 4;
const SILENT = ["silent", "unreadable"];

/** The newest findings, and those that are judged: many of little weight must not hide one of great weight. */
const FINDINGS_ASKED = [{}, { severity: "error" }, { severity: "error", open: true }, { severity: "warning" }, { severity: "warning", open: true }];

export class Pipeline {
  #status = null;
  #open = null;
  #gaps = null;
  #findings = null;
  #judged = null;
  #why = "";
  #askedAt = 0;
  #shown = false;
  #level = "";

  /** Take in what the gateway says now (null: it cannot be reached). */
  take(status) {
    this.#status = status;
    if (status && Date.now() - this.#askedAt > STORED_EVERY_MS) {
      this.#askedAt = Date.now();
      this.#askStored(status.database);
    }
    this.#draw();
  }

  show(shown) {
    this.#shown = shown;
    byId("view-pipeline").hidden = !shown;
    if (shown) this.#draw();
  }

  /** Without a database there is no list of gaps; findings come from Redis then. */
  async #askStored(database) {
    try {
      const [open, gaps, ...findings] = await Promise.all([
        database ? get("gaps", { open: true, limit: 1000 }) : null, database ? get("gaps", { limit: 30 }) : null,
        ...FINDINGS_ASKED.map((query) => get("findings", { limit: 100, ...query })),
      ]);
      [this.#open, this.#gaps] = [open?.gaps ?? null, gaps?.gaps ?? null];
      this.#findings = findings[0].findings;
      this.#judged = [...new Map(findings.flatMap((each) => each.findings).map((each) => [each.id, each])).values()];
      this.#why = database ? "" : "klagg runs without a database, which stores them.";
    } catch (problem) {
      [this.#open, this.#gaps, this.#findings, this.#judged, this.#why] = [null, null, null, null, problem.message];
    }
    this.#draw();
  }

  #draw() {
    const found = this.#status
      ? checks(this.#status, this.#open, this.#judged)
      : [{ level: "bad", title: "Gateway", text: "The gateway cannot be reached." }];
    const level = worst(found.map((each) => each.level));
    const [headline, sentence] = verdictOf(level, this.#status);
    const dot = byId("nav-trust");
    dot.hidden = false;
    if (`${level} ${headline}` !== this.#level) {
      this.#level = `${level} ${headline}`;
      dot.className = `dot ${level}`;
      dot.title = headline;
      dot.setAttribute("role", "img");
      dot.setAttribute("aria-label", headline);
    }
    if (!this.#shown) return;
    const box = byId("view-pipeline");
    const { scrollLeft } = box.querySelector(".scroll") ?? { scrollLeft: 0 };
    box.replaceChildren(verdict("verdict", level, headline, sentence), checkList(found), ...(this.#status ? this.#rest() : []));
    const scroller = box.querySelector(".scroll");
    if (scroller) scroller.scrollLeft = scrollLeft;
  }

  #rest() {
    const status = this.#status;
    return [
      tiles(status, this.#open),
      section("Processes", processTable(status)),
      section("From close to final and to proof", freshnessTable(status)),
      section("Gaps", this.#gaps ? gapTable(this.#gaps) : quiet(this.#why || "Loading …")),
      section("Findings", this.#findings ? findingTable(this.#findings) : quiet(this.#why || "Loading …")),
      section("Streams in Redis", streamTable(status)),
      ...(Object.keys(status.unserved ?? {}).length ? [section("Asked for and not made by klagg", unservedTable(status))] : []),
      make("p", { class: "quiet end", text: `klagg ${status.version} · exchange time ${status.time ? clock(status.time) : "unknown"} UTC` }),
    ];
  }
}

const checkList = (found) => make("ul", { class: "checks" }, ...found.map(({ level, title, text }) => make(
  "li", { class: level },
  make("span", { class: "mark", text: MARKS[level], "aria-label": level, role: "img" }),
  make("div", {}, make("b", { text: title }), make("span", { text })),
)));

function tiles(status, open) {
  // Every line of ingest receives every trade: the one with the highest rate counts.
  const lines = status.processes.filter((each) => each.process.startsWith("ingest"));
  const rate = Math.max(0, ...lines.map((each) => Number(each.rates?.trades ?? 0)));
  const behind = status.shards.map((each) => each.unwritten_ms).filter((each) => each !== null);
  const delay = status.processes.map((each) => each.gauges?.delay_ms).filter((each) => typeof each === "number");
  const values = [
    ["Symbols", whole(Math.max(0, ...status.processes.map((each) => Number(each.gauges?.symbols ?? 0))))],
    ["Trades a second", short(rate)],
    ["Exchange to ingest", delay.length ? span(Math.max(0, ...delay)) : "–"],
    ["Table behind by", behind.length ? span(Math.max(...behind)) : "–"],
    ["Open gaps", whole(Math.max(openGaps(status), open?.length ?? 0))],
    ["Clients", whole(status.clients)],
  ];
  return tileList(values);
}

function processTable(status) {
  const present = status.processes.map((each) => each.process);
  const missing = (status.expected ?? []).filter((name) => !present.includes(name));
  const rows = status.processes.toSorted((a, b) => a.process.localeCompare(b.process)).map((each) => ({
    kind: each.alarms?.length || SILENT.includes(each.state) ? "bad" : each.state === "running" ? "" : "warn",
    cells: [each.process, stateOfProcess(each), each.started_ms ? span(each.time_ms - each.started_ms) : "–", rates(each), gauges(each)],
  }));
  rows.unshift(...missing.map((name) => ({ kind: "bad", cells: [name, "no sign of life", "–", "", ""] })));
  return tableOf(["Process", "State", "Runs for", "A second", "Shows"], rows, "No process shows a sign of life.");
}

/** A silent process is silent, whatever it said before; else its alarms say more than its state. */
function stateOfProcess(each) {
  if (SILENT.includes(each.state)) return each.age_ms ? `${each.state} for ${span(each.age_ms)}` : each.state;
  return (each.alarms ?? []).map((alarm) => alarm.reason).join("; ") || each.state;
}

const rates = (process) => Object.entries(process.rates ?? {}).filter(([, value]) => value > 0)
  .sort((a, b) => b[1] - a[1]).slice(0, RATES_SHOWN).map(([name, value]) => `${name.replaceAll("_", " ")} ${short(value)}`).join(" · ");

const gauges = (process) => Object.entries(process.gauges ?? {}).filter(([name]) => name !== "exchange_ms")
  .map(([name, value]) => `${name.replaceAll("_", " ")} ${typeof value === "number" ? short(value) : value}`).join(" · ");

/** What the aggregators counted since they began, over all shards: [interval, counts to final, counts to proof]. */
function freshness(processes) {
  const sums = { close_to_final_ms: new Map(), close_to_proof_ms: new Map() };
  const bounds = processes.find((each) => each.bounds_ms)?.bounds_ms ?? [];
  const counting = processes.filter((each) => !SILENT.includes(each.state) && String(each.bounds_ms) === String(bounds));
  for (const each of counting) {
    for (const [name, sum] of Object.entries(sums)) {
      for (const [interval, counts] of Object.entries(each.histograms?.[name] ?? {})) {
        sum.set(interval, counts.map((count, at) => count + (sum.get(interval)?.[at] ?? 0)));
      }
    }
  }
  return [bounds, [...sums.close_to_final_ms].map(([interval, counts]) => [interval, counts, sums.close_to_proof_ms.get(interval) ?? []])];
}

const total = (counts) => counts.reduce((sum, count) => sum + count, 0);

/** The time within which this part (0 to 1) of the bars was there, by the bounds of the histogram. */
function within(bounds, counts, share) {
  const all = total(counts);
  if (!all) return "–";
  let found = 0;
  const at = bounds.findIndex((_, index) => (found += counts[index]) > 0 && found >= share * all);
  return at < 0 ? `over ${span(bounds.at(-1))}` : span(bounds[at]);
}

function freshnessTable(status) {
  const [bounds, intervals] = freshness(status.processes);
  const rows = intervals.filter(([, final]) => total(final)).map(([interval, final, proof]) => ({
    kind: "",
    cells: [
      interval, whole(total(final)), within(bounds, final, 0.5), within(bounds, final, 0.99),
      part(total(proof), total(final)), within(bounds, proof, 0.5), within(bounds, proof, 0.99),
    ],
  }));
  return tableOf(["Interval", "Finals", "Half final in", "99 % in", "Proven", "Half proven in", "99 % in"], rows, "No bar was final yet.");
}

function gapTable(found) {
  const rows = found.map((each) => ({
    kind: each.ended_at ? "" : "warn",
    cells: [
      each.symbol, `${whole(each.from_id)} … ${whole(each.to_id)}`, count(each.to_id - each.from_id + 1, "id"),
      utc(each.opened_at), each.ended_at ? `${each.reason ?? "ended"} after ${span(each.ended_at - each.opened_at)}` : "open",
    ],
  }));
  return tableOf(["Symbol", "Missing ids", "How many", "Noticed", "End"], rows, "No gap is recorded.");
}

function findingTable(found) {
  const rows = found.map((each) => ({
    kind: each.closed_at ? "" : { error: "bad", warning: "warn" }[each.severity] ?? "",
    cells: [
      each.said_at ? utc(each.said_at) : "–", each.severity, each.kind, each.symbol ?? "", each.interval ?? "",
      each.open_time ? utc(each.open_time) : "", stateOf(each), each.evidence ?? "",
    ],
  }));
  return tableOf(["Said", "Severity", "Kind", "Symbol", "Interval", "Open time", "State", "Evidence"], rows, "No finding is recorded.");
}

/** One that was settled says when and by what; a notice has no state. */
function stateOf(finding) {
  if (finding.closed_at) return `closed ${utc(finding.closed_at)}${finding.closed_by ? `: ${finding.closed_by}` : ""}`;
  return finding.standing ? "open" : "";
}

const unservedTable = (status) => tableOf(
  ["Stream", "Subscriptions"], Object.entries(status.unserved).map(([name, times]) => ({ kind: "warn", cells: [name, whole(times)] })), "",
);

const streamTable = (status) => tableOf(
  ["Stream", "Entries"], Object.entries(status.streams).map(([name, length]) => ({ kind: "", cells: [name, whole(length)] })),
  "No look at Redis yet.",
);
