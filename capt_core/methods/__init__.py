"""The methods of the tables: one file each, found by name through the registry."""
