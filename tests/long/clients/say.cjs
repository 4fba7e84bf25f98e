// What the clients of this folder print: a line of JSON for each answer and each event (tests/long/clients/kit.py).
"use strict";

const INTERVALS = ["1m", "15m"];
const LIMIT = 500;

// A row of a klines answer of Binance's.
function barOfRow([t, o, h, l, c, v, , q, n, V, Q]) {
  return { t: Number(t), o, h, l, c, v, q, n, V, Q };
}

// The k of a kline event of Binance's.
function barOfEvent({ t, o, h, l, c, v, q, n, V, Q }) {
  return { t: Number(t), o, h, l, c, v, q, n, V, Q };
}

function history(interval, bars) {
  console.log(JSON.stringify({ what: "history", interval, bars }));
}

function live(interval, bar, closed) {
  console.log(JSON.stringify({ what: "live", interval, bars: [bar], closed }));
}

// A client that fails ends with 1, and says why.
function run(main) {
  main(process.argv.at(-1)).catch((error) => {
    console.error(error);
    process.exit(1);
  });
}

module.exports = { INTERVALS, LIMIT, barOfRow, barOfEvent, history, live, run };
