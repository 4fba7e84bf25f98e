// npm binance-api-node.
"use strict";

const { default: Binance } = require("binance-api-node");
const { INTERVALS, LIMIT, history, live, run } = require("./say.cjs");

// The names that this client gives to a bar's values.
function barOf(bar, at) {
  const { open: o, high: h, low: l, close: c, volume: v, quoteVolume: q, trades: n } = bar;
  return { t: Number(at), o, h, l, c, v, q, n };
}

run(async (address) => {
  const client = Binance({ httpFutures: `http://${address}`, wsFutures: `ws://${address}/ws` });
  for (const interval of INTERVALS) {
    const bars = await client.futuresCandles({ symbol: "BTCUSDT", interval, limit: LIMIT });
    history(interval, bars.map((bar) => barOf(bar, bar.openTime)));
  }
  for (const interval of INTERVALS) {
    client.ws.futuresCandles("BTCUSDT", interval, (bar) => live(interval, barOf(bar, bar.startTime), bar.isFinal));
  }
});
