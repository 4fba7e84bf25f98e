// The bars of one series as the page knows them, by open time. Pure: rows of the API and events go in.
//
// A bar is an object with the fields of the API. What an event does not tell (complete, official, source, ids of
// aggTrades) is undefined until the API is asked.

/** Whether `fresh` may take the place of `known`. */
function supersedes(fresh, known) {
  if (!known || !known.closed) return true;
  return fresh.closed && fresh.revision >= known.revision;
}

/** The bar in a kline event of the gateway. */
export function fromEvent(k) {
  return {
    open_time: k.t, close_time: k.T, open: k.o, high: k.h, low: k.l, close: k.c, volume: k.v, quote_volume: k.q,
    trades: k.n, taker_buy_volume: k.V, taker_buy_quote_volume: k.Q, first_trade_id: k.f < 0 ? null : k.f,
    last_trade_id: k.L < 0 ? null : k.L, closed: k.x, revision: k.x ? (k.revision ?? 1) : 0,
  };
}

export class Bars {
  #byTime = new Map();
  #times = [];

  get size() { return this.#times.length; }
  get oldest() { return this.#byTime.get(this.#times[0]); }
  get newest() { return this.#byTime.get(this.#times.at(-1)); }
  at(time) { return this.#byTime.get(time); }

  /** The bar `steps` behind (or before) the one at `time`. */
  beside(time, steps) {
    const index = this.#times.indexOf(time);
    return this.#byTime.get(this.#times[Math.max(0, Math.min(this.size - 1, index + steps))]);
  }

  /** Take bars in, in any order; those that changed something. */
  take(rows) {
    const changed = [];
    let grew = false;
    for (const row of rows) {
      const known = this.#byTime.get(row.open_time);
      if (!supersedes(row, known)) continue;
      if (!known) {
        this.#times.push(row.open_time);
        grew = true;
      }
      const same = known && known.closed === row.closed && known.revision === row.revision;
      this.#byTime.set(row.open_time, same ? { ...known, ...row } : row);
      changed.push(this.#byTime.get(row.open_time));
    }
    if (grew) this.#times.sort((a, b) => a - b);
    return changed;
  }

  /** All bars in order; where some are missing between two, their times stand for them as `{ open_time, missing }`. */
  *all() {
    let before = null;
    for (const time of this.#times) {
      const bar = this.#byTime.get(time);
      if (before) yield* missing(before, time);
      yield bar;
      before = bar;
    }
  }
}

const MISSING_MAX = 500;
const MONTH_MS = 27 * 86_400_000;

function* missing(before, until) {
  const step = before.close_time + 1 - before.open_time;
  if (step <= 0 || step >= MONTH_MS || (until - before.open_time) / step > MISSING_MAX) return;
  for (let time = before.open_time + step; time < until; time += step) yield { open_time: time, missing: true };
}
