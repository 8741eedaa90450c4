"""The catalogue: what a product costs, earns and is, and since when."""

from __future__ import annotations

from pydantic import Field

from schemas.values import Closed, Count, CurrencyCode, DecimalText, Id, SignedDecimalText, Timestamp


class CatalogRecord(Closed):
    """A change of a product, in force from `effective_at`. What is absent or null stays as it was."""

    product_id: Id = Field(description="The shop's id of the product, and the record's key.")
    effective_at: Timestamp = Field(description="From when on it holds.")
    price: DecimalText | None = Field(None, description="Price of one piece, major units.")
    currency: CurrencyCode | None = Field(None, description="ISO 4217 code of price and margin; the shop's if absent.")
    category: str | None = Field(None, description="Category.", max_length=256)
    margin: SignedDecimalText | None = Field(None, description="Margin of one piece, major units; may be negative.")
    stock: Count | None = Field(None, description="Pieces in stock.")
    arrived_at: Timestamp | None = Field(None, description="When it became a new arrival.")
