"""Files in, files out: a file's rows are read, sampled and kept in pieces, and written when the last is done.

opening  ->  lines, text, arrow (readers, over cells)  ->  ordered, several  ->  sources (with gaps; arrays)
         ->  job  ->  work  ->  outputs (over fields, arrow, targets)
"""
