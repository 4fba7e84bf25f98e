#!/bin/bash
# A price and a volume as decimal128(38, 18), the type that holds any price exactly, in five table engines.
#
# Versions: pyarrow 26.0.1, duckdb 2.0.1, polars 2.1.0, datafusion 55.0.0, chdb 4.4.0 (Python 3.11).
# Seen: pyarrow, DuckDB and DataFusion raise an error for price times volume (pyarrow also for high minus low); polars is
#   right; chDB answers with a wrong number of the wrong sign and no error, where the same product of Decimal(38, 8) is
#   right. So a file for several engines needs each series' own scale and a narrow precision.
# Exits 0 if this is still so, 1 if not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  pyarrow==26.0.1 duckdb==2.0.1 polars==2.1.0 datafusion==55.0.0 chdb==4.4.0
cat >"$folder/products.py" <<'PYTHON'
import sys
from decimal import Decimal
from pathlib import Path

import chdb
import datafusion
import duckdb
import polars
import pyarrow
import pyarrow.compute as pc
import pyarrow.parquet

PRICE, VOLUME = Decimal("28151.7"), Decimal("113.222")
RIGHT = PRICE * VOLUME
path = str(Path(sys.argv[1]) / "minute.parquet")


def write(precision, scale):
    kind = pyarrow.decimal128(precision, scale)
    columns = {"close": [PRICE], "low": [PRICE - 1], "volume": [VOLUME]}
    pyarrow.parquet.write_table(pyarrow.table({k: pyarrow.array(v, kind) for k, v in columns.items()}), path)


def outcome(ask):
    try:
        answer = str(ask()).strip().splitlines()[-1]
    except Exception as error:
        return f"raises {type(error).__name__}"
    return "right" if Decimal(answer) == RIGHT else f"wrong: {answer}"


def by_duckdb():
    return duckdb.sql(f"SELECT close * volume FROM '{path}'").fetchall()[0][0]


def by_datafusion():
    session = datafusion.SessionContext()
    session.register_parquet("minute", path)
    return session.sql("SELECT close * volume AS product FROM minute").to_pydict()["product"][0]


def by_chdb():
    return chdb.query(f"SELECT close * volume FROM file('{path}')", "TabSeparated")


def by_polars():
    return polars.read_parquet(path).select(polars.col("close") * polars.col("volume")).item()


def by_pyarrow():
    table = pyarrow.parquet.read_table(path)
    return pc.multiply(table["close"], table["volume"])[0].as_py()


def difference_by_pyarrow():
    table = pyarrow.parquet.read_table(path)
    return pc.subtract(table["close"], table["low"])[0].as_py()


write(38, 18)
asked = (by_pyarrow, difference_by_pyarrow, by_duckdb, by_datafusion, by_polars, by_chdb)
found = {ask.__name__: outcome(ask) for ask in asked}
write(38, 8)
found["by_chdb at (38, 8)"] = outcome(by_chdb)
print("price times volume is", RIGHT)
for name, what in found.items():
    print(f"{name}: {what}")
raising = ("by_pyarrow", "difference_by_pyarrow", "by_duckdb", "by_datafusion")
still = (
    all(found[name].startswith("raises") for name in raising)
    and found["by_polars"] == found["by_chdb at (38, 8)"] == "right"
    and found["by_chdb"].startswith("wrong: -")
)
sys.exit(not still)
PYTHON
"$folder/venv/bin/python" "$folder/products.py" "$folder"
