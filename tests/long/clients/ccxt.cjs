// ccxt in JavaScript: REST and WebSocket of one object, both pointed at the gateway.
"use strict";

const ccxt = require("ccxt");
const { INTERVALS, LIMIT, history, live, run } = require("./say.cjs");

const SYMBOL = "BTC/USDT:USDT";

function barOf([t, o, h, l, c, v]) {
  return { t, o, h, l, c, v };
}

// A watch that fails is asked for again, as ccxt's manual says: it connects anew.
async function watch(exchange, interval) {
  for (;;) {
    try {
      for (const row of await exchange.watchOHLCV(SYMBOL, interval)) {
        live(interval, barOf(row));
      }
    } catch (error) {
      if (!(error instanceof ccxt.NetworkError)) {
        throw error;
      }
      await exchange.sleep(500);
    }
  }
}

run(async (address) => {
  const exchange = new ccxt.pro.binanceusdm();
  for (const name of ["fapiPublic", "fapiPublicV2", "fapiPublicV3"]) {
    exchange.urls.api[name] = exchange.urls.api[name].replace("https://fapi.binance.com", `http://${address}`);
  }
  exchange.urls.api.ws.future = `ws://${address}/ws`;
  await exchange.loadHttpProxyAgent(); // what ccxt needs for ws:// in place of wss://
  await exchange.loadMarkets();
  for (const interval of INTERVALS) {
    history(interval, (await exchange.fetchOHLCV(SYMBOL, interval, undefined, LIMIT)).map(barOf));
  }
  await Promise.all(INTERVALS.map((interval) => watch(exchange, interval)));
});
