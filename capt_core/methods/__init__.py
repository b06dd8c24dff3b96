"""The methods of the tables, one module each."""
