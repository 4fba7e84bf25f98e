"""`klagg bench`: what klagg does in a second, measured on this machine, each figure beside one to compare it with."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import ujson

from klagg.bench import aggregator, audit, backfill, chunks, core, gateway, grafana, ingest, writer

BENCHES = {
    "core": core,
    "aggregator": aggregator,
    "ingest": ingest,
    "writer": writer,
    "chunks": chunks,
    "backfill": backfill,
    "grafana": grafana,
    "gateway": gateway,
    "audit": audit,
}


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the `bench` command to the main parser."""
    parser = commands.add_parser("bench", help="measure speed and memory on this machine")
    benches = parser.add_subparsers(title="benches", metavar="BENCH", required=True)
    for name, module in BENCHES.items():
        bench = benches.add_parser(name, help=module.TITLE, description=module.TITLE)
        bench.add_argument("--json", action="store_true", help="one JSON object and nothing else")
        module.configure(bench)
        bench.set_defaults(run=run, bench=name)


def run(args: argparse.Namespace) -> int:
    """Runs one bench; the exit code."""
    found = BENCHES[args.bench].measure(args)
    print(ujson.dumps(found) if args.json else _plain(found))
    return 0


def _plain(found: Mapping[str, Any]) -> str:
    width = max(map(len, found))
    return "\n".join(
        f"{name:<{width}}  {value:,}" if isinstance(value, (int, float)) else f"{name:<{width}}  {value}"
        for name, value in found.items()
    )
