"""What chapters show: tables, charts and pictures, made from the ledger, the data and arrays."""
