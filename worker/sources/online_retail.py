"""UCI Online Retail: the invoice lines of a British wholesaler of gifts, December 2010 to December 2011.

What becomes of it:

- One `Order Completed` for each invoice and customer: the lines with one stock code are one product, the price
  is what was paid for a piece on average, the revenue the exact sum, rounded to the penny. Repeated lines are
  kept: the file does not tell a repetition from a second piece. Four invoices charge nothing (free goods); they
  are orders, since somebody ordered, and add no money.
- One `Order Refunded` for each invoice that starts with C. The file does not say which invoice it takes back, so
  the order id is its own number and the amount is explicit.
- An invoice is dated by its first line, on London's clock.

Left out, and counted: lines without a customer; lines of invoices that are no sale (adjustments of bad debt, whose
numbers start with A); lines whose sign does not fit (a negative quantity in a sale, a positive one in a
cancellation, a negative price). In the published file, all lines of the last two kinds have no customer either,
and count as such.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import duckdb
import orjson

from worker.sources.history import HistoryRecord, connect
from worker.sources.source import Accounting, Source, track

CURRENCY: Final = "GBP"
TIMEZONE: Final = "Europe/London"
COLUMNS: Final = ("InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID")

_LINES: Final = """
create table lines as
select InvoiceNo::varchar as invoice, StockCode::varchar as product, Quantity::bigint as quantity,
       UnitPrice::decimal(18, 4) as price, InvoiceDate::timestamp as dated, CustomerID::double::bigint as customer,
       case when customer is null then 'no customer'
            when not regexp_full_match(invoice, 'C?[0-9]+') then 'no sale'
            when (quantity < 0) <> starts_with(invoice, 'C') or price < 0 then 'sign does not fit'
       end as reason
from {relation}"""

_INVOICES: Final = f"""
with products as (
    select invoice, customer, product, min(dated) as dated, sum(quantity) as quantity, sum(quantity * price) as amount
    from lines where reason is null group by all
)
select invoice, customer::varchar, epoch_ms(timezone('{TIMEZONE}', min(dated))) as time,
       abs(sum(amount))::decimal(18, 2)::varchar,
       to_json(list({{
           product_id: product,
           price: coalesce(amount / nullif(quantity, 0), 0)::decimal(18, 2)::varchar,
           quantity: quantity::bigint
       }} order by product))
from products group by invoice, customer order by time, invoice"""  # noqa: S608 - a constant


def read(path: Path) -> Source:
    """Read the invoices of a Parquet or CSV file with the published columns."""
    db = connect()
    relation = "read_parquet(?)" if path.suffix == ".parquet" else "read_csv(?)"
    names = [name for name, *_ in db.execute(f"describe from {relation}", [str(path)]).fetchall()]
    for column in COLUMNS:
        if column not in names:
            raise ValueError(f"{path}: column {column!r} is missing among {', '.join(names)}")
    db.execute(_LINES.format(relation=relation), [str(path)])
    lines = dict(db.execute("select reason, count(*) from lines group by reason order by reason").fetchall())
    accounting = Accounting(lines=sum(lines.values()), carried=lines.pop(None, 0), left_out=lines)
    return Source("online-retail", CURRENCY, TIMEZONE, accounting, _records(db))


def _records(db: duckdb.DuckDBPyConnection) -> Iterator[HistoryRecord]:
    with db:
        db.execute(_INVOICES)
        while rows := db.fetchmany(1024):
            for invoice, customer, at, amount, products in rows:
                properties: dict[str, object] = {"order_id": invoice}
                if invoice.startswith("C"):
                    event = "Order Refunded"
                    properties |= {"total": amount, "currency": CURRENCY}
                else:
                    event = "Order Completed"
                    properties |= {"revenue": amount, "currency": CURRENCY, "products": orjson.Fragment(products)}
                yield track(
                    "orders", f"online-retail:{invoice}", user=customer, at=at, event=event, properties=properties
                )
