// npm @binance/derivatives-trading-usds-futures, the exchange's own client.
"use strict";

const { DerivativesTradingUsdsFutures } = require("@binance/derivatives-trading-usds-futures");
const { INTERVALS, LIMIT, barOfRow, barOfEvent, history, live, run } = require("./say.cjs");

run(async (address) => {
  const client = new DerivativesTradingUsdsFutures({
    configurationRestAPI: { apiKey: "", apiSecret: "", basePath: `http://${address}` },
    configurationWebsocketStreams: { wsURL: `ws://${address}` },
  });
  for (const interval of INTERVALS) {
    const response = await client.restAPI.klineCandlestickData({ symbol: "BTCUSDT", interval, limit: LIMIT });
    history(interval, (await response.data()).map(barOfRow));
  }
  const connection = await client.websocketStreams.connect();
  for (const interval of INTERVALS) {
    connection
      .klineCandlestickStreams({ symbol: "BTCUSDT", interval })
      .on("message", ({ k }) => live(interval, barOfEvent(k), k.x));
  }
});
