"""Commands that inspect labeled images or write data sets: `inspect`, `split` and `clean`."""
