// Whether the data can be trusted, from the status that the gateway reports. Pure.
//
// A check is { level, title, text }: "good", "warn" (with reservations), "bad" (not), "off" (not checked).

import { count, part, span, whole } from "./format.js";

const BEHIND_WARN_MS = 60_000;
const BEHIND_BAD_MS = 600_000;
const RECENT_MS = 86_400_000;
const COUNTED_LATE_MS = 3_600_000; // days are counted every ten minutes

const WORST = ["good", "warn", "bad"];

/** Of several levels the worst; "off" counts as good. */
export const worst = (levels) => WORST[Math.max(0, ...levels.map((level) => WORST.indexOf(level)))];

function liveState(status) {
  const title = "Live state";
  if (!status.time) return { level: "bad", title, text: "No tick of the exchange's clock has come yet." };
  if (status.stale) {
    return { level: "bad", title, text: `It has not changed for ${span(status.stale_for_ms)}: the aggregator or Redis has stopped.` };
  }
  return { level: "good", title, text: "It follows the exchange's clock." };
}

/** Whether trades come at all: no other sign of health counts while they do not. */
function marketData(status) {
  const title = "Market data";
  if (status.market) return { level: "bad", title, text: sentence(status.market) };
  return { level: "good", title, text: "Trades come." };
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

const SILENT = ["silent", "unreadable"];

function processes(status) {
  const title = "Processes";
  const names = status.processes.filter((each) => !SILENT.includes(each.state)).map((each) => each.process);
  const gone = [
    ...(status.expected ?? []).filter((name) => !names.includes(name)),
    ...status.processes.filter((each) => SILENT.includes(each.state) && !(status.expected ?? []).includes(each.process)).map((each) => each.process),
  ];
  const halting = status.processes.filter((each) => each.state !== "running" && (status.expected ?? [each.process]).includes(each.process));
  if (gone.length) {
    const needed = gone.some((name) => /^(aggregator|clock)/.test(name)) || !names.some((name) => name.startsWith("ingest"));
    return { level: needed ? "bad" : "warn", title, text: `${gone.join(", ")} ${gone.length === 1 ? "does" : "do"} not show a sign of life.` };
  }
  if (halting.length) return { level: "warn", title, text: halting.map((each) => `${each.process} is ${each.state}`).join("; ") };
  return { level: "good", title, text: `${count(names.length, "process", "processes")} run and report their state.` };
}

function alarms(status) {
  const title = "Alarms";
  const found = status.alarms ?? [];
  if (!found.length) return { level: "good", title, text: "No alarm stands." };
  return { level: "warn", title, text: found.map((each) => `${each.process}: ${each.reason}`).join("; ") };
}

function table(status) {
  const title = "Table";
  if (!status.database) return { level: "off", title, text: "klagg runs without a database: there is no history." };
  const known = status.shards.map((each) => each.unwritten_ms).filter((each) => each !== null);
  if (!known.length) return { level: "warn", title, text: "No process writes the table." };
  if (known.length < status.shards.length) return { level: "warn", title, text: "No process writes the finals of every shard to it." };
  const behind = Math.max(...known);
  const level = behind > BEHIND_BAD_MS ? "bad" : behind > BEHIND_WARN_MS ? "warn" : "good";
  return { level, title, text: behind ? `Finals reach it ${span(behind)} late.` : "Every final is in it." };
}

/** How many trades' ranges are missing now, as the aggregators say. */
export const openGaps = (status) =>
  status.processes.reduce((sum, each) => sum + (/^aggregator/.test(each.process) ? Number(each.gauges?.open_gaps ?? 0) : 0), 0);

/** The processes of a kind that there should be or are. */
const names = (status, kind) => [...new Set([...(status.expected ?? []), ...status.processes.map((each) => each.process)])].filter((name) => kind.test(name));

const knowsGaps = (status, name) =>
  status.processes.some((each) => each.process === name && !SILENT.includes(each.state) && typeof each.gauges?.open_gaps === "number");

function gaps(status, found) {
  const title = "Gaps";
  const open = Math.max(openGaps(status), found?.length ?? 0);
  if (open) return { level: "warn", title, text: `${count(open, "gap is", "gaps are")} open; bars with a gap are not marked complete or official.` };
  const aggregators = names(status, /^aggregator/);
  const quiet = aggregators.filter((name) => !knowsGaps(status, name));
  if (!aggregators.length) return { level: "warn", title, text: "No aggregator says now whether trades are missing." };
  if (quiet.length) return { level: "warn", title, text: `${quiet.join(", ")} ${quiet.length === 1 ? "does" : "do"} not say now whether trades are missing.` };
  return { level: "good", title, text: "No trade is known to be missing." };
}

function findings(found, now) {
  const title = "Findings";
  if (!found) return { level: "warn", title, text: "They cannot be read now, so nobody knows of errors." };
  const recent = found.filter((each) => !each.closed_at && each.said_at && now - each.said_at < RECENT_MS);
  const errors = recent.filter((each) => each.severity === "error");
  const warnings = recent.filter((each) => each.severity === "warning");
  if (errors.length) return { level: "bad", title, text: `${count(errors.length, "error")} in the last day: ${kinds(errors)}.` };
  if (warnings.length) return { level: "warn", title, text: `${count(warnings.length, "warning")} in the last day: ${kinds(warnings)}.` };
  const standing = found.filter((each) => each.standing && each.open_time && !each.closed_at && each.severity !== "info");
  if (standing.length) return { level: "warn", title, text: `${count(standing.length, "finding stands", "findings stand")} from before: ${kinds(standing)}.` };
  return { level: "good", title, text: "No error was found in the last day." };
}

const kinds = (found) => [...new Set(found.map((each) => each.kind))].slice(0, 3).join(", ");

function audits(status) {
  const title = "Audits";
  const names = status.processes.filter((each) => !each.state.startsWith("off") && !SILENT.includes(each.state)).map((each) => each.process).filter((name) => name.startsWith("auditor"));
  if (!names.length) return { level: "off", title, text: "No auditor runs: the result is not checked a second time." };
  return { level: "good", title, text: `${names.join(", ")} ${names.length === 1 ? "checks" : "check"} the result.` };
}

/** All checks; `gapsOpen` and `found` are null where they could not be read. */
export function checks(status, gapsOpen, found) {
  return [marketData(status), liveState(status), processes(status), alarms(status), gaps(status, gapsOpen), table(status), findings(found, status.time), audits(status)];
}

export const VERDICTS = {
  good: ["The data can be trusted", "Everything runs, nothing is missing, and no error was found."],
  unaudited: ["The data can be trusted", "Everything runs and nothing is missing; no auditor looks for errors."],
  warn: ["Trust with reservations", "Bars that are marked complete lack no trade; see below what is missing."],
  bad: ["Do not rely on this now", "The data may be old or wrong; see below why."],
};

/** The headline and its sentence: that no market data come is said before everything else. */
export function verdictOf(level, status) {
  if (status?.market) return ["No market data comes", sentence(status.market.replace(/^.*? comes: /, ""))];
  return VERDICTS[level === "good" && status && audits(status).level === "off" ? "unaudited" : level];
}

// ---- the scoreboard

const SUMS = [
  "expected", "bars", "complete", "official", "amended", "missing", "audited", "exact", "edge_shift", "exchange_gap", "local_gap", "late",
  "unexplained", "open_findings",
];

/** All rows of the scoreboard together; the times of the newest. */
export function totalOf(rows) {
  const total = Object.fromEntries(SUMS.map((name) => [name, rows.reduce((sum, each) => sum + each[name], 0)]));
  for (const name of ["counted_at", "audited_at"]) total[name] = Math.max(0, ...rows.map((each) => each[name] ?? 0)) || null;
  return total;
}

/** How bad a row of the scoreboard is. */
export function levelOf(row) {
  if (row.unexplained) return "bad";
  return row.open_findings || row.local_gap || row.missing || row.complete + row.official < row.expected ? "warn" : "good";
}

/** How many audited bars are neither the exchange's own, nor explained, nor counted as wrong. */
const unsettled = (total) => Math.max(0, total.audited - total.exact - total.edge_shift - total.exchange_gap - total.local_gap - total.unexplained);

/** The level of the whole scoreboard, its title, and a sentence; it was counted `age` ms ago (0: that says nothing). */
export function boardVerdict(total, age = 0) {
  const old = age > COUNTED_LATE_MS ? `Nothing was counted for ${span(age)}: what came since then, or did not come, is not in it.` : "";
  if (total.unexplained) {
    return ["bad", "Something is unexplained", `${count(total.unexplained, "bar differs", "bars differ")} from the exchange's own, and nothing explains it.`];
  }
  if (levelOf(total) === "warn") {
    const unproven = total.expected - total.complete - total.official - total.missing;
    const parts = [
      total.missing && count(total.missing, "bar is missing", "bars are missing"),
      unproven > 0 && count(unproven, "bar may lack trades", "bars may lack trades"),
      total.local_gap && count(total.local_gap, "bar waits for repair", "bars wait for repair"),
      total.open_findings && count(total.open_findings, "finding stands", "findings stand"),
    ].filter(Boolean);
    return ["warn", "True as far as it goes", `${parts.join(", ")}.${old && ` ${old}`}`];
  }
  if (old) return ["warn", "True as of the last count", old];
  if (!total.expected) return ["off", "Not counted yet", "What is audited is the exchange's own or explained; how many bars should be there is counted every few minutes."];
  const told = total.official ? ` ${count(total.official, "bar is", "bars are")} official: no trade id proves ${total.official === 1 ? "it" : "them"}, the exchange's own klines do.` : "";
  if (!total.audited) {
    const title = told ? "Nothing is missing, not audited" : "Complete, but not audited";
    return ["off", title, `Every bar is there; none was compared with the exchange's own yet.${told}`];
  }
  const waiting = unsettled(total);
  if (waiting || total.audited < total.expected) {
    const title = told ? "Nothing is missing, confirmed as far as audited" : "Complete, confirmed as far as audited";
    const but = waiting ? ` but ${whole(waiting)}, which the exchange may still change,` : "";
    return ["good", title, `Every bar is there; ${part(total.audited, total.expected)} are audited, and all of these${but} are the exchange's own or explained.${told}`];
  }
  const title = told ? "Nothing is missing, confirmed" : "Complete and confirmed";
  return ["good", title, `Every bar is there, and every one is the exchange's own or explained.${told}`];
}
