"""Files in, files out: a file's rows are read, sampled and kept in pieces, and written when the last is done.

sources (over table, parquet)  ->  job  ->  work  ->  outputs (over fields, parquet)
"""
