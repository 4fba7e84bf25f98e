// npm binance (tiagosiebler).
"use strict";

const { USDMClient, WebsocketClient } = require("binance");
const { INTERVALS, LIMIT, barOfRow, barOfEvent, history, live, run } = require("./say.cjs");

run(async (address) => {
  const client = new USDMClient({ baseUrl: `http://${address}` });
  for (const interval of INTERVALS) {
    history(interval, (await client.getKlines({ symbol: "BTCUSDT", interval, limit: LIMIT })).map(barOfRow));
  }
  const socket = new WebsocketClient({ wsUrl: `ws://${address}` });
  socket.on("message", (event) => {
    const { e, k } = event.data ?? event;
    if (e === "kline") {
      live(k.i, barOfEvent(k), k.x);
    }
  });
  socket.on("exception", console.error);
  for (const interval of INTERVALS) {
    await socket.subscribeKlines("BTCUSDT", interval, "usdm");
  }
});
