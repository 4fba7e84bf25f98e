// How values are written. Pure.

const compactNumber = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });
const wholeNumber = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A decimal text with its digits before the point in groups; nothing is rounded. */
export function decimal(text) {
  if (text === null || text === undefined) return "–";
  const [whole, fraction] = String(text).split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, " ");
  return fraction ? `${grouped}.${fraction}` : grouped;
}

/** A large number in short: 1.234B. */
export const short = (value) => (value === null || value === undefined ? "–" : compactNumber.format(Number(value)));

/** A whole number in groups. */
export const whole = (value) => (value === null || value === undefined ? "–" : wholeNumber.format(value).replaceAll(",", " "));

/** A change in percent with its sign; the empty text if it is not known. */
export function percent(value) {
  if (value === null || value === undefined || Number.isNaN(Number(value))) return "";
  const number = Math.round(Number(value) * 100) / 100;
  return `${number > 0 ? "+" : number < 0 ? "−" : ""}${Math.abs(number).toFixed(2)} %`;
}

/** "up", "down" or "flat". */
export const direction = (value) => (Number(value) > 0 ? "up" : Number(value) < 0 ? "down" : "flat");

/** A part of a whole in percent, rounded down: only all of it is 100 %, and more than all is not more. */
export const part = (some, all) => (all ? `${(Math.floor(Math.min(1, some / all) * 10_000) / 100).toFixed(2)} %` : "–");

/** A time in ms as 2026-11-21 15:04:05 UTC; ms are written where there are some. */
export function utc(ms) {
  if (ms === null || ms === undefined) return "–";
  const text = new Date(ms).toISOString().replace("T", " ").replace("Z", "");
  return text.replace(/\.000$/, "");
}

/** Only the time of day. */
export const clock = (ms) => (ms ? new Date(ms).toISOString().slice(11, 19) : "–");

/** How long something took or is ago: 850 ms, 12 s, 3 min, 5 h, 2 d. */
export function span(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

/** How the chart writes prices such as `texts`: all their digits, in steps of the exchange's tick if they are multiples of it. */
export const priceFormat = (texts, tick) => {
  const precision = Math.max(0, ...texts.map(digits));
  const unit = unitOf(precision);
  const step = BigInt(scaled(tick ?? "0", precision) ?? 0);
  const fits = step > 0n && texts.every((text) => BigInt(scaled(text, precision)) % step === 0n);
  return { type: "price", precision, minMove: fits ? Number(tick) : unit };
};

/** The digits of a decimal at this precision without its point; null if it is finer. */
const scaled = (text, precision) => {
  const [whole, fraction = ""] = String(text).split(".");
  const cut = fraction.replace(/0+$/, "");
  return cut.length > precision ? null : whole + cut.padEnd(precision, "0");
};

/** How many digits stand behind the point. */
export const digits = (text) => (String(text).split(".")[1] ?? "").length;

/** The unit of so many decimals. A text is read to the nearest number; a power of ten is only computed near to it. */
export const unitOf = (decimals) => Number(`1e-${decimals}`);

/** Text for a sentence: one thing, several things. */
export const count = (number, one, many = `${one}s`) => `${whole(number)} ${number === 1 ? one : many}`;
